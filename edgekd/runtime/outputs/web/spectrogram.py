"""The columns of a live picture: new frames of each window, thinned and in bytes."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from edgekd.frontend import FrontEnd
from edgekd.runtime.outputs.base import Moment

BANDS = 64
"""Most rows."""
COLUMNS_PER_S = 16.0
"""About; a whole number of frames make a column."""
KEPT_S = 30.0
"""Of columns for those who come later."""

Array = NDArray[np.float32]


class Spectrogram:
    """Columns, bytes from the lowest band to the highest: 0 where nothing was computed, else 1 (the front end's floor)
    to 255 (a full-scale sine), even steps of the logarithm."""

    def __init__(self, fe: FrontEnd) -> None:
        """fe: of the windows that will come."""
        self._fe = fe
        self._per_column = max(1, round(fe.sample_rate / fe.hop_length / COLUMNS_PER_S))
        self.column_s = self._per_column * fe.hop_length / fe.sample_rate
        self.bands = min(BANDS, fe.n_mels)
        self._edges = np.arange(self.bands) * fe.n_mels // self.bands
        self._floor = math.log(fe.log_floor)
        # a Hann window's sum is half its length, a sine's half
        self._range = max(1.0, 2.0 * math.log(fe.win_length / 4.0) - self._floor)
        self._taken = 0  # frames of the sound so far
        self._rest = np.empty((fe.n_mels, 0), np.float32)
        self._kept: deque[bytes] = deque(maxlen=round(KEPT_S / self.column_s))

    @property
    def recent(self) -> bytes:
        """The columns of the last `KEPT_S` seconds."""
        return b"".join(self._kept)

    def take(self, t: float, moment: Moment) -> bytes:
        """The columns that the window which ends at `t` seconds completes."""
        frames = round(t * self._fe.sample_rate / self._fe.hop_length)
        new, self._taken = frames - self._taken, frames
        if moment.features is None:
            whole = np.full(
                (self._fe.n_mels, min(max(new, 0), self._fe.frames(moment.manifest.window))), -np.inf, np.float32
            )
        else:
            whole = moment.features[:, max(0, moment.features.shape[1] - max(new, 0)) :]
        frames_now = np.concatenate((self._rest, whole), axis=1)
        count = frames_now.shape[1] // self._per_column
        self._rest = frames_now[:, count * self._per_column :]
        if not count:
            return b""
        columns = self._quantised(
            frames_now[:, : count * self._per_column].reshape(-1, count, self._per_column).mean(axis=2)
        )
        self._kept.extend(column.tobytes() for column in columns)
        return columns.tobytes()

    def _quantised(self, features: Array) -> NDArray[np.uint8]:
        """float32 (mel, column), -inf where nothing was computed -> uint8 (column, band)."""
        bands = np.maximum.reduceat(features, self._edges, axis=0)  # a mean of logarithms would hide a tone
        level = (bands * self._fe.std + self._fe.mean - self._floor) / self._range
        steps = 1.0 + 254.0 * np.clip(level, 0.0, 1.0)
        return np.ascontiguousarray(np.where(np.isfinite(bands), np.rint(steps), 0.0).astype(np.uint8).T)
