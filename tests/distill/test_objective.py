"""The objective: reductions, weights, blends and mixing."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.distill.objective import Objective, blend
from edgekd.distill.tables import Distill

BATCH, LABELS = 5, 4
PARTNER = torch.tensor([1, 2, 3, 4, 0])
WHOLE = torch.ones(BATCH)
BLENDS = ("mean_prob", "mean_logit", "sum_kl")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABEL = torch.tensor([0, 1, 2, 3, 0])


def objective(teachers=True, smoothing=0.0, **distill):
    return Objective(Distill(**distill), LABELS, smoothing, teachers)


def test_labels_alone_are_cross_entropy():
    plain = objective(teachers=False)
    logits = random(BATCH, LABELS)
    loss, logged = plain(logits, plain.targets(LABEL, None, PARTNER, WHOLE))
    assert torch.allclose(loss, F.cross_entropy(logits, LABEL))
    assert set(logged) == {"label", "label_weighted", "loss"}


@pytest.mark.parametrize("how", BLENDS)
def test_one_teacher_gives_the_plain_divergence_to_the_bit(how):
    both = objective(blend=how, temperature=3.0, kd_weight=0.7, label_weight=0.3)
    logits, teacher = random(BATCH, LABELS), random(1, BATCH, LABELS, seed=1)
    _, logged = both(logits, both.targets(LABEL, teacher, PARTNER, WHOLE))
    each = F.kl_div(F.log_softmax(logits / 3.0, dim=-1), F.softmax(teacher[0] / 3.0, dim=-1), reduction="none").sum(dim=-1) * 9.0
    assert torch.equal(logged["kd"], each.mean())
    assert torch.allclose(logged["kd"], F.kl_div(F.log_softmax(logits / 3, -1), F.softmax(teacher[0] / 3, -1), reduction="batchmean") * 9)


@pytest.mark.parametrize("how", BLENDS)
def test_the_logged_total_is_the_sum_of_the_weighted_terms(how):
    both = objective(blend=how, kd_weight=0.7, label_weight=0.3)
    logits = random(BATCH, LABELS).requires_grad_()
    loss, logged = both(logits, both.targets(LABEL, random(3, BATCH, LABELS, seed=1), PARTNER, WHOLE))
    assert torch.equal(logged["loss"], logged["label_weighted"] + logged["kd_weighted"])
    assert torch.equal(loss, logged["loss"])
    assert torch.equal(logged["kd_weighted"], 0.7 * logged["kd"])
    assert torch.equal(logged["label_weighted"], 0.3 * logged["label"])


def test_the_float_network_shares_the_loss_with_the_other_terms():
    both = Objective(Distill(temperature=2.0, kd_weight=0.6, label_weight=0.4), LABELS, 0.0, teachers=True, float_weight=0.75)
    logits, anchor = random(BATCH, LABELS), random(BATCH, LABELS, seed=2)
    loss, logged = both(logits, both.targets(LABEL, random(1, BATCH, LABELS, seed=1), PARTNER, WHOLE, anchor))
    assert torch.allclose(logged["float"], 4 * F.kl_div(F.log_softmax(logits / 2, -1), F.softmax(anchor / 2, -1), reduction="batchmean"))
    assert torch.allclose(loss, 0.25 * (0.4 * logged["label"] + 0.6 * logged["kd"]) + 0.75 * logged["float"])
    alone = Objective(Distill(), LABELS, 0.0, teachers=False, float_weight=1.0)
    same, _ = alone(anchor, alone.targets(LABEL, None, PARTNER, WHOLE, anchor))
    assert same.abs() < 1e-6
    assert alone.wants_float
    assert not objective().wants_float


def test_summed_divergences_pull_as_their_mean_times_the_number_of_teachers():
    teachers = random(3, BATCH, LABELS, seed=1)
    gradients = []
    for how in ("sum_kl", "mean_prob"):
        both = objective(blend=how, kd_weight=1.0, label_weight=0.0)
        logits = random(BATCH, LABELS).requires_grad_()
        both(logits, both.targets(LABEL, teachers, PARTNER, WHOLE))[0].backward()
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0], 3 * gradients[1], atol=1e-6)


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient():
    both = objective(kd_weight=1.0, label_weight=0.0)
    logits = random(BATCH, LABELS).requires_grad_()
    loss, _ = both(logits, both.targets(LABEL, logits.detach()[None], PARTNER, WHOLE))
    loss.backward()
    assert loss.abs() < 1e-6
    assert logits.grad.abs().max() < 1e-6


def test_labels_and_teachers_are_mixed_with_the_same_share():
    both = objective(temperature=2.0)
    share = torch.tensor([0.25, 1.0, 1.0, 1.0, 1.0])
    teachers = random(2, BATCH, LABELS, seed=1)
    targets = both.targets(LABEL, teachers, PARTNER, share)
    assert torch.allclose(targets.labels[0], torch.tensor([0.25, 0.75, 0.0, 0.0]))
    clean = blend(teachers, 2.0, "mean_prob")[0]
    assert torch.allclose(targets.teachers[0, 0], 0.25 * clean[0] + 0.75 * clean[1])
    assert torch.equal(targets.teachers[0, 1:], clean[1:])


def test_smoothing_spreads_a_share_over_all_labels():
    smooth = objective(teachers=False, smoothing=0.2).targets(LABEL, None, PARTNER, WHOLE).labels
    assert torch.allclose(smooth[0], torch.tensor([0.85, 0.05, 0.05, 0.05]))
