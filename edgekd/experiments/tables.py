"""Tables of an experiment: CSV with a row for each run, and the cells of Markdown tables.

Training times are in a file of their own. So all other files of the same command are equal byte for byte.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekd.experiments.jobs import JobResult
from edgekd.experiments.plan import Plan, Setting
from edgekd.experiments.predictions import run_figures
from edgekd.files import atomic_write
from edgekd.metrics.intervals import FIGURES, UNITS, Interval
from edgekd.text import csv_bytes
from edgekd.train.run.folder import RUN_FILE

CSV_FILE, MARKDOWN_FILE, JSON_FILE, TIMES_FILE = "results.csv", "results.md", "summary.json", "times.csv"
NETWORKS = ("float", "qat")
NETWORK_TITLES = {"float": "float", "qat": "int8-aware"}
COLUMNS = [f"{unit.removesuffix('s')}_{figure}" for unit in UNITS for figure in FIGURES]
TITLES = ["clip accuracy", "log loss", "calibration error", "window accuracy", "log loss", "calibration error"]
"""Of `COLUMNS`, in Markdown."""
SHARES = frozenset({"accuracy"})
"""Figures that are shown in per cent."""
INTERVAL_NOTE = (
    "In brackets the 95 % interval of a bootstrap over test recordings (within folds) and seeds; with one seed it does"
    " not hold the luck of the seed. Folds weigh the same. Accuracies are of the last epoch."
)

IntervalTable = dict[str, dict[str, Interval]]
""""clips" or "windows" -> figure -> interval."""


def run_table(plan: Plan, settings: Mapping[str, Setting], results: Mapping[str, JobResult]) -> bytes:
    """results.csv: a row for each planned run, then for each teacher, with the figures of its networks where it is
    done.

    Args:
        plan: the runs.
        settings: label -> setting.
        results: name of the run -> result.
    """
    rows = []
    for run in (*plan.runs, *plan.teachers.values()):
        result = results[run.name]
        setting = run.setting or f"teacher {run.recipe.name}"
        row: list[object] = [setting, run.fold, run.seed, run.name, result.state, result.error]
        networks = settings[run.setting].networks if run.setting else ("float",) if plan.cross_fit is None else ()
        for network in NETWORKS:
            known = result.state == "done" and network in networks
            values = run_figures(plan.test_side(run).tallies(plan.path(run.name), network)) if known else {}
            row += [f"{values[name]:.6f}" if values else "" for name in COLUMNS]
        rows.append(row)
    figures = (f"{network}_{name}" for network in NETWORKS for name in COLUMNS)
    return csv_bytes(["setting", "fold", "seed", "run", "state", "error", *figures], rows)


def write_times(plan: Plan, results: Mapping[str, JobResult]) -> None:
    """Write times.csv: the training time of each run that is done, in seconds."""
    names = [name for name, result in results.items() if result.state == "done"]
    rows = [[name, run_info(plan, name).get("seconds", "")] for name in names]
    atomic_write(plan.out / TIMES_FILE, csv_bytes(["run", "seconds"], rows))


def run_info(plan: Plan, name: str) -> dict[str, Any]:
    """run.json of a run that is done."""
    return msgspec.json.decode((plan.path(name) / RUN_FILE).read_bytes(), type=dict[str, Any])


def write(out: Path, name: str, content: str | bytes) -> None:
    """Write a file of the experiment's folder, completely or not at all."""
    atomic_write(out / name, content.encode() if isinstance(content, str) else content)


def number(figure: str, value: float, *, sign: bool = False) -> str:
    """A figure as text: shares in per cent."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f} %" if figure in SHARES else f"{value:{plus}.3f}"


def interval(figure: str, each: Interval, *, difference: bool = False) -> str:
    """A figure with its interval; bold for a difference whose interval excludes zero."""
    low, high = (number(figure, value, sign=difference).removesuffix(" %") for value in (each.low, each.high))
    text = f"{number(figure, each.mean, sign=difference)} ({low} to {high})"
    return f"**{text}**" if difference and each.excludes_zero else text


def interval_cells(intervals: IntervalTable, *, difference: bool = False) -> list[str]:
    """A cell with its interval for each of `COLUMNS`."""
    return [interval(figure, intervals[unit][figure], difference=difference) for unit in UNITS for figure in FIGURES]


def value_cells(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A cell for each of `COLUMNS`."""
    return [number(figure, values[unit][figure]) for unit in UNITS for figure in FIGURES]
