"""The loss of a student: terms give one value per item; only the objective reduces, weights and blends."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.data.augment import mix
from edgekd.distill.tables import BlendName, Distill


@dataclass(frozen=True)
class Targets:
    """What a batch should become.

    labels: probabilities (batch, labels). teachers: softened probabilities (targets, batch, labels), or None without teachers;
    one target for each divergence to be summed, so a blend into one distribution has one. float_logits: (batch, labels) of the float
    network that is being quantised, on the same input; None in the float phase.
    """

    labels: Tensor
    teachers: Tensor | None
    float_logits: Tensor | None = None


class Term(ABC):
    """One part of the loss. `name` heads its columns in the metrics."""

    name: str

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits (batch, labels) -> one value per item (batch,)."""


class LabelTerm(Term):
    """Cross-entropy against the (mixed, smoothed) labels."""

    name = "label"

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        return F.cross_entropy(logits, targets.labels, reduction="none")


class DistillTerm(Term):
    """KL(teacher || student) at a temperature, times its square (Hinton et al. 2015), summed over targets."""

    name = "kd"

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        assert targets.teachers is not None  # the objective has this term only where there are teachers
        return _divergence(logits, targets.teachers, self.temperature)


class FloatTerm(Term):
    """KL(float network || quantised network) at a temperature, times its square."""

    name = "float"

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        assert targets.float_logits is not None  # the module gives them where the objective has this term
        return _divergence(logits, F.softmax(targets.float_logits / self.temperature, dim=-1)[None], self.temperature)


def _divergence(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL of softened probabilities (targets, batch, labels) from logits (batch, labels), summed over targets: (batch,)."""
    student = F.log_softmax(logits / temperature, dim=-1)
    divergence = F.kl_div(student.expand_as(targets), targets, reduction="none").sum(dim=-1)  # (targets, batch)
    return divergence.sum(dim=0) * temperature**2


class Objective:
    """Weighs the terms of a recipe.

    Args:
        distill: temperature, weights and blend.
        labels: number of labels.
        label_smoothing: share of a label's probability spread over all labels.
        teachers: whether there are any; without, the loss is the label term alone with weight 1.
        float_weight: share of the float term in the quantization-aware phase; the other terms' weights are times the rest.
    """

    def __init__(self, distill: Distill, labels: int, label_smoothing: float, teachers: bool, float_weight: float = 0.0) -> None:
        self.labels, self.label_smoothing = labels, label_smoothing
        self.temperature, self.blend = distill.temperature, distill.blend
        rest = 1 - float_weight
        self.terms: list[tuple[Term, float]] = [(LabelTerm(), rest * (distill.label_weight if teachers else 1.0))]
        if teachers:
            self.terms.append((DistillTerm(distill.temperature), rest * distill.kd_weight))
        if float_weight:
            self.terms.append((FloatTerm(distill.temperature), float_weight))

    @property
    def wants_float(self) -> bool:
        """Whether targets need the float network's logits."""
        return any(isinstance(term, FloatTerm) for term, _ in self.terms)

    def targets(self, label: Tensor, teacher_logits: Tensor | None, partner: Tensor, share: Tensor,
                float_logits: Tensor | None = None) -> Targets:
        """Targets of a batch, mixed as its clips are.

        Args:
            label: int64 (rows,): of the batch's clips and of others that are mixed into them.
            teacher_logits: (teachers, rows, labels) or None.
            partner, share: (batch,), as in `edgekd.data.augment.mix`.
            float_logits: (batch, labels) of what the batch became after mixing, or None.
        """
        labels = F.one_hot(label, self.labels).to(share.dtype)
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / self.labels
        teachers = None
        if teacher_logits is not None:
            blended = blend(teacher_logits, self.temperature, self.blend)
            teachers = torch.stack([mix(each, partner, share) for each in blended])
        return Targets(mix(labels, partner, share), teachers, float_logits)

    def __call__(self, logits: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch mean of the weighted sum of terms, and what to log: each term raw and weighted, and `loss`, the sum of the weighted."""
        logged: dict[str, Tensor] = {}
        total = logits.new_zeros(())
        for term, weight in self.terms:
            raw = term(logits, targets).mean()
            weighted = weight * raw
            logged[term.name], logged[f"{term.name}_weighted"] = raw.detach(), weighted.detach()
            total = total + weighted
        logged["loss"] = total.detach()
        return total, logged


def blend(logits: Tensor, temperature: float, how: BlendName) -> Tensor:
    """Softened targets of several teachers.

    Args:
        logits: (teachers, batch, labels).
        temperature: divides logits.
        how: "mean_prob" and "mean_logit" give one target, "sum_kl" one per teacher. With one teacher all three are the same to the bit.

    Returns:
        probabilities (targets, batch, labels).
    """
    if how == "mean_logit":
        logits = logits.mean(dim=0, keepdim=True)
    probabilities = F.softmax(logits / temperature, dim=-1)
    return probabilities.mean(dim=0, keepdim=True) if how == "mean_prob" else probabilities
