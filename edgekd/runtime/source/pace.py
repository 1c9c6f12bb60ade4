"""When the samples that a window still lacks will have come, so that the listener can sleep until then."""

import math

MAX_PAUSE_S = 0.25
"""Longest sleep, seconds: signals are noticed after it."""
JITTER_S = 0.02
"""By how much an arrival may come earlier than the arrivals before, seconds, in a stream that is a live one."""


class Pace:
    """The clock of a stream whose samples may come in real time, as from a microphone, or at once, as from a file.

    Only an arrival that was waited for gives the time of its newest sample. Two such arrivals in a row that fit real
    time show a live stream; samples that are there ahead of real time end that.
    """

    def __init__(self) -> None:
        self._start = -math.inf  # clock at the first sample
        self._live = False

    def arrived(self, now: float, received_s: float, *, waited: bool) -> None:
        """Note an arrival. now: any clock in seconds. received_s: seconds of samples since the start, with those that
        can be read at once. waited: nothing was there before."""
        start = now - received_s
        if waited:
            self._live = start >= self._start - JITTER_S > -math.inf
            self._start = start
        else:
            self._live = self._live and start >= self._start - JITTER_S
            self._start = min(self._start, start)

    def pause(self, now: float, wanted_s: float) -> float:
        """Seconds to sleep until a live stream has come to `wanted_s`, seconds of samples since its start; 0 for any
        other stream."""
        return min(max(0.0, self._start + wanted_s - now), MAX_PAUSE_S) if self._live else 0.0
