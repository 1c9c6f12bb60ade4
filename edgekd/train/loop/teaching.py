"""The teachers of a training: those that run in each step, the shapes of their taps, and their soft labels as one
array."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError
from edgekd.models.taps import Taps
from edgekd.train.batches.crops import window_samples
from edgekd.train.loss.objective import Objective, TapShapes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import Run
from edgekd.train.teachers.live import LIVE, LiveTeacher
from edgekd.train.teachers.soft_labels import Logits


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


def shared_samples(recipe: Recipe, store: ClipStore) -> int | None:
    """Samples of the input that teachers share with the student; None where each teacher has its own view."""
    return window_samples(recipe.view, store) if recipe.distill.teaching == "same" else None


def tap_shapes(
    model: nn.Module, shape: tuple[int, ...], teachers: Sequence[LiveTeacher], objective: Objective, samples: int | None
) -> TapShapes:
    """Shapes of all taps that the objective compares, from a forward pass of two clips of silence.

    Args:
        model: the student.
        shape: of its input, without the batch.
        teachers: the live ones.
        objective: names the taps.
        samples: of the teachers' input; None for each as its view has it.

    Raises:
        InputError: the student lacks a tap, or the input is too short for a teacher.
    """
    training = model.training
    student, teacher_taps = Taps(model.eval(), objective.student_taps), []
    with torch.no_grad():
        _, taps = student(torch.zeros(2, *shape))
        for teacher in teachers:
            channels, length = (shape[0], samples) if samples else (teacher.view.channels, teacher.view.samples)
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
