"""RUN/report.html: the page of a finished run, with curves of its losses, what its networks said of the test side,
teachers and recipe.

What it tells is in the run folder and in the store, so that the same run gives the same bytes.
"""

import csv
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.metrics.findings import Answers, Findings, find
from edgekd.report.charts import percent
from edgekd.report.page import (
    INTERVAL_NOTE,
    SCORE_HEADER,
    SYNTHETIC_NOTE,
    Page,
    Tile,
    finding_sections,
    render,
    score_rows,
    score_tiles,
    sentence,
)
from edgekd.report.sections import Curves, Listing, Section, Table
from edgekd.text import counted
from edgekd.train.loop.callbacks import FIRST_COLUMNS
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.run.folder import (
    METRICS_FILE,
    PAIRS_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    SVM_FILE,
    TEST_FILES,
    Run,
    read_info,
    read_recipe,
)
from edgekd.train.stages.confusions import PairReport
from edgekd.train.stages.svm import ENSEMBLE, SvmReport

T = TypeVar("T")

PHASES = {"float": "float", "qat": "int8-aware"}
"""Phase of metrics.csv and network -> what a page calls it."""
WEIGHTED = "_weighted"
"""Ends the columns of metrics.csv that the weight of a term has gone into already."""
FEWEST_POINTS = 2
"""Of a curve; a single test is in the scores."""


def write_report(run: Run, store: ClipStore, teachers: Sequence[Path] = ()) -> None:
    """Write the page of a finished run into its folder.

    Args:
        run: not cross-fitted.
        store: that it was trained on.
        teachers: run folders that it learned from.

    Raises:
        InputError: a report of the run's stages is damaged, or the page cannot be written.
    """
    page = render(page_of(run, store, teachers))
    try:
        atomic_write(run.path / REPORT_FILE, page)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written ({error.strerror}); free space there and go on with --resume"
        ) from None


def page_of(run: Run, store: ClipStore, teachers: Sequence[Path]) -> Page:
    """What stands on the page; arguments and errors as `write_report`."""
    clips = partition_clips(run.recipe, store).test
    found, notes = {}, []
    for network, file in TEST_FILES.items():
        if (run.path / file).is_file():
            try:
                found[network] = find(answers(run, store, clips, file))
            except InputError as error:  # damaged, nothing but silence, or numbers that are none
                notes.append(sentence(f"the {PHASES[network]} network is not judged: {error}"))
    if store.synthetic:
        notes.append(SYNTHETIC_NOTE)
    lead = (
        f"{run.recipe.role} {run.config.__struct_config__.tag} trained on {store.name},"
        f" {', '.join(run.recipe.data.train)}; tested on {counted(len(clips), 'clip')} of"
        f" {', '.join(run.recipe.data.test) or 'the part held out'}"
    )
    return Page(
        "edgekd training run",
        run.recipe.name,
        lead,
        _tiles(run, found),
        _sections(run, store, teachers, found),
        notes,
        f"Trained by edgekd {run.info.edgekd_version} from {run.info.created} on, in {run.info.seconds:,.0f} s.",
    )


def answers(run: Run, store: ClipStore, clips: np.ndarray[tuple[int, ...], np.dtype[np.int64]], file: str) -> Answers:
    """What a network of a run said of the clips of its test side, in table order.

    Raises:
        InputError: the file is missing, damaged, or of other clips.
    """
    try:
        with np.load(run.path / file) as kept:
            logits, silent, clip = kept["logits"], kept["silent"], kept["clip"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{run.path / file}: cannot be read ({error}); train the run again") from None
    if set(clip) != set(clips):
        raise InputError(f"{run.path / file}: is of other clips than the test side of this run; train the run again")
    rows = [store.clips[index] for index in clips]
    return Answers(
        logits,
        silent,
        np.searchsorted(clips, clip),
        store.label_index[clips],
        store.recordings(clips),
        store.labels,
        tuple(row.path for row in rows),
        tuple(row.recorder for row in rows),
    )


def curves(path: Path) -> list[Curves]:
    """Of metrics.csv, a phase each: the loss, every term before its weight, test figures where several epochs have
    them. None without the file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [
        name for name in (rows[0] if rows else {}) if name not in FIRST_COLUMNS[:-1] and not name.endswith(WEIGHTED)
    ]
    drawn = []
    for phase, title in PHASES.items():
        series = {
            name.replace("_", " "): [
                (int(row["epoch"]), float(row[name]))
                for row in rows
                if row["phase"] == phase and row[name] and math.isfinite(float(row[name]))
            ]
            for name in names
        }
        series = {name: values for name, values in series.items() if len(values) >= FEWEST_POINTS}
        if series:
            drawn.append(
                Curves(
                    f"{title.capitalize()} phase",
                    series,
                    "By epoch; beside each name its last value. Terms are shown before "
                    "their weights, loss is what was minimised.",
                )
            )
    return drawn


def _tiles(run: Run, found: dict[str, Findings]) -> list[Tile]:
    """The networks' accuracies; of the last one also what its confidence is worth."""
    tiles: list[Tile] = []
    for left, (network, each) in zip(reversed(range(len(found))), found.items(), strict=True):
        tiles += score_tiles(each, f"{PHASES[network]}: ")[: 1 if left else None]
    taught = run.info.metrics.get("teachers_test_clip_accuracy")
    return (
        tiles
        if taught is None
        else [*tiles, Tile("teachers: clip accuracy", percent(taught), "their mean, test clips")]
    )


def _sections(run: Run, store: ClipStore, teachers: Sequence[Path], found: dict[str, Findings]) -> list[Section]:
    scores = [row for network, each in found.items() for row in score_rows(each, f"{PHASES[network]}, ")]
    sections: list[Section] = (
        [Table("Scores on the test side", scores, SCORE_HEADER, note=INTERVAL_NOTE)] if found else []
    )
    sections += [*curves(run.path / METRICS_FILE), *_teachers(run, teachers), *_stages(run)]
    if found:
        network = [*found][-1]
        where = f"Answers of the {PHASES[network]} network. Paths as in the store, {store.name}."
        sections += finding_sections(found[network], store.labels, where)
    source = run.info.data
    facts = {
        "data": f"{source.name} ({source.hash}), licence {source.licence}",
        "train": ", ".join(run.recipe.data.train),
        "test": ", ".join(run.recipe.data.test),
        "seed": str(run.recipe.seed),
        "labels": ", ".join(run.labels),
        "recipe": f"{run.recipe.name} ({run.info.recipe_hash})",
        "learned from": ", ".join(run.info.teachers) or "labels alone",
    }
    recipe = (run.path / RECIPE_FILE).read_text(encoding="utf-8")
    return [*sections, Table("The run", list(facts.items())), Listing("The resolved recipe", recipe)]


def _teachers(run: Run, teachers: Sequence[Path]) -> list[Table]:
    """A row for each teacher, by its own test; and their mean, on the student's sides."""
    if not teachers:
        return []
    rows = []
    for path in teachers:
        metrics = read_info(path).metrics
        own = metrics.get("float_clip_accuracy", metrics.get("fits_clip_accuracy"))
        rows.append([path.name, str(read_recipe(path).model["kind"]), "", "" if own is None else percent(own)])
    sides = [run.info.metrics.get(f"teachers_{side}_clip_accuracy") for side in ("train", "test")]
    if None not in sides:
        rows.append(
            [f"mean of {len(teachers)}" if len(teachers) > 1 else "as heard by the student", "", *map(percent, sides)]
        )
    return [Table("Teachers", rows, ("", "network", "training clips", "test clips"), left=2, note="Clip accuracy.")]


def _stages(run: Run) -> list[Table]:
    """What specialists and a back-end of the recipe came to."""
    tables = []
    if (run.path / PAIRS_FILE).is_file():
        header, *rows = _decoded(run.path / PAIRS_FILE, PairReport).rows()
        tables.append(
            Table(
                "What specialists changed",
                rows,
                header,
                note="Clips of a pair of labels that were taken for the other one.",
            )
        )
    if (run.path / SVM_FILE).is_file():
        report = _decoded(run.path / SVM_FILE, SvmReport)
        rows = [
            [Path(each.run).name, each.kernel, percent(each.softmax_accuracy), percent(each.svm_accuracy)]
            for each in report.systems
        ]
        tables.append(
            Table(
                "Support vector machines on embeddings",
                [*rows, [ENSEMBLE, "", "", percent(report.accuracy)]],
                ("", "kernel", "softmax", "machine"),
                left=2,
                note="Accuracy of test clips.",
            )
        )
    return tables


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it and go on with --resume") from None
