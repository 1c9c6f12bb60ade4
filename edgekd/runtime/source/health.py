"""How a live source is doing: from blocks and silences to states. No processes and no clock here, so that every rule
can be tested."""

from typing import Literal, NamedTuple

import msgspec

State = Literal["HEALTHY", "RECOVERING", "FAILED"]
"""HEALTHY: sound is heard. RECOVERING: not now, or not to be trusted. FAILED: for long; it is tried again all the
same."""
RELOADED = "reloaded with the model"
NOT_RELOADED = "not reloaded, all stays as it was"
WENT_BACK = "back to the model and the source before the reload"
"""How the reason of a line on a reload begins; the state is what it was."""


class Change(msgspec.Struct, frozen=True):
    """A change of state, a line of its own. t: seconds since the start. state: the new one. reason: why."""

    t: float
    state: State
    reason: str


class Turn(NamedTuple):
    """A change of state on its way through a stream of samples, which knows the time. silent_s: since the newest
    sample, seconds."""

    state: State
    reason: str
    silent_s: float = 0.0


class Gap(NamedTuple):
    """A place where sound is missing. dropped: samples that were heard and lost. away_s: seconds in which nothing was
    heard."""

    dropped: int
    away_s: float


class Watch(msgspec.Struct, frozen=True):
    """Limits, all in seconds.

    stall_s: without a block. open_s: from the start of a process until its device is open. zeros_s: of nothing but
    zeros or bad samples, which real microphones never give for so long. heal_s: of good sound until HEALTHY. failed_s:
    without good sound until FAILED.
    first_wait_s, last_wait_s: between attempts, doubling. lag_s: by which the clock runs ahead of the samples at once
    when samples were lost on the way. queue_s: of sound that waits while decisions are late, then the oldest is
    dropped.
    """

    stall_s: float = 2.0
    open_s: float = 10.0
    zeros_s: float = 1.5
    heal_s: float = 0.3
    failed_s: float = 30.0
    first_wait_s: float = 0.25
    last_wait_s: float = 2.0
    lag_s: float = 1.0
    queue_s: float = 10.0


class Health:
    """The state of a source. `now` is any clock in seconds that does not jump."""

    def __init__(self, watch: Watch, now: float) -> None:
        """Nothing is heard yet and no state is known."""
        self._watch, self._last_good = watch, now
        self._good_s = 0.0
        self._bad_since: float | None = None
        self.state: State | None = None

    def has_only_zeros(self, now: float) -> bool:
        """Whether blocks come that have held no good sound for long. A pause before them counts: a device that is
        replaced may make one."""
        return self._bad_since is not None and now - self._bad_since >= self._watch.zeros_s

    def heard(self, seconds: float, now: float, name: str, *, good: bool) -> Turn | None:
        """A block came. good: it holds sound and no bad samples. Returns the turn, where the state changes."""
        if not good:
            if self._bad_since is None:
                self._bad_since = self._last_good if self._good_s else now
            self._good_s = 0.0
            return self.waited(now)
        self._last_good, self._bad_since = now, None
        self._good_s += seconds
        return self._become("HEALTHY", f"hearing {name}") if self._good_s >= self._watch.heal_s else None

    def lost(self, reason: str) -> Turn | None:
        """There is trouble. Returns the turn, where the state changes: FAILED stays."""
        self._good_s = 0.0
        return None if self.state == "FAILED" else self._become("RECOVERING", reason)

    def restarted(self) -> None:
        """A new attempt: zeros are counted anew."""
        self._good_s, self._bad_since = 0.0, None

    def waited(self, now: float) -> Turn | None:
        """Time has passed. Returns the turn, where the state changes."""
        if self.state == "HEALTHY" or now - self._last_good <= self._watch.failed_s:
            return None
        return self._become("FAILED", f"no good sound for {self._watch.failed_s:g} s; still trying")

    def _become(self, state: State, reason: str) -> Turn | None:
        if state == self.state:
            return None
        self.state = state
        return Turn(state, reason)
