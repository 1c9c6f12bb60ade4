"""What terms share: what a student says, what it should, and the kinds of terms. A term gives one value per item and
nothing else."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

FLOOR = 1e-6
"""Added to squared lengths, so that a vector of nothing has a direction and gradients stay below 1 / sqrt(FLOOR)."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """What a student makes of a batch. logits: float32 (batch, labels). taps: path -> (batch, ...) of the objective's
    `student_taps`."""

    logits: Tensor
    taps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Softening:
    """How logits become probabilities: divided by `temperature`, before that to mean 0 and deviation 1 if
    `standardise`. teachers: numbers of those whose logits are blended."""

    temperature: float
    standardise: bool
    teachers: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """What a batch should become.

    labels: smoothed probabilities (batch, labels). shares: the same without smoothing. teachers: for each softening
    probabilities (targets, batch, labels); one target for each divergence to be summed, so a blend into one
    distribution has one. counts: for each group of teachers what each of them counts (teachers, batch). taps: of each
    teacher path -> (batch, ...). float_logits: (batch, labels) of the float network that is being quantised, on the
    same input; None in the float phase.
    """

    labels: Tensor
    shares: Tensor
    teachers: dict[Softening, Tensor] = field(default_factory=dict)
    counts: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    taps: tuple[dict[str, Tensor], ...] = ()
    float_logits: Tensor | None = None


class OwnTerm(nn.Module, ABC):
    """A term without teachers."""

    @abstractmethod
    def forward(self, said: Said, targets: Targets) -> Tensor:
        """One value per item (batch,)."""


class OutputTerm(nn.Module, ABC):
    """A term between the outputs of student and teacher."""

    softening: Softening

    @abstractmethod
    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
        """Student's logits, teacher's softened probabilities and shares of labels, each (batch, labels) -> one value
        per item (batch,)."""


class TapTerm(nn.Module, ABC):
    """A term between the taps of student and one teacher."""

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, ...) of each, float32 -> one value per item (batch,)."""


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine of the angle between vectors along `dim`, as if each had one more component, sqrt(FLOOR): equal vectors
    give 1, zeros too."""
    product = (a * b).sum(dim) + FLOOR
    return product / ((a.square().sum(dim) + FLOOR) * (b.square().sum(dim) + FLOOR)).sqrt()
