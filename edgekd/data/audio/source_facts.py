"""What a store's audio no longer shows of the files that it came from: their sample rates, and stereo that is lost when
its channels are averaged."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.read import AudioFile, AudioFileError
from edgekd.data.audio.waveform import PCM_SCALE
from edgekd.data.dataset import ClipSource

CANCELLED = 0.01
"""Share of the channels' mean power below which the power of their mean tells of opposite phase: 20 dB."""
QUIET_RMS = 0.01 * PCM_SCALE
"""int16 steps. A clip that is louder has lost little, and its file is not read again."""


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
        """Add a clip. pcm: (time, channels) as it is stored. A file that can no longer be read is passed over."""
        try:
            with AudioFile(source.file) as file:
                self.rates.setdefault(source.clip.label, Counter())[file.rate] += 1
                if pcm.shape[1] > 1:
                    cancels = _cancel([pcm])
                else:
                    cancels = _rms(pcm) < QUIET_RMS and _file_cancels(file, source.cut)
        except AudioFileError:
            return
        if cancels:
            self.cancelled.append(source.clip.path)


def channels_cancel(path: Path) -> bool:
    """Whether the channels of an audio file cancel in their mean, as they are of opposite phase; reads all of it.

    Raises:
        AudioFileError: see `AudioFile`.
    """
    with AudioFile(path) as file:
        return _file_cancels(file, None)


def _file_cancels(file: AudioFile, cut: tuple[float, float] | None) -> bool:
    return file.channels > 1 and _cancel(file.blocks(file.rate, file.channels, cut=cut))


def _cancel(blocks: Iterable[NDArray[np.int16]]) -> bool:
    """Whether the channels of blocks, (time, channels), cancel in their mean."""
    of_mean, of_channels = np.sum([_power(block) for block in blocks], axis=0)
    return bool(of_mean < CANCELLED * of_channels)


def _power(waveform: NDArray[np.int16]) -> NDArray[np.float64]:
    """(2,) for (time, channels): sum of squares of the mean of the channels, and the mean of the channels' sums."""
    return np.array(
        [np.square(waveform.mean(1, dtype=np.float64)).sum(), np.square(waveform, dtype=np.float64).sum(0).mean()]
    )


def _rms(pcm: NDArray[np.int16]) -> float:
    return float(np.sqrt(np.square(pcm, dtype=np.float64).mean()))
