"""Waveforms: float samples in [-1, 1] from int16 PCM and back, and where windows start in them."""

import numpy as np
from numpy.typing import NDArray

PCM_TYPE = np.dtype("<i2")
PCM_SCALE = 32768.0
"""int16 samples per unit of a [-1, 1] waveform."""


def to_waveform(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """(time, channels) int16 -> (time,) float32 in [-1, 1], the mean of the channels."""
    mono: NDArray[np.float32] = (
        pcm[:, 0].astype(np.float32) if pcm.shape[1] == 1 else pcm.mean(axis=1, dtype=np.float32)
    )
    return mono / np.float32(PCM_SCALE)


def to_pcm(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """float32 in [-1, 1] -> int16 of the same shape: rounded, clipped, cast."""
    pcm: NDArray[np.int16] = np.clip(np.rint(waveform * np.float32(PCM_SCALE)), -PCM_SCALE, PCM_SCALE - 1).astype(
        PCM_TYPE
    )
    return pcm


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """First samples of the complete windows in `length` samples; [0] where `length` is shorter than a window."""
    return list(range(0, max(length - window, 0) + 1, hop))
