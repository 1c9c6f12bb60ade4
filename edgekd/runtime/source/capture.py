"""A live source that keeps working: a capture process that is watched, and killed and started again after any fault.

No exception reports a stalled device. So the blocks are watched for four faults: no block for some time; nothing but
zeros, which is what an unplugged microphone leaves when another device replaces it; samples that are not numbers; the
end of the process.
"""

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.rates import require_rate
from edgekd.runtime.source.child import BLOCK, FAILED, OPENED, Failure, Opened, SourceRequest
from edgekd.runtime.source.health import Gap, Health, StateChange, Watch
from edgekd.runtime.source.pace import MAX_PAUSE_S
from edgekd.runtime.source.process import END_S, POLL_S, CaptureError, CaptureProcess, CaptureSession, decode_payload
from edgekd.runtime.source.rate import RateWatch
from edgekd.runtime.source.resample import CapturedBlock, Resampler
from edgekd.text import counted

CHILD = (sys.executable, "-m", "edgekd.runtime.source.child")
CLOCK_DRIFT = 1e-3
"""Largest relative error of a sound card's clock. Samples that are late by this are not lost."""

Array = NDArray[np.float32]


class CaptureCounts(NamedTuple):
    """Samples of each channel at the source's rate since the start. At any moment received == given + dropped +
    waiting.

    received: came from the device, including those lost between the processes. given: passed on. dropped: lost because
    decisions were late. waiting: in the queue. bad: NaN or infinite, over all channels; they are replaced by zeros.
    overflows: places where an unknown number of samples was lost. restarts: attempts after the first. lag_s: clock
    minus samples since the last start, seconds.
    """

    received: int
    given: int
    dropped: int
    waiting: int
    bad: int
    overflows: int
    restarts: int
    lag_s: float


class _QueuedBlock(NamedTuple):
    """Samples in the queue, float32 (time, channel). start: samples of each channel before them. breaks: places with
    missing samples before them. away_s: seconds without samples before them. rate: Hz. when: time.monotonic() at its
    end. name: of the source."""

    start: int
    breaks: int
    away_s: float
    rate: int
    when: float
    name: str
    samples: Array


class Capture:
    """Samples of a microphone or a command, without end. Iterate over it inside its `with` block.

    Yields float32 (time,) mono at `sample_rate`, on the grid of int16; a `Gap` where samples are missing; a
    `StateChange` where the state changes. `blocks` yields all channels at the source's own rate.

    Raises at once:
        InputError: a request that contradicts itself.
    Raises on iteration:
        InputError: another attempt cannot succeed: the device lacks the channel, the name matches two devices, or
            PortAudio is missing.
        MissingExtraError: sounddevice or soxr is needed and not installed.
    """

    def __init__(
        self,
        request: SourceRequest,
        sample_rate: int | None = None,
        watch: Watch | None = None,
        child: Sequence[str] = CHILD,
        idle_s: float | None = None,
        lacking_s: Callable[[], float] | None = None,
    ) -> None:
        """request: the source. sample_rate: Hz of the chunks; None for the source's. watch: limits. child: the capture
        program, for tests. idle_s: while nothing arrives, yield an empty chunk each so many seconds; None for no empty
        chunks. lacking_s: seconds of samples that are of no use before the last of them, so that both threads sleep so
        long; None where each block is wanted at once."""
        require_valid_request(request)
        if request.command is not None and request.rate is None:
            raise InputError(
                "a command writes raw samples that do not say their rate; give it with --rate, for instance 16000"
            )
        self._request, self._sample_rate, self._watch, self._child = request, sample_rate, watch or Watch(), child
        self._idle_s, self._lacking_s = idle_s, lacking_s
        self._health = Health(self._watch, time.monotonic())
        self._thread = threading.Thread(target=self._run_attempts, daemon=True)
        self._stopping = threading.Event()
        self._changed = threading.Condition()  # guards the queue, the counts below and the error
        self._queue: deque[_QueuedBlock | StateChange] = deque()
        self._error: Exception | None = None
        self._received = self._given = self._dropped = self._waiting = self._bad = self._overflows = self._restarts = 0
        self._waiting_s = self._away_s = self._lag_s = 0.0
        self._needed_s = 0.0  # of samples in the queue before anything is done with them
        self._last_sample = time.monotonic()  # clock at its end; before the first sample, of the start
        self._breaks = 0
        self._was_healthy = False  # in this attempt

    @property
    def counts(self) -> CaptureCounts:
        """Counts of all samples since the start."""
        with self._changed:
            return CaptureCounts(
                self._received,
                self._given,
                self._dropped,
                self._waiting,
                self._bad,
                self._overflows,
                self._restarts,
                self._lag_s,
            )

    @property
    def silent_s(self) -> float:
        """Seconds since the newest sample, or since the start."""
        return max(0.0, time.monotonic() - self._last_sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(END_S)

    def __iter__(self) -> Iterator[Array | Gap | StateChange]:
        resampler = Resampler(self._request.channel, self._sample_rate)
        for item in self.blocks():
            if item is None:
                yield np.empty(0, np.float32)
                continue
            if isinstance(item, StateChange):
                yield item
                continue
            if item.gap is not None:
                yield item.gap._replace(dropped=round(item.gap.dropped * (self._sample_rate or item.rate) / item.rate))
            yield resampler.resample(item)

    def blocks(self) -> Iterator[CapturedBlock | StateChange | None]:
        """Blocks as they come, and changes of state; None for each `idle_s` without either. Raises as the class
        does."""
        expected, breaks, away_s = 0, 0, 0.0
        while (item := self._next()) is not None or not self._stopping.is_set():
            if item is None or isinstance(item, StateChange):
                yield item
                continue
            broken = item.start != expected or item.breaks != breaks
            gap = Gap(item.start - expected, item.away_s - away_s) if broken else None
            expected, breaks, away_s = item.start + len(item.samples), item.breaks, item.away_s
            yield CapturedBlock(item.samples, item.rate, item.when, gap, item.name)

    def _next(self) -> _QueuedBlock | StateChange | None:
        """The next item, after a wait; None after `idle_s`, or when another thread has left the `with` block."""
        with self._changed:
            idle_s = self._idle_s
            if self._lacking_s is not None:
                self._needed_s = self._lacking_s()
                idle_s = None if idle_s is None else idle_s + min(self._needed_s, MAX_PAUSE_S)
                if not self._queue:
                    self._changed.notify()  # the thread that reads may wait for this
            while not self._queue:
                if self._error is not None:
                    raise self._error
                if self._stopping.is_set() or not (self._changed.wait(idle_s) or self._queue):
                    return None
            item = self._queue.popleft()
            if isinstance(item, _QueuedBlock):
                seconds = len(item.samples) / item.rate
                self._given += len(item.samples)
                self._waiting -= len(item.samples)
                self._waiting_s -= seconds
                self._needed_s -= seconds
            return item

    def _run_attempts(self) -> None:
        """Make one attempt after the other; runs in the thread."""
        wait_s = self._watch.first_wait_s
        while not self._stopping.is_set():
            try:
                with CaptureProcess([*self._child, json.dumps(self._request)]) as child:
                    self._read_blocks(child)
            except (CaptureError, OSError) as failure:
                self._enqueue(self._health.problem(str(failure)))
            except Exception as error:  # also a bug: the thread must not end unseen
                with self._changed:
                    self._error = error
                    self._changed.notify()
                return
            if self._was_healthy:
                wait_s = self._watch.first_wait_s
            again = time.monotonic() + wait_s
            while time.monotonic() < again and not self._stopping.wait(min(POLL_S, wait_s)):
                self._enqueue(self._health.elapsed(time.monotonic()))
            wait_s = min(2 * wait_s, self._watch.last_wait_s)
            with self._changed:
                self._restarts += 1

    def _read_blocks(self, child: "CaptureProcess") -> None:
        """Make one attempt. Returns when the capture is closed.

        Raises:
            CaptureError: the attempt has failed.
            InputError: another attempt cannot succeed.
        """
        self._was_healthy = False
        self._health.restarted()
        session, limit_s, newest = None, self._watch.open_s, time.monotonic()
        while not self._stopping.is_set():
            heard_until: float | None = None
            for kind, lost, start, when, payload in child.frames():
                if kind == OPENED:
                    session, limit_s = CaptureSession(decode_payload(Opened, payload)), self._watch.stall_s
                elif kind == FAILED:
                    failure = decode_payload(Failure, payload)
                    raise InputError(failure.message) if failure.fatal else CaptureError(failure.message)
                elif kind == BLOCK and session is not None:
                    self._add_block(session, start, when, payload, overflow=lost)
                    heard_until = when
                else:
                    raise CaptureError(f"the capture process sends a frame of an unknown kind {kind!r}")
                newest = time.monotonic()
            now = time.monotonic()
            self._enqueue(self._health.elapsed(now))
            if now - newest > limit_s:
                raise CaptureError(
                    f"no samples arrive for {limit_s:g} s" if session else f"nothing could be opened in {limit_s:g} s"
                )
            if self._health.has_only_zeros(now):
                raise CaptureError(f"nothing but zeros for {self._watch.zeros_s:g} s")
            if heard_until is not None and self._lacking_s is not None:
                self._sleep_until_needed(heard_until)

    def _sleep_until_needed(self, heard_until: float) -> None:
        """Sleep until the samples that are needed have been recorded. heard_until: time.monotonic() of the newest."""
        with self._changed:  # what is needed next is known when what was needed is used
            self._changed.wait_for(lambda: self._waiting_s < self._needed_s or self._stopping.is_set(), POLL_S)
            needed_at = heard_until + self._needed_s - self._waiting_s
        pause_s = min(needed_at - time.monotonic(), MAX_PAUSE_S)
        if pause_s > 0.0:
            self._stopping.wait(pause_s)

    def _add_block(self, session: "CaptureSession", start: int, when: float, payload: bytes, *, overflow: bool) -> None:
        """Check a block, count it, and put it into the queue."""
        samples = session.samples(payload)
        rate = session.opened.rate
        bad = int(samples.size - np.isfinite(samples).sum())
        if bad:
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            self._enqueue(
                self._health.problem(
                    f"{counted(bad, 'sample that is', 'samples that are')} NaN or infinite, replaced by zeros"
                )
            )
        missing = session.missing(start, len(samples))
        lag_s = session.lag(when)
        away_s = 0.0
        broken = overflow or (session.is_first and self._restarts > 0)
        # zeros after a pause come from another device
        late = not session.is_first and lag_s > session.usual_lag_s + self._watch.lag_s and bool(samples.any())
        if session.is_first:
            away_s = max(0.0, when - len(samples) / rate - self._last_sample) if broken else 0.0
        elif overflow or missing:
            session.rate_watch = RateWatch(rate)
        wrong_rate = session.rate_watch.received(session.received, when, late=late)
        if wrong_rate is not None:
            self._enqueue(StateChange(self._health.state or "RECOVERING", wrong_rate))
        if late and session.rate_watch.is_wrong:  # late, but not lost
            session.usual_lag_s = lag_s
        elif late:
            away_s, overflow, broken = lag_s - session.usual_lag_s, True, True
            session.usual_lag_s = lag_s
        if overflow:
            self._enqueue(
                self._health.problem("samples were lost before they arrived; the machine or its bus is too busy")
            )
        session.usual_lag_s = min(lag_s, session.usual_lag_s + CLOCK_DRIFT * len(samples) / rate)
        session.is_first, self._last_sample = False, when
        with self._changed:
            self._overflows += overflow
            self._breaks += broken
            self._away_s += away_s
            self._lag_s = lag_s
            self._bad += bad
            self._received += missing
            self._dropped += missing
            self._queue.append(
                _QueuedBlock(self._received, self._breaks, self._away_s, rate, when, session.opened.name, samples)
            )
            self._received += len(samples)
            self._waiting += len(samples)
            self._waiting_s += len(samples) / rate
            while self._waiting_s > self._watch.queue_s and self._waiting > len(samples):
                self._drop_oldest()
            if self._waiting_s >= self._needed_s:
                self._changed.notify()
        change = self._health.received(
            len(samples) / rate, time.monotonic(), session.text(), good=not bad and bool(samples.any())
        )
        self._was_healthy = self._was_healthy or self._health.state == "HEALTHY"
        self._enqueue(change)

    def _drop_oldest(self) -> None:
        position, oldest = next((i, item) for i, item in enumerate(self._queue) if isinstance(item, _QueuedBlock))
        del self._queue[position]
        self._dropped += len(oldest.samples)
        self._waiting -= len(oldest.samples)
        self._waiting_s -= len(oldest.samples) / oldest.rate

    def _enqueue(self, change: StateChange | None) -> None:
        if change is not None:
            silent_s = self.silent_s if change.state != "HEALTHY" else 0.0
            with self._changed:
                self._queue.append(change._replace(silent_s=silent_s))
                self._changed.notify()


def require_valid_request(request: SourceRequest) -> None:
    """Refuse options of live sources that contradict each other.

    Raises:
        InputError: they do, or one is out of range.
    """
    if request.mic is not None and request.command is not None:
        raise InputError("a microphone and a command are two sources; give one of them")
    if request.channels is not None and request.command is None:
        raise InputError(
            "the number of channels is only for a command; a microphone reports its own, and --channel chooses one"
        )
    if request.rate is not None:
        require_rate(request.rate, "rate is")
    for name, value, least in (("channels", request.channels, 1), ("channel", request.channel, 0)):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
