"""From a recipe, a store and teachers to a `Prepared` training: everything is checked and built once, before the first
epoch. The loop (`edgekd.train.loop.training`) takes it from there. The quantization-aware phase prepares its own
objective and labels with the functions below."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models import front
from edgekd.models.base import AudioNetwork
from edgekd.models.logmel import LogMel
from edgekd.models.taps import Taps
from edgekd.models.waveform import RawWaveform
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loss.objective import Objective, TapShapes
from edgekd.train.parallel import processes
from edgekd.train.prepare import pretrained
from edgekd.train.prepare.checks import build_network, check_same_input, check_unseen, open_teacher
from edgekd.train.prepare.inputs import NetworkInput, measure_front_end, partition_clips
from edgekd.train.recipe.recipe import Recipe, check_sample_rate
from edgekd.train.run.folder import Run, model_config
from edgekd.train.teachers.live import LIVE, LiveTeacher
from edgekd.train.teachers.soft_labels import Logits, soft_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A training whose parts fit together.

    Attributes:
        recipe: resolved, with the precision of this machine.
        store: the clips.
        partition: its training clips and its test clips.
        size: of the network's input.
        frontend: with the mean and standard deviation of the training clips.
        spectrum: (mel,) mean natural log-mel of the training clips; empty for a network that takes waveforms.
        front: waveforms -> the network's input.
        network: with the weights of its architecture; those of `initial_run` are not loaded yet.
        teachers: the finished runs to distil from.
        soft_labels: of each teacher the key and the logits for all clips as they are.
        initial_run: the run whose weights the network begins with, None for its own.
        view: the training set of the float phase.
        objective, live: loss and live teachers of the float phase.
    """

    recipe: Recipe
    store: ClipStore
    partition: Partition
    size: NetworkInput
    frontend: FrontEnd
    spectrum: tuple[float, ...]
    front: LogMel | RawWaveform
    network: AudioNetwork
    teachers: tuple[Run, ...]
    soft_labels: tuple[tuple[str, Logits], ...]
    initial_run: Run | None
    view: TrainingView
    objective: Objective
    live: tuple[LiveTeacher, ...]


def prepare(recipe: Recipe, store: ClipStore, teachers: Sequence[Path] = ()) -> Prepared:
    """Check that recipe, store and teachers fit, and build what the training needs.

    Under torchrun or srun all processes call this. Nothing is written but the teachers' soft labels, into their own run
    folders.

    Args:
        recipe: resolved, with a precision that is not "auto".
        store: the clips.
        teachers: folders of finished runs to distil from; without any, labels alone train.

    Raises:
        InputError: anything that does not fit.
    """
    check_sample_rate(recipe, store)
    partition = partition_clips(recipe, store)
    config = model_config(recipe)
    network, size = build_network(recipe, store, partition, config)
    runs = tuple(open_teacher(path, recipe, store, partition) for path in teachers)
    initial_run = pretrained.initial_run(recipe, teachers)
    if initial_run is not None:
        check_unseen(initial_run, "init.run", recipe, store, partition)
    soft = tuple(soft_labels(run, store) for run in runs)
    view = TrainingView(
        store,
        partition.train,
        recipe,
        recipe.train.batch_size,
        size.mels,
        size.frames,
        RandomStream.FLOAT,
        processes.shard(),
        recipe.distill.repeat if runs and recipe.distill.teaching in LIVE else 0,
    )
    fe, spectrum = processes.first(lambda: measure_front_end(recipe, view)) if size.mels else (recipe.frontend, ())
    if recipe.distill.teaching == "same":
        check_same_input(recipe, store, runs, fe)
    objective, live = prepare_objective(recipe, store, partition, runs, network, size)
    return Prepared(
        recipe,
        store,
        partition,
        size,
        fe,
        spectrum,
        front(config, fe),
        network,
        runs,
        soft,
        initial_run,
        view,
        objective,
        live,
    )


@dataclass(frozen=True)
class LabelTable:
    """Labels and soft labels of all clips of the store.

    label: int64 (clips,). soft_labels: float32 logits (teachers, views, clips, segments, labels), or None where there
    are none or the teachers are live. teacher_samples: for each teacher the samples of its input, which its segments
    divide; None for whole clips.
    """

    label: Tensor
    soft_labels: Tensor | None
    teacher_samples: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Teaching:
    """What a network learns from in one phase.

    Attributes:
        objective: the loss, with the shapes of its taps.
        live: the teachers that run in each step.
        labels: labels of all clips, with the soft labels of the other teachers.
    """

    objective: Objective
    live: tuple[LiveTeacher, ...]
    labels: LabelTable


def prepare_objective(
    recipe: Recipe,
    store: ClipStore,
    partition: Partition,
    teachers: Sequence[Run],
    network: nn.Module,
    size: NetworkInput,
    float_weight: float | None = None,
) -> tuple[Objective, tuple[LiveTeacher, ...]]:
    """The loss and the live teachers of one phase.

    Args:
        recipe, store, partition: of the training.
        teachers: its teachers.
        network: the student.
        size: of its input.
        float_weight: of the quantization-aware phase, None for the float phase; with 1 no live teacher runs.

    Raises:
        InputError: contradictory terms, missing or unfit taps, or an input that a live teacher cannot compute.
    """
    distill, smoothing, is_live = recipe.distill, recipe.train.label_smoothing, recipe.distill.teaching in LIVE
    runs = () if is_live and float_weight == 1 else tuple(teachers)
    objective = Objective(distill, len(store.labels), smoothing, len(runs), float_weight)
    if objective.omitted and float_weight is None:
        log.info("without teachers these terms are left out: %s", ", ".join(objective.omitted))
    live = live_teachers(recipe, store, partition, runs, objective)
    if objective.student_taps or (live and float_weight is None):
        shapes = tap_shapes(network, size, live, objective, shared=distill.teaching == "same")
        if objective.student_taps:
            objective = Objective(distill, len(store.labels), smoothing, len(runs), float_weight, shapes)
    return objective, live


def label_table(
    recipe: Recipe, store: ClipStore, partition: Partition, teachers: Sequence[Run], soft: Sequence[Logits]
) -> LabelTable:
    """Labels of all clips, and the soft labels of teachers that are not live.

    Args:
        recipe, store, partition: of the training.
        teachers: its teachers.
        soft: the soft labels of each teacher for the clips as they are.
    """
    label, distill = torch.from_numpy(store.label_index), recipe.distill
    if not teachers or distill.teaching in LIVE:
        return LabelTable(label, None)
    if distill.teaching == "views":
        soft = [
            soft_labels(run, store, distill.views, partition.train, RandomStream.TEACHER + number)[1]
            for number, run in enumerate(teachers)
        ]
    samples = tuple(
        None if run.recipe.view.span == "crop" else window_samples(run.recipe.view, store) for run in teachers
    )
    return LabelTable(label, torch.from_numpy(stack_soft_labels(soft)), samples)


def live_teachers(
    recipe: Recipe, store: ClipStore, partition: Partition, runs: Sequence[Run], objective: Objective
) -> tuple[LiveTeacher, ...]:
    """The teachers that run in each step of a training, with the taps that its objective needs.

    Raises:
        InputError: a teacher lacks a tap.
    """
    if recipe.distill.teaching not in LIVE:
        return ()
    return tuple(
        LiveTeacher(run, store, partition.train, number, taps, recipe.train.precision)
        for number, (run, taps) in enumerate(zip(runs, objective.teacher_taps, strict=True))
    )


def tap_shapes(
    model: nn.Module, size: NetworkInput, teachers: Sequence[LiveTeacher], objective: Objective, *, shared: bool
) -> TapShapes:
    """Shapes of all taps that the objective compares, from a forward pass of two clips of silence.

    Args:
        model: the student.
        size: of its input.
        teachers: the live ones.
        objective: names the taps.
        shared: the teachers get the student's waveform; otherwise each has the samples of its own view.

    Raises:
        InputError: the student lacks a tap, or the input is too short for a teacher.
    """
    training = model.training
    student, teacher_taps = Taps(model.eval(), objective.student_taps), []
    with torch.no_grad():
        _, taps = student(torch.zeros(2, *size.shape))
        for teacher in teachers:
            own = (teacher.view.channels, teacher.view.samples)
            channels, length = (size.channels, size.samples) if shared else own
            try:
                teacher_taps.append(teacher(teacher.front(torch.zeros(2, channels, length)))[1])
            except RuntimeError as error:
                raise InputError(
                    f"{teacher.run.path}: the teacher cannot compute {length} samples, channels {channels}"
                    f" ({str(error).splitlines()[0]}); give the student longer inputs (view.seconds), or set"
                    ' distill.teaching to "live", which gives each teacher the view of its own recipe'
                ) from None
    student.close()
    model.train(training)
    return TapShapes(
        {path: tuple(tap.shape[1:]) for path, tap in taps.items()},
        tuple({path: tuple(tap.shape[1:]) for path, tap in each.items()} for each in teacher_taps),
    )


def stack_soft_labels(logits: Sequence[Logits]) -> NDArray[np.float32]:
    """The soft labels of several teachers as one array.

    Args:
        logits: of each teacher (clips, labels), (clips, segments, labels) or (views, clips, segments, labels). Those of
            one segment are repeated for all segments.

    Returns:
        float32 (teachers, views, clips, segments, labels).

    Raises:
        InputError: two teachers have different numbers of segments above one.
    """
    logits = [each[None, :, None] if each.ndim == 2 else each.reshape(-1, *each.shape[-3:]) for each in logits]
    counts = sorted({each.shape[2] for each in logits} - {1})
    if len(counts) > 1:
        raise InputError(
            f"the teachers have soft labels of {counts[0]} and of {counts[1]} segments; teach them with the same"
            " view.segments, or with 1"
        )
    shape = (*logits[0].shape[:2], counts[0] if counts else 1, logits[0].shape[3])
    return np.stack([np.broadcast_to(each, shape) for each in logits]).astype(np.float32)
