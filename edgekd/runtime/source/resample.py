"""A block of a live source, and its conversion to mono at the wanted rate."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import to_pcm, to_waveform
from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source.health import Gap

Array = NDArray[np.float32]


class CapturedBlock(NamedTuple):
    """A block as the source gives it. samples: float32 (time, channel). rate: Hz. when: time.monotonic() at its end,
    seconds. gap: what is missing before it, counted at the source's rate; None where it follows the block before. name:
    of the source."""

    samples: Array
    rate: int
    when: float
    gap: Gap | None
    name: str


class Resampler:
    """Converts blocks to one channel, the wanted rate and the grid of int16."""

    def __init__(self, channel: int | None, sample_rate: int | None) -> None:
        """channel: from 0; None for the mean of all. sample_rate: Hz wanted; None keeps the source's."""
        self._channel, self._sample_rate = channel, sample_rate
        self._stream: Any = None  # soxr has no type information

    def resample(self, block: CapturedBlock) -> Array:
        """The waveform of a block, float32 (time,). A resampler holds some samples back, and starts anew after a
        gap."""
        samples, rate = block.samples, block.rate
        if block.gap is not None:
            self._stream = None  # it would join waveforms that do not belong together
        if self._channel is not None and self._channel >= samples.shape[1]:
            raise InputError(f"channel is {self._channel}; the source has {samples.shape[1]}, counted from 0")
        mono: Array = samples.mean(axis=1, dtype=np.float32) if self._channel is None else samples[:, self._channel]
        if self._sample_rate not in (None, rate):
            if self._stream is None:
                try:
                    import soxr
                except ImportError:
                    raise MissingExtraError(f"soxr (to bring {rate} Hz to {self._sample_rate} Hz)", "mic") from None
                self._stream = soxr.ResampleStream(rate, self._sample_rate, 1, dtype="float32")
            mono = self._stream.resample_chunk(np.ascontiguousarray(mono))
        return to_waveform(to_pcm(mono[:, None]))
