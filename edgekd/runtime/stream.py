"""Cuts a stream of samples into windows by counting samples, and computes the log-mel of each. Overlapping windows
share frames where possible, so that each frame is computed once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, frames_of, log_mel, padded
from edgekd.runtime.config_tables import MIN_HOP_S

Array = NDArray[np.float32]


class Window(NamedTuple):
    """A window of a stream. start, end: samples since the start of the stream. rms: 0..1. waveform: float32 (time,),
    never changed later. features: float32 (mel, frame), None below the gate."""

    start: int
    end: int
    rms: float
    waveform: Array
    features: Array | None


class WindowStream:
    """The windows of a stream. Their features equal `log_mel` of each window alone to the bit, whatever the sizes of
    the chunks.

    Window k starts at k hops. Where overlapping windows can share frames, its start is rounded down to the grid of
    frames, by less than `hop_length` samples and without drift. Then only new frames are computed, and those at the
    window's edges: the frames that padding reaches, and with pre-emphasis the first. The stream holds one window of
    samples besides the current chunk.
    """

    def __init__(self, fe: FrontEnd, window: int, hop_s: float, gate_rms: float = 0.0) -> None:
        """fe: the front end. window: samples. hop_s: seconds from window to window, `MIN_HOP_S` to the window's length.
        gate_rms: 0..1; features of windows with a lower rms are not computed."""
        if not MIN_HOP_S <= hop_s <= max(window / fe.sample_rate, MIN_HOP_S):
            raise InputError(
                f"hop is {hop_s:g} s; it must be {MIN_HOP_S:g} s to {max(window / fe.sample_rate, MIN_HOP_S):g} s "
                "(the model's window)"
            )
        self._fe, self._window, self._hop, self._gate_rms = fe, window, round(hop_s * fe.sample_rate), gate_rms
        self._frames = fe.frames(window)
        starts = np.arange(self._frames) * fe.hop_length - fe.pad_before
        # frames that reach over the window's edges; a pre-emphasis that is not ahead reads the sample before the frame
        self._left = int(np.sum(starts <= 0 if fe.pre_emphasis and not fe.ahead else starts < 0))
        self._right = int(np.sum(starts + fe.n_fft > fe.emphasised_samples(window)))
        self._shares = self._frames - self._left - self._right > self._hop // fe.hop_length
        self._grid = fe.hop_length if self._shares else 1
        self._newest: Array | None = None  # features of the newest window that has some
        self._newest_start = 0
        self._buffer = self._samples = np.empty(0, np.float32)  # `_samples` is a view into `_buffer`
        self._end = self._first = self._count = 0

    @property
    def received(self) -> int:
        """Samples pushed since the start."""
        return self._first + len(self._samples)

    @property
    def lacking(self) -> int:
        """Samples that the next window still lacks."""
        return self._start() + self._window - self.received

    def push(self, samples: Array) -> Iterator[Window]:
        """Take samples, float32 (time,), and yield the windows that they complete."""
        self._append(samples)
        while (start := self._start()) + self._window <= self.received:
            self._samples = self._samples[start - self._first :]
            self._first = start
            waveform = self._samples[: self._window]
            rms = _rms(waveform)
            yield Window(
                start, start + self._window, rms, waveform, None if rms < self._gate_rms else self._features(waveform)
            )
            self._count += 1

    def _append(self, samples: Array) -> None:
        """Append samples to those that are held. Samples are moved only when the buffer is full, each of them once in
        several calls."""
        held, new = len(self._samples), len(samples)
        if self._end + new > len(self._buffer):
            larger, self._end = np.empty(2 * (held + new), np.float32), held
            larger[:held], self._buffer = self._samples, larger
        self._buffer[self._end : self._end + new] = samples
        self._end += new
        self._samples = self._buffer[self._end - held - new : self._end]

    def _start(self) -> int:
        exact = self._count * self._hop
        return exact - exact % self._grid

    def _features(self, waveform: Array) -> Array:
        """Log-mel of the window that starts at `self._first`: float32 (mel, frame)."""
        if not self._shares:
            return log_mel(self._fe, waveform)
        middle, new = self._frames - self._left - self._right, (self._first - self._newest_start) // self._grid
        if self._newest is None or new > middle:
            new = middle
        last = self._frames - self._right - new  # the first of the last frames, which are all computed
        parts = [self._end_of(waveform, last)]
        if self._left:
            parts.insert(0, self._start_of(waveform))
        computed = frames_of(self._fe, parts)  # (mel, frame)
        features = np.empty((self._fe.n_mels, self._frames), np.float32)
        features[:, : self._left] = computed[:, : self._left]
        if self._newest is not None:
            features[:, self._left : last] = self._newest[:, self._left + new : self._frames - self._right]
        features[:, last:] = computed[:, self._left :]
        self._newest, self._newest_start = features, self._first
        return features

    def _start_of(self, waveform: Array) -> tuple[Array, int]:
        """The part of a window, as `frames_of` takes it, in which its first frames lie that are not shared."""
        fe = self._fe
        reach = (self._left - 1) * fe.hop_length + fe.n_fft - fe.pad_before
        mirrored = fe.pad_before + 1
        samples = max(reach, mirrored) + bool(fe.ahead)
        return padded(fe, waveform[:samples], fe.pad_before, 0), self._left

    def _end_of(self, waveform: Array, first: int) -> tuple[Array, int]:
        """The part of a window in which its frames from number `first` on lie."""
        fe = self._fe
        start = first * fe.hop_length - fe.pad_before
        extra = min(start, 1)  # the pre-emphasis and the mirror read one sample before
        signal = padded(fe, waveform[start - extra :], 0, fe.pad_after(self._window))
        return signal[extra:], self._frames - first


def _rms(waveform: Array) -> float:
    """Root mean square of float32 (time,), in float64, where the sum is exact for samples on the grid of int16."""
    exact = waveform.astype(np.float64)
    return math.sqrt(float(np.dot(exact, exact)) / len(exact))
