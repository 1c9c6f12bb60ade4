"""The rows of a reproduced table: figures of finished runs beside the paper's, as Markdown, CSV and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.experiments import tables
from edgekd.experiments.jobs import JobResult
from edgekd.experiments.plan import Plan, PlannedRun
from edgekd.experiments.predictions import TestSide
from edgekd.experiments.published_table import COUNTS, SHARES, PublishedTable, TableRow
from edgekd.experiments.runs import require_done
from edgekd.export.float_counts import float_counts
from edgekd.metrics.intervals import COLUMNS, FIGURES, Interval, intervals, measured, resampled, tally
from edgekd.metrics.scores import Floats
from edgekd.models import build
from edgekd.text import counted, csv_bytes, json_bytes, markdown_table
from edgekd.train.prepare.inputs import network_input
from edgekd.train.run.folder import model_config, read_recipe

PLAIN, MACRO = range(2)
"""First axis of a row's tallies: every clip weighs the same, or every label does."""
SMOKE_NOTE = (
    "A smoke run on a made-up data set with a few steps a training: it shows that the path goes through; its figures"
    " mean nothing."
)
HEADER = ["system", "judged", "figure", "paper", "measured", "difference", "runs"]
CSV_HEADER = [
    "system",
    "judged",
    "figure",
    "source",
    "paper",
    "measured",
    "low",
    "high",
    "difference",
    "runs_done",
    "runs",
    "not_reproduced",
]
SVM_TITLES = {"svm": "SVM", "svm_sum": "sum of SVMs"}

Runs = Mapping[tuple[str, int, int], PlannedRun]
"""(`TableRow.key`, index of the fold, seed) -> run."""
Cell = dict[str, float | None]
"""paper, measured, low, high and difference of a figure; None where it is not known."""


@dataclass(frozen=True)
class PlannedTable:
    """A table with its runs. folds: how many folds are tested."""

    table: PublishedTable
    plan: Plan
    runs: Runs
    seeds: Sequence[int]
    folds: int

    def described_test_side(self) -> str:
        """Number of test clips and of folds, in words."""
        key = next(row.key for row in self.table.rows if row.trained)
        sides = [self.plan.test_side(self.runs[key, fold, self.seeds[0]]) for fold in range(self.folds)]
        clips = counted(sum(len(side.clips) for side in sides), "test clip")
        return clips + (f" in {self.folds} folds" if self.table.folds else "")


@dataclass(frozen=True)
class MeasuredRow:
    """A row of the table. figures: by name. runs: how many runs the row is of. done: how many of them are done."""

    row: TableRow
    figures: dict[str, Cell]
    done: int
    runs: int


@dataclass(frozen=True)
class ReproduceReport:
    """A reproduced table.

    Attributes:
        out: the experiment's folder.
        table: the paper's table.
        seeds: of each row.
        where: store and test side, in words.
        smoke: whether trainings took a few steps only.
        rows: in the order of the table.
        failed: one line for each failed run.
    """

    out: Path
    table: PublishedTable
    seeds: tuple[int, ...]
    where: str
    smoke: bool
    rows: tuple[MeasuredRow, ...]
    failed: tuple[str, ...]

    def to_json(self) -> bytes:
        """summary.json."""
        rows = [
            {
                "system": each.row.label,
                "judged": scored_title(each.row),
                "source": each.row.source,
                "runs_done": each.done,
                "runs": each.runs,
                "not_reproduced": each.row.not_reproduced,
                "figures": each.figures,
            }
            for each in self.rows
        ]
        return json_bytes(
            {
                "title": self.table.title,
                "paper": self.table.paper,
                "smoke": self.smoke,
                "seeds": self.seeds,
                "rows": rows,
                "notes": self.table.notes,
                "failed": self.failed,
            }
        )

    def to_csv(self) -> bytes:
        """results.csv: a line for each figure of each row."""

        def text(value: float | None) -> str:
            return "" if value is None else f"{value:.6g}"

        lines = [
            [
                each.row.label,
                scored_title(each.row),
                name,
                each.row.source,
                *(text(cell[column]) for column in ("paper", "measured", "low", "high", "difference")),
                each.done,
                each.runs,
                each.row.not_reproduced,
            ]
            for each in self.rows
            for name, cell in each.figures.items()
        ]
        return csv_bytes(CSV_HEADER, lines)

    def to_markdown(self) -> str:
        """results.md."""
        lines = [
            [
                each.row.label,
                scored_title(each.row),
                name.replace("_", " "),
                _value_text(name, cell["paper"]),
                _measured_text(each, name, cell),
                _value_text(name, cell["difference"], sign=True),
                f"{each.done} of {each.runs}" if each.runs else "-",
            ]
            for each in self.rows
            for name, cell in each.figures.items()
        ]
        parts = [
            f"# {self.table.title}",
            (
                f"{self.table.paper}. {self.where}, seeds {', '.join(map(str, self.seeds))}. In brackets the 95 %"
                " interval of a bootstrap over test recordings and seeds; with one seed it does not hold the luck of"
                " the seed. Measured is the last epoch's network."
            ),
            markdown_table(HEADER, lines),
        ]
        notes = [*([SMOKE_NOTE] if self.smoke else []), *self.table.notes]
        if notes:
            parts.append("\n".join(f"- {note}" for note in notes))
        if self.failed:
            parts += ["## Not done", "\n".join(f"- {line}" for line in self.failed)]
        return "\n\n".join(parts) + "\n"

    def require(self) -> None:
        """Raise where runs have failed.

        Raises:
            GateError: there are failed runs; one line for each.
        """
        require_done(self.out, self.failed)


def scored_title(row: TableRow) -> str:
    """What of a row's runs is scored, in words."""
    return SVM_TITLES[row.judge] if row.judge != "network" else tables.NETWORK_TITLES[row.network]


def measured_rows(planned: PlannedTable, results: Mapping[str, JobResult]) -> list[MeasuredRow]:
    """The rows of a table. A row has figures only where all its runs are done."""
    table, runs, seeds = planned.table, planned.runs, planned.seeds
    found = []
    for row in table.rows:
        paper_figures = figures_of_paper(row)
        if row.not_reproduced:
            cells = {figure: _cell(getattr(row.paper, figure), None, None) for figure in paper_figures}
            found.append(MeasuredRow(row, cells, 0, 0))
            continue
        keys = [table.row(label).key for label in row.mean_of] or [row.key]
        names = [runs[key, fold, seed].name for key in keys for fold in range(planned.folds) for seed in seeds]
        done = sum(results[name].state == "done" for name in names)
        known: dict[str, Interval] = _figures(planned, row) if done == len(names) else {}
        with_counts = known and row.trained and COUNTS & set(table.figures)
        counts = _counts(row, planned.plan, runs[row.key, 0, seeds[0]], table.data.labels) if with_counts else {}
        cells = {}
        for figure in dict.fromkeys((*table.figures, *paper_figures)):
            if row.judge != "network" and figure not in SHARES:
                continue
            cells[figure] = _cell(getattr(row.paper, figure), known.get(figure), counts.get(figure))
        found.append(MeasuredRow(row, cells, done, len(names)))
    return found


def figures_of_paper(row: TableRow) -> list[str]:
    """Names of the figures that the paper gives for a row."""
    return [name for name, value in msgspec.structs.asdict(row.paper).items() if value is not None]


def _cell(paper: float | None, known: Interval | None, count: int | None) -> Cell:
    value = float(count) if count is not None else None if known is None else known.mean
    return {
        "paper": paper,
        "measured": value,
        "low": None if known is None else known.low,
        "high": None if known is None else known.high,
        "difference": None if paper is None or value is None else value - paper,
    }


def _figures(planned: PlannedTable, row: TableRow) -> dict[str, Interval]:
    """Figure -> mean over folds with its interval."""
    tallies = [
        np.stack([_tallies(planned, row, fold, seed) for seed in planned.seeds], axis=1)
        for fold in range(planned.folds)
    ]  # of each fold (2, seeds, recordings, columns)
    values, draws = measured(tallies).mean(axis=0), resampled(tallies)  # (2, figures), (resamples, 2, figures)
    plain, macro = (intervals(values[kind], draws[:, kind]) for kind in (PLAIN, MACRO))
    return {"accuracy": plain[FIGURES[0]], "log_loss": plain[FIGURES[1]], "macro_accuracy": macro[FIGURES[0]]}


def _tallies(planned: PlannedTable, row: TableRow, fold: int, seed: int) -> Floats:
    """(2, recordings, columns) of one fold and seed; see `PLAIN`."""
    plan, runs = planned.plan, planned.runs
    scored = [planned.table.row(label) for label in row.mean_of] or [row]
    side = plan.test_side(runs[scored[0].key, fold, seed])
    predictions = [_probabilities(plan, side, each, runs[each.key, fold, seed]) for each in scored]
    probabilities = np.mean([each for each, _ in predictions], axis=0)  # (clips, labels)
    silent = np.any([each for _, each in predictions], axis=0)  # (clips,)
    truth, recording = side.truth[~silent], side.recording[~silent]
    plain = tally(probabilities[~silent], truth, recording, side.recordings)
    weight = 1 / np.bincount(truth, minlength=len(side.store.labels))[truth]  # (clips,): labels weigh the same
    macro = np.zeros((side.recordings, COLUMNS))
    np.add.at(macro[:, 0], recording, weight)
    np.add.at(macro[:, 1], recording, weight * (probabilities[~silent].argmax(axis=1) == truth))
    return np.stack([plain, macro])


def _probabilities(plan: Plan, side: TestSide, row: TableRow, run: PlannedRun) -> tuple[Floats, NDArray[np.bool_]]:
    """Probabilities (clips, labels) of a row in one run, and (clips,) which clips are silent. For support vector
    machines the predicted label has probability 1."""
    path = plan.path(run.name)
    if row.judge == "network":
        return side.probabilities(path / row.part, row.network)
    systems = [each.name or each.recipe for each in run.recipe.backend.systems] if run.recipe.backend else []
    parts = ["", *(f"beside/{name}" for name in systems)]
    if row.judge == "svm" and row.part not in parts:
        raise InputError(
            f"row '{row.label}': part '{row.part}' has no support vector machine; choose one of "
            f"{', '.join(parts[1:])}, or none"
        )
    system = -1 if row.judge == "svm_sum" else parts.index(row.part)
    found = side.svm_scores(path)
    scores = found.scores[system]
    return np.eye(scores.shape[1])[scores.argmax(axis=1)], found.silent[system]


def _counts(row: TableRow, plan: Plan, run: PlannedRun, labels: int) -> dict[str, int]:
    """Parameters and MACs of a row's float network by torchinfo, with as many labels as the whole data set has."""
    recipe = read_recipe(plan.path(run.name) / row.part)
    config = model_config(recipe)
    size = network_input(recipe, plan.store, config)
    counts = float_counts(build(config, labels).eval(), (1, *size.shape))["torchinfo"]
    return {"params": counts.params, "macs": counts.macs}


def _value_text(figure: str, value: float | None, *, sign: bool = False) -> str:
    """A value as text; "-" where it is not known."""
    if value is None:
        return "-"
    if figure in COUNTS:
        return f"{round(value):{'+' if sign else ''},}"
    return tables.number("accuracy" if figure in SHARES else figure, value, sign=sign)


def _measured_text(each: MeasuredRow, figure: str, cell: Cell) -> str:
    """The measured value with its interval, or why there is none."""
    if each.row.not_reproduced:
        return f"not reproduced: {each.row.not_reproduced}"
    text = _value_text(figure, cell["measured"])
    if cell["low"] is None:
        return text
    low, high = (_value_text(figure, cell[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{text} ({low} to {high})"
