"""The state of a live source, derived from blocks and pauses. No processes and no clock here, so that tests can cover
every rule."""

from typing import Literal, NamedTuple

import msgspec

from edgekd.runtime.config_tables import FAILED_S, QUEUE_S, STALL_S, ZEROS_S

State = Literal["HEALTHY", "RECOVERING", "FAILED"]
"""HEALTHY: blocks with signal arrive. RECOVERING: not now, or not reliably. FAILED: not for a long time; the source is
still tried again."""
RELOADED = "reloaded with the model"
NOT_RELOADED = "not reloaded, all stays as it was"
WENT_BACK = "back to the model and the source before the reload"
"""How the reason of a line on a reload begins; the state is what it was."""


class StatusLine(msgspec.Struct, frozen=True):
    """A line of the output about the source or the listener. t: seconds since the start. state: of the source. reason:
    what happened."""

    t: float
    state: State
    reason: str


class StateChange(NamedTuple):
    """A change of state on its way through a stream of samples, which adds the time. silent_s: seconds since the newest
    sample."""

    state: State
    reason: str
    silent_s: float = 0.0


class Gap(NamedTuple):
    """A place with missing samples. dropped: samples that arrived and were dropped. away_s: seconds without any
    samples."""

    dropped: int
    away_s: float


class Watch(msgspec.Struct, frozen=True):
    """Limits for a live source, all in seconds.

    stall_s: without a block. open_s: from the start of a process until its device is open. zeros_s: of nothing but
    zeros or bad samples, which a real microphone never gives for so long. heal_s: of good blocks until HEALTHY.
    failed_s: without good blocks until FAILED. first_wait_s, last_wait_s: between attempts, doubling. lag_s: samples
    were lost on the way if the clock suddenly runs ahead of the samples by this much. queue_s: of samples that wait
    while decisions are late; beyond that the oldest are dropped.
    """

    stall_s: float = STALL_S
    open_s: float = 10.0
    zeros_s: float = ZEROS_S
    heal_s: float = 0.3
    failed_s: float = FAILED_S
    first_wait_s: float = 0.25
    last_wait_s: float = 2.0
    lag_s: float = 1.0
    queue_s: float = QUEUE_S


class Health:
    """The state of a source. `now` is any clock in seconds that does not jump."""

    def __init__(self, watch: Watch, now: float) -> None:
        """No block has arrived yet, and no state is known."""
        self._watch, self._last_good = watch, now
        self._good_s = 0.0
        self._bad_since: float | None = None
        self.state: State | None = None

    def has_only_zeros(self, now: float) -> bool:
        """Whether blocks arrive, but none was good for `zeros_s`. A pause before them counts, because a device that is
        being replaced may make one."""
        return self._bad_since is not None and now - self._bad_since >= self._watch.zeros_s

    def received(self, seconds: float, now: float, name: str, *, good: bool) -> StateChange | None:
        """Count a block of `seconds`. good: it has signal and no bad samples. Returns the change of state, if any."""
        if not good:
            if self._bad_since is None:
                self._bad_since = self._last_good if self._good_s else now
            self._good_s = 0.0
            return self.elapsed(now)
        self._last_good, self._bad_since = now, None
        self._good_s += seconds
        return self._enter("HEALTHY", f"listening to {name}") if self._good_s >= self._watch.heal_s else None

    def problem(self, reason: str) -> StateChange | None:
        """Note a problem. Returns the change of state, if any; FAILED stays FAILED."""
        self._good_s = 0.0
        return None if self.state == "FAILED" else self._enter("RECOVERING", reason)

    def restarted(self) -> None:
        """Begin a new attempt: zeros are counted from here."""
        self._good_s, self._bad_since = 0.0, None

    def elapsed(self, now: float) -> StateChange | None:
        """Check the time without good blocks. Returns the change of state, if any."""
        if self.state == "HEALTHY" or now - self._last_good <= self._watch.failed_s:
            return None
        return self._enter("FAILED", f"no good sound for {self._watch.failed_s:g} s; still trying")

    def _enter(self, state: State, reason: str) -> StateChange | None:
        if state == self.state:
            return None
        self.state = state
        return StateChange(state, reason)
