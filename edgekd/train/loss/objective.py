"""The loss of a student. Terms give one value per item; only the objective mixes, blends, weighs and reduces."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.data.audio.augment import mix
from edgekd.errors import InputError
from edgekd.train.loss.embedding import Centre, Embedding
from edgekd.train.loss.outputs import FloatTerm, LabelTerm, output_term, scaled_logits
from edgekd.train.loss.term import OutputTerm, Shape, Softening, StudentOutputs, StudentTerm, TapTerm, Targets
from edgekd.train.loss.texture import Texture
from edgekd.train.recipe.schema import BlendName, Distill, Loss

OUTPUT_OPTIONS = ("temperature", "standardise", "teachers")
TAP_OPTIONS = ("student", "teacher", "project", "teachers")
OPTIONS = {
    "kd": OUTPUT_OPTIONS,
    "cross_entropy": OUTPUT_OPTIONS,
    "cdf": OUTPUT_OPTIONS,
    "dist": (*OUTPUT_OPTIONS, "alpha", "beta"),
    "dkd": (*OUTPUT_OPTIONS, "alpha", "beta"),
    "embedding": (*TAP_OPTIONS, "distance"),
    "structural": TAP_OPTIONS,
    "statistical": TAP_OPTIONS,
    "centre": ("student",),
}
"""Options of each loss, besides its weight."""
TEXTURES = ("structural", "statistical")
TAPPED = ("embedding", *TEXTURES)
"""Losses that compare taps of student and teachers."""


@dataclass(frozen=True)
class TapShapes:
    """Shapes of taps without the batch. student: path -> shape. teachers: the same of each teacher."""

    student: dict[str, Shape]
    teachers: tuple[dict[str, Shape], ...] = ()


class Objective(nn.Module):
    """Weighs the terms of a recipe. Learned weights, projectors and centres are its parameters.

    Without teachers the terms between student and teachers are left out, and the label cross-entropy has weight 1. In
    the quantization-aware phase the terms of taps are left out, as the student is another network there.

    Args:
        distill: terms, temperature, weights and blend.
        labels: number of labels.
        label_smoothing: share of a label's probability spread over all labels.
        teachers: number of teachers.
        float_weight: None in the float phase. In the quantization-aware phase the share of the float term; the weights
            of all other terms are multiplied by the rest.
        shapes: of all `student_taps` and `teacher_taps`. Without them the objective names the taps that it needs, but
            has no terms of taps.

    Raises:
        InputError: a term names a teacher that does not exist, sets an option that its loss does not have, needs taps
            that this way of teaching does not give, or has taps whose shapes do not fit.
    """

    def __init__(
        self,
        distill: Distill,
        labels: int,
        label_smoothing: float,
        teachers: int,
        float_weight: float | None = None,
        shapes: TapShapes | None = None,
    ) -> None:
        super().__init__()
        self.labels, self.label_smoothing, self.teachers, self.blend = labels, label_smoothing, teachers, distill.blend
        self.same_input = distill.teaching == "same"
        _check(distill, teachers)
        losses = distill.terms or (Loss(loss="kd", weight=distill.kd_weight),)
        kept = [loss for loss in losses if teachers or loss.loss == "centre"]
        self.omitted: tuple[str, ...] = tuple(loss.loss for loss in distill.terms if loss not in kept)
        """Losses of the recipe that are left out because there are no teachers."""
        if float_weight is not None:
            kept = [loss for loss in kept if loss.loss not in {*TAPPED, "centre"}]
        rest = 1 - (float_weight or 0.0)
        self.terms = nn.ModuleDict({"label": LabelTerm()})
        self.losses: dict[str, Loss] = {}
        self.weights = {"label": rest * (distill.label_weight if teachers else 1.0)}
        """Weight of each term by its name, which heads its columns in the metrics."""
        seen = Counter[str]()
        for loss in kept:
            seen[loss.loss] += 1
            name = loss.loss if seen[loss.loss] == 1 else f"{loss.loss}{seen[loss.loss]}"
            filled = msgspec.structs.replace(
                loss,
                temperature=loss.temperature or distill.temperature,
                teachers=loss.teachers or tuple(range(teachers)),
            )
            self.losses[name], self.weights[name] = filled, rest * loss.weight
            self._add_term(name, filled, shapes)
        learned = distill.weights == "learned" and len(self.weights) > 1
        self.logs = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in self.weights} if learned else {})
        """Learned s of each term that has one: its loss L becomes exp(-s) L + s. The float term has none: its share is
        given."""
        # outside of `terms`: a ModuleDict refuses the name "float"
        self.float_term = FloatTerm(distill.temperature) if float_weight else None
        if float_weight:
            self.weights["float"] = float_weight
        self.groups = sorted({loss.teachers for loss in self.losses.values() if loss.teachers})

    def _add_term(self, name: str, loss: Loss, shapes: TapShapes | None) -> None:
        where = f"distill.terms: {loss.loss} of '{loss.student}'"
        if loss.loss == "centre":
            if shapes is not None:
                self.terms[name] = Centre(loss.student, self.labels, shapes.student[loss.student])
        elif loss.loss not in TAPPED:
            self.terms[name] = output_term(loss, Softening(loss.temperature or 1.0, loss.standardise, loss.teachers))
        elif shapes is not None:
            self.terms[name] = nn.ModuleList(
                self._tap_term(
                    loss,
                    shapes.student[loss.student],
                    shapes.teachers[number][loss.teacher],
                    f"{where} and '{loss.teacher}' of teacher {number}",
                )
                for number in loss.teachers
            )

    def _tap_term(self, loss: Loss, student: Shape, teacher: Shape, where: str) -> TapTerm:
        if loss.loss != "embedding":
            return Texture(loss.loss, loss.project, student, teacher, where)
        term = Embedding(loss.distance, loss.project, student, teacher, where)
        if term.of_maps and not self.same_input:
            raise InputError(
                f"{where}: maps are compared element by element, but the teachers get other crops than the student; "
                "set distill.teaching = 'same' or take vectors"
            )
        return term

    @property
    def needs_float_logits(self) -> bool:
        """Whether `targets` needs the logits of the float network."""
        return self.float_term is not None

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Paths of the student's modules whose outputs the terms compare."""
        return tuple(sorted({loss.student for loss in self.losses.values() if loss.loss in {*TAPPED, "centre"}}))

    @property
    def teacher_taps(self) -> tuple[tuple[str, ...], ...]:
        """The same paths of each teacher."""
        wanted = [
            (number, loss.teacher) for loss in self.losses.values() if loss.loss in TAPPED for number in loss.teachers
        ]
        return tuple(
            tuple(sorted({path for number, path in wanted if number == each})) for each in range(self.teachers)
        )

    def targets(
        self,
        label: Tensor,
        teacher_logits: Tensor | None,
        partner: Tensor,
        share: Tensor,
        float_logits: Tensor | None = None,
        teacher_taps: Sequence[dict[str, Tensor]] = (),
    ) -> Targets:
        """The targets of a batch, mixed as its clips are.

        Args:
            label: int64 (rows,) of the items and of the clips that are mixed into them.
            teacher_logits: (teachers, rows, labels) or None. With teaching "same" (teachers, batch, labels), for the
                mixed items.
            partner, share: (batch,), as in `edgekd.data.audio.augment.mix`.
            float_logits: (batch, labels) for the mixed items, or None.
            teacher_taps: path -> (rows, ...) of each teacher. With teaching "same" (batch, ...).
        """
        one_hot = F.one_hot(label, self.labels).to(share.dtype)
        shares = mix(one_hot, partner, share)
        smooth = one_hot * (1 - self.label_smoothing) + self.label_smoothing / self.labels
        labels = mix(smooth, partner, share) if self.label_smoothing else shares
        if teacher_logits is None:
            return Targets(labels, shares, float_logits=float_logits)
        teacher_logits = teacher_logits.detach().float()

        def mixed(x: Tensor) -> Tensor:
            return x if self.same_input else mix(x, partner, share)

        def of(group: tuple[int, ...]) -> Tensor:
            return torch.stack([teacher_logits[number] for number in group])

        known = shares if self.same_input else one_hot
        weights = {group: teacher_weights(of(group), known, self.blend) for group in self.groups}
        softenings = {term.softening for term in self.terms.values() if isinstance(term, OutputTerm)}
        teachers = {
            soft: torch.stack(
                [mixed(each) for each in blend(of(soft.teachers), soft, self.blend, weights[soft.teachers])]
            )
            for soft in softenings
        }
        return Targets(
            labels,
            shares,
            teachers,
            {group: torch.stack([mixed(each) for each in value]) for group, value in weights.items()},
            tuple({path: mixed(tap.detach().float()) for path, tap in taps.items()} for taps in teacher_taps),
            float_logits,
        )

    def forward(self, student: StudentOutputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch: the batch mean of the weighted sum of terms.

        Returns:
            the loss, and the values to log: each term raw, each term weighted ("NAME_weighted"), and their sum "loss".
        """
        logged: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for name, weight in self.weights.items():
            raw = self._values(name, student, targets).mean()
            weighted = weight * (torch.exp(-self.logs[name]) * raw + self.logs[name] if name in self.logs else raw)
            logged[name], logged[f"{name}_weighted"] = raw.detach(), weighted.detach()
            total = total + weighted
        logged["loss"] = total.detach()
        return total, logged

    def _values(self, name: str, student: StudentOutputs, targets: Targets) -> Tensor:
        """One value of a term per item (batch,): the sum over its targets, or the weighted sum over its teachers."""
        if name != "float" and name not in self.terms:
            raise RuntimeError(f"term {name} was built without shapes of taps")
        term = self.float_term if name == "float" else self.terms[name]
        if isinstance(term, StudentTerm):
            values: Tensor = term(student, targets)
            return values
        loss = self.losses[name]
        if isinstance(term, OutputTerm):
            each = [term(student.logits, teacher, targets.shares) for teacher in targets.teachers[term.softening]]
        else:
            assert isinstance(term, nn.ModuleList)
            tap, weights = student.taps[loss.student].float(), targets.teacher_weights[loss.teachers]
            each = [
                weight * tap_term(tap, targets.taps[number][loss.teacher])
                for tap_term, number, weight in zip(term, loss.teachers, weights, strict=True)
            ]
        return torch.stack(each).sum(dim=0)


def blend(logits: Tensor, soft: Softening, how: BlendName, weights: Tensor) -> Tensor:
    """Softened targets of several teachers.

    Args:
        logits: (teachers, batch, labels) of the teachers that `soft` names.
        soft: how logits become probabilities.
        how: "mean_prob", "mean_logit" and "confidence" give one target, "sum_kl" one per teacher. With one teacher all
            four give the same bits.
        weights: (teachers, batch) as `teacher_weights` gives them.

    Returns:
        probabilities (targets, batch, labels).
    """
    logits = scaled_logits(logits, soft)
    if how == "mean_logit":
        logits = logits.mean(dim=0, keepdim=True)
    probabilities = F.softmax(logits, dim=-1)
    if how == "confidence":
        return (weights[..., None] * probabilities).sum(dim=0, keepdim=True)
    return probabilities.mean(dim=0, keepdim=True) if how == "mean_prob" else probabilities


def teacher_weights(logits: Tensor, labels: Tensor, how: BlendName) -> Tensor:
    """The weight of each teacher for each item.

    Args:
        logits: (teachers, batch, labels).
        labels: probabilities (batch, labels).
        how: "sum_kl" weighs each teacher 1. "mean_prob" and "mean_logit" weigh all alike, with sum 1. "confidence"
            (CA-MKD, Zhang et al. 2022) gives (1 - softmax over teachers of the cross-entropy with the label) /
            (teachers - 1), also with sum 1.

    Returns:
        (teachers, batch).
    """
    count = len(logits)
    if how == "confidence" and count > 1:
        entropy = -(labels * F.log_softmax(logits, dim=-1)).sum(dim=-1)  # (teachers, batch)
        return (1 - F.softmax(entropy, dim=0)) / (count - 1)
    return logits.new_full(logits.shape[:2], 1.0 if how == "sum_kl" else 1 / count)


def _check(distill: Distill, teachers: int) -> None:
    """Raise InputError where the terms of a recipe contradict it or each other."""
    if distill.repeat and distill.teaching != "same":
        raise InputError(
            f"distill.repeat = {distill.repeat} needs teachers with the student's own input, but distill.teaching is"
            f" '{distill.teaching}'; set distill.teaching = 'same' or distill.repeat = 0"
        )
    for number, loss in enumerate(distill.terms):
        where = f"distill.terms[{number}] ({loss.loss})"
        for option in msgspec.structs.fields(Loss):
            value = getattr(loss, option.name)
            if option.name not in {"loss", "weight", *OPTIONS[loss.loss]} and value != option.default:
                raise InputError(
                    f"{where}: {option.name} = {value!r} is no option of this loss; remove it, or set one of "
                    f"{', '.join(OPTIONS[loss.loss])}"
                )
        if loss.loss in TEXTURES and distill.teaching != "same":
            raise InputError(
                f"{where}: distill.teaching is '{distill.teaching}', but textures need the same input for student and"
                " teachers; "
                "set distill.teaching = 'same'"
            )
        if loss.loss in TAPPED and distill.teaching not in {"live", "same"}:
            raise InputError(
                f"{where}: distill.teaching is '{distill.teaching}', which keeps only the teachers' logits; "
                "set distill.teaching = 'live' or 'same'"
            )
        if loss.loss in TAPPED and distill.repeat:
            raise InputError(
                f"{where}: distill.repeat = {distill.repeat} keeps only the teachers' logits, but this loss needs their"
                " taps; set it to 0"
            )
        if len(set(loss.teachers)) < len(loss.teachers):
            raise InputError(f"{where}: teachers = {list(loss.teachers)} names a teacher twice; name each once")
        wrong = [each for each in loss.teachers if each >= teachers]
        if wrong and teachers:
            numbers = (
                "there is one teacher, number 0"
                if teachers == 1
                else f"there are {teachers} teachers, 0 to {teachers - 1}"
            )
            raise InputError(
                f"{where}: teachers = {list(loss.teachers)} names teacher {wrong[0]}, but {numbers}; correct "
                "the number or give more teachers"
            )
