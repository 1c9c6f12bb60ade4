"""What a live source gives, block by block, and the ear that makes of it what is wanted."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import to_pcm, to_waveform
from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source.health import Gap

Array = NDArray[np.float32]


class Heard(NamedTuple):
    """A block as the source gives it. samples: float32 (time, channel). rate: Hz. when: time.monotonic() at its end,
    seconds.

    gap: what is missing before it, counted at the source's rate; None where it follows the block before. name: of the
    source.
    """

    samples: Array
    rate: int
    when: float
    gap: Gap | None
    name: str


class Ear:
    """From what a source gives to what is wanted: one channel, a rate, the grid of int16."""

    def __init__(self, channel: int | None, sample_rate: int | None) -> None:
        """channel: from 0; None is the mean of all. sample_rate: Hz wanted; None keeps the source's."""
        self._channel, self._sample_rate = channel, sample_rate
        self._stream: Any = None  # soxr has no type information

    def hear(self, heard: Heard) -> Array:
        """A block's sound, float32 (time,); a resampler holds some back, and begins anew after a gap."""
        samples, rate = heard.samples, heard.rate
        if heard.gap is not None:
            self._stream = None  # it would join what does not belong together
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
