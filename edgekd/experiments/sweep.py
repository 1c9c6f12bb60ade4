"""`edgekd sweep`: recipes, values of their keys, folds and seeds, all combinations, as one table and one plot."""

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.experiments import tables
from edgekd.experiments.jobs import Outcome, Workers, run_jobs
from edgekd.experiments.plan import (
    JOBS_FOLDER,
    Fold,
    Plan,
    Planned,
    Setting,
    claimed,
    cross_folds,
    digest,
    failures,
    load,
    require_done,
    seed_list,
    with_teachers,
)
from edgekd.experiments.predictions import Estimate, Estimates, as_json
from edgekd.text import counted, markdown_table

PLOT_FILES = ("results.png", "results.svg")
FOLDS_HERE = "all"
"""Of --folds: every split that a recipe names."""
OWN_OPTIONS = {"seed": "--seeds", "data.train": "--folds", "data.test": "--folds", "name": "another recipe"}
"""Keys that --vary leaves to other options."""
OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"
COLOURS = {"float": "tab:gray", "qat": "tab:blue"}


@dataclass(frozen=True)
class Grid:
    """What to try, as the command line says it. folds: None tests each recipe on its own test splits."""

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
    """What came out. estimates: (setting, network) -> figures, of the settings whose runs are all done. failed: a line
    a run."""

    out: Path
    summary: dict[str, Any]
    markdown: str
    failed: tuple[str, ...]

    def to_json(self) -> bytes:
        """One document."""
        return msgspec.json.format(msgspec.json.encode(self.summary), indent=2) + b"\n"

    def require(self) -> None:
        """Refuse a sweep with failed runs.

        Raises:
            GateError: with a line for each.
        """
        require_done(self.out, self.failed)


def sweep(grid: Grid, data: Path, out: Path, workers: Workers, say: Callable[[str], None]) -> SweepReport:
    """Train and test every combination, or go on with that; a run that fails does not stop the others.

    Args:
        grid: what to try.
        data: a store.
        out: folder of runs and results.
        workers: where runs are trained.
        say: told of progress.

    Raises:
        InputError: anything wrong in the grid, found before the first run.
        KeyboardInterrupt: with how to go on.
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
        **{f"recipe {base.label}": digest(base) for base in bases},
    }
    with claimed(out, identity):
        try:
            outcomes = run_jobs(plan.jobs(workers), out / JOBS_FOLDER, workers, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out}: interrupted; go on with the same command") from None
        tables.write(out, tables.CSV_FILE, tables.run_table(plan, {each.label: each for each in settings}, outcomes))
        tables.write_times(plan, outcomes)
        found = {
            (setting.label, network): each
            for setting in settings
            for network, each in _estimates(plan, setting, runs[setting.label], outcomes).items()
        }
        report = SweepReport(
            out,
            _summary(plan, settings, found, seeds, outcomes),
            _markdown(plan, settings, found, runs, outcomes),
            tuple(failures(outcomes)),
        )
        tables.write(out, tables.MARKDOWN_FILE, report.markdown)
        tables.write(out, tables.JSON_FILE, report.to_json())
        for name, raw in plots(settings, found).items():
            tables.write(out, name, raw)
    return report


def chosen_settings(grid: Grid) -> tuple[list[Setting], list[Setting]]:
    """The recipes as they are, and with every combination of varied values.

    Raises:
        InputError: see `experiment.load`; two recipes of one name, or a key that cannot be varied.
    """
    if grid.cross_fit is not None and (grid.cross_fit < 2 or not grid.teachers):
        raise InputError(f"--cross-fit {grid.cross_fit}: give at least 2 fits, of teachers named with --teach")
    bases: list[Setting] = []
    settings: list[Setting] = []
    choices = [varied(each) for each in grid.vary]
    keys = [each[0].partition("=")[0] for each in choices]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"--vary {key} is there twice; name all its values once: --vary {key}=v1,v2")
    own = () if grid.teachers else grid.teacher_settings
    for name in grid.recipes:
        recipe = load(name, grid.settings, teacher_settings=own)
        if any(base.recipe.name == recipe.name for base in bases):
            raise InputError(
                f"{name}: there is another recipe of the name '{recipe.name}'; give one of them another name"
            )
        teachers = with_teachers(recipe, grid.teachers, grid.teacher_settings)
        bases.append(Setting(recipe.name, recipe, teachers))
        for combination in itertools.product(*choices):
            varied_recipe = load(name, (*grid.settings, *combination), teacher_settings=own)
            settings.append(Setting(" ".join([recipe.name, *combination]), varied_recipe, teachers))
    return bases, settings


def varied(text: str) -> list[str]:
    """["key=v1", "key=v2"] of "key=v1,v2"; commas inside brackets and quotes belong to a value.

    Raises:
        InputError: no value, one that is there twice, or a key that other options decide.
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
            raise InputError(
                f"--vary {text!r}: "
                + (f"{each} is there twice" if each else "a value is empty")
                + "; name each value once"
            )
    return [f"{key}={each}" for each in found]


def _folds(setting: Setting, store: ClipStore, names: str | None) -> list[Fold]:
    if names is not None:
        folds: list[Fold] = cross_folds(setting.recipe, store, None if names == FOLDS_HERE else names)
        return folds
    data = setting.recipe.data
    return [Fold("+".join(data.test) or "held out", data.train, data.test, data.held_out)]


def _estimates(
    plan: Plan, setting: Setting, runs: Sequence[Sequence[Planned]], outcomes: Mapping[str, Outcome]
) -> dict[str, Estimate]:
    """Network -> figures of a setting; none where one of its runs is not done, since what is left would not compare."""
    if any(outcomes[run.name].state != "done" for fold in runs for run in fold):
        return {}
    folds = []
    for fold in runs:
        side = plan.tested(fold[0])
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
    found: Mapping[tuple[str, str], Estimate],
    seeds: Sequence[int],
    outcomes: Mapping[str, Outcome],
) -> dict[str, Any]:
    return {
        "store": {"name": plan.store.name, "hash": plan.store.hash},
        "seeds": seeds,
        "cross_fit": plan.cross_fit,
        "settings": {
            setting.label: {
                "recipe": setting.recipe.name,
                "hash": digest(setting),
                "networks": {
                    network: as_json(found[setting.label, network])
                    for network in setting.networks
                    if (setting.label, network) in found
                },
            }
            for setting in settings
        },
        "failed": {name: outcome.error for name, outcome in outcomes.items() if outcome.state != "done"},
    }


def _markdown(
    plan: Plan,
    settings: Sequence[Setting],
    found: Mapping[tuple[str, str], Estimate],
    runs: Mapping[str, Sequence[Sequence[Planned]]],
    outcomes: Mapping[str, Outcome],
) -> str:
    parts = [
        "# Sweep",
        (
            f"{plan.store.name}, {counted(len(settings), 'setting')}, {counted(len(plan.runs), 'run')}."
            f" {tables.INTERVAL_NOTE}"
        ),
    ]
    for network in tables.NETWORKS:
        rows = []
        for setting in settings:
            if network not in setting.networks:
                continue
            of_setting = [run.name for fold in runs[setting.label] for run in fold]
            done = sum(outcomes[name].state == "done" for name in of_setting)
            estimate = found.get((setting.label, network))
            cells = tables.interval_cells(estimate) if estimate else [""] * len(tables.COLUMNS)
            rows.append([setting.label, f"{done} of {len(of_setting)}", *cells])
        if rows:
            parts += [f"## {tables.NAMES[network]}", markdown_table(["setting", "runs", *tables.TITLES], rows)]
    failed = [[name, outcome.error] for name, outcome in outcomes.items() if outcome.state != "done"]
    if failed:
        parts += ["## Not done", markdown_table(["run", "error"], failed)]
    return "\n\n".join(parts) + "\n"


def plots(settings: Sequence[Setting], found: Mapping[tuple[str, str], Estimate]) -> dict[str, bytes]:
    """Name of a file -> the clip accuracy of each setting with its interval, as a picture."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.4 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for offset, network in ((-0.1, "float"), (0.1, "qat")):
        rows = [
            (place + offset, found[setting.label, network]["clips"]["accuracy"])
            for place, setting in enumerate(settings)
            if (setting.label, network) in found
        ]
        if rows:
            error = [
                [100 * max(width, 0.0) for width in widths]
                for widths in ([each.mean - each.low for _, each in rows], [each.high - each.mean for _, each in rows])
            ]
            axes.errorbar(
                [100 * each.mean for _, each in rows],
                [place for place, _ in rows],
                xerr=error,
                fmt="o",
                capsize=3,
                color=COLOURS[network],
                label=tables.NAMES[network],
            )
    axes.set_yticks(range(len(settings)), [setting.label for setting in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlabel("clip accuracy, %, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    if found:
        axes.legend()
    drawn = {}
    with rc_context({"svg.hashsalt": "edgekd"}):  # the same picture is the same file
        for name in PLOT_FILES:
            raw = io.BytesIO()
            kind = name.rpartition(".")[2]
            figure.savefig(raw, format=kind, metadata={"Date": None} if kind == "svg" else None)
            drawn[name] = raw.getvalue()
    return drawn
