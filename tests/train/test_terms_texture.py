"""Textures: the pyramid, its edges, and quantization and counting."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.train.loss.term import cosine
from edgekd.train.loss.texture import (
    LEVELS,
    Texture,
    earth_movers_distance,
    edges,
    pyramid,
    quantised_counts,
    statistical,
    structural,
    upsampled,
)

BATCH, CHANNELS = 3, 6
TEXTURES = (structural, statistical)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 32), (13, 7), (4, 5)])
def test_the_levels_of_a_pyramid_rebuild_its_map(size):
    x = random(BATCH, CHANNELS, *size)
    levels = pyramid(x)
    assert len(levels) == 3
    assert [tuple(level.shape[2:]) for level in levels] == [
        size,
        tuple(-(-s // 2) for s in size),
        tuple(-(-s // 4) for s in size),
    ]
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        rebuilt = level + upsampled(rebuilt, level.shape)
    assert torch.allclose(rebuilt, x, atol=1e-6)
    assert all(level.abs().max() < 1e-6 for level in pyramid(torch.ones(1, 1, *size))[:-1])


def test_edges_are_those_of_sobel_masks_at_eight_angles_and_zero_in_a_constant_map():
    ring, corners = [1, 2, 1, 0, -1, -2, -1, 0], [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    masks = torch.zeros(8, 1, 3, 3)
    for angle in range(8):
        for index, (row, column) in enumerate(corners):
            masks[angle, 0, row, column] = ring[(index + angle) % 8] / 8

    def expected(x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None], masks).unflatten(
            0, x.shape[:2]
        )

    a, b = random(BATCH, CHANNELS, 9, 7), random(BATCH, CHANNELS, 9, 7, seed=1)
    assert torch.allclose(edges(a), expected(a)[:, :, :4], atol=1e-6)
    assert torch.allclose(
        cosine(edges(a).flatten(1), edges(b).flatten(1), 1),
        F.cosine_similarity(expected(a).flatten(1), expected(b).flatten(1)),
        atol=1e-6,
    )
    assert edges(torch.full((1, 2, 5, 7), 3.0)).abs().max() < 1e-6


def test_counting_sums_to_1_and_separates_ordered_from_random_texture():
    pattern = random(1, CHANNELS, LEVELS * 2, 1)
    diagonal = (torch.arange(24)[:, None] - torch.arange(24)) % (LEVELS * 2)
    ordered = pattern[:, :, diagonal.flatten(), 0].reshape(1, CHANNELS, 24, 24)  # constant along the counted diagonal
    shuffled = ordered.flatten(2)[..., torch.randperm(24 * 24, generator=torch.Generator().manual_seed(0))].reshape(
        ordered.shape
    )
    counts, mixed = quantised_counts(ordered)[0], quantised_counts(shuffled)[0]
    assert counts.shape == (LEVELS, LEVELS)
    assert torch.allclose(torch.stack([counts.sum(), mixed.sum()]), torch.ones(2))
    assert min(counts.min(), mixed.min()) >= 0
    away = (torch.arange(LEVELS)[:, None] - torch.arange(LEVELS)).abs() > 1
    assert counts[away].sum() < 1e-6
    assert mixed[away].sum() > 0.1
    assert statistical(ordered, shuffled) > 0.01


def test_bins_are_as_wide_as_the_range_of_a_map():
    direction = F.normalize(random(1, CHANNELS, 1, 1), dim=1)
    texture = random(1, CHANNELS, 12, 12, seed=1)
    strong, weak = quantised_counts(direction + 0.3 * texture)[0], quantised_counts(direction + 0.1 * texture)[0]
    similarity = cosine(direction + 0.1 * texture, (direction + 0.1 * texture).mean(dim=(2, 3), keepdim=True), 1)
    assert similarity.max() - similarity.min() < 1 / LEVELS  # of bins of a fixed width it would fill one
    assert (weak.sum(dim=1) > 0.01).all()
    assert (strong.sum(dim=1) > 0.01).all()


def test_the_distance_of_histograms_grows_with_their_shift():
    at = torch.zeros(LEVELS, LEVELS, LEVELS)
    for level in range(LEVELS):
        at[level, level, level] = 1.0
    distances = earth_movers_distance(at[:1].expand(LEVELS, -1, -1), at)
    assert distances[0] == 0
    assert (distances.diff() > 0).all()
    across = earth_movers_distance(
        F.pad(torch.ones(1, LEVELS, 1), (0, LEVELS - 1)),
        torch.stack([F.pad(torch.ones(LEVELS, 1), (shift, LEVELS - 1 - shift)) for shift in range(LEVELS)]),
    )
    assert (across.diff() > 0).all()


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_map_equal_to_its_teacher_s_has_neither_loss_nor_gradient(texture):
    x = random(BATCH, CHANNELS, 12, 10).abs().requires_grad_()
    loss = texture(x, x.detach())
    assert loss.shape == (BATCH,)
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert x.grad.abs().max() < 1e-5
    y = random(BATCH, CHANNELS, 12, 10, seed=1).abs().requires_grad_()
    texture(y, x.detach()).sum().backward()
    assert y.grad.abs().max() > 1e-5


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("value", [0.0, 1.0, -300.0])
def test_constant_maps_have_finite_gradients_and_no_distance_from_themselves(texture, value):
    x = torch.full((BATCH, CHANNELS, 9, 8), value).requires_grad_()
    assert texture(x, x.detach()).abs().max() < 1e-6
    loss = texture(x, random(BATCH, CHANNELS, 9, 8).relu())
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() < 1e4


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_do_not_change_with_the_scale_of_a_map(texture):
    x, y = random(BATCH, CHANNELS, 12, 10).abs(), random(BATCH, CHANNELS, 12, 10, seed=1).abs()
    assert torch.allclose(texture(5 * x, y), texture(x, y), atol=1e-4)


@pytest.mark.parametrize("name", ["structural", "statistical"])
def test_the_teacher_s_map_takes_the_student_s_channels_and_both_the_smaller_size(name):
    student, teacher = random(BATCH, 4, 12, 10), random(BATCH, 9, 6, 20, seed=1)
    term = Texture(name, True, (4, 12, 10), (9, 6, 20), "")
    assert term.projector[0].weight.shape == (4, 9)
    loss = term(student, teacher)
    assert loss.shape == (BATCH,)
    small = F.adaptive_avg_pool2d(student, (6, 10)), F.adaptive_avg_pool2d(term.projector(teacher), (6, 10))
    assert (small[1] >= 0).all()
    assert torch.allclose(loss, (structural if name == "structural" else statistical)(*small))
