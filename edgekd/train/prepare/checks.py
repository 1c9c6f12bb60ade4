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
from edgekd.models import ModelConfig, build, front, initial, input_kind
from edgekd.models.base import AudioNetwork
from edgekd.models.black_box import BlackBoxConfig
from edgekd.models.taps import Taps, segment_logits
from edgekd.text import counted
from edgekd.train.batches.crops import Index, read_waveforms, scored_windows
from edgekd.train.batches.epochs import batch_sizes
from edgekd.train.loop.validation import SCORE_BATCH
from edgekd.train.loss.objective import Objective
from edgekd.train.parallel import processes
from edgekd.train.prepare import pretrained
from edgekd.train.prepare.inputs import NetworkInput, network_input, partition_clips
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.claim import quiet
from edgekd.train.run.folder import Run, load_run, model_config
from edgekd.train.teachers.live import LIVE, same_features
from edgekd.train.teachers.soft_labels import check_matches_store, check_segments

log = logging.getLogger(__name__)


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


def build_network(
    recipe: Recipe, store: ClipStore, partition: Partition, config: ModelConfig
) -> tuple[AudioNetwork, NetworkInput]:
    """The network of a recipe with the weights of its architecture, tried on silence, and the sizes of its input.

    The trial is a forward pass in training mode, in a batch as small as the smallest of the training. Afterwards the
    network is as it was made, from torch's global generator seeded by the recipe.

    Raises:
        InputError: torch refuses the sizes, the view or a batch is too small for the network, no parameter trains, the
            test side is digital silence, or a block has no integer form.
    """
    pretrained.check_init(recipe)
    check_test_sound(recipe, store, partition.test)
    front(config, recipe.frontend)  # raises where a black box cannot use this front end
    _check_channels(recipe, store, config)
    smallest = 0
    for table, phase in (("qat", recipe.qat), ("train", recipe.train)):
        least = min(batch_sizes(store, partition.train, recipe, phase.batch_size))
        if least < processes.world():
            raise InputError(
                f"recipe {recipe.name}: a batch of {counted(least, 'clip')} is too small for {processes.world()}"
                f" processes; start {least} at most, or raise {table}.batch_size ({phase.batch_size})"
            )
        smallest = least // processes.world()  # in the end that of the float phase
    size = network_input(recipe, store, config)
    torch.manual_seed(recipe.seed)
    try:
        with torch.no_grad(), quiet():
            model = initial(config, len(store.labels))  # raises where weights are missing
            before = {name: value.clone() for name, value in model.state_dict().items()}
            silence = torch.zeros(min(smallest, 2), *size.shape)
            model(silence)
            if recipe.role == "teacher" and recipe.view.segments > 1:
                check_segments(recipe.view, f"recipe {recipe.name}")
                if recipe.view.span != "crop":
                    segment_logits(model, silence, recipe.view.segments)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        what = f"a log-mel of {size.mels} mels x {size.frames} frames" if size.mels else ""
        raise InputError(
            f"recipe {recipe.name}: this [{recipe.role}] cannot be trained on"
            f" {what or f'a waveform of {size.samples} samples'}, channels {size.channels}"
            f" ({str(error).splitlines()[0]}); change its sizes, the front end's, view.seconds, view.channels or "
            "train.batch_size"
        ) from None
    model.load_state_dict(before)  # batch norms have counted the silence
    pretrained.check_trainable(recipe, model)
    if isinstance(config, BlackBoxConfig):
        pretrained.check_black_box_labels(store, config)
    if recipe.has_qat:
        quant.to_qat(model.eval())
    return model.train(), size


def _check_channels(recipe: Recipe, store: ClipStore, config: ModelConfig) -> None:
    """Refuse a network whose channels are not those of its view."""
    given = store.channels if recipe.view.channels == "all" else 1
    expected = getattr(config, "channels", 1)
    if given != expected:
        raise InputError(
            f"recipe {recipe.name}: [{recipe.role}] channels is {expected}, but view.channels ="
            f" '{recipe.view.channels}' gives {given} of the {store.channels} of {store.path}; change one of them, or"
            f" prepare the store with --channels {expected}"
        )


def check_tap_paths(recipe: Recipe, store: ClipStore, teachers: Sequence[Recipe | None]) -> None:
    """Refuse contradictory terms and missing taps, as far as that needs no trained teachers.

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
