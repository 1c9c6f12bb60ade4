"""What a network learns from in one phase: the loss, the teachers that run in each step, and the labels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError
from edgekd.models.taps import Taps
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loss.objective import Objective, TapShapes
from edgekd.train.prepare.inputs import NetworkInput
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import Run
from edgekd.train.teachers.live import LIVE, LiveTeacher
from edgekd.train.teachers.soft_labels import Logits, soft_labels

log = logging.getLogger(__name__)


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
