"""Tables of many runs: a CSV row for each, and Markdown for people. What took how long is kept apart, so that the tables of the same
command are the same byte for byte."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekd.distill.run import RUN_FILE, write_atomic
from edgekd.evaluate.intervals import FIGURES, Interval
from edgekd.pipeline.answers import UNITS, Estimate, run_figures
from edgekd.pipeline.experiment import Plan, Setting
from edgekd.pipeline.jobs import Outcome

CSV_FILE, MARKDOWN_FILE, JSON_FILE, TIMES_FILE = "results.csv", "results.md", "summary.json", "times.csv"
NETWORKS = ("float", "qat")
NAMES = {"float": "float", "qat": "int8-aware"}
COLUMNS = [f"{unit.removesuffix('s')}_{figure}" for unit in UNITS for figure in FIGURES]
TITLES = ["clip accuracy", "log loss", "calibration error", "window accuracy", "log loss", "calibration error"]
"""Of `COLUMNS`, in Markdown."""
SHARES = frozenset({"accuracy"})
"""Figures that are shown in per cent."""
INTERVAL_NOTE = ("In brackets the 95 % interval of a bootstrap over test recordings (within folds) and seeds; with one seed it does not "
                 "hold the luck of the seed. Folds weigh the same. Accuracies are of the last epoch.")


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table with a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def run_table(plan: Plan, settings: Mapping[str, Setting], outcomes: Mapping[str, Outcome]) -> bytes:
    """results.csv: every planned run, in order, then the teachers, with the figures of its networks where it is done."""
    rows = []
    for run in (*plan.runs, *plan.teachers.values()):
        outcome = outcomes[run.name]
        row: list[object] = [run.setting or f"teacher {run.recipe.name}", run.fold, run.seed, run.name, outcome.state, outcome.error]
        networks = settings[run.setting].networks if run.setting else ("float",) if plan.cross_fit is None else ()
        for network in NETWORKS:
            known = outcome.state == "done" and network in networks
            values = run_figures(plan.tested(run).tallies(plan.path(run.name), network)) if known else {}
            row += [f"{values[name]:.6f}" if values else "" for name in COLUMNS]
        rows.append(row)
    header = ["setting", "fold", "seed", "run", "state", "error", *(f"{network}_{name}" for network in NETWORKS for name in COLUMNS)]
    return csv_bytes(header, rows)


def write_times(plan: Plan, outcomes: Mapping[str, Outcome]) -> None:
    """times.csv: seconds of training of each run that is done."""
    names = [name for name, outcome in outcomes.items() if outcome.state == "done"]
    rows = [[name, run_info(plan, name).get("seconds", "")] for name in names]
    write_atomic(plan.out / TIMES_FILE, csv_bytes(["run", "seconds"], rows))


def run_info(plan: Plan, name: str) -> dict[str, Any]:
    """run.json of a run that is done."""
    return msgspec.json.decode((plan.path(name) / RUN_FILE).read_bytes(), type=dict[str, Any])


def write(out: Path, name: str, content: str | bytes) -> None:
    """Write a file of the folder in one step."""
    write_atomic(out / name, content.encode() if isinstance(content, str) else content)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


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
