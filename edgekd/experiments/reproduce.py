"""`edgekd reproduce`: from a data set's official folder to a published table, the paper's figures and ours side by
side.

DIR/store is the prepared data set, DIR/runs/ the run folders of all rows and seeds. The same command goes on wherever
it was stopped.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data import prepare as preparing
from edgekd.data.sets.catalogue import KNOWN
from edgekd.data.store.store import INFO_FILE, ClipStore
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
    failures,
    load,
    require_done,
    seed_list,
)
from edgekd.experiments.predictions import Floats, TestSide
from edgekd.experiments.published_table import COUNTS, SHARES, Reproduction, Row, Source, load_reproduction
from edgekd.experiments.smoke import few_steps, make_tree
from edgekd.export.float_counts import float_counts
from edgekd.metrics.intervals import COLUMNS, FIGURES, Interval, intervals, measured, resampled, tally
from edgekd.models import build
from edgekd.text import counted, csv_bytes, markdown_table
from edgekd.train.loop.inputs import input_shape
from edgekd.train.recipe.recipe import Recipe, alone
from edgekd.train.run.folder import model_config, read_recipe
from edgekd.train.stages.stages import stage_recipe

STORE_FOLDER, TREE_FOLDER = "store", "tree"
"""Inside the output folder: the prepared data set, and a made-up one."""
RUNS_FILE = "runs.csv"
SMOKE_SEEDS = "0"
SMOKE_FOLDS = 2
"""So many of a table's folds are tested in a smoke run."""
OWN = ("",)
"""The only fold where a table names none: the splits of the recipes."""
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

Runs = Mapping[tuple[str, int, int], Planned]
"""(`Row.key`, number of the fold, seed) -> run."""
Cell = dict[str, float | None]
"""paper, measured, low, high and difference of a figure; None where it is not known."""


@dataclass(frozen=True)
class Measured:
    """A row of the table. figures: by name. done, runs: how many runs it is of, and how many of them are done."""

    row: Row
    figures: dict[str, Cell]
    done: int
    runs: int


@dataclass(frozen=True)
class ReproduceReport:
    """What came out. failed: a line a run."""

    out: Path
    table: Reproduction
    seeds: tuple[int, ...]
    where: str
    smoke: bool
    rows: tuple[Measured, ...]
    failed: tuple[str, ...]

    def to_json(self) -> bytes:
        """One document."""
        rows = [
            {
                "system": each.row.label,
                "judged": judged(each.row),
                "source": each.row.source,
                "runs_done": each.done,
                "runs": each.runs,
                "not_reproduced": each.row.not_reproduced,
                "figures": each.figures,
            }
            for each in self.rows
        ]
        return (
            msgspec.json.format(
                msgspec.json.encode(
                    {
                        "title": self.table.title,
                        "paper": self.table.paper,
                        "smoke": self.smoke,
                        "seeds": self.seeds,
                        "rows": rows,
                        "notes": self.table.notes,
                        "failed": self.failed,
                    }
                ),
                indent=2,
            )
            + b"\n"
        )

    def to_csv(self) -> bytes:
        """A line for each figure of each row."""

        def of(value: float | None) -> str:
            return "" if value is None else f"{value:.6g}"

        return csv_bytes(
            CSV_HEADER,
            [
                [
                    each.row.label,
                    judged(each.row),
                    name,
                    each.row.source,
                    of(cell["paper"]),
                    of(cell["measured"]),
                    of(cell["low"]),
                    of(cell["high"]),
                    of(cell["difference"]),
                    each.done,
                    each.runs,
                    each.row.not_reproduced,
                ]
                for each in self.rows
                for name, cell in each.figures.items()
            ],
        )

    def to_markdown(self) -> str:
        """The table for people."""
        lines = [
            [
                each.row.label,
                judged(each.row),
                name.replace("_", " "),
                _shown(name, cell["paper"]),
                _told(each, name, cell),
                _shown(name, cell["difference"], sign=True),
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
        """Refuse a table with failed runs.

        Raises:
            GateError: with a line for each.
        """
        require_done(self.out, self.failed)


def reproduce(
    name: str,
    data: Path | None,
    out: Path,
    seeds: str | None,
    workers: Workers,
    say: Callable[[str], None],
    *,
    smoke: bool = False,
) -> ReproduceReport:
    """Prepare the data set, train and judge every row, or go on with that.

    Args:
        name: of a shipped table, or a path to one.
        data: the data set's folder as published, or a store of it; None where `out` holds the store already, or of a
            smoke run.
        out: folder of store, runs and results.
        seeds: with commas; None is "0,1,2", of a smoke run "0".
        workers: where runs are trained.
        say: told of progress.
        smoke: a few steps a training, where `data` is None on a made-up tree.

    Raises:
        InputError: anything wrong with the table or the data, found before the first run.
        KeyboardInterrupt: with how to go on.
    """
    table = load_reproduction(name)
    chosen = seed_list(seeds or (SMOKE_SEEDS if smoke else "0,1,2"))
    settings = chosen_settings(table, smoke=smoke)
    if data is None and not smoke and not (out / STORE_FOLDER / INFO_FILE).is_file():
        raise InputError(
            f"reproduce {name} wants the folder of {KNOWN[table.data.set].title}: give it with --data"
            f" FOLDER{f', after edgekd data fetch {table.data.set}' if KNOWN[table.data.set].free else ''}, or try the"
            " path with --smoke"
        )
    with claimed(out, {"command": f"reproduce {Path(name).stem}{' --smoke' if smoke else ''}"}):
        try:
            store = _store(table.data, data, out, say, smoke=smoke)
            plan = Plan(store, out)
            tested = (table.folds[:SMOKE_FOLDS] if smoke else table.folds) or OWN
            runs = planned(table, settings, plan, chosen, tested)
            if not smoke:
                _check_sides(table, plan)
            plan.check()
            outcomes = run_jobs(plan.jobs(workers), out / JOBS_FOLDER, workers, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out}: interrupted; go on with the same command") from None
        tables.write(out, RUNS_FILE, tables.run_table(plan, {each.label: each for each in settings.values()}, outcomes))
        tables.write_times(plan, outcomes)
        key = next(row.key for row in table.rows if row.trained)
        clips = sum(len(plan.tested(runs[key, place, chosen[0]]).clips) for place in range(len(tested)))
        where = f"{store.name}: {counted(clips, 'test clip')}{f' in {len(tested)} folds' if table.folds else ''}"
        report = ReproduceReport(
            out,
            table,
            tuple(chosen),
            where,
            smoke,
            tuple(_judged(table, plan, runs, chosen, len(tested), outcomes)),
            tuple(failures(outcomes)),
        )
        tables.write(out, tables.MARKDOWN_FILE, report.to_markdown())
        tables.write(out, tables.CSV_FILE, report.to_csv())
        tables.write(out, tables.JSON_FILE, report.to_json())
    return report


def judged(row: Row) -> str:
    """What of a row is judged, in words."""
    if row.judge != "network":
        return {"svm": "SVM", "svm_sum": "sum of SVMs"}[row.judge]
    return tables.NAMES[row.network]


def chosen_settings(table: Reproduction, *, smoke: bool = False) -> dict[str, Setting]:
    """`Row.key` -> what is trained for all rows of that key. Plain teachers that no row looks at are shared by all of
    them and all seeds.

    Raises:
        InputError: see `experiment.load`; a row that asks for what its recipe does not have.
    """
    found: dict[str, Setting] = {}
    for row in table.rows:
        if not row.trained or row.key in found:
            continue
        recipe = load(row.recipe, row.set)
        if smoke:
            recipe = load(row.recipe, (*row.set, *few_steps(recipe)))
        if row.teachers == "none" or row.teachers_of:
            recipe = msgspec.structs.replace(alone(recipe), backend=None)
        shared = _plain(recipe) and not any(
            (each.key == row.key and each.part) or (each.teachers_of and table.row(each.teachers_of).key == row.key)
            for each in table.rows
        )
        found[row.key] = Setting(
            row.label, recipe, tuple(stage_recipe(each, recipe) for each in recipe.teachers) if shared else ()
        )
    for row in table.rows:
        if row.trained and row.network not in found[row.key].networks and not row.part:
            raise InputError(
                f"row '{row.label}': recipe {row.recipe} has no quantization-aware phase; set network = \"float\""
            )
    return found


def _plain(recipe: Recipe) -> bool:
    """Whether a recipe's stages are no more than teachers that are trained each for itself and all teach."""
    return (
        bool(recipe.teachers)
        and recipe.specialists is None
        and recipe.backend is None
        and all(each.teaches for each in recipe.teachers)
        and not any(stage_recipe(each, recipe).init.run for each in recipe.teachers)
    )


def _store(source: Source, data: Path | None, out: Path, say: Callable[[str], None], *, smoke: bool) -> ClipStore:
    """The prepared data set: one that is there, one that was given, or one that is prepared now."""
    path = out / STORE_FOLDER
    if data is not None and (data / INFO_FILE).is_file():
        path = data
    elif not (path / INFO_FILE).is_file():
        if data is None:
            data = make_tree(source.set, source.options, out / TREE_FOLDER)
        say(f"preparing {KNOWN[source.set].title}")
        prepared = preparing.prepare(
            source.set, data, path, sample_rate=source.sample_rate, channels=source.channels, say=say, **source.options
        )
        for note in prepared.notes:
            say(f"note: {note}")
    store = ClipStore.open(path)
    for what, got, wanted in (
        ("data set", store.name, source.set),
        ("sample rate", store.sample_rate, source.sample_rate),
        ("channels", store.channels, source.channels),
    ):
        if got != wanted:
            raise InputError(
                f"{path}: its {what} is {got}, this table wants {wanted}; give another --data, or the folder as"
                " published"
            )
    if not smoke and source.counted and len(store.clips) != source.clips:
        say(
            f"note: {path} has {counted(len(store.clips), 'clip')}, the whole data set has {source.clips:,}: the table"
            " is of these"
        )
    return store


def _check_sides(table: Reproduction, plan: Plan) -> None:
    """Refuse a whole data set whose split is another one, such as a store of all training clips where the table is of a
    quarter.

    Raises:
        InputError: as said.
    """
    source, store, data = table.data, plan.store, plan.runs[0].recipe.data
    if table.folds or not source.counted or len(store.clips) != source.clips:
        return
    sides = data.sides(store)
    train, test = len(sides.train) + len(sides.left_out), len(sides.test)
    for side, got, wanted in (("train on", train, source.train), ("test on", test, source.test)):
        if got != wanted:
            options = "".join(f" --{name} {value}" for name, value in source.options.items())
            raise InputError(
                f"{store.path}: it has {got:,} clips to {side}, this table {wanted:,}; prepare it by edgekd data"
                f" prepare {source.set}{options} --sample-rate {source.sample_rate}, or give the folder as published"
            )


def planned(
    table: Reproduction, settings: Mapping[str, Setting], plan: Plan, seeds: Sequence[int], tested: Sequence[str] = OWN
) -> Runs:
    """All runs, those that teach others first. tested: folds, or `OWN`."""
    runs: dict[tuple[str, int, int], Planned] = {}
    for row in table.rows:
        if not row.trained or (row.key, 0, seeds[0]) in runs:
            continue
        setting = settings[row.key]
        for (place, name), seed in itertools.product(enumerate(tested), seeds):
            taught_by: list[str] = []
            if row.teachers_of:
                base = table.row(row.teachers_of).key
                owner = settings[base].recipe
                taught_by = [
                    f"{runs[base, place, seed].name}/teachers/{each.name or stage_recipe(each, owner).name}"
                    for each in owner.teachers
                    if each.teaches
                ]
            runs[row.key, place, seed] = plan.add(
                setting, _fold(table, setting.recipe, name), seed, taught_by=taught_by
            )
    return runs


def _fold(table: Reproduction, recipe: Recipe, tested: str) -> Fold:
    """A fold of the table by its name, or the recipe's own splits."""
    if tested:
        return Fold(tested, tuple(other for other in table.folds if other != tested), (tested,))
    return Fold("+".join(recipe.data.test) or "held out", recipe.data.train, recipe.data.test, recipe.data.held_out)


def _judged(
    table: Reproduction, plan: Plan, runs: Runs, seeds: Sequence[int], folds: int, outcomes: Mapping[str, Outcome]
) -> list[Measured]:
    found = []
    for row in table.rows:
        if row.not_reproduced:
            found.append(
                Measured(row, {figure: _cell(getattr(row.paper, figure), None, None) for figure in _given(row)}, 0, 0)
            )
            continue
        keys = [table.row(label).key for label in row.mean_of] or [row.key]
        names = [runs[key, place, seed].name for key in keys for place in range(folds) for seed in seeds]
        done = sum(outcomes[name].state == "done" for name in names)
        known: dict[str, Interval] = _estimate(table, row, plan, runs, seeds, folds) if done == len(names) else {}
        counted = known and row.trained and COUNTS & set(table.figures)
        counts = _counts(row, plan, runs[row.key, 0, seeds[0]], table.data.labels) if counted else {}
        cells = {}
        for figure in dict.fromkeys((*table.figures, *_given(row))):
            if row.judge != "network" and figure not in SHARES:
                continue
            cells[figure] = _cell(getattr(row.paper, figure), known.get(figure), counts.get(figure))
        found.append(Measured(row, cells, done, len(names)))
    return found


def _given(row: Row) -> list[str]:
    """Figures that the paper tells of a row."""
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


def _estimate(
    table: Reproduction, row: Row, plan: Plan, runs: Runs, seeds: Sequence[int], folds: int
) -> dict[str, Interval]:
    """Figure -> measured mean over folds with its interval."""
    tallies = [
        np.stack([_tallies(table, row, plan, runs, place, seed) for seed in seeds], axis=1) for place in range(folds)
    ]  # of each fold (2, seeds, recordings, columns)
    values, draws = measured(tallies).mean(axis=0), resampled(tallies)  # (2, figures), (resamples, 2, figures)
    plain, macro = (intervals(values[kind], draws[:, kind]) for kind in (PLAIN, MACRO))
    return {"accuracy": plain[FIGURES[0]], "log_loss": plain[FIGURES[1]], "macro_accuracy": macro[FIGURES[0]]}


def _tallies(table: Reproduction, row: Row, plan: Plan, runs: Runs, place: int, seed: int) -> Floats:
    """(2, recordings, columns) of one fold and seed: see `PLAIN`."""
    judged_rows = [table.row(label) for label in row.mean_of] or [row]
    side = plan.tested(runs[judged_rows[0].key, place, seed])
    each = [_answers(plan, side, judged_row, runs[judged_row.key, place, seed]) for judged_row in judged_rows]
    answers, silent = np.mean([answered for answered, _ in each], axis=0), np.any([quiet for _, quiet in each], axis=0)
    truth, recording = side.truth[~silent], side.recording[~silent]
    plain = tally(answers[~silent], truth, recording, side.recordings)
    weight = 1 / np.bincount(truth, minlength=len(side.store.labels))[truth]  # (clips,): labels weigh the same
    macro = np.zeros((side.recordings, COLUMNS))
    np.add.at(macro[:, 0], recording, weight)
    np.add.at(macro[:, 1], recording, weight * (answers[~silent].argmax(axis=1) == truth))
    return np.stack([plain, macro])


def _answers(plan: Plan, side: TestSide, row: Row, run: Planned) -> tuple[Floats, NDArray[np.bool_]]:
    """Probabilities (clips, labels) of a row in one run, of a back-end 1 for the label that it chose; and which clips
    are silent."""
    path = plan.path(run.name)
    if row.judge == "network":
        return side.probabilities(path / row.part, row.network)
    beside = [each.name or each.recipe for each in run.recipe.backend.beside] if run.recipe.backend else []
    places = ["", *(f"beside/{name}" for name in beside)]
    if row.judge == "svm" and row.part not in places:
        raise InputError(
            f"row '{row.label}': part '{row.part}' has no support vector machine; choose one of "
            f"{', '.join(places[1:])}, or none"
        )
    scores = side.svm_scores(path, -1 if row.judge == "svm_sum" else places.index(row.part))
    return np.eye(scores.shape[1])[scores.argmax(axis=1)], np.zeros(len(scores), bool)


def _counts(row: Row, plan: Plan, run: Planned, labels: int) -> dict[str, int]:
    """Parameters and MACs of a row's float network with as many labels as the whole data set has, by torchinfo."""
    recipe = read_recipe(plan.path(run.name) / row.part)
    network = build(model_config(recipe), labels).eval()
    counted = float_counts(network, (1, *input_shape(recipe, plan.store, recipe.frontend)))["torchinfo"]
    return {"params": counted.params, "macs": counted.macs}


def _shown(figure: str, value: float | None, *, sign: bool = False) -> str:
    """A value for people; nothing where it is not known."""
    if value is None:
        return "-"
    if figure in COUNTS:
        return f"{round(value):{'+' if sign else ''},}"
    text: str = tables.number("accuracy" if figure in SHARES else figure, value, sign=sign)
    return text


def _told(each: Measured, figure: str, cell: Cell) -> str:
    """What was measured, with its interval, or why it was not."""
    if each.row.not_reproduced:
        return f"not reproduced: {each.row.not_reproduced}"
    text = _shown(figure, cell["measured"])
    if cell["low"] is None:
        return text
    low, high = (_shown(figure, cell[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{text} ({low} to {high})"
