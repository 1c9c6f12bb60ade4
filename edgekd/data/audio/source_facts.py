"""What a store's audio no longer shows of the files that it came from: their sample rates, and stereo that is lost when
its channels are averaged."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_SCALE
from edgekd.data.dataset import ClipSource

CANCELLED = 0.01
"""Share of the channels' mean power below which the power of their mean tells of opposite phase: 20 dB."""
QUIET_RMS = 0.01 * PCM_SCALE
"""int16 steps. A clip that is louder has lost little, and its file is not read again."""
BLOCK = 1 << 16
"""Samples per channel that are read at once."""


@dataclass
class SourceFacts:
    """Facts on the files of clips, collected clip by clip.

    Attributes:
        rates: label -> Hz of the file -> clips.
        cancelled: paths of clips whose channels cancel in their mean.
    """

    rates: dict[str, Counter[int]] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def add(self, source: ClipSource, pcm: NDArray[np.int16]) -> None:
        """Add a clip. pcm: (time, channels) as it is stored. A file that cannot be read is passed over."""
        import soundfile

        try:
            with soundfile.SoundFile(os.fsencode(source.file)) as file:
                self.rates.setdefault(source.clip.label, Counter())[file.samplerate] += 1
                averaged = pcm.shape[1] == 1 < file.channels and _rms(pcm) < QUIET_RMS
                if _cancels(*(_file_power(file, source.cut) if averaged else _power(pcm))):
                    self.cancelled.append(source.clip.path)
        except (OSError, ValueError, RuntimeError):
            return


def _file_power(file: Any, cut: tuple[float, float] | None) -> NDArray[np.float64]:
    """`_power` of an open file, or of the part (start, length), seconds."""
    start, length = (0, -1) if cut is None else (round(seconds * file.samplerate) for seconds in cut)
    file.seek(min(start, file.frames))
    power = np.zeros(2)
    for block in file.blocks(BLOCK, frames=length, always_2d=True):
        power += _power(block)
    return power


def _power(waveform: NDArray[np.int16] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) for (time, channels): sum of squares of the mean of the channels, and the mean of the channels' sums."""
    return np.array(
        [np.square(waveform.mean(1, dtype=np.float64)).sum(), np.square(waveform, dtype=np.float64).sum(0).mean()]
    )


def _rms(pcm: NDArray[np.int16]) -> float:
    return float(np.sqrt(np.square(pcm, dtype=np.float64).mean()))


def _cancels(of_mean: float, of_channels: float) -> bool:
    return of_mean < CANCELLED * of_channels
