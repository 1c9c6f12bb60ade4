"""The stages of a recipe with `[specialists]` (Jung et al. 2020), and the report on what they changed.

RUN/teachers/chooser is the generalist trained again without a part of the training clips, whose confusions on that part
choose the pairs; RUN/teachers/specialist-A-B begins as the generalist and goes on with batches of which half are clips
of A and B. RUN/pairs.json tells for each pair how often it is confused on the test side, before and after.
"""

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.metrics.scores import clip_probabilities, softmax
from edgekd.text import counted
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Specialists, Taught
from edgekd.train.run.folder import PAIRS_FILE, TEST_FILES, Run, load_run
from edgekd.train.stages.confusions import (
    UNHEARD,
    Floats,
    Index,
    Network,
    Pair,
    PairReport,
    confusing_pairs,
    confusion,
    pair_report,
    predicted,
)
from edgekd.train.stages.stages import CHOOSER, SPECIALIST, on_splits, stage_recipe, teacher_path, trained
from edgekd.train.teachers.out_of_fold import fit_recipe
from edgekd.train.teachers.soft_labels import soft_labels

log = logging.getLogger(__name__)

LETTERS = 32
"""Of a label in the name of a folder."""


def train_specialists(
    recipe: Recipe, store: ClipStore, out: Path, generalist: Path, options: Options = DEFAULT_OPTIONS
) -> list[Path]:
    """Choose the pairs and train a specialist for each, or go on with them, inside `stages.staged`.

    Args:
        recipe: of the student, with [specialists].
        store: the clips.
        out: the student's run folder.
        generalist: a finished run, the student's first teacher.
        options: how.

    Returns:
        run folders of the specialists, of the most confused pair first; none where the generalist confuses nothing.

    Raises:
        InputError: a cross-fitted generalist, a part of the training clips that is not there, or anything that
            `training.train` refuses.
    """
    wanted = _wanted(recipe)
    check_specialists(recipe)
    run = load_run(generalist)
    if run.info.cross_fit:
        raise InputError(
            f"{generalist}: a cross-fitted teacher is {run.info.cross_fit} networks, of which no specialist can begin;"
            " put an ordinary teacher first"
        )
    log.info(
        "pairs of labels are chosen by the generalist without part %d of %d of its training clips", *wanted.held_out
    )
    chooser = trained(_chooser(recipe, run.recipe), store, teacher_path(out, CHOOSER), options=options)
    pairs = processes.first(lambda: _chosen(chooser, store, wanted.pairs))
    paths = []
    for number, (pair, name) in enumerate(
        zip(pairs, specialist_names([pair.of(store.labels) for pair in pairs]), strict=True), 1
    ):
        first, second = pair.of(store.labels)
        log.info(
            "specialist %d of %d: %s and %s, confused %s",
            number,
            len(pairs),
            first,
            second,
            counted(pair.errors, "time"),
        )
        specialist = _specialist(recipe, (first, second), generalist)
        paths.append(trained(specialist, store, teacher_path(out, name), options=options).path)
    return paths


def check_specialists(recipe: Recipe) -> None:
    """Find out whether the specialists of a recipe could be trained, before its teachers are.

    Raises:
        InputError: see `stages.stage_recipe`; no teacher that teaches, a first one that begins with another, a part
            that cannot be held out, or a batch without halves.
    """
    wanted = _wanted(recipe)
    if not any(teacher.teaches for teacher in recipe.teachers):
        raise InputError(
            f"recipe {recipe.name}: [specialists] begin as the first teacher, but none of [[teachers]] teaches; add one"
        )
    generalist = stage_recipe(next(teacher for teacher in recipe.teachers if teacher.teaches), recipe)
    if generalist.init.run in [teacher.name or stage_recipe(teacher, recipe).name for teacher in recipe.teachers]:
        raise InputError(
            f"recipe {recipe.name}: [specialists]: pairs are chosen on clips that the first teacher does not know, but"
            f" it begins with '{generalist.init.run}', which does; let it begin at random, or put another teacher first"
        )
    specialist = stage_recipe(_taught(wanted), recipe)
    where = f"recipe {recipe.name}: [specialists] '{wanted.recipe}'"
    if specialist.data.pair:
        raise InputError(
            f"{where} has data.pair = {list(specialist.data.pair)}, but pairs are chosen by confusions; take it out"
        )
    if specialist.train.batch_size < 2:
        raise InputError(f"{where} has train.batch_size 1, which has no halves; give at least 2")
    _chooser(recipe, specialist)  # for held_out


def report_pairs(
    run: Run, store: ClipStore, generalist: Path, specialists: Sequence[Path], teachers: Sequence[Path]
) -> PairReport:
    """Write pairs.json of a finished student: how often each pair is confused by all concerned, on the student's test
    side. All processes call this.

    Args:
        run: the student.
        store: the clips.
        generalist: its run folder.
        specialists: of `train_specialists`.
        teachers: all that the student learned from.

    Raises:
        InputError: the answers of a run are missing or damaged, or the report cannot be written.
    """
    clips = partition_clips(run.recipe, store).test
    network: Network = "qat" if run.recipe.qat.epochs else "float"
    said = {
        path: _taught_by(load_run(path), store, clips) for path in dict.fromkeys([generalist, *specialists, *teachers])
    }
    answers = {
        "generalist": predicted(said[generalist]),
        "teachers": predicted(np.mean([said[path] for path in teachers], axis=0)),
        "student": predicted(_own(run, network, store, clips)),
    }
    chooser = load_run(teacher_path(run.path, CHOOSER))
    counts = _confusions(chooser, store)
    pairs = [_pair(load_run(path), store, counts) for path in specialists]
    report = pair_report(
        pairs, store.labels, store.label_index[clips], answers, [predicted(said[path]) for path in specialists], network
    )
    try:
        processes.first(lambda: atomic_write(run.path / PAIRS_FILE, report.to_json()))
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written ({error.strerror}); free space there and go on with --resume"
        ) from None
    for line in report.to_text().splitlines():
        log.info("%s", line)
    return report


def specialist_names(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names of run folders: specialist-A-B with what no file name should have taken out, and a number where two would
    be the same."""
    names: list[str] = []
    for pair in pairs:
        name = SPECIALIST + "-".join(re.sub(r"[^\w.]+", "_", label)[:LETTERS] for label in pair)
        taken = sum(re.sub(r"~\d+$", "", each).casefold() == name.casefold() for each in names)
        names.append(f"{name}~{taken + 1}" if taken else name)
    return names


def _wanted(recipe: Recipe) -> Specialists:
    if recipe.specialists is None:
        raise InputError(f"recipe {recipe.name}: no [specialists] table; add one with recipe and pairs")
    return recipe.specialists


def _taught(wanted: Specialists) -> Taught:
    return Taught(recipe=wanted.recipe, set=wanted.set)


def _chooser(recipe: Recipe, generalist: Recipe) -> Recipe:
    """The generalist's recipe on the student's splits, without one more part of the training clips."""
    wanted = _wanted(recipe)
    return on_splits(
        generalist, fit_recipe(recipe, *wanted.held_out).data, f"recipe {recipe.name}: [specialists] held_out"
    )


def _specialist(recipe: Recipe, pair: tuple[str, str], generalist: Path) -> Recipe:
    loaded = stage_recipe(_taught(_wanted(recipe)), recipe)
    return msgspec.structs.replace(
        loaded,
        data=msgspec.structs.replace(loaded.data, pair=pair),
        init=msgspec.structs.replace(loaded.init, run=str(generalist.resolve())),
    )


def _chosen(chooser: Run, store: ClipStore, count: int) -> list[Pair]:
    pairs = confusing_pairs(_confusions(chooser, store), count)
    if not pairs:
        log.warning("the generalist confuses no labels on the part that is held out: there is no specialist")
    return pairs


def _confusions(chooser: Run, store: ClipStore) -> Index:
    """(labels, labels) of windows that a chooser hears of the part that it was not trained on: of clips too many pairs
    would tie."""
    held_out = partition_clips(chooser.recipe, store).test
    kept = _kept(chooser, "float", store, held_out)
    if kept is None:
        raise _lost(chooser, "float")
    logits, silent, clip = kept
    return confusion(np.where(silent, UNHEARD, logits.argmax(axis=1)), store.label_index[clip], len(store.labels))


def _pair(specialist: Run, store: ClipStore, counts: Index) -> Pair:
    """The pair that a specialist is for, with its confusions in `counts` (labels, labels)."""
    first, second = sorted(store.labels.index(label) for label in specialist.recipe.data.pair)
    return Pair(first, second, int(counts[first, second] + counts[second, first]))


def _own(run: Run, network: Network, store: ClipStore, clips: Index) -> Floats:
    """(clips, labels) probabilities of a run's network on its own test side, zeros where a clip is silent."""
    found = _tested(run, network, store, clips)
    if found is None:
        raise _lost(run, network)
    return found


def _lost(run: Run, network: Network) -> InputError:
    return InputError(
        f"{run.path / TEST_FILES[network]}: missing, damaged or of other clips; remove {run.path} and train it again"
    )


def _taught_by(run: Run, store: ClipStore, clips: Index) -> Floats:
    """(clips, labels) probabilities of a teacher: as it was tested, or its soft labels where that was on other
    clips."""
    found = _tested(run, "float", store, clips)
    if found is not None:
        return found
    logits = soft_labels(run, store)[1][clips]
    return softmax(logits).reshape(len(clips), -1, len(store.labels)).mean(axis=1)  # of all segments


def _tested(run: Run, network: Network, store: ClipStore, clips: Index) -> Floats | None:
    kept = _kept(run, network, store, clips)
    if kept is None:
        return None
    logits, silent, clip = kept
    place = np.searchsorted(clips, clip)  # (windows,) position in `clips`, which are in table order
    return clip_probabilities(softmax(logits), silent, place, len(clips))[0]


def _kept(run: Run, network: Network, store: ClipStore, clips: Index) -> tuple[Floats, Index, Index] | None:
    """Logits, silence and clip of the windows that a run was tested on, None where they are lost or of other clips."""
    try:
        with np.load(run.path / TEST_FILES[network]) as kept:
            logits, silent, clip = kept["logits"], kept["silent"], kept["clip"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return None if run.info.data.hash != store.hash or set(clip) != set(clips) else (logits, silent, clip)
