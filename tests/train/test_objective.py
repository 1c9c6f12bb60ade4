"""The objective: reductions, weights, blends, mixing and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.errors import InputError
from edgekd.train.loss.objective import Objective, TapShapes, blend, teacher_weights
from edgekd.train.loss.term import Softening, StudentOutputs
from edgekd.train.recipe.schema import Distill, Loss

BATCH, LABELS = 5, 4
PARTNER = torch.tensor([1, 2, 3, 4, 0])
WHOLE = torch.ones(BATCH)
BLENDS = ("mean_prob", "mean_logit", "sum_kl", "confidence")
LABEL = torch.tensor([0, 1, 2, 3, 0])
MAPS = {"embedding": (6,), "block": (8, 12, 16)}
"""Taps of student and teachers in these tests."""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def objective(teachers=1, smoothing=0.0, float_weight=None, shapes=None, **distill):
    return Objective(Distill(**distill), LABELS, smoothing, teachers, float_weight, shapes)


def tapped(*losses, teachers=1, **distill):
    """An objective with terms of taps on MAPS."""
    return objective(
        teachers, shapes=TapShapes(MAPS, (MAPS,) * teachers), terms=losses, **{"teaching": "same", **distill}
    )


def taps(seed, requires_grad=False):
    return {path: random(BATCH, *shape, seed=seed).abs().requires_grad_(requires_grad) for path, shape in MAPS.items()}


def test_labels_alone_are_cross_entropy():
    plain = objective(teachers=0)
    logits = random(BATCH, LABELS)
    loss, logged = plain(StudentOutputs(logits), plain.targets(LABEL, None, PARTNER, WHOLE))
    assert torch.allclose(loss, F.cross_entropy(logits, LABEL))
    assert set(logged) == {"label", "label_weighted", "loss"}


@pytest.mark.parametrize("how", BLENDS)
def test_one_teacher_gives_the_plain_divergence_to_the_bit(how):
    both = objective(blend=how, temperature=3.0, kd_weight=0.7, label_weight=0.3)
    logits, teacher = random(BATCH, LABELS), random(1, BATCH, LABELS, seed=1)
    _, logged = both(StudentOutputs(logits), both.targets(LABEL, teacher, PARTNER, WHOLE))
    each = (
        F.kl_div(F.log_softmax(logits / 3.0, dim=-1), F.softmax(teacher[0] / 3.0, dim=-1), reduction="none").sum(dim=-1)
        * 9.0
    )
    assert torch.equal(logged["kd"], each.mean())
    assert torch.allclose(
        logged["kd"], F.kl_div(F.log_softmax(logits / 3, -1), F.softmax(teacher[0] / 3, -1), reduction="batchmean") * 9
    )


@pytest.mark.parametrize("how", BLENDS)
def test_a_term_may_take_one_of_several_teachers(how):
    both = objective(3, blend=how, terms=(Loss(loss="kd", teachers=(1,)),))
    alone = objective(1, terms=(Loss(loss="kd"),))
    logits, teachers = random(BATCH, LABELS), random(3, BATCH, LABELS, seed=1)
    some, _ = both(StudentOutputs(logits), both.targets(LABEL, teachers, PARTNER, WHOLE))
    one, _ = alone(StudentOutputs(logits), alone.targets(LABEL, teachers[1:2], PARTNER, WHOLE))
    assert torch.equal(some, one)


@pytest.mark.parametrize("weights", ["fixed", "learned"])
@pytest.mark.parametrize("how", BLENDS)
def test_the_logged_total_is_the_sum_of_the_weighted_terms(how, weights):
    both = tapped(
        Loss(loss="kd", weight=0.7),
        Loss(loss="embedding"),
        Loss(loss="embedding", distance="cosine"),
        teachers=3,
        blend=how,
        label_weight=0.3,
        weights=weights,
    )
    with torch.no_grad():
        for value in both.logs.values():
            value.fill_(0.5)
    logits = random(BATCH, LABELS).requires_grad_()
    targets = both.targets(
        LABEL, random(3, BATCH, LABELS, seed=1), PARTNER, WHOLE, teacher_taps=[taps(seed) for seed in (1, 2, 3)]
    )
    loss, logged = both(StudentOutputs(logits, taps(0)), targets)
    names = ("label", "kd", "embedding", "embedding2")
    assert set(logged) == {"loss", *names, *(f"{name}_weighted" for name in names)}
    assert torch.allclose(logged["loss"], sum(logged[f"{name}_weighted"] for name in names))
    assert torch.equal(loss, logged["loss"])
    expected = 0.7 * logged["kd"] if weights == "fixed" else 0.7 * (logged["kd"] * torch.tensor(-0.5).exp() + 0.5)
    assert torch.allclose(logged["kd_weighted"], expected)


def test_the_float_network_shares_the_loss_with_the_other_terms():
    both = objective(float_weight=0.75, temperature=2.0, kd_weight=0.6, label_weight=0.4)
    logits, anchor = random(BATCH, LABELS), random(BATCH, LABELS, seed=2)
    loss, logged = both(
        StudentOutputs(logits), both.targets(LABEL, random(1, BATCH, LABELS, seed=1), PARTNER, WHOLE, anchor)
    )
    assert torch.allclose(
        logged["float"], 4 * F.kl_div(F.log_softmax(logits / 2, -1), F.softmax(anchor / 2, -1), reduction="batchmean")
    )
    assert torch.allclose(loss, 0.25 * (0.4 * logged["label"] + 0.6 * logged["kd"]) + 0.75 * logged["float"])
    alone = objective(teachers=0, float_weight=1.0)
    same, _ = alone(StudentOutputs(anchor), alone.targets(LABEL, None, PARTNER, WHOLE, anchor))
    assert same.abs() < 1e-6
    assert alone.needs_float_logits
    assert not objective().needs_float_logits
    assert not objective(float_weight=0.0).needs_float_logits


def test_summed_divergences_pull_as_their_mean_times_the_number_of_teachers():
    teachers = random(3, BATCH, LABELS, seed=1)
    gradients = []
    for how in ("sum_kl", "mean_prob"):
        both = objective(3, blend=how, kd_weight=1.0, label_weight=0.0)
        logits = random(BATCH, LABELS).requires_grad_()
        both(StudentOutputs(logits), both.targets(LABEL, teachers, PARTNER, WHOLE))[0].backward()
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0], 3 * gradients[1], atol=1e-6)


def test_a_confident_blend_weighs_teachers_by_their_cross_entropy_with_the_label():
    teachers = torch.stack(
        [4.0 * F.one_hot(LABEL, LABELS), random(BATCH, LABELS, seed=1), -4.0 * F.one_hot(LABEL, LABELS)]
    )
    weights = teacher_weights(teachers, F.one_hot(LABEL, LABELS).float(), "confidence")
    entropy = torch.stack([F.cross_entropy(each, LABEL, reduction="none") for each in teachers])
    assert torch.allclose(weights, (1 - entropy.softmax(dim=0)) / 2)
    assert torch.allclose(weights.sum(dim=0), WHOLE)
    assert (weights[0] > weights[2]).all()
    both = objective(3, blend="confidence", temperature=2.0)
    (soft,) = both.targets(LABEL, teachers, PARTNER, WHOLE).teachers.values()
    assert torch.allclose(soft[0], (weights[..., None] * F.softmax(teachers / 2, dim=-1)).sum(dim=0))


@pytest.mark.parametrize("how", ["mean_prob", "mean_logit", "confidence"])
def test_teachers_that_err_apart_are_better_together_than_the_best_of_them(how):
    label = torch.arange(400) % LABELS
    teachers = F.one_hot(label, LABELS) + random(5, 400, LABELS, seed=1)
    (together,) = blend(
        teachers,
        Softening(1.0, False, tuple(range(5))),
        how,
        teacher_weights(teachers, F.one_hot(label, LABELS).float(), how),
    )
    accuracies = (teachers.argmax(dim=-1) == label).float().mean(dim=1)
    assert (together.argmax(dim=-1) == label).float().mean() > accuracies.max() + 0.1


@pytest.mark.parametrize("how", BLENDS)
def test_taps_and_outputs_weigh_the_teachers_alike(how):
    both = tapped(Loss(loss="embedding", project=False), teachers=2, blend=how, label_weight=0.0)
    logits, student, teachers = random(2, BATCH, LABELS, seed=1), taps(0), [taps(1), taps(2)]
    loss, _ = both(
        StudentOutputs(logits[0], student), both.targets(LABEL, logits, PARTNER, WHOLE, teacher_taps=teachers)
    )
    each = torch.stack([(student["embedding"] - tap["embedding"]).square().mean(dim=1) for tap in teachers])
    factors = teacher_weights(logits, F.one_hot(LABEL, LABELS).float(), how)
    assert torch.allclose(loss, (factors * each).sum(dim=0).mean())
    assert torch.allclose(factors.sum(dim=0), 2 * WHOLE if how == "sum_kl" else WHOLE)


def test_confidence_for_a_mixed_item_is_by_its_mixed_label():
    both = objective(2, blend="confidence", teaching="same")
    partner, share, teachers = torch.tensor([3, 4]), torch.tensor([0.25, 1.0]), random(2, 2, LABELS, seed=1)
    targets = both.targets(LABEL, teachers, partner, share)
    assert torch.equal(
        targets.teacher_weights[0, 1],
        teacher_weights(teachers, torch.tensor([[0.25, 0, 0, 0.75], [0, 1.0, 0, 0]]), "confidence"),
    )


def test_labels_and_teachers_are_mixed_with_the_same_share():
    both = objective(2, temperature=2.0)
    share = torch.tensor([0.25, 1.0, 1.0, 1.0, 1.0])
    teachers = random(2, BATCH, LABELS, seed=1)
    targets = both.targets(LABEL, teachers, PARTNER, share)
    assert torch.allclose(targets.labels[0], torch.tensor([0.25, 0.75, 0.0, 0.0]))
    clean = F.softmax(teachers / 2, dim=-1).mean(dim=0)
    (soft,) = targets.teachers.values()
    assert torch.allclose(soft[0, 0], 0.25 * clean[0] + 0.75 * clean[1])
    assert torch.allclose(soft[0, 1:], clean[1:])


def test_outputs_of_teachers_with_the_student_s_input_are_not_mixed_again():
    share, teachers = torch.full((BATCH,), 0.25), random(1, BATCH, LABELS, seed=1)
    own = taps(1)
    for teaching in ("live", "same"):
        both = objective(terms=(Loss(loss="kd"), Loss(loss="embedding")), teaching=teaching)
        targets = both.targets(LABEL, teachers, PARTNER, share, teacher_taps=[own])
        (soft,) = targets.teachers.values()
        clean = F.softmax(teachers[0] / 2, dim=-1)
        as_mixed = (0.25 * clean + 0.75 * clean[PARTNER], 0.25 * own["embedding"] + 0.75 * own["embedding"][PARTNER])
        expected = as_mixed if teaching == "live" else (clean, own["embedding"])
        assert torch.allclose(soft[0], expected[0])
        assert torch.allclose(targets.taps[0]["embedding"], expected[1])
        assert torch.allclose(targets.labels[0], torch.tensor([0.25, 0.75, 0.0, 0.0]))


def test_smoothing_spreads_a_share_over_all_labels():
    targets = objective(teachers=0, smoothing=0.2).targets(LABEL, None, PARTNER, WHOLE)
    assert torch.allclose(targets.labels[0], torch.tensor([0.85, 0.05, 0.05, 0.05]))
    assert torch.equal(targets.shares[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_a_soft_label_can_be_as_sure_as_its_teacher():
    sure = torch.full((1, BATCH, 10), 0.0)
    sure[..., 0] = 12.0
    soft = blend(sure, Softening(1.0, False, (0,)), "mean_prob", torch.ones(1, BATCH))
    assert (soft[0, :, 0] > 0.99).all()  # a softmax of probabilities ends at e / (e + 9) = 0.232


def test_the_best_learned_weight_of_a_loss_is_its_inverse():
    both = objective(terms=(Loss(loss="kd"), Loss(loss="cdf", weight=0.5)), weights="learned", label_weight=0.1)
    assert set(both.logs) == {"label", "kd", "cdf"}
    targets = both.targets(LABEL, random(1, BATCH, LABELS, seed=1), PARTNER, WHOLE)
    student = StudentOutputs(random(BATCH, LABELS))
    _, logged = both(student, targets)
    # s begins at 0
    assert all(torch.allclose(logged[f"{name}_weighted"], both.weights[name] * logged[name]) for name in both.logs)
    for name, value in both.logs.items():
        with torch.no_grad():
            value.copy_(logged[name].log())
    both(student, targets)[0].backward()
    assert all(value.grad.abs() < 1e-6 for value in both.logs.values())
    for name, value in both.logs.items():
        best = both(student, targets)[0].detach()
        for change in (-0.1, 0.1):
            with torch.no_grad():
                value.add_(change)
                assert both(student, targets)[0] > best, name
                value.sub_(change)


def test_a_single_loss_has_no_learned_weight_nor_has_the_float_term():
    assert not list(objective(teachers=0, weights="learned").parameters())
    assert set(objective(weights="learned", float_weight=0.5).logs) == {"label", "kd"}


def test_each_term_changes_what_the_student_learns():
    losses = [Loss(loss=name) for name in ("kd", "cross_entropy", "cdf", "dist", "dkd", "embedding", "centre")]
    losses += [Loss(loss=name, student="block", teacher="block") for name in ("structural", "statistical")]
    base, teacher_taps = Loss(loss="kd", weight=0.5), [taps(1)]

    def gradients(*terms):
        both = tapped(base, *terms)
        student = StudentOutputs(random(BATCH, LABELS).requires_grad_(), taps(0, requires_grad=True))
        both(student, both.targets(LABEL, random(1, BATCH, LABELS, seed=1), PARTNER, WHOLE, teacher_taps=teacher_taps))[
            0
        ].backward()
        heads = (student.logits, *student.taps.values())
        return torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in heads])

    plain = gradients()
    for loss in losses:
        changed = gradients(loss)
        assert torch.isfinite(changed).all()
        assert (changed - plain).abs().max() > 1e-6, loss.loss


def test_without_teachers_only_terms_of_the_student_remain_and_the_others_are_named():
    plain = objective(0, terms=(Loss(loss="kd"), Loss(loss="centre", weight=5e-5), Loss(loss="dist")))
    assert plain.weights == {"label": 1.0, "centre": 5e-5}
    assert plain.omitted == ("kd", "dist")
    assert objective(0).omitted == ()
    assert set(objective(0).weights) == {"label"}


def test_the_quantization_aware_phase_leaves_terms_of_taps_out():
    both = objective(
        terms=(Loss(loss="kd"), Loss(loss="embedding"), Loss(loss="centre")), teaching="live", float_weight=0.0
    )
    assert both.weights.keys() == {"label", "kd"}
    assert (both.student_taps, both.teacher_taps) == ((), ((),))


def test_an_objective_names_the_taps_of_student_and_teachers():
    both = objective(
        3,
        teaching="same",
        terms=(
            Loss(loss="embedding", teachers=(0, 2)),
            Loss(loss="structural", student="features.1", teacher="stem", teachers=(2,)),
            Loss(loss="centre", student="head"),
        ),
    )
    assert both.student_taps == ("embedding", "features.1", "head")
    assert both.teacher_taps == (("embedding",), (), ("embedding", "stem"))


def test_projectors_and_centres_are_parameters_that_train_and_travel():
    def build():
        return tapped(
            Loss(loss="embedding"), Loss(loss="structural", student="block", teacher="block"), Loss(loss="centre")
        )

    torch.manual_seed(1)
    before = torch.get_rng_state()
    both, again = build(), build()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(both.state_dict().values(), again.state_dict().values(), strict=True))
    both(
        StudentOutputs(random(BATCH, LABELS), taps(0)),
        both.targets(LABEL, random(1, BATCH, LABELS, seed=1), PARTNER, WHOLE, teacher_taps=[taps(1)]),
    )[0].backward()
    assert all(value.grad.abs().max() > 0 for value in both.parameters())
    assert len(list(both.parameters())) == 5


@pytest.mark.parametrize(
    ("loss", "teaching", "named"),
    [
        (Loss(loss="embedding", temperature=4.0), "live", "temperature = 4.0"),
        (Loss(loss="embedding", standardise=True), "live", "standardise = True"),
        (Loss(loss="kd", alpha=2.0), "clip", "alpha = 2.0"),
        (Loss(loss="kd", student="features.1"), "clip", "student = 'features.1'"),
        (Loss(loss="structural", distance="cosine"), "same", "distance = 'cosine'"),
        (Loss(loss="centre", project=False), "clip", "project = False"),
        (Loss(loss="centre", teachers=(0,)), "clip", "teachers"),
        (Loss(loss="embedding"), "clip", "teaching = 'live'"),
        (Loss(loss="embedding"), "views", "teaching = 'live'"),
        (Loss(loss="structural"), "live", "teaching = 'same'"),
        (Loss(loss="statistical"), "clip", "teaching = 'same'"),
        (Loss(loss="kd", teachers=(2,)), "clip", "names teacher 2"),
        (Loss(loss="kd", teachers=(1, 1)), "clip", "twice"),
    ],
)
def test_contradictory_terms_are_refused_at_once(loss, teaching, named):
    with pytest.raises(InputError, match=r"distill.terms\[1\] \(" + loss.loss) as error:
        objective(2, terms=(Loss(loss="kd"), loss), teaching=teaching)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "named"),
    [
        (Loss(loss="embedding", project=False), (64,), (128,), "64 and the teacher's 128;"),
        (Loss(loss="embedding"), (64,), (16, 8, 8), "64 and the teacher's 16 x 8 x 8"),
        (Loss(loss="structural"), (64,), (64,), "take taps further from the output"),
        (Loss(loss="statistical"), (8, 8, 8), (8, 2, 8), "4 x 4"),
        (Loss(loss="statistical", project=False), (8, 8, 8), (16, 8, 8), "project = true"),
    ],
)
def test_taps_that_do_not_fit_are_refused_with_both_shapes(loss, student, teacher, named):
    with pytest.raises(InputError, match="'embedding' of teacher 0") as error:
        objective(terms=(loss,), teaching="same", shapes=TapShapes({"embedding": student}, ({"embedding": teacher},)))
    assert named in str(error.value)


def test_maps_are_refused_where_the_teacher_has_other_crops_than_the_student():
    maps = TapShapes({"embedding": (16, 8, 8)}, ({"embedding": (16, 8, 8)},))
    with pytest.raises(InputError, match="element by element"):
        objective(terms=(Loss(loss="embedding"),), teaching="live", shapes=maps)
