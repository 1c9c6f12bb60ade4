"""What terms share: the student's outputs, its targets, and the kinds of terms. A term gives one value per item and
nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

FLOOR = 1e-6
"""Added to squared lengths, so that a zero vector has a direction and gradients stay below 1 / sqrt(FLOOR)."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class StudentOutputs:
    """A student's outputs for a batch. logits: float32 (batch, labels). taps: path -> (batch, ...) of the objective's
    `student_taps`."""

    logits: Tensor
    taps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Softening:
    """How logits become probabilities: with `standardise` they are first brought to mean 0 and deviation 1, then
    divided by `temperature`. teachers: numbers of the teachers whose logits are blended."""

    temperature: float
    standardise: bool
    teachers: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """The targets of a batch.

    labels: smoothed probabilities (batch, labels). shares: the same without smoothing. teachers: for each softening
    probabilities (targets, batch, labels), with one target for each divergence of the sum; a blend into one
    distribution has one. teacher_weights: for each group of teachers their weights (teachers, batch). taps: of each
    teacher path -> (batch, ...). float_logits: (batch, labels) of the float network that is being quantised, on the
    same input; None in the float phase.
    """

    labels: Tensor
    shares: Tensor
    teachers: dict[Softening, Tensor] = field(default_factory=dict)
    teacher_weights: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    taps: tuple[dict[str, Tensor], ...] = ()
    float_logits: Tensor | None = None


class StudentTerm(nn.Module, ABC):
    """A term without teachers."""

    @abstractmethod
    def forward(self, student: StudentOutputs, targets: Targets) -> Tensor:
        """One value per item (batch,)."""


class OutputTerm(nn.Module, ABC):
    """A term between the outputs of student and teacher."""

    softening: Softening

    @abstractmethod
    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
        """One value per item (batch,).

        Args:
            logits: (batch, labels) of the student.
            teacher: softened probabilities (batch, labels).
            shares: of each label in an item (batch, labels).
        """


class TapTerm(nn.Module, ABC):
    """A term between the taps of student and one teacher."""

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, ...) of each, float32 -> one value per item (batch,)."""


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine of the angle between vectors along `dim`, each with one more component, sqrt(FLOOR): equal vectors give 1,
    also zeros."""
    product = (a * b).sum(dim) + FLOOR
    return product / ((a.square().sum(dim) + FLOOR) * (b.square().sum(dim) + FLOOR)).sqrt()
