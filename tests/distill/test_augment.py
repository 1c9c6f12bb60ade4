"""Augmentation on the training device."""

import torch

from edgekd.data.augment import gain, mask, mix, mix_loudness

PARTNER = torch.tensor([1, 0])


def test_gain_is_in_decibels():
    assert torch.allclose(gain(torch.ones(2, 3), torch.tensor([20.0, -20.0])), torch.tensor([[10.0] * 3, [0.1] * 3]))


def test_mix_takes_the_share_of_each_item():
    x = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    assert torch.equal(mix(x, PARTNER, torch.tensor([0.5, 1.0])), torch.tensor([[2.0, 2.0], [3.0, 3.0]]))


def test_a_share_of_one_changes_nothing_to_the_bit():
    x = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix(x, PARTNER, torch.ones(2)), x)
    assert torch.equal(mix_loudness(x, PARTNER, torch.ones(2)), x)


def test_loudness_mix_levels_clips_before_it_shares_them():
    time = torch.arange(1600) / 1600
    loud, quiet = torch.sin(2 * torch.pi * 50 * time), 0.1 * torch.sin(2 * torch.pi * 80 * time)
    mixed = mix_loudness(torch.stack([loud, quiet]), PARTNER, torch.tensor([0.5, 0.5]))[0]
    spectrum = torch.fft.rfft(mixed).abs()
    assert torch.isclose(spectrum[50], spectrum[80], rtol=0.01)
    assert torch.isclose(mixed.square().mean(), loud.square().mean(), rtol=0.02)


def test_masks_hide_the_places_asked_for_with_the_mean():
    x = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    start, width = torch.tensor([[1, 5], [0, 0]]), torch.tensor([[2, 1], [0, 0]])
    masked = mask(x, 2, start, width)
    hidden = [1, 2, 5]
    assert torch.equal(masked[0, 0, hidden], x[0].mean().expand(3, 6))
    assert torch.equal(masked[0, 0, [0, 3, 4, 6, 7]], x[0, 0, [0, 3, 4, 6, 7]])
    assert torch.equal(masked[1], x[1])
    assert torch.equal(mask(x, 3, start, width)[0, 0, :, 3], x[0, 0, :, 3])
