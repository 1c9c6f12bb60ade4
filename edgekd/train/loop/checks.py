"""Checks before the first epoch: whether recipe, store, network and teachers fit together."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgekd import quant
from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models import build, front, initial, input_kind
from edgekd.models.taps import Taps, segment_logits
from edgekd.text import counted
from edgekd.train.batches.crops import Index, read_waveforms, scored_windows
from edgekd.train.batches.epochs import batch_sizes
from edgekd.train.loop import pretrained
from edgekd.train.loop.inputs import input_shape, partition_clips
from edgekd.train.loop.quiet_warnings import quiet
from edgekd.train.loop.teaching import live_teachers, shared_samples, tap_shapes
from edgekd.train.loop.validation import SCORE_BATCH
from edgekd.train.loss.objective import Objective
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import Run, load_run, model_config
from edgekd.train.teachers.live import LIVE, same_features
from edgekd.train.teachers.soft_labels import check_matches_store, check_segments

log = logging.getLogger(__name__)


def has_qat(recipe: Recipe) -> bool:
    """Whether a quantization-aware phase follows the float one."""
    return recipe.role == "student" and recipe.qat.epochs > 0


def check_test_sound(recipe: Recipe, store: ClipStore, test: Index) -> None:
    """Refuse a test side that cannot be scored.

    Raises:
        InputError: all windows of the test side are digital silence.
    """
    crops = scored_windows(store, test, recipe.view)
    parts = (crops[start : start + SCORE_BATCH] for start in range(0, len(crops), SCORE_BATCH))
    if not any(read_waveforms(store, part).any() for part in parts):
        raise InputError(
            f"recipe {recipe.name}: the {counted(len(test), 'test clip')} in {store.path} hold nothing but digital"
            f" silence ({counted(len(crops), 'window')}), which cannot be scored; choose another data.test or"
            " data.held_out"
        )


def check_network(recipe: Recipe, store: ClipStore, partition: Partition) -> None:
    """Run the network once on silence, in a batch as small as the smallest, and make its quantization-aware form.

    Raises:
        InputError: torch refuses the sizes, the view or a batch is too small for the network, no parameter trains, the
            test side is digital silence, or a block has no integer form.
    """
    pretrained.check_init(recipe)
    check_test_sound(recipe, store, partition.test)
    front(model_config(recipe), recipe.frontend)  # raises where a black box cannot use this front end
    _check_channels(recipe, store)
    smallest = min(batch_sizes(store, partition.train, recipe, recipe.train.batch_size)) // processes.world()
    for table, phase in (("train", recipe.train), ("qat", recipe.qat)):
        least = min(batch_sizes(store, partition.train, recipe, phase.batch_size))
        if least < processes.world():
            raise InputError(
                f"recipe {recipe.name}: a batch of {counted(least, 'clip')} is too small for {processes.world()}"
                f" processes; start {least} at most, or raise {table}.batch_size ({phase.batch_size})"
            )
    shape = input_shape(recipe, store, recipe.frontend)
    try:
        with torch.no_grad(), quiet():
            model = initial(model_config(recipe), len(store.labels))  # raises where weights are missing
            silence = torch.zeros(min(smallest, 2), *shape)
            model(silence)
            if recipe.role == "teacher" and recipe.view.segments > 1:
                check_segments(recipe.view, f"recipe {recipe.name}")
                if recipe.view.span != "crop":
                    segment_logits(model, silence, recipe.view.segments)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        what = (
            f"a waveform of {shape[1]} samples"
            if len(shape) == 2
            else f"a log-mel of {shape[1]} mels x {shape[2]} frames"
        )
        raise InputError(
            f"recipe {recipe.name}: this [{recipe.role}] cannot be trained on {what}, channels {shape[0]} "
            f"({str(error).splitlines()[0]}); change its sizes, the front end's, view.seconds, view.channels or "
            "train.batch_size"
        ) from None
    pretrained.check_trainable(recipe, model)
    pretrained.check_black_box_labels(recipe, store)
    if has_qat(recipe):
        quant.to_qat(model.eval())


def _check_channels(recipe: Recipe, store: ClipStore) -> None:
    """Refuse a network whose channels are not those of its view."""
    given = store.channels if recipe.view.channels == "all" else 1
    expected = getattr(model_config(recipe), "channels", 1)
    if given != expected:
        raise InputError(
            f"recipe {recipe.name}: [{recipe.role}] channels is {expected}, but view.channels ="
            f" '{recipe.view.channels}' gives {given} of the {store.channels} of {store.path}; change one of them, or"
            f" prepare the store with --channels {expected}"
        )


def check_tap_paths(recipe: Recipe, store: ClipStore, teachers: Sequence[Recipe | None]) -> None:
    """Refuse contradictory terms and missing taps: the part of `check_terms` that needs no trained teachers.

    Args:
        recipe: of the student.
        store: the clips.
        teachers: their recipes; None is not checked.

    Raises:
        InputError: see `Objective` and `Taps`.
    """
    objective = Objective(recipe.distill, len(store.labels), recipe.train.label_smoothing, len(teachers))
    for each, paths in zip((recipe, *teachers), (objective.student_taps, *objective.teacher_taps), strict=True):
        if each is not None and paths:
            Taps(build(model_config(each), len(store.labels)), paths).close()


def check_terms(recipe: Recipe, store: ClipStore, partition: Partition, fe: FrontEnd, runs: Sequence[Run]) -> None:
    """Refuse contradictory terms, missing or unfit taps, and inputs that a live teacher cannot compute.

    Args:
        recipe, store, partition: of the training.
        fe: the student's front end.
        runs: its teachers.

    Raises:
        InputError: see `Objective`, `Taps` and `tap_shapes`.
    """
    labels, smoothing = len(store.labels), recipe.train.label_smoothing
    objective = Objective(recipe.distill, labels, smoothing, len(runs))
    if objective.omitted:
        log.info("without teachers these terms are left out: %s", ", ".join(objective.omitted))
    live = live_teachers(recipe, store, partition, runs, objective)
    if objective.student_taps or live:
        model = build(model_config(recipe), labels)
        shapes = tap_shapes(model, input_shape(recipe, store, fe), live, objective, shared_samples(recipe, store))
        Objective(recipe.distill, labels, smoothing, len(runs), shapes=shapes)


def open_teacher(path: Path, recipe: Recipe, store: ClipStore, partition: Partition) -> Run:
    """Load a finished run as a teacher, after checking that it fits the store and has not seen the student's test
    clips.

    Raises:
        InputError: it does not fit, or was trained on test clips.
    """
    run = load_run(path)
    check_matches_store(run, store)
    if recipe.distill.teaching in LIVE and run.info.cross_fit:
        raise InputError(
            f'{path}: a cross-fitted teacher has no network that could run live; set distill.teaching to "clip"'
        )
    _check_view(run, recipe, store)
    if run.info.data.hash != store.hash:
        return run
    check_unseen(run, "the teacher", recipe, store, partition)
    return run


def check_unseen(run: Run, what: str, recipe: Recipe, store: ClipStore, partition: Partition) -> None:
    """Refuse a run that has learned from test clips, in its own training or in that of its initial weights.

    Args:
        run: a teacher, or the run that gives the initial weights.
        what: names it in errors.
        recipe, store, partition: of the training that it is for.

    Raises:
        InputError: it was trained on test clips of this training.
    """
    for each in pretrained.lineage(run):
        if each.info.data.hash != store.hash:
            continue
        by = what if each is run else f"the run that {what} began with"
        seen = sorted(set(each.recipe.data.train) & set(recipe.data.test))
        if seen:
            raise InputError(
                f"{each.path}: {by} was trained on split '{seen[0]}', which the {recipe.role} is tested on; "
                f"train it on {', '.join(recipe.data.train)}"
            )
        known = np.intersect1d(partition_clips(each.recipe, store).train, partition.test)
        if len(known):
            held_out = f" --set data.held_out={list(recipe.data.held_out)}" if recipe.data.held_out else ""
            raise InputError(
                f"{each.path}: {by} was trained on {len(known)} of the clips that the {recipe.role} is tested on; "
                f"train it with the {recipe.role}'s splits: --set 'data.train={list(recipe.data.train)}'{held_out}"
            )


def _check_view(run: Run, recipe: Recipe, store: ClipStore) -> None:
    """Refuse a teacher whose logits are for other parts of a clip than the student gets."""
    span, teaching, segments = recipe.view.span, recipe.distill.teaching, run.recipe.view.segments
    if segments > 1 and run.recipe.view.span == "crop" and teaching == "views":
        raise InputError(
            f'{run.path}: a teacher with view.span = "crop" and view.segments = {segments} scores fixed'
            ' windows, which distill.teaching "views" would move; set distill.teaching to "clip" or "same"'
        )
    if segments > 1 and run.recipe.view.span != "crop" and teaching in LIVE:
        raise InputError(
            f"{run.path}: a teacher with view.segments = {segments} scores parts of clips, but distill.teaching "
            f'"{teaching}" needs whole clips; set distill.teaching to "clip" or "views", or give a teacher with '
            "view.segments = 1"
        )
    if segments > 1 and span not in {"crop", "clip"}:
        raise InputError(
            f"{run.path}: a teacher with view.segments = {segments} scores parts of clips, but the student's"
            f' view.span = "{span}" covers several parts; give a teacher with view.segments = 1'
        )
    if (
        span == "parent"
        and run.recipe.view.span != "parent"
        and teaching != "same"
        and (store.recordings.count > 1).any()
    ):
        raise InputError(
            f'{run.path}: the student gets whole recordings (view.span = "parent"), of which this teacher of view.span'
            f' = "{run.recipe.view.span}" scores one segment; train it with view.span = "parent"'
        )


def check_same_input(recipe: Recipe, store: ClipStore, runs: Sequence[Run], fe: FrontEnd) -> None:
    """Refuse teachers that cannot take the student's input, for distill.teaching "same".

    Raises:
        InputError: a teacher has other channels; or it has a front end of its own, and the augmentation mixes,
            stretches or restyles the student's log-mel.
    """
    augment = recipe.augment
    for run in runs:
        if store.channels > 1 and run.recipe.view.channels != recipe.view.channels:
            raise InputError(
                f'recipe {recipe.name}: with distill.teaching "same" the teacher {run.path} gets the student\'s input,'
                f" but its view.channels is '{run.recipe.view.channels}' and not '{recipe.view.channels}'; give both"
                " the same"
            )
        if same_features(run.frontend, fe) and input_kind(run.config) == "log_mel":
            continue
        for used, key in (
            (augment.mixup_p and augment.mixup_domain == "log_mel", 'mixup_domain = "log_mel"'),
            (augment.time_stretch > 1, "time_stretch"),
            (augment.mixstyle_p, "mixstyle_p"),
        ):
            if used:
                raise InputError(
                    f'recipe {recipe.name}: with distill.teaching "same" the teacher {run.path} gets the student\'s'
                    f" waveform through a front end of its own, but augment.{key} changes the student's log-mel; leave"
                    " it out, or give both the same front end"
                )
