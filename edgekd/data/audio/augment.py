"""Augmentation of batches on the training device. `edgekd.train.batches.epochs` draws the random numbers beforehand."""

import torch
from scipy.fft import next_fast_len
from torch import Tensor

LOUDNESS_FLOOR = 1e-7
"""Least mean square in a loudness comparison: -70 dB of full scale."""
LOUDNESS_RANGE_DB = 30.0
"""A mix levels at most this difference."""
STYLE_FLOOR = 1e-6
"""Added to a mel bin's variance, so that the deviation of a constant bin is not zero."""


def gain(waveform: Tensor, decibels: Tensor) -> Tensor:
    """Scale each clip of (batch, ..., time) by (batch,) decibels."""
    return waveform * _broadcast(torch.pow(10.0, decibels / 20.0), waveform)


def change_speed(waveform: Tensor, speed: Tensor, samples: int) -> Tensor:
    """Play clips at other speeds, which also changes their pitch, by linear interpolation.

    Args:
        waveform: float32 (batch, ..., time). Beyond its end the last sample repeats.
        speed: float (batch,) factors, above 1 faster.
        samples: of the result.

    Returns:
        (batch, ..., samples).
    """
    # (batch, ..., samples)
    position = torch.arange(samples, device=waveform.device, dtype=torch.float64) * _broadcast(speed.double(), waveform)
    position = position.clamp(max=waveform.shape[-1] - 1)
    before = position.long()
    after = (before + 1).clamp(max=waveform.shape[-1] - 1)
    share = (position - before).to(waveform.dtype)
    shape = (*waveform.shape[:-1], samples)
    return torch.lerp(waveform.gather(-1, before.expand(shape)), waveform.gather(-1, after.expand(shape)), share)


def convolve(waveform: Tensor, rows: Tensor, responses: Tensor, chosen: Tensor) -> Tensor:
    """Convolve some clips with impulse responses. What goes on after the end of the clip is cut.

    Args:
        waveform: float32 (batch, ..., time).
        rows: int64 (k,) clips to change, each once.
        responses: float32 (responses, taps).
        chosen: int64 (k,) response of each.
    """
    if not len(rows):  # torch refuses an FFT of nothing
        return waveform
    samples = waveform.shape[-1]
    responses = responses[:, :samples]
    size = next_fast_len(samples + responses.shape[1] - 1, real=True)
    response = torch.fft.rfft(responses, n=size)[chosen]  # (k, bins)
    dry = waveform[rows]
    spectrum = torch.fft.rfft(dry, n=size) * response.reshape(len(rows), *[1] * (dry.dim() - 2), -1)
    return waveform.index_copy(0, rows, torch.fft.irfft(spectrum, n=size)[..., :samples])


def mix(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mixup (Zhang et al. 2018) of the first clips with others: `share * x + (1 - share) * x[partner]`.

    Args:
        x: (rows, ...): waveforms, log-mel or probabilities.
        partner: int64 (batch,), rows; batch <= rows.
        share: (batch,) in 0..1.

    Returns:
        (batch, ...).
    """
    return torch.lerp(x[partner], x[: len(partner)], _broadcast(share, x))


def mix_loudness(waveform: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix waveforms (rows, ..., time) as `mix` does, after bringing the partner to the clip's own level.

    `share` is a share of sound pressure. For uncorrelated clips the power of the mix is that of the clip.
    After between-class learning (Tokozume et al. 2018), which takes the level of the quieter one.
    """
    items = waveform[: len(partner)]
    power = waveform.square().flatten(1).mean(dim=1).clamp_min(LOUDNESS_FLOOR)
    above = power[: len(partner)] / power[partner]
    decibels = (10 * torch.log10(above)).clamp(-LOUDNESS_RANGE_DB, LOUDNESS_RANGE_DB)  # of a clip above its partner
    norm = torch.sqrt(share.square() + (1 - share).square())
    own, other = share / norm, (1 - share) / norm * torch.pow(10.0, decibels / 20)
    return items * _broadcast(own, items) + waveform[partner] * _broadcast(other, items)


def mix_style(log_mel: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Freq-MixStyle (Schmid et al. 2022, after Zhou et al. 2021): the mean and deviation over frames of each mel bin
    become those of a mix.

    Args:
        log_mel: (rows, channels, mel, frame).
        partner: int64 (batch,), rows whose statistics are mixed in; batch <= rows.
        share: (batch,) in 0..1, a clip's own share in them; 1 changes nothing.

    Returns:
        (batch, channels, mel, frame).
    """
    variance, mean = torch.var_mean(log_mel, dim=3, keepdim=True, correction=0)  # (rows, channels, mel, 1)
    deviation = torch.sqrt(variance + STYLE_FLOOR)
    factor = mix(deviation, partner, share) / deviation[: len(partner)]
    return log_mel[: len(partner)] * factor + (mix(mean, partner, share) - mean[: len(partner)] * factor)


def filter_bands(log_mel: Tensor, rise: Tensor, floor: float) -> Tensor:
    """Add a gain to each mel bin, as the frequency response of a microphone does (FilterAugment, Nam et al. 2022).

    Args:
        log_mel: (batch, channels, mel, frame).
        rise: (batch, mel), in the unit of the log-mel.
        floor: least value of a log-mel.
    """
    return (log_mel + rise[:, None, :, None]).clamp_min(floor)


def mask(log_mel: Tensor, axis: int, start: Tensor, width: Tensor) -> Tensor:
    """Replace bands of mel bins or runs of frames by each item's mean (SpecAugment, Park et al. 2019).

    Args:
        log_mel: (batch, channels, mel, frame).
        axis: 2 masks mel bins, 3 masks frames.
        start, width: int64 (batch, masks).
    """
    index = torch.arange(log_mel.shape[axis], device=log_mel.device)
    hidden = ((index >= start[..., None]) & (index < (start + width)[..., None])).any(dim=1)  # (batch, size of axis)
    shape = [log_mel.shape[0], 1, 1, 1]
    shape[axis] = log_mel.shape[axis]
    return torch.where(hidden.reshape(shape), log_mel.mean(dim=(1, 2, 3), keepdim=True), log_mel)


def _broadcast(factor: Tensor, x: Tensor) -> Tensor:
    """(batch,) factors in the shape that multiplies (batch, ...)."""
    return factor.reshape(-1, *[1] * (x.dim() - 1))
