"""Terms between outputs: divergences of a student's logits from a teacher's softened probabilities.

Where both sides are softened, the loss is multiplied by the temperature squared, so that gradients do not shrink as the
temperature rises (Hinton et al. 2015).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.train.loss.term import FLOOR, OutputTerm, Softening, StudentOutputs, StudentTerm, Targets, cosine
from edgekd.train.recipe.schema import Loss

LEAST_VARIANCE = 1e-8
"""Added to the variance of standardised logits, so that the deviation of equal ones is not zero."""


def scaled_logits(logits: Tensor, softening: Softening) -> Tensor:
    """Logits (..., labels), standardised if asked and divided by the temperature."""
    if softening.standardise:
        variance, mean = torch.var_mean(logits, dim=-1, keepdim=True, correction=0)
        logits = (logits - mean) / torch.sqrt(variance + LEAST_VARIANCE)
    return logits / softening.temperature


class LabelTerm(StudentTerm):
    """Cross-entropy against the (mixed, smoothed) labels."""

    def forward(self, student: StudentOutputs, targets: Targets) -> Tensor:
        return F.cross_entropy(student.logits, targets.labels, reduction="none")


class FloatTerm(StudentTerm):
    """KL(float network || quantised network) at a temperature, times the temperature squared."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.softening = Softening(temperature, False, ())

    def forward(self, student: StudentOutputs, targets: Targets) -> Tensor:
        assert targets.float_logits is not None  # the module gives them where the objective has this term
        return _divergence(
            student.logits, F.softmax(scaled_logits(targets.float_logits, self.softening), dim=-1), self.softening
        )


class Divergence(OutputTerm):
    """KL(teacher || student), both softened (Hinton et al. 2015)."""

    def __init__(self, softening: Softening) -> None:
        super().__init__()
        self.softening = softening

    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        return _divergence(logits, teacher, self.softening)


class SoftCrossEntropy(OutputTerm):
    """Cross-entropy against the teacher's softened probabilities, the student at temperature 1 (Heo et al. 2019).

    It is not multiplied by the temperature squared: the gradient is the difference of both probabilities at any
    temperature.
    """

    def __init__(self, softening: Softening) -> None:
        super().__init__()
        self.softening, self.student = softening, Softening(1.0, softening.standardise, ())

    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        return -(teacher * F.log_softmax(scaled_logits(logits, self.student), dim=-1)).sum(dim=-1)


class CumulativeDistance(OutputTerm):
    """Sum of squared differences of the cumulative distributions over labels in their order (SSATKD's response)."""

    def __init__(self, softening: Softening) -> None:
        super().__init__()
        self.softening = softening

    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        student = F.softmax(scaled_logits(logits, self.softening), dim=-1)
        return (student - teacher).cumsum(dim=-1).square().sum(dim=-1) * self.softening.temperature**2


class Relations(OutputTerm):
    """DIST (Huang et al. 2022): 1 - Pearson correlation of each item's probabilities between labels, and of each
    label's within the batch.

    alpha, beta: weights of the two. The second is a property of the batch; each item has a part of it, and the mean of
    the parts, some of which are negative, is its value. Probabilities that vary much less than sqrt(FLOOR) count as
    equal.
    """

    def __init__(self, softening: Softening, alpha: float, beta: float) -> None:
        super().__init__()
        self.softening, self.alpha, self.beta = softening, alpha, beta

    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG002
        return (
            self.relations(F.softmax(scaled_logits(logits, self.softening), dim=-1), teacher)
            * self.softening.temperature**2
        )

    def relations(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted distances (batch,) of predictions (batch, labels)."""
        between = 1 - cosine(
            student - student.mean(dim=1, keepdim=True), teacher - teacher.mean(dim=1, keepdim=True), 1
        )
        student, teacher = student - student.mean(dim=0), teacher - teacher.mean(dim=0)
        lengths = ((student.square().sum(dim=0) + FLOOR) * (teacher.square().sum(dim=0) + FLOOR)).sqrt()  # (labels,)
        # its mean over items is 1 - `cosine` of each label's column
        within = 1 - (len(student) * student * teacher + FLOOR) / lengths
        return self.alpha * between + self.beta * within.mean(dim=1)


class Decoupled(OutputTerm):
    """DKD (Zhao et al. 2022): alpha times the divergence of the label's probability against the rest, plus beta times
    the divergence among the other labels.

    The label of a mixed item is the one with the greater share. KL(teacher || student) is the first divergence plus (1
    - the teacher's probability of the label) times the second.
    """

    def __init__(self, softening: Softening, alpha: float, beta: float) -> None:
        super().__init__()
        self.softening, self.alpha, self.beta = softening, alpha, beta

    def forward(self, logits: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
        index = shares.argmax(dim=-1, keepdim=True)  # (batch, 1); a mask as an index would make the host wait for a GPU
        label = F.one_hot(index[:, 0], shares.shape[-1]).bool()
        logits = scaled_logits(logits, self.softening)
        others, rest = logits.masked_fill(label, -torch.inf), teacher.masked_fill(label, 0.0)
        # (batch, 2)
        both = torch.cat([logits.gather(-1, index), others.logsumexp(dim=-1, keepdim=True)], dim=-1)
        both = both - logits.logsumexp(dim=-1, keepdim=True)
        expected = torch.cat([teacher.gather(-1, index), rest.sum(dim=-1, keepdim=True)], dim=-1)
        own = F.kl_div(both, expected, reduction="none").sum(dim=-1)
        among = F.log_softmax(others, dim=-1).masked_fill(label, 0.0)
        rest = rest / rest.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(rest.dtype).tiny)
        other = F.kl_div(among, rest, reduction="none").sum(dim=-1)
        return (self.alpha * own + self.beta * other) * self.softening.temperature**2


def output_term(loss: Loss, softening: Softening) -> OutputTerm:
    """The term that a recipe's loss names, for losses between outputs."""
    match loss.loss:
        case "cross_entropy":
            return SoftCrossEntropy(softening)
        case "cdf":
            return CumulativeDistance(softening)
        case "dist":
            return Relations(softening, loss.alpha, loss.beta)
        case "dkd":
            return Decoupled(softening, loss.alpha, loss.beta)
        case _:
            return Divergence(softening)


def _divergence(logits: Tensor, teacher: Tensor, softening: Softening) -> Tensor:
    """KL(teacher || student), times the temperature squared: (batch,). logits, teacher: (batch, labels)."""
    student = F.log_softmax(scaled_logits(logits, softening), dim=-1)
    return F.kl_div(student, teacher, reduction="none").sum(dim=-1) * softening.temperature**2
