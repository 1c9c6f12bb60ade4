"""An audio file as chunks of a mono waveform, in bounded memory, of which the first seconds are decoded ahead."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.read import AudioFile, AudioFileError, Loud
from edgekd.data.audio.waveform import to_waveform

AHEAD_S = 10
"""Seconds that are decoded at once. `map_in_order` does that for several files on threads."""


class StreamedFile:
    """A file whose first seconds are decoded at once, and the rest when `chunks` gets there."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        """sample_rate: Hz wanted. An error waits for `chunks`."""
        self.peak: float | None = None
        """As in `edgekd.data.audio.decode.Decoded`."""
        self._first: list[NDArray[np.int16]] = []
        self._rest = _blocks(path, sample_rate, self._set_peak)
        self._error: AudioFileError | None = None
        try:
            decoded = 0
            while decoded < AHEAD_S * sample_rate and (block := next(self._rest, None)) is not None:
                self._first.append(block)
                decoded += len(block)
        except AudioFileError as error:
            self._error = error

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """The mean of all channels, float32 (time,) in [-1, 1], once.

        Raises:
            AudioFileError: the file cannot be used, which may show at its end.
        """
        if self._error is not None:
            raise self._error
        for block in chain(self._first, self._rest):
            yield to_waveform(block)

    def _set_peak(self, peak: float) -> None:
        self.peak = peak


def _blocks(path: Path, sample_rate: int, loud: Loud) -> Iterator[NDArray[np.int16]]:
    with AudioFile(path) as file:
        yield from file.blocks(sample_rate, 1, loud=loud)
