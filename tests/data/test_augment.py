"""Augmentation on the training device."""

import numpy as np
import torch

from edgekd.data.audio.augment import convolve, gain, mask, mix, mix_loudness, mix_style

PARTNER = torch.tensor([1, 0])


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_gain_is_in_decibels():
    assert torch.allclose(gain(torch.ones(2, 3), torch.tensor([20.0, -20.0])), torch.tensor([[10.0] * 3, [0.1] * 3]))


def test_mix_takes_the_share_of_each_item():
    x = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    assert torch.equal(mix(x, PARTNER, torch.tensor([0.5, 1.0])), torch.tensor([[2.0, 2.0], [3.0, 3.0]]))


def test_a_share_of_one_changes_nothing_to_the_bit():
    x = random(2, 100)
    assert torch.equal(mix(x, PARTNER, torch.ones(2)), x)
    assert torch.equal(mix_loudness(x, PARTNER, torch.ones(2)), x)


def test_loudness_mix_levels_clips_before_it_shares_them():
    time = torch.arange(1600) / 1600
    loud, quiet = torch.sin(2 * torch.pi * 50 * time), 0.1 * torch.sin(2 * torch.pi * 80 * time)
    mixed = mix_loudness(torch.stack([loud, quiet]), PARTNER, torch.tensor([0.5, 0.5]))[0]
    spectrum = torch.fft.rfft(mixed).abs()
    assert torch.isclose(spectrum[50], spectrum[80], rtol=0.01)
    assert torch.isclose(mixed.square().mean(), loud.square().mean(), rtol=0.02)


def test_masks_replace_bins_and_frames_by_the_mean():
    x = random(2, 1, 8, 6)
    start, width = torch.tensor([[1, 5], [0, 0]]), torch.tensor([[2, 1], [0, 0]])
    masked = mask(x, 2, start, width)
    hidden = [1, 2, 5]
    assert torch.equal(masked[0, 0, hidden], x[0].mean().expand(3, 6))
    assert torch.equal(masked[0, 0, [0, 3, 4, 6, 7]], x[0, 0, [0, 3, 4, 6, 7]])
    assert torch.equal(masked[1], x[1])
    assert torch.equal(mask(x, 3, start, width)[0, 0, :, 3], x[0, 0, :, 3])


def test_mixes_are_of_the_first_rows_with_any_row():
    x, partner, share = random(5, 40), torch.tensor([4, 1, 0]), torch.tensor([0.5, 1.0, 0.25])
    assert torch.allclose(
        mix(x, partner, share), torch.stack([(x[0] + x[4]) / 2, x[1], x[2] / 4 + 0.75 * x[0]]), atol=1e-6
    )
    again = mix_loudness(torch.cat([x, random(3, 40)]), partner, share)
    assert torch.equal(mix_loudness(x, partner, share), again)
    assert again.shape == (3, 40)


def test_clips_with_a_response_are_convolved_and_cut_at_the_end():
    waveform, responses = random(3, 50), random(2, 20)
    convolved = convolve(waveform, torch.tensor([2, 0]), responses, torch.tensor([1, 0]))
    for row, response in ((2, 1), (0, 0)):
        expected = np.convolve(waveform[row].numpy(), responses[response].numpy())[:50]
        assert np.allclose(convolved[row].numpy(), expected, atol=1e-5)
    assert torch.equal(convolved[1], waveform[1])
    nothing = torch.empty(0, dtype=torch.int64)
    assert torch.equal(convolve(waveform, nothing, responses, nothing), waveform)
    assert torch.allclose(
        convolve(waveform[:, :8], torch.tensor([0]), responses, torch.tensor([0]))[0], convolved[0, :8], atol=1e-5
    )


def test_a_clip_takes_on_the_statistics_of_each_mel_bin_of_its_partner():
    x = random(3, 1, 4, 50) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] + torch.arange(3.0)[:, None, None, None]
    taken = mix_style(x, torch.tensor([2, 0]), torch.tensor([0.0, 0.25]))
    assert taken.shape == (2, 1, 4, 50)
    assert torch.allclose(taken[0].mean(dim=2), x[2].mean(dim=2), atol=1e-4)
    assert torch.allclose(taken[0].std(dim=2), x[2].std(dim=2), rtol=1e-3)
    assert torch.allclose(taken[1].mean(dim=2), 0.25 * x[1].mean(dim=2) + 0.75 * x[0].mean(dim=2), atol=1e-4)
    shape = (x - x.mean(dim=3, keepdim=True)) / x.std(dim=3, keepdim=True)
    assert torch.allclose(
        (taken[0] - taken[0].mean(dim=2, keepdim=True)) / taken[0].std(dim=2, keepdim=True), shape[0], atol=1e-3
    )
    assert torch.equal(mix_style(x, torch.tensor([0, 1]), torch.ones(2)), x[:2])


def test_channels_are_changed_alike():
    """Each channel changes as a mono clip of that channel would."""
    waveform, share, decibels = random(2, 3, 400), torch.tensor([0.3, 0.8]), torch.tensor([3.0, -3.0])
    response, rows, chosen = random(2, 50), torch.tensor([1]), torch.tensor([0])
    for channel in range(3):
        mono = waveform[:, channel]
        assert torch.equal(gain(waveform, decibels)[:, channel], gain(mono, decibels))
        assert torch.equal(mix(waveform, PARTNER, share)[:, channel], mix(mono, PARTNER, share))
        convolved = convolve(waveform, rows, response, chosen)[:, channel]
        assert torch.allclose(convolved, convolve(mono, rows, response, chosen), atol=1e-5)
    same = waveform[:, :1].expand(2, 3, 400)
    assert torch.allclose(mix_loudness(same, PARTNER, share)[:, 2], mix_loudness(same[:, 0], PARTNER, share), atol=1e-6)
