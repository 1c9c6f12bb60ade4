"""Tables of many runs: a CSV row for each, and Markdown for people. What took how long is kept apart, so that the
tables of the same command are the same byte for byte."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekd.experiments.jobs import Outcome
from edgekd.experiments.plan import Plan, Setting
from edgekd.experiments.predictions import Estimate, run_figures
from edgekd.files import atomic_write
from edgekd.metrics.intervals import FIGURES, UNITS, Interval
from edgekd.text import csv_bytes
from edgekd.train.run.folder import RUN_FILE

CSV_FILE, MARKDOWN_FILE, JSON_FILE, TIMES_FILE = "results.csv", "results.md", "summary.json", "times.csv"
NETWORKS = ("float", "qat")
NAMES = {"float": "float", "qat": "int8-aware"}
COLUMNS = [f"{unit.removesuffix('s')}_{figure}" for unit in UNITS for figure in FIGURES]
TITLES = ["clip accuracy", "log loss", "calibration error", "window accuracy", "log loss", "calibration error"]
"""Of `COLUMNS`, in Markdown."""
SHARES = frozenset({"accuracy"})
"""Figures that are shown in per cent."""
INTERVAL_NOTE = (
    "In brackets the 95 % interval of a bootstrap over test recordings (within folds) and seeds; with one seed it does"
    " not hold the luck of the seed. Folds weigh the same. Accuracies are of the last epoch."
)


def run_table(plan: Plan, settings: Mapping[str, Setting], outcomes: Mapping[str, Outcome]) -> bytes:
    """results.csv: every planned run, in order, then the teachers, with the figures of its networks where it is
    done."""
    rows = []
    for run in (*plan.runs, *plan.teachers.values()):
        outcome = outcomes[run.name]
        row: list[object] = [
            run.setting or f"teacher {run.recipe.name}",
            run.fold,
            run.seed,
            run.name,
            outcome.state,
            outcome.error,
        ]
        networks = settings[run.setting].networks if run.setting else ("float",) if plan.cross_fit is None else ()
        for network in NETWORKS:
            known = outcome.state == "done" and network in networks
            values = run_figures(plan.tested(run).tallies(plan.path(run.name), network)) if known else {}
            row += [f"{values[name]:.6f}" if values else "" for name in COLUMNS]
        rows.append(row)
    header = [
        "setting",
        "fold",
        "seed",
        "run",
        "state",
        "error",
        *(f"{network}_{name}" for network in NETWORKS for name in COLUMNS),
    ]
    return csv_bytes(header, rows)


def write_times(plan: Plan, outcomes: Mapping[str, Outcome]) -> None:
    """times.csv: seconds of training of each run that is done."""
    names = [name for name, outcome in outcomes.items() if outcome.state == "done"]
    rows = [[name, run_info(plan, name).get("seconds", "")] for name in names]
    atomic_write(plan.out / TIMES_FILE, csv_bytes(["run", "seconds"], rows))


def run_info(plan: Plan, name: str) -> dict[str, Any]:
    """run.json of a run that is done."""
    return msgspec.json.decode((plan.path(name) / RUN_FILE).read_bytes(), type=dict[str, Any])


def write(out: Path, name: str, content: str | bytes) -> None:
    """Write a file of the folder in one step."""
    atomic_write(out / name, content.encode() if isinstance(content, str) else content)


def number(figure: str, value: float, *, sign: bool = False) -> str:
    """A figure for people."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f} %" if figure in SHARES else f"{value:{plus}.3f}"


def interval(figure: str, each: Interval, *, difference: bool = False) -> str:
    """A figure with its interval; a difference that is not zero is in bold."""
    low, high = (number(figure, value, sign=difference).removesuffix(" %") for value in (each.low, each.high))
    text = f"{number(figure, each.mean, sign=difference)} ({low} to {high})"
    return f"**{text}**" if difference and each.excludes_zero else text


def interval_cells(estimate: Estimate, *, difference: bool = False) -> list[str]:
    """Of `COLUMNS`."""
    return [interval(figure, estimate[unit][figure], difference=difference) for unit in UNITS for figure in FIGURES]


def value_cells(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Of `COLUMNS`."""
    return [number(figure, values[unit][figure]) for unit in UNITS for figure in FIGURES]
