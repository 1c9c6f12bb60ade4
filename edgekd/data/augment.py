"""What changes clips in training, batched on the training device. Every random number is drawn beforehand (`edgekd.distill.view`)."""

import torch
from torch import Tensor

LOUDNESS_FLOOR = 1e-7
"""Least mean square in a loudness comparison: -70 dB of full scale."""
LOUDNESS_RANGE_DB = 30.0
"""A mix never levels a difference of more than this."""


def gain(waveform: Tensor, decibels: Tensor) -> Tensor:
    """Scale each clip of (batch, time) by (batch,) decibels."""
    return waveform * torch.pow(10.0, decibels / 20.0)[:, None]


def mix(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mixup (Zhang et al. 2018): `share * x + (1 - share) * x[partner]`.

    Args:
        x: (batch, ...): waveforms, log-mel or probabilities.
        partner: int64 (batch,), positions in the batch.
        share: (batch,) in 0..1.
    """
    share = share.reshape(-1, *[1] * (x.dim() - 1))
    return torch.lerp(x[partner], x, share)


def mix_loudness(waveform: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix waveforms (batch, time), the partner brought to the clip's own level first, so that `share` is a share of sound pressure.

    The power of a mix is that of the clip, for clips that have nothing in common. After between-class learning (Tokozume et al. 2018),
    which goes to the level of the quieter one.
    """
    power = waveform.square().mean(dim=1).clamp_min(LOUDNESS_FLOOR)
    decibels = (10 * torch.log10(power / power[partner])).clamp(-LOUDNESS_RANGE_DB, LOUDNESS_RANGE_DB)  # of a clip above its partner
    norm = torch.sqrt(share.square() + (1 - share).square())
    own, other = share / norm, (1 - share) / norm * torch.pow(10.0, decibels / 20)
    return waveform * own[:, None] + waveform[partner] * other[:, None]


def mask(log_mel: Tensor, axis: int, start: Tensor, width: Tensor) -> Tensor:
    """Put each item's mean in the place of bands or frames (Park et al. 2019).

    Args:
        log_mel: (batch, 1, mel, frame).
        axis: 2 masks mel bins, 3 masks frames.
        start, width: int64 (batch, masks).
    """
    place = torch.arange(log_mel.shape[axis], device=log_mel.device)
    hidden = ((place >= start[..., None]) & (place < (start + width)[..., None])).any(dim=1)  # (batch, size of axis)
    shape = [log_mel.shape[0], 1, 1, 1]
    shape[axis] = log_mel.shape[axis]
    return torch.where(hidden.reshape(shape), log_mel.mean(dim=(1, 2, 3), keepdim=True), log_mel)
