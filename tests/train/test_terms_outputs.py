"""Terms between outputs: their values, and what they do not depend on."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.train.loss.outputs import output_term, scaled_logits
from edgekd.train.loss.term import Softening
from edgekd.train.recipe.schema import Loss

BATCH, LABELS = 6, 5
LOSSES = ("kd", "cross_entropy", "cdf", "dist", "dkd")
SHARES = F.one_hot(torch.arange(BATCH) % LABELS, LABELS).float()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(logits, teacher, temperature=2.0, standardise=False, **loss):
    """The values of a loss (batch,) from the logits of student and teacher."""
    soft = Softening(temperature, standardise, (0,))
    return output_term(Loss(**loss), soft)(logits, F.softmax(scaled_logits(teacher, soft), dim=-1), SHARES)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_student_with_the_logits_of_its_teacher_has_no_gradient(name, standardise):
    temperature = 1.0 if name == "cross_entropy" else 2.0
    logits = random(BATCH, LABELS).requires_grad_()
    loss = values(logits, logits.detach(), temperature, standardise, loss=name)
    assert loss.shape == (BATCH,)
    loss.mean().backward()
    assert logits.grad.abs().max() < 1e-5
    if name != "cross_entropy":
        assert loss.mean().abs() < 1e-5
    other = random(BATCH, LABELS, seed=1).requires_grad_()
    values(other, logits.detach(), temperature, standardise, loss=name).mean().backward()
    assert other.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_standardised_terms_do_not_change_with_scale_and_shift_of_logits(name):
    student, teacher = random(BATCH, LABELS), random(BATCH, LABELS, seed=1)
    plain = values(student, teacher, standardise=True, loss=name)
    moved = 0.5 * student + 3.0, 7.0 * teacher - 2.0
    assert torch.allclose(values(*moved, standardise=True, loss=name), plain, atol=1e-5)
    assert not torch.allclose(values(*moved, loss=name), values(student, teacher, loss=name), atol=1e-2)


def test_standardised_logits_have_mean_0_and_deviation_1_over_the_temperature():
    logits = scaled_logits(5 * random(BATCH, LABELS) + 2, Softening(4.0, True, (0,)))
    assert torch.allclose(logits.mean(dim=1), torch.zeros(BATCH), atol=1e-6)
    assert torch.allclose(logits.std(dim=1, correction=0), torch.full((BATCH,), 0.25), atol=1e-6)


def test_soft_cross_entropy_softens_the_teacher_alone():
    student, teacher = random(BATCH, LABELS), random(BATCH, LABELS, seed=1)
    expected = F.cross_entropy(student, F.softmax(teacher / 5, dim=-1), reduction="none")
    assert torch.allclose(values(student, teacher, 5.0, loss="cross_entropy"), expected)


def test_cumulative_distance_is_the_sum_of_squares_and_grows_with_the_distance_of_labels():
    student, teacher = random(BATCH, LABELS), random(BATCH, LABELS, seed=1)
    difference = F.softmax(student / 3, -1).cumsum(-1) - F.softmax(teacher / 3, -1).cumsum(-1)
    assert torch.allclose(values(student, teacher, 3.0, loss="cdf"), 9 * difference.square().sum(-1))
    sure = 20.0 * torch.eye(LABELS)
    distances = [
        output_term(Loss(loss="cdf"), Softening(1.0, False, (0,)))(sure[:1], sure[[far]].softmax(-1), SHARES[:1])
        for far in range(LABELS)
    ]
    assert torch.allclose(torch.cat(distances), torch.arange(LABELS).float(), atol=1e-3)


def test_relations_do_not_change_with_scale_and_shift_of_predictions():
    term = output_term(Loss(loss="dist"), Softening(1.0, False, (0,)))
    student, teacher = random(BATCH, LABELS).softmax(-1), random(BATCH, LABELS, seed=1).softmax(-1)
    plain = term.relations(student, teacher).mean()
    assert torch.allclose(term.relations(3 * student + 0.5, 2 * teacher - 1).mean(), plain, atol=1e-4)
    assert term.relations(2 * teacher + 1, teacher).mean().abs() < 1e-5


def test_relations_are_pearson_correlations_of_rows_and_of_columns():
    student, teacher = random(BATCH, LABELS).softmax(-1), random(BATCH, LABELS, seed=1).softmax(-1)

    def pearson(first, second):
        return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(first, second, strict=True)])

    rows = output_term(Loss(loss="dist", alpha=1.0, beta=0.0), Softening(1.0, False, (0,))).relations(student, teacher)
    columns = output_term(Loss(loss="dist", alpha=0.0, beta=1.0), Softening(1.0, False, (0,))).relations(
        student, teacher
    )
    assert torch.allclose(rows, 1 - pearson(student, teacher), atol=1e-4)
    assert torch.allclose(columns.mean(), 1 - pearson(student.T, teacher.T).mean(), atol=1e-4)


def test_the_divergence_is_that_of_the_label_plus_the_weighted_one_of_the_others():
    student, teacher = random(BATCH, LABELS), random(BATCH, LABELS, seed=1)
    own = values(student, teacher, loss="dkd", beta=0.0)
    others = values(student, teacher, loss="dkd", alpha=0.0)
    left = 1 - F.softmax(teacher / 2, dim=-1)[SHARES.bool()]
    assert torch.allclose(values(student, teacher, loss="kd"), own + left * others, atol=1e-5)
    assert torch.allclose(values(student, teacher, loss="dkd", alpha=2.0, beta=8.0), 2 * own + 8 * others, atol=1e-4)


def test_the_label_of_a_mixed_item_is_the_one_of_the_greater_share():
    soft = Softening(2.0, False, (0,))
    term = output_term(Loss(loss="dkd"), soft)
    logits, teacher = random(1, LABELS), random(1, LABELS, seed=1).softmax(-1)
    shares = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    assert torch.equal(
        term(logits, teacher, shares), term(logits, teacher, F.one_hot(torch.tensor([3]), LABELS).float())
    )
    assert not torch.allclose(
        term(logits, teacher, shares), term(logits, teacher, F.one_hot(torch.tensor([1]), LABELS).float())
    )


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_for_equal_extreme_and_lone_logits(name, standardise):
    extreme = torch.zeros(BATCH, LABELS)
    extreme[:, 0] = 200.0
    for student, teacher in (
        (torch.zeros(BATCH, LABELS), torch.zeros(BATCH, LABELS)),
        (extreme, -extreme),
        (-extreme, extreme),
        (random(BATCH, LABELS), extreme),
        (torch.zeros(BATCH, LABELS), random(BATCH, LABELS)),
    ):
        logits = student.clone().requires_grad_()
        loss = values(logits, teacher, standardise=standardise, loss=name)
        loss.mean().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(logits.grad).all()
        soft = Softening(2.0, standardise, (0,))
        alone = output_term(Loss(loss=name), soft)(
            student[:1], F.softmax(scaled_logits(teacher[:1], soft), dim=-1), SHARES[:1]
        )
        assert torch.isfinite(alone).all()
