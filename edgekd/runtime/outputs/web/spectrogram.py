"""The columns of the live spectrogram: the new frames of each window, averaged and quantised to bytes."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from edgekd.frontend import FrontEnd
from edgekd.runtime.outputs.base import Observation

BANDS = 64
"""Most rows."""
COLUMNS_PER_S = 16.0
"""Approximate; a column is a whole number of frames."""
KEPT_S = 30.0
"""Seconds of columns that are kept for new clients."""

Array = NDArray[np.float32]


class Spectrogram:
    """Columns of bytes from the lowest band to the highest: 0 where no features were computed, otherwise 1 (the front
    end's floor) to 255 (a full-scale sine) in even steps of the logarithm."""

    def __init__(self, fe: FrontEnd) -> None:
        """fe: front end of the windows to come."""
        self._fe = fe
        self._per_column = max(1, round(fe.sample_rate / fe.hop_length / COLUMNS_PER_S))
        self.column_s = self._per_column * fe.hop_length / fe.sample_rate
        self.bands = min(BANDS, fe.n_mels)
        self._edges = np.arange(self.bands) * fe.n_mels // self.bands
        self._floor = fe.log_least
        # the peak of a full-scale sine is half the sum of a Hann window, which is half its length
        self._range = max(1.0, 2.0 * math.log(fe.win_length / 4.0) - self._floor)
        self._taken = 0  # frames so far
        self._rest = np.empty((fe.n_mels, 0), np.float32)
        self._kept: deque[bytes] = deque(maxlen=round(KEPT_S / self.column_s))

    @property
    def recent(self) -> bytes:
        """The columns of the last `KEPT_S` seconds."""
        return b"".join(self._kept)

    def add(self, t: float, observation: Observation) -> bytes:
        """The columns that the window ending at `t` seconds completes."""
        frames = round(t * self._fe.sample_rate / self._fe.hop_length)
        new, self._taken = frames - self._taken, frames
        if observation.features is None:
            new_frames = np.full(
                (self._fe.n_mels, min(max(new, 0), self._fe.frames(observation.manifest.window))), -np.inf, np.float32
            )
        else:
            new_frames = observation.features[:, max(0, observation.features.shape[1] - max(new, 0)) :]
        frames_now = np.concatenate((self._rest, new_frames), axis=1)
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
        """float32 (mel, column), -inf where no features were computed -> uint8 (column, band)."""
        bands = np.maximum.reduceat(
            features, self._edges, axis=0
        )  # the maximum, because a mean of logarithms would hide a tone
        level = (bands * self._fe.std + self._fe.mean - self._floor) / self._range
        steps = 1.0 + 254.0 * np.clip(level, 0.0, 1.0)
        return np.ascontiguousarray(np.where(np.isfinite(bands), np.rint(steps), 0.0).astype(np.uint8).T)
