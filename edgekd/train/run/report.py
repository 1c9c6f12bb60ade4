"""RUN/report.html, the page of a finished run: curves of its losses, scores of its networks on the test clips, teachers
and recipe.

All figures come from the run folder and the store, so that the same run gives the same bytes.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.metrics.analysis import Analysis, analyse
from edgekd.metrics.predictions import LabelledPredictions, read_predictions
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
from edgekd.report.sections import CurvesSection, ListingSection, Section, TableSection
from edgekd.text import counted
from edgekd.train.loop.callbacks import FIRST_COLUMNS
from edgekd.train.prepare.inputs import partition_clips
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
"""Phase of metrics.csv, or network -> its name on the page."""
WEIGHTED = "_weighted"
"""Suffix of columns of metrics.csv that are multiplied by the weight of their term."""
FEWEST_POINTS = 2
"""Points of a curve; a single test is in the scores."""


def write_report(run: Run, store: ClipStore, teachers: Sequence[Path] = ()) -> None:
    """Write report.html of a finished run.

    Args:
        run: not cross-fitted.
        store: that the run was trained on.
        teachers: run folders that the run learned from.

    Raises:
        InputError: a report of the run's stages is damaged, or the page cannot be written.
    """
    page = render(run_page(run, store, teachers))
    try:
        atomic_write(run.path / REPORT_FILE, page)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written ({error.strerror}); free space there and go on with --resume"
        ) from None


def run_page(run: Run, store: ClipStore, teachers: Sequence[Path]) -> Page:
    """The content of the page; arguments and errors as `write_report`."""
    clips = partition_clips(run.recipe, store).test
    found, notes = {}, []
    for network, file in TEST_FILES.items():
        if (run.path / file).is_file():
            try:
                found[network] = analyse(labelled_predictions(run, store, clips, file))
            except InputError as error:  # a damaged file, silence only, or logits that are not finite
                notes.append(sentence(f"the {PHASES[network]} network has no scores: {error}"))
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


def labelled_predictions(
    run: Run, store: ClipStore, clips: np.ndarray[tuple[int, ...], np.dtype[np.int64]], file: str
) -> LabelledPredictions:
    """The logits of a run's network for its test clips, with the clips' labels, in the order of the store's table.

    Args:
        run: the run.
        store: that the run was trained on.
        clips: (clips,) its test clips.
        file: one of `TEST_FILES`.

    Raises:
        InputError: the file is missing, damaged, or of other clips.
    """
    kept = read_predictions(run.path / file, clips)
    rows = [store.clips[index] for index in clips]
    return LabelledPredictions(
        kept.logits,
        kept.silent,
        np.searchsorted(clips, kept.clip),
        store.label_index[clips],
        store.group_ids(clips),
        store.labels,
        tuple(row.path for row in rows),
        tuple(row.recorder for row in rows),
    )


def curves(path: Path) -> list[CurvesSection]:
    """The curves of metrics.csv at `path`, one chart for each phase: the loss, every term before its weight, and test
    figures that several epochs have. Empty without the file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [
        name for name in (rows[0] if rows else {}) if name not in FIRST_COLUMNS[:-1] and not name.endswith(WEIGHTED)
    ]
    charts = []
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
            charts.append(
                CurvesSection(
                    f"{title.capitalize()} phase",
                    series,
                    "By epoch; the last value stands beside each name. Terms are shown before their weights; the loss "
                    "is the minimised sum.",
                )
            )
    return charts


def _tiles(run: Run, found: dict[str, Analysis]) -> list[Tile]:
    """The networks' accuracies, for the last network all scores, and the teachers' accuracy."""
    tiles: list[Tile] = []
    for left, (network, each) in zip(reversed(range(len(found))), found.items(), strict=True):
        tiles += score_tiles(each, f"{PHASES[network]}: ")[: 1 if left else None]
    teachers = run.info.metrics.get("teachers_test_clip_accuracy")
    if teachers is not None:
        tiles.append(Tile("teachers: clip accuracy", percent(teachers), "their mean, test clips"))
    return tiles


def _sections(run: Run, store: ClipStore, teachers: Sequence[Path], found: dict[str, Analysis]) -> list[Section]:
    scores = [row for network, each in found.items() for row in score_rows(each, f"{PHASES[network]}, ")]
    sections: list[Section] = (
        [TableSection("Scores on the test side", scores, SCORE_HEADER, note=INTERVAL_NOTE)] if found else []
    )
    sections += [*curves(run.path / METRICS_FILE), *_teachers(run, teachers), *_stages(run)]
    if found:
        network = [*found][-1]
        note = f"Predictions of the {PHASES[network]} network. Paths are those of the store {store.name}."
        sections += finding_sections(found[network], store.labels, note)
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
    return [*sections, TableSection("The run", list(facts.items())), ListingSection("The resolved recipe", recipe)]


def _teachers(run: Run, teachers: Sequence[Path]) -> list[TableSection]:
    """A row for each teacher with the accuracy of its own test, and one for their mean on the student's clips."""
    if not teachers:
        return []
    rows = []
    for path in teachers:
        metrics = read_info(path).metrics
        own = metrics.get("float_clip_accuracy", metrics.get("fits_clip_accuracy"))
        rows.append([path.name, str(read_recipe(path).model["kind"]), "", "" if own is None else percent(own)])
    accuracies = [run.info.metrics.get(f"teachers_{side}_clip_accuracy") for side in ("train", "test")]
    shown = [percent(accuracy) for accuracy in accuracies if accuracy is not None]
    if len(shown) == len(accuracies):
        rows.append([f"mean of {len(teachers)}" if len(teachers) > 1 else "on the student's clips", "", *shown])
    return [
        TableSection("Teachers", rows, ("", "network", "training clips", "test clips"), left=2, note="Clip accuracy.")
    ]


def _stages(run: Run) -> list[TableSection]:
    """The results of the recipe's specialists and back-end."""
    tables = []
    if (run.path / PAIRS_FILE).is_file():
        header, *rows = _decoded(run.path / PAIRS_FILE, PairReport).rows()
        tables.append(
            TableSection(
                "What specialists changed",
                rows,
                header,
                note="Clips of one label of a pair that were predicted as the other.",
            )
        )
    if (run.path / SVM_FILE).is_file():
        report = _decoded(run.path / SVM_FILE, SvmReport)
        rows = [
            [Path(each.run).name, each.kernel, percent(each.softmax_accuracy), percent(each.svm_accuracy)]
            for each in report.systems
        ]
        tables.append(
            TableSection(
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
