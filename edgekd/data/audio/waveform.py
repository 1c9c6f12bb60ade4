"""Waveforms: float samples in [-1, 1] from int16 PCM and back, and the windows in them."""

from collections.abc import Iterable, Iterator

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


def stream_windows(chunks: Iterable[NDArray[np.float32]], window: int, hop: int) -> Iterator[NDArray[np.float32]]:
    """The windows that start at `window_starts`, of a recording that comes in chunks; one that is shorter than a window
    is padded with zeros.

    Args:
        chunks: float32 (time,), of any lengths.
        window, hop: samples.

    Yields:
        float32 (window,). Little more than a window and a chunk is in memory.
    """
    held, start, yielded = np.empty(0, np.float32), 0, False  # start: of the next window, counted in `held`
    for chunk in chunks:
        held = np.concatenate((held, chunk))
        while start + window <= len(held):
            yield held[start : start + window]
            start, yielded = start + hop, True
        start, held = max(0, start - len(held)), held[start:]
    if not yielded:
        yield np.pad(held, (0, window - len(held)))
