"""Distances of embeddings, and the centre of a label."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.train.loss.embedding import Centre, Embedding
from edgekd.train.loss.term import StudentOutputs, Targets

BATCH = 4


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distances_are_the_mean_square_and_the_cosine():
    a, b = random(BATCH, 8), random(BATCH, 8, seed=1)
    assert torch.allclose(Embedding("mse", False, (8,), (8,), "")(a, b), (a - b).square().mean(dim=1))
    assert torch.allclose(Embedding("cosine", False, (8,), (8,), "")(a, b), 1 - F.cosine_similarity(a, b), atol=1e-5)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_an_embedding_equal_to_its_teacher_s_has_neither_loss_nor_gradient(distance):
    a = random(BATCH, 8).requires_grad_()
    loss = Embedding(distance, False, (8,), (8,), "")(a, a.detach())
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert a.grad.abs().max() < 1e-6
    nothing = torch.zeros(BATCH, 8, requires_grad=True)
    Embedding(distance, False, (8,), (8,), "")(nothing, random(BATCH, 8)).sum().backward()
    assert torch.isfinite(nothing.grad).all()


def test_a_projector_maps_the_student_and_not_the_teacher():
    term = Embedding("mse", True, (3, 1, 1), (8,), "")
    assert term.projector.weight.shape == (8, 3)
    assert torch.allclose(term(torch.zeros(BATCH, 3, 1, 1), random(BATCH, 8)), random(BATCH, 8).square().mean(dim=1))


def test_maps_are_compared_element_by_element_at_the_smaller_size():
    term = Embedding("mse", False, (3, 8, 6), (3, 4, 12), "")
    a, b = random(BATCH, 3, 8, 6), random(BATCH, 3, 4, 12, seed=1)
    expected = (F.adaptive_avg_pool2d(a, (4, 6)) - F.adaptive_avg_pool2d(b, (4, 6))).square().mean(dim=(1, 2, 3))
    assert torch.allclose(term(a, b), expected)
    assert Embedding("mse", True, (3, 8, 6), (5, 4, 12), "")(a, random(BATCH, 5, 4, 12)).shape == (BATCH,)


def test_a_centre_is_the_mean_of_the_embeddings_of_its_label_and_a_mix_has_the_mixed_centre():
    term = Centre("embedding", 3, (2,))
    a, shares = random(BATCH, 2), torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0.25, 0.75, 0]])
    targets, outputs = Targets(shares, shares), StudentOutputs(torch.zeros(BATCH, 3), {"embedding": a})
    with torch.no_grad():
        term.centres[:2] = torch.stack([a[:2].mean(dim=0), a[2]])
    own = term(outputs, targets)
    assert torch.allclose(own[:2], (a[:2] - a[:2].mean(dim=0)).square().sum(dim=1) / 2)
    assert own[2] == 0
    assert torch.allclose(own[3], (a[3] - shares[3] @ term.centres).square().sum() / 2)
    own[:3].sum().backward()
    assert term.centres.grad.abs().max() < 1e-6
