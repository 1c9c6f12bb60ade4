"""What is found out before the first epoch: whether recipe, store, network and teachers fit, and the front end's
statistics."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd import quant
from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError, nearest
from edgekd.frontend import FrontEnd
from edgekd.modelfile.equaliser import BandMean
from edgekd.models import build, front, initial, input_kind
from edgekd.models.logmel import LogMel
from edgekd.models.taps import Taps, segment_logits
from edgekd.text import counted, listing
from edgekd.train.batches.epochs import TrainingView, batch_sizes
from edgekd.train.batches.windows import Index, gather, scored_windows, window_samples
from edgekd.train.loop import pretrained
from edgekd.train.loop.quiet_warnings import quiet
from edgekd.train.loop.validation import SCORE_BATCH
from edgekd.train.loss.objective import Objective, Shapes
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import Run, load_run, model_config
from edgekd.train.teachers.live import LIVE, LiveTeacher, same_features
from edgekd.train.teachers.soft_labels import Logits, check_matches_store, check_segments

log = logging.getLogger(__name__)

STATISTICS_CLIPS = 2000
"""Training clips that set the front end's mean and standard deviation."""
STATISTICS_STREAM = 2
"""Stream of their draws, see `edgekd.train.loop.training`."""
LEAST_STD = 1e-3
"""Log-mel standard deviation below which training clips hold no signal."""


def divided(recipe: Recipe, store: ClipStore) -> Partition:
    """The training and the test side of a recipe.

    Raises:
        InputError: see `ClipStore.partition`; a recorder that the store does not have, or that has no training clip.
    """
    data = recipe.data
    partition = data.sides(store)
    if not data.recorders:
        return partition
    recorder = np.array([clip.recorder for clip in store.clips], dtype=object)
    trained = set(recorder[partition.train])
    for name in data.recorders:
        if name not in trained:
            known = sorted(trained - {""})
            what = "has no training clips" if name in recorder else f"is unknown{nearest(name, known)}"
            raise InputError(
                f"{store.path}: recorder '{name}' of data.recorders {what}; training clips are of"
                f" {listing(known) or 'no'} recorders"
            )
    return dataclasses.replace(partition, train=partition.train[np.isin(recorder[partition.train], data.recorders)])


def has_qat(recipe: Recipe) -> bool:
    """Whether a quantization-aware phase follows the float one."""
    return recipe.role == "student" and recipe.qat.epochs > 0


def check_network(recipe: Recipe, store: ClipStore, partition: Partition) -> None:
    """Hear silence once, in a batch as small as the smallest, and take the quantization-aware form: what does not fit
    is found early.

    Raises:
        InputError: sizes that torch refuses, a view or a batch too small for the network, nothing to train, a test side
            of digital silence, or a block without an integer form.
    """
    pretrained.check(recipe)
    front(model_config(recipe), recipe.frontend)  # for what a black box hears
    _check_channels(recipe, store)
    check_test_sound(recipe, store, partition.test)
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
            model = initial(model_config(recipe), len(store.labels))  # weights that are not there are told here
            heard = torch.zeros(min(smallest, 2), *shape)
            model(heard)
            if recipe.role == "teacher" and recipe.view.segments > 1:
                check_segments(recipe.view, f"recipe {recipe.name}")
                if recipe.view.span != "crop":
                    segment_logits(model, heard, recipe.view.segments)
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
    pretrained.check_trains(recipe, model)
    pretrained.check_own_labels(recipe, store)
    if has_qat(recipe):
        quant.to_qat(model.eval())


def check_test_sound(recipe: Recipe, store: ClipStore, test: Index) -> None:
    """Refuse a test side that cannot be scored.

    Raises:
        InputError: all windows of the test side are digital silence.
    """
    windows = scored_windows(store, test, recipe.view)
    parts = (windows[start : start + SCORE_BATCH] for start in range(0, len(windows), SCORE_BATCH))
    if not any(gather(store, part).any() for part in parts):
        raise InputError(
            f"recipe {recipe.name}: the {counted(len(test), 'test clip')} in {store.path} hold nothing but digital"
            f" silence ({counted(len(windows), 'window')}), which cannot be scored; choose another data.test or"
            " data.held_out"
        )


def _check_channels(recipe: Recipe, store: ClipStore) -> None:
    """Compare the channels that a network expects with those that its view gives it."""
    given = store.channels if recipe.view.channels == "all" else 1
    expected = getattr(model_config(recipe), "channels", 1)
    if given != expected:
        raise InputError(
            f"recipe {recipe.name}: [{recipe.role}] channels is {expected}, but view.channels ="
            f" '{recipe.view.channels}' gives {given} of the {store.channels} of {store.path}; change one of them, or"
            f" prepare the store with --channels {expected}"
        )


def check_paths(recipe: Recipe, store: ClipStore, teachers: Sequence[Recipe | None]) -> None:
    """What `check_terms` can find before the teachers are trained: terms that cannot be meant, and taps that are not
    there.

    Args:
        recipe: of the student.
        store: the clips.
        teachers: their recipes; None is not looked at.

    Raises:
        InputError: see `Objective` and `Taps`.
    """
    wanted = Objective(recipe.distill, len(store.labels), recipe.train.label_smoothing, len(teachers))
    for each, paths in zip((recipe, *teachers), (wanted.student_taps, *wanted.teacher_taps), strict=True):
        if each is not None and paths:
            Taps(build(model_config(each), len(store.labels)), paths).close()


def check_terms(recipe: Recipe, store: ClipStore, partition: Partition, fe: FrontEnd, runs: Sequence[Run]) -> None:
    """Refuse terms that cannot be meant, taps that are not there or do not fit, and teachers that cannot hear what they
    shall.

    Args:
        recipe, store, partition: of the training.
        fe: the student's front end.
        runs: its teachers.

    Raises:
        InputError: see `Objective`, `Taps` and `dry_run`.
    """
    labels, smoothing = len(store.labels), recipe.train.label_smoothing
    wanted = Objective(recipe.distill, labels, smoothing, len(runs))
    if wanted.dropped:
        log.info("without teachers these terms are left out: %s", ", ".join(wanted.dropped))
    live = live_teachers(recipe, store, partition, runs, wanted)
    if wanted.student_taps or live:
        model = build(model_config(recipe), labels)
        shapes = dry_run(model, input_shape(recipe, store, fe), live, wanted, same_samples(recipe, store))
        Objective(recipe.distill, labels, smoothing, len(runs), shapes=shapes)


def live_teachers(
    recipe: Recipe, store: ClipStore, partition: Partition, runs: Sequence[Run], wanted: Objective
) -> tuple[LiveTeacher, ...]:
    """Those that listen in each step of a training, with the taps that its objective wants.

    Raises:
        InputError: a tap that is not there.
    """
    if recipe.distill.teaching not in LIVE:
        return ()
    return tuple(
        LiveTeacher(run, store, partition.train, number, taps, recipe.train.precision)
        for number, (run, taps) in enumerate(zip(runs, wanted.teacher_taps, strict=True))
    )


def same_samples(recipe: Recipe, store: ClipStore) -> int | None:
    """Samples that teachers hear with the student; None where each hears what its own view says."""
    return window_samples(recipe.view, store) if recipe.distill.teaching == "same" else None


def open_teacher(path: Path, recipe: Recipe, store: ClipStore, partition: Partition) -> Run:
    """A finished run that may teach: it fits the store and was not trained on what the student is tested on.

    Raises:
        InputError: it does not.
    """
    run = load_run(path)
    check_matches_store(run, store)
    if recipe.distill.teaching in LIVE and run.info.cross_fit:
        raise InputError(
            f'{path}: a cross-fitted teacher has no network that could listen live; set distill.teaching to "clip"'
        )
    _check_heard_alike(run, recipe, store)
    if run.info.data.hash != store.hash:
        return run
    check_unseen(run, "the teacher", recipe, store, partition)
    return run


def check_unseen(run: Run, what: str, recipe: Recipe, store: ClipStore, partition: Partition) -> None:
    """Refuse a run that brings what it learned from test clips, itself or by the weights that it began with.

    Args:
        run: a teacher, or what a network begins with; `what` names it in errors.
        recipe, store, partition: of the training that it is for.

    Raises:
        InputError: it was trained on what this training is tested on.
    """
    for each in pretrained.lineage(run):
        if each.info.data.hash != store.hash:
            continue
        by = what if each is run else f"what {what} began with"
        seen = sorted(set(each.recipe.data.train) & set(recipe.data.test))
        if seen:
            raise InputError(
                f"{each.path}: {by} was trained on split '{seen[0]}', which the {recipe.role} is tested on; "
                f"train it on {', '.join(recipe.data.train)}"
            )
        known = np.intersect1d(divided(each.recipe, store).train, partition.test)
        if len(known):
            held_out = f" --set data.held_out={list(recipe.data.held_out)}" if recipe.data.held_out else ""
            raise InputError(
                f"{each.path}: {by} was trained on {len(known)} of the clips that the {recipe.role} is tested on; "
                f"train it with the {recipe.role}'s splits: --set 'data.train={list(recipe.data.train)}'{held_out}"
            )


def _check_heard_alike(run: Run, recipe: Recipe, store: ClipStore) -> None:
    """Refuse a teacher whose answers are of other parts of a sound than the student hears."""
    span, teaching, segments = recipe.view.span, recipe.distill.teaching, run.recipe.view.segments
    if segments > 1 and run.recipe.view.span == "crop" and teaching == "views":
        raise InputError(
            f'{run.path}: a teacher with view.span = "crop" and view.segments = {segments} judges its windows as they'
            ' are, which distill.teaching "views" would change; set distill.teaching to "clip" or "same"'
        )
    if segments > 1 and run.recipe.view.span != "crop" and teaching in LIVE:
        raise InputError(
            f"{run.path}: a teacher with view.segments = {segments} judges parts of sounds, but with distill.teaching "
            f'"{teaching}" it would judge wholes; set distill.teaching to "clip" or "views", or give a teacher with '
            "view.segments = 1"
        )
    if segments > 1 and span not in {"crop", "clip"}:
        raise InputError(
            f"{run.path}: a teacher with view.segments = {segments} judges parts of sounds, but the student of"
            " view.span = "
            f'"{span}" hears more than one part; give a teacher with view.segments = 1'
        )
    if (
        span == "parent"
        and run.recipe.view.span != "parent"
        and teaching != "same"
        and (store.recordings.count > 1).any()
    ):
        raise InputError(
            f'{run.path}: the student hears whole recordings (view.span = "parent"), of which this teacher of view.span'
            f' = "{run.recipe.view.span}" judges one segment; train it with view.span = "parent"'
        )


def input_shape(recipe: Recipe, store: ClipStore, fe: FrontEnd) -> tuple[int, ...]:
    """(channels, mels, frames) of what a model gets, or (channels, samples) of a waveform.

    Raises:
        InputError: a view that does not fill one frame.
    """
    samples = window_samples(recipe.view, store)
    channels = store.channels if recipe.view.channels == "all" else 1
    if input_kind(model_config(recipe)) == "waveform":
        return channels, samples
    frames = fe.frames(samples)
    if frames == 0:
        raise InputError(
            f"recipe {recipe.name}: a view of {samples} samples does not fill one frame of n_fft {fe.n_fft}; "
            "raise view.seconds"
        )
    return channels, fe.n_mels, frames


def mel_frames(recipe: Recipe, store: ClipStore, fe: FrontEnd) -> tuple[int, int]:
    """(mels, frames) of what a model gets, (0, 0) of a waveform."""
    shape = input_shape(recipe, store, fe)
    return (shape[1], shape[2]) if len(shape) == 3 else (0, 0)


def measured(recipe: Recipe, store: ClipStore, partition: Partition) -> tuple[FrontEnd, tuple[float, ...]]:
    """The front end with mean and standard deviation of the training clips, or as the recipe gives it; and
    `RunInfo.spectrum`.

    Raises:
        InputError: training clips without variation.
    """
    fe = recipe.frontend
    mels, frames = mel_frames(recipe, store, fe)
    if not mels:
        return fe, ()
    plain = msgspec.structs.replace(fe, mean=0.0, std=1.0)
    raw, bands = LogMel(plain), BandMean(plain)
    view = TrainingView(store, partition.train, recipe, recipe.train.batch_size, mels, frames, STATISTICS_STREAM)
    count = total = squares = 0.0
    for waveform in view.plain(STATISTICS_CLIPS):
        features = raw(torch.from_numpy(waveform))
        bands.add(features.numpy())
        features = features.double()
        count, total, squares = (
            count + features.numel(),
            total + float(features.sum()),
            squares + float(features.square().sum()),
        )
    spectrum = tuple(bands.value().round(4).tolist()) if bands.frames else ()
    if not recipe.normalize:
        return fe, spectrum
    mean = total / count
    std = max(squares / count - mean**2, 0.0) ** 0.5
    if std < LEAST_STD:
        raise InputError(
            f"{store.path}: the training clips have no variation (log-mel standard deviation {std:.2g}); are they all"
            " silent?"
        )
    return msgspec.structs.replace(fe, mean=round(mean, 4), std=round(std, 4)), spectrum


def check_same(recipe: Recipe, store: ClipStore, runs: Sequence[Run], fe: FrontEnd) -> None:
    """Refuse what "same" teaching cannot give teachers to hear.

    Raises:
        InputError: sound that is mixed, stretched or masked on the log-mel of a front end that is not the teacher's, or
            other channels.
    """
    augment = recipe.augment
    for run in runs:
        if store.channels > 1 and run.recipe.view.channels != recipe.view.channels:
            raise InputError(
                f'recipe {recipe.name}: with distill.teaching "same" the teacher {run.path} hears what the student'
                " hears, but "
                f"its view.channels is '{run.recipe.view.channels}' and not '{recipe.view.channels}'; give both the"
                " same"
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
                    f'recipe {recipe.name}: with distill.teaching "same" the teacher {run.path} hears the student\'s'
                    " waveform "
                    f"through a front end of its own, but augment.{key} changes the student's log-mel; leave it out, or"
                    " give "
                    "both the same front end"
                )


def dry_run(
    model: nn.Module, shape: tuple[int, ...], teachers: Sequence[LiveTeacher], objective: Objective, samples: int | None
) -> Shapes:
    """Sizes of all that the objective compares, found by listening to two clips of silence.

    Args:
        model: the student.
        shape: of its input, without the batch.
        teachers: those that listen live.
        objective: what wants taps.
        samples: that the teachers hear; None for each as its view says.

    Raises:
        InputError: a tap that is not there, or a teacher that cannot hear so much.
    """
    training = model.training
    student, said = Taps(model.eval(), objective.student_taps), []
    with torch.no_grad():
        _, taps = student(torch.zeros(2, *shape))
        for teacher in teachers:
            channels, heard = (shape[0], samples) if samples else (teacher.view.channels, teacher.view.samples)
            try:
                said.append(teacher(teacher.front(torch.zeros(2, channels, heard)))[1])
            except RuntimeError as error:
                raise InputError(
                    f"{teacher.run.path}: the teacher cannot hear {heard} samples, channels {channels}"
                    f" ({str(error).splitlines()[0]}); let the student hear more (view.seconds), or set"
                    ' distill.teaching to "live", in which teachers hear what their own recipes say'
                ) from None
    student.close()
    model.train(training)
    return Shapes(
        {path: tuple(tap.shape[1:]) for path, tap in taps.items()},
        tuple({path: tuple(tap.shape[1:]) for path, tap in each.items()} for each in said),
    )


def stacked(logits: Sequence[Logits]) -> NDArray[np.float32]:
    """Soft labels of several teachers as one array.

    Args:
        logits: of each teacher (clips, labels), (clips, segments, labels) or (views, clips, segments, labels); who has
            one segment says the same of all.

    Returns:
        float32 (teachers, views, clips, segments, labels).

    Raises:
        InputError: teachers with different numbers of segments, both above one.
    """
    logits = [each[None, :, None] if each.ndim == 2 else each.reshape(-1, *each.shape[-3:]) for each in logits]
    counts = sorted({each.shape[2] for each in logits} - {1})
    if len(counts) > 1:
        raise InputError(
            f"the teachers judge {counts[0]} and {counts[1]} segments; teach them with the same view.segments, or"
            " with 1"
        )
    shape = (*logits[0].shape[:2], counts[0] if counts else 1, logits[0].shape[3])
    return np.stack([np.broadcast_to(each, shape) for each in logits]).astype(np.float32)
