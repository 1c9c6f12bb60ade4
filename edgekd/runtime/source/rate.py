"""The rate at which a live source really gives samples: its blocks against the clock."""

from collections.abc import Sequence

import numpy as np

RATE_ERROR, LARGE_RATE_ERROR = 1.0, 5.0
"""Percent. The clock at the end of a block is uncertain by some ten milliseconds, half a percent of two seconds. A
wrong rate differs by far more."""
SETTLE_S, MEASURED_S = 0.5, 5.0
"""Seconds on the clock. What comes first is left out, because a source begins with samples that were kept; then it is
measured for so long."""
MARK_S, MIN_MARKS = 0.1, 5
"""Least time between two blocks that are noted, seconds; and how many it takes at least."""
RATE_ADVICE = "give its own rate with --rate, or choose the device by --mic hw:CARD,DEVICE"


def rate_error(clock: Sequence[tuple[int, float]], rate: int) -> float:
    """How much faster samples come than they should, percent. The median over all pairs of blocks tolerates blocks that
    come late or all at once.

    Args:
        clock: growing numbers of samples and the times of their arrival, seconds; two at least.
        rate: nominal, Hz.
    """
    numbers, times = np.array(clock, np.float64).reshape(-1, 2).T
    earlier, later = np.triu_indices(len(numbers), 1)
    seconds_a_sample = float(np.median((times[later] - times[earlier]) / (numbers[later] - numbers[earlier])))
    return 100.0 * (1.0 / (rate * max(seconds_a_sample, 1e-12)) - 1.0)


class RateWatch:
    """Compares the rate at which samples come without a break with what was promised."""

    def __init__(self, rate: int) -> None:
        """rate: nominal, Hz."""
        self._rate, self._clock = rate, list[tuple[int, float]]()
        self._origin: float | None = None
        self._measured = False
        self.is_wrong = False

    def received(self, number: int, when: float, *, late: bool) -> str | None:
        """Note a block. Returns what is wrong, once: after `MEASURED_S`, or at once where samples are late.

        Args:
            number: of samples until its end.
            when: clock at its end, seconds.
            late: whether the samples are so late that some may be lost.
        """
        self._origin = when if self._origin is None else self._origin
        if self._measured or when - self._origin < SETTLE_S:
            return None
        if not self._clock or when - self._clock[-1][1] >= MARK_S:
            self._clock.append((number, when))
        if len(self._clock) < MIN_MARKS or (not late and when - self._clock[0][1] < MEASURED_S):
            return None
        error = rate_error(self._clock, self._rate)
        self._measured, self.is_wrong = True, abs(error) > LARGE_RATE_ERROR
        if not self.is_wrong:
            return None
        return (
            f"the source gives about {self._rate * (1.0 + error / 100.0):.0f} samples a second and not {self._rate}, so"
            f" decisions are wrong; {RATE_ADVICE}"
        )
