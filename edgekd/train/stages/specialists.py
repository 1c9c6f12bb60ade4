"""The stages of a recipe with `[specialists]` (Jung et al. 2020), and the report on what they changed.

RUN/teachers/chooser is the generalist, trained again without a part of the training clips. Its confusions on that part
choose the pairs. RUN/teachers/specialist-A-B begins with the weights of the generalist and trains on batches of which
half are clips of A and B. RUN/pairs.json counts for each pair how often it is confused on the test side, by the
generalist and by the others.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.metrics.predictions import Predictions, read_predictions
from edgekd.metrics.scores import clip_means, softmax
from edgekd.text import counted
from edgekd.train.batches.silence import silent_clips
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options
from edgekd.train.parallel import processes
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Specialists, Stage
from edgekd.train.run.folder import PAIRS_FILE, TEST_FILES, Run, load_run
from edgekd.train.stages.confusions import (
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
from edgekd.train.stages.stages import CHOOSER, SPECIALIST, on_splits, stage_recipe, teacher_path, train_or_resume
from edgekd.train.teachers.out_of_fold import fit_recipe
from edgekd.train.teachers.soft_labels import clip_probabilities, soft_labels

log = logging.getLogger(__name__)

ClipProbabilities = tuple[Floats, NDArray[np.bool_]]
"""(clips, labels) probabilities, and (clips,) which clips are silent."""
LETTERS = 32
"""Most letters of a label in the name of a folder."""


def train_specialists(
    recipe: Recipe, store: ClipStore, out: Path, generalist: Path, options: Options = DEFAULT_OPTIONS
) -> list[Path]:
    """Choose the pairs, and train or resume a specialist for each, inside `stages.held_for_stages`.

    Args:
        recipe: of the student, with [specialists].
        store: the clips.
        out: the student's run folder.
        generalist: a finished run, the student's first teacher.
        options: how to run.

    Returns:
        run folders of the specialists, that of the most confused pair first; empty where the generalist confuses no
        labels.

    Raises:
        InputError: a cross-fitted generalist, a part of the training clips that cannot be held out, or anything that
            `training.train` refuses.
    """
    wanted = _wanted(recipe)
    check_specialists(recipe)
    run = load_run(generalist)
    if run.info.cross_fit:
        raise InputError(
            f"{generalist}: a cross-fitted teacher is {run.info.cross_fit} networks, and a specialist begins with the"
            " weights of one; put an ordinary teacher first"
        )
    log.info(
        "the pairs are chosen by a generalist that is trained without part %d of %d of the training clips",
        *wanted.held_out,
    )
    chooser = train_or_resume(_chooser(recipe, run.recipe), store, teacher_path(out, CHOOSER), options=options)
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
        paths.append(train_or_resume(specialist, store, teacher_path(out, name), options=options).path)
    return paths


def check_specialists(recipe: Recipe) -> None:
    """Refuse [specialists] that cannot be trained, before the teachers are.

    Raises:
        InputError: see `stages.stage_recipe`; no teacher that teaches, a first teacher that begins with another's
            weights, a part that cannot be held out, or a batch of one clip.
    """
    wanted = _wanted(recipe)
    if not any(teacher.teaches for teacher in recipe.teachers):
        raise InputError(
            f"recipe {recipe.name}: [specialists] begin with the weights of the first teacher, but none of [[teachers]]"
            " teaches; add one"
        )
    generalist = stage_recipe(next(teacher for teacher in recipe.teachers if teacher.teaches), recipe)
    if generalist.init.run in [teacher.name or stage_recipe(teacher, recipe).name for teacher in recipe.teachers]:
        raise InputError(
            f"recipe {recipe.name}: [specialists]: the pairs are chosen on clips that the first teacher was not trained"
            f" on, but it begins with the weights of '{generalist.init.run}', which was; let it begin at random, or put"
            " another teacher first"
        )
    specialist = stage_recipe(_stage(wanted), recipe)
    where = f"recipe {recipe.name}: [specialists] '{wanted.recipe}'"
    if specialist.data.pair:
        raise InputError(
            f"{where} has data.pair = {list(specialist.data.pair)}, but pairs are chosen by confusions; take it out"
        )
    if specialist.train.batch_size < 2:
        raise InputError(f"{where} has train.batch_size 1, but half of a batch are clips of the pair; give 2 or more")
    _chooser(recipe, specialist)  # for held_out


def report_pairs(
    run: Run, store: ClipStore, generalist: Path, specialists: Sequence[Path], teachers: Sequence[Path]
) -> PairReport:
    """Write pairs.json of a finished student: how often each network confuses each pair on the student's test side,
    silent clips left out. All processes call this.

    Args:
        run: the student.
        store: the clips.
        generalist: its run folder.
        specialists: of `train_specialists`.
        teachers: all that the student learned from.

    Raises:
        InputError: the predictions of a run are missing or damaged, or the report cannot be written.
    """
    network: Network = "qat" if run.recipe.qat.epochs else "float"
    clips = partition_clips(run.recipe, store).test
    student, silent = _tested(run, network, store, clips)
    found = {
        path: _teacher(load_run(path), store, clips) for path in dict.fromkeys([generalist, *specialists, *teachers])
    }
    probabilities, without_sound = zip(*(found[path] for path in teachers), strict=True)
    predictions = {
        "generalist": predicted(*found[generalist]),
        "teachers": predicted(np.mean(probabilities, axis=0), np.all(without_sound, axis=0)),
        "student": predicted(student, silent),
    }
    chooser = load_run(teacher_path(run.path, CHOOSER))
    counts = _confusions(chooser, store)
    pairs = [_pair(load_run(path), store, counts) for path in specialists]
    report = pair_report(
        pairs,
        store.labels,
        store.label_index[clips[~silent]],
        {name: each[~silent] for name, each in predictions.items()},
        [predicted(*found[path])[~silent] for path in specialists],
        network,
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
    """Names of run folders: specialist-A-B without characters that file names should not have, and with a number where
    two names would be the same."""
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


def _stage(wanted: Specialists) -> Stage:
    """The entry of a specialist's recipe."""
    return Stage(recipe=wanted.recipe, set=wanted.set)


def _chooser(recipe: Recipe, generalist: Recipe) -> Recipe:
    """The generalist's recipe on the student's splits, with one part of the training clips held out."""
    wanted = _wanted(recipe)
    return on_splits(
        generalist, fit_recipe(recipe, *wanted.held_out).data, f"recipe {recipe.name}: [specialists] held_out"
    )


def _specialist(recipe: Recipe, pair: tuple[str, str], generalist: Path) -> Recipe:
    """The recipe of the specialist of a pair, which begins with the generalist's weights."""
    loaded = stage_recipe(_stage(_wanted(recipe)), recipe)
    return msgspec.structs.replace(
        loaded,
        data=msgspec.structs.replace(loaded.data, pair=pair),
        init=msgspec.structs.replace(loaded.init, run=str(generalist.resolve())),
    )


def _chosen(chooser: Run, store: ClipStore, count: int) -> list[Pair]:
    pairs = confusing_pairs(_confusions(chooser, store), count)
    if not pairs:
        log.warning("the generalist confuses no labels on the part that is held out: no specialist is trained")
    return pairs


def _confusions(chooser: Run, store: ClipStore) -> Index:
    """(labels, labels) confusions of a chooser on the part that it was not trained on. They are of windows: with clips,
    too many pairs would be confused equally often."""
    found = _kept(chooser, "float", store, partition_clips(chooser.recipe, store).test)
    return confusion(predicted(found.logits, found.silent), store.label_index[found.clip], len(store.labels))


def _pair(specialist: Run, store: ClipStore, counts: Index) -> Pair:
    """The pair that a specialist is for, with its confusions in `counts` (labels, labels)."""
    first, second = sorted(store.labels.index(label) for label in specialist.recipe.data.pair)
    return Pair(first, second, int(counts[first, second] + counts[second, first]))


def _teacher(run: Run, store: ClipStore, clips: Index) -> ClipProbabilities:
    """Of a teacher: its predictions as it was tested, or its soft labels where that was on other clips."""
    try:
        return _tested(run, "float", store, clips)
    except InputError:
        return clip_probabilities(soft_labels(run, store)[1][clips]), silent_clips(store)[clips]


def _tested(run: Run, network: Network, store: ClipStore, clips: Index) -> ClipProbabilities:
    """Of a network as it was tested.

    Raises:
        InputError: see `_kept`.
    """
    found = _kept(run, network, store, clips)
    clip_of = np.searchsorted(clips, found.clip)  # clips are in table order
    return clip_means(softmax(found.logits), found.silent, clip_of, len(clips))


def _kept(run: Run, network: Network, store: ClipStore, clips: Index) -> Predictions:
    """Predictions of the windows that a run was tested on.

    Raises:
        InputError: they are missing, damaged, or of other clips than `clips` of `store`.
    """
    if run.info.data.hash != store.hash:
        raise InputError(f"{run.path}: was tested on another store than {store.path}; train it on that one")
    return read_predictions(run.path / TEST_FILES[network], clips)
