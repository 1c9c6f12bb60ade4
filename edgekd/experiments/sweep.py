"""`edgekd sweep`: all combinations of recipes, values of their keys, folds and seeds, as one table and one plot."""

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.experiments import tables
from edgekd.experiments.folder import experiment_folder
from edgekd.experiments.jobs import JobResult, Workers
from edgekd.experiments.plan import (
    Fold,
    Plan,
    PlannedRun,
    Setting,
    cross_folds,
    load_resolved,
    recipe_fold,
    seed_list,
    setting_hash,
    teacher_recipes,
)
from edgekd.experiments.predictions import Estimates, as_json
from edgekd.experiments.runs import failed_runs, require_done, train_runs
from edgekd.experiments.tables import IntervalTable
from edgekd.text import counted, json_bytes, markdown_table

PLOT_FILES = ("results.png", "results.svg")
ALL_FOLDS = "all"
"""Value of --folds that takes every split that a recipe names."""
OWN_OPTIONS = {"seed": "--seeds", "data.train": "--folds", "data.test": "--folds", "name": "another recipe"}
"""Keys that --vary refuses -> what sets them instead."""
OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"
COLOURS = {"float": "tab:gray", "qat": "tab:blue"}
LEGEND_OFFSETS = {"float": -0.1, "qat": 0.1}
"""Vertical distance of a network's points from the row of their setting."""

Runs = Mapping[str, Sequence[Sequence[PlannedRun]]]
"""Label of a setting -> runs of each fold, one for each seed."""


@dataclass(frozen=True)
class Grid:
    """The options of `edgekd sweep`.

    Attributes:
        recipes: names or paths.
        settings: "key=value" of all recipes.
        vary: "key=value,value"; every combination is tried.
        teachers: teacher recipes of all students.
        teacher_settings: "key=value" of all teachers.
        folds: splits, with commas, or "all"; None tests each recipe on its own test splits.
        seeds: with commas.
        cross_fit: number of cross-fitted copies of each teacher.
    """

    recipes: tuple[str, ...]
    settings: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    teacher_settings: tuple[str, ...] = ()
    folds: str | None = None
    seeds: str = "0"
    cross_fit: int | None = None


@dataclass(frozen=True)
class SweepReport:
    """The result of a sweep. out: its folder. summary: for JSON. markdown: tables. failed: one line for each failed
    run."""

    out: Path
    summary: dict[str, Any]
    markdown: str
    failed: tuple[str, ...]

    def to_json(self) -> bytes:
        """summary.json."""
        return json_bytes(self.summary)

    def require(self) -> None:
        """Raise where runs have failed.

        Raises:
            GateError: there are failed runs; one line for each.
        """
        require_done(self.out, self.failed)


def sweep(grid: Grid, data: Path, out: Path, workers: Workers, log: Callable[[str], None]) -> SweepReport:
    """Train and test every combination. The same call continues an interrupted one; a run that fails does not stop the
    others.

    Args:
        grid: what to try.
        data: a store.
        out: folder of runs and results.
        workers: how many runs are trained at a time, and where.
        log: called with one line for each run that ends.

    Raises:
        InputError: a wrong option, found before the first run.
        KeyboardInterrupt: the message says how to continue.
    """
    bases, settings = chosen_settings(grid)
    store, seeds = ClipStore.open(data), seed_list(grid.seeds)
    plan = Plan(store, out, grid.cross_fit)
    runs = {
        setting.label: [
            [plan.add(setting, fold, seed) for seed in seeds] for fold in _folds(setting, store, grid.folds)
        ]
        for setting in settings
    }
    plan.check()
    identity = {
        "command": "sweep",
        "store": store.hash,
        "--cross-fit": str(grid.cross_fit),
        **{f"recipe {base.label}": setting_hash(base) for base in bases},
    }
    with experiment_folder(out, identity):
        results = train_runs(plan, settings, workers, log)
        intervals = {
            (setting.label, network): each
            for setting in settings
            for network, each in _intervals(plan, setting, runs[setting.label], results).items()
        }
        report = SweepReport(
            out,
            _summary(plan, settings, intervals, seeds, results),
            _markdown(plan, settings, intervals, runs, results),
            tuple(failed_runs(results)),
        )
        tables.write(out, tables.MARKDOWN_FILE, report.markdown)
        tables.write(out, tables.JSON_FILE, report.to_json())
        for name, raw in plots(settings, intervals).items():
            tables.write(out, name, raw)
    return report


def chosen_settings(grid: Grid) -> tuple[list[Setting], list[Setting]]:
    """The recipes as they are, and the recipes with every combination of the varied values.

    Raises:
        InputError: see `load_resolved`; two recipes of one name, or a key that cannot be varied.
    """
    if grid.cross_fit is not None and (grid.cross_fit < 2 or not grid.teachers):
        raise InputError(f"--cross-fit {grid.cross_fit}: give at least 2 fits, of teachers named with --teach")
    bases: list[Setting] = []
    settings: list[Setting] = []
    choices = [varied(each) for each in grid.vary]
    keys = [each[0].partition("=")[0] for each in choices]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"--vary {key} is given twice; name all its values once: --vary {key}=v1,v2")
    own_teacher_settings = () if grid.teachers else grid.teacher_settings
    for name in grid.recipes:
        recipe = load_resolved(name, grid.settings, teacher_settings=own_teacher_settings)
        if any(base.recipe.name == recipe.name for base in bases):
            raise InputError(
                f"{name}: there is another recipe of the name '{recipe.name}'; give one of them another name"
            )
        teachers = teacher_recipes(recipe, grid.teachers, grid.teacher_settings)
        bases.append(Setting(recipe.name, recipe, teachers))
        for combination in itertools.product(*choices):
            varied_recipe = load_resolved(name, (*grid.settings, *combination), teacher_settings=own_teacher_settings)
            settings.append(Setting(" ".join([recipe.name, *combination]), varied_recipe, teachers))
    return bases, settings


def varied(text: str) -> list[str]:
    """["key=v1", "key=v2"] for "key=v1,v2". Commas inside brackets and quotes belong to a value.

    Raises:
        InputError: no value, one that is named twice, or a key of `OWN_OPTIONS`.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key or not values:
        raise InputError(f"--vary {text!r}: write key=value,value, e.g. train.lr=0.001,0.002")
    if key in OWN_OPTIONS:
        raise InputError(f"--vary {key}: use {OWN_OPTIONS[key]} for that")
    found, depth, quote = [""], 0, ""
    for character in values:
        if character == "," and depth == 0 and not quote:
            found.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        depth += 0 if quote else (character in OPENING) - (character in CLOSING)
        found[-1] += character
    found = [each.strip() for each in found]
    for each in found:
        if not each or found.count(each) > 1:
            problem = f"{each} is named twice" if each else "a value is empty"
            raise InputError(f"--vary {text!r}: {problem}; name each value once")
    return [f"{key}={each}" for each in found]


def _folds(setting: Setting, store: ClipStore, names: str | None) -> list[Fold]:
    if names is None:
        return [recipe_fold(setting.recipe.data)]
    return cross_folds(setting.recipe, store, None if names == ALL_FOLDS else names)


def _intervals(
    plan: Plan, setting: Setting, runs: Sequence[Sequence[PlannedRun]], results: Mapping[str, JobResult]
) -> dict[str, IntervalTable]:
    """Network -> figures of a setting. Empty where one of its runs is not done: the mean of the others could not be
    compared with other settings."""
    if any(results[run.name].state != "done" for fold in runs for run in fold):
        return {}
    folds = []
    for fold in runs:
        side = plan.test_side(fold[0])
        folds.append(
            np.stack(
                [np.stack([side.tallies(plan.path(run.name), network) for run in fold]) for network in setting.networks]
            )
        )
    estimates = Estimates.of(folds)
    return {network: estimates.estimate(index) for index, network in enumerate(setting.networks)}


def _summary(
    plan: Plan,
    settings: Sequence[Setting],
    intervals: Mapping[tuple[str, str], IntervalTable],
    seeds: Sequence[int],
    results: Mapping[str, JobResult],
) -> dict[str, Any]:
    return {
        "store": {"name": plan.store.name, "hash": plan.store.hash},
        "seeds": seeds,
        "cross_fit": plan.cross_fit,
        "settings": {
            setting.label: {
                "recipe": setting.recipe.name,
                "hash": setting_hash(setting),
                "networks": {
                    network: as_json(intervals[setting.label, network])
                    for network in setting.networks
                    if (setting.label, network) in intervals
                },
            }
            for setting in settings
        },
        "failed": {name: result.error for name, result in results.items() if result.state != "done"},
    }


def _markdown(
    plan: Plan,
    settings: Sequence[Setting],
    intervals: Mapping[tuple[str, str], IntervalTable],
    runs: Runs,
    results: Mapping[str, JobResult],
) -> str:
    counts = f"{counted(len(settings), 'setting')}, {counted(len(plan.runs), 'run')}"
    parts = ["# Sweep", f"{plan.store.name}, {counts}. {tables.INTERVAL_NOTE}"]
    for network in tables.NETWORKS:
        rows = []
        for setting in settings:
            if network not in setting.networks:
                continue
            of_setting = [run.name for fold in runs[setting.label] for run in fold]
            done = sum(results[name].state == "done" for name in of_setting)
            figures = intervals.get((setting.label, network))
            cells = tables.interval_cells(figures) if figures else [""] * len(tables.COLUMNS)
            rows.append([setting.label, f"{done} of {len(of_setting)}", *cells])
        if rows:
            parts += [f"## {tables.NETWORK_TITLES[network]}", markdown_table(["setting", "runs", *tables.TITLES], rows)]
    failed = [[name, result.error] for name, result in results.items() if result.state != "done"]
    if failed:
        parts += ["## Not done", markdown_table(["run", "error"], failed)]
    return "\n\n".join(parts) + "\n"


def plots(settings: Sequence[Setting], intervals: Mapping[tuple[str, str], IntervalTable]) -> dict[str, bytes]:
    """Name of a file -> a picture of each setting's clip accuracy with its interval."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for network, offset in LEGEND_OFFSETS.items():
        rows = [
            (row + offset, intervals[setting.label, network]["clips"]["accuracy"])
            for row, setting in enumerate(settings)
            if (setting.label, network) in intervals
        ]
        if rows:
            error = [
                [100 * max(width, 0.0) for width in widths]
                for widths in ([each.mean - each.low for _, each in rows], [each.high - each.mean for _, each in rows])
            ]
            axes.errorbar(
                [100 * each.mean for _, each in rows],
                [row for row, _ in rows],
                xerr=error,
                fmt="o",
                capsize=3,
                color=COLOURS[network],
                label=tables.NETWORK_TITLES[network],
            )
    axes.set_yticks(range(len(settings)), [setting.label for setting in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlabel("clip accuracy, %, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    if intervals:
        axes.legend()
    drawn = {}
    with rc_context({"svg.hashsalt": "edgekd"}):  # equal pictures are equal files
        for name in PLOT_FILES:
            raw = io.BytesIO()
            kind = name.rpartition(".")[2]
            figure.savefig(raw, format=kind, metadata={"Date": None} if kind == "svg" else None)
            drawn[name] = raw.getvalue()
    return drawn
