"""Log-mel of a stream of samples of any chunks, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from edgekd.frontend import FrontEnd, emphasise, frames_of

Array = NDArray[np.float32]


class LogMelStream:
    """Log-mel of a stream. Its values are those of `log_mel` of all samples, whatever the chunks.

    It keeps less than one frame of samples between calls, and with "reflect" half a frame more.
    """

    def __init__(self, fe: FrontEnd) -> None:
        self._fe = fe
        self._is_mirrored = fe.padding == "reflect"
        self._begins = self._is_mirrored  # the samples that the start mirrors are not there yet
        self._pending: Array = np.zeros(0 if self._is_mirrored else fe.pad_before, np.float32)
        self._newest: Array = np.empty(0, np.float32)  # of the pre-emphasised samples, as many as the end mirrors
        self._previous: np.float32 | None = None
        self._received = self._frames = 0

    def push(self, samples: Array) -> Array:
        """The frames that more samples, float32 (time,), complete: float32 (n_mels, k), k >= 0."""
        if len(samples):
            kept, new = len(self._pending), len(samples)
            if self._previous is None:
                new = self._fe.emphasised_samples(new)
            pending = np.empty(kept + new, np.float32)
            pending[:kept] = self._pending
            emphasise(self._fe, samples, self._previous, pending[kept:])
            self._pending, self._previous = pending, np.float32(samples[-1])
            self._received += len(samples)
            if self._is_mirrored:
                self._mirror_start(pending[kept:])
        return self._drain()

    def flush(self) -> Array:
        """End the stream: the frames that padding completes, float32 (n_mels, k). Nothing may be pushed after it."""
        fe = self._fe
        if fe.frames(self._received) > self._frames:
            after = fe.pad_after(self._received)
            end = self._newest[-2 : -2 - after : -1] if self._is_mirrored else np.zeros(after, np.float32)
            self._pending = np.concatenate((self._pending, end))
        return self._drain()

    def _mirror_start(self, new: Array) -> None:
        """Put the mirrored first samples before all others, once they have come, and keep what the end will mirror."""
        reach = self._fe.pad_before + 1
        if self._begins and len(self._pending) >= reach:
            self._begins = False
            self._pending = np.concatenate((self._pending[reach - 1 : 0 : -1], self._pending))
        self._newest = np.concatenate((self._newest, new[-reach:]))[-reach:]

    def _drain(self) -> Array:
        fe = self._fe
        ready = 0 if self._begins else max(0, (len(self._pending) - fe.n_fft) // fe.hop_length + 1)
        if ready == 0:
            return np.empty((fe.n_mels, 0), np.float32)
        out = frames_of(fe, [(self._pending, ready)])
        self._pending = self._pending[ready * fe.hop_length :]
        self._frames += ready
        return out
