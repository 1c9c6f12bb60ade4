"""A live source that keeps working: a process that hears, watched from here, and ended and started again whatever
happens to it.

No exception tells of a device that stalls, so blocks are watched for: none for some time, nothing but zeros (what is
left of an unplugged microphone where another device takes its place), samples that are no numbers, the end of the
process.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_SCALE
from edgekd.errors import InputError
from edgekd.runtime.source.child import BLOCK, FAILED, HEADER, MAGIC, OPENED, Failure, Opened, Request
from edgekd.runtime.source.health import Gap, Health, Turn, Watch
from edgekd.runtime.source.resample import Ear, Heard
from edgekd.text import counted

CHILD = (sys.executable, "-m", "edgekd.runtime.source.child")
POLL_S = 0.1
"""How often the watch looks when nothing comes."""
READ_BYTES = 1 << 16
MAX_PAYLOAD = 1 << 24
"""Bytes; a longer frame is none."""
END_S = 0.5
"""Longest wait for a killed process or for the thread: a process that hangs in the kernel is left behind."""
CLOCK_DRIFT = 1e-3
"""Most by which a sound card's clock is slow, as a share: samples that are late for it are not lost."""
CREDENTIALS = re.compile(rb"://[^/\s\"']+@")
"""In an address, before its host."""

Array = NDArray[np.float32]
Told = TypeVar("Told", Opened, Failure)


class CaptureError(Exception):
    """Why an attempt to hear has ended; the next one follows."""


class Counts(NamedTuple):
    """Samples of each channel at the source's rate since the start: received == given + dropped + waiting, at any
    moment.

    received: came from the device, also those lost between the processes. given: handed on. dropped: lost because
    decisions were late.
    waiting: in the queue. bad: NaN or infinite, over all channels, replaced by zeros. overflows: places where samples
    were lost unseen.
    restarts: attempts after the first. lag_s: clock minus samples since the last start, seconds.
    """

    received: int
    given: int
    dropped: int
    waiting: int
    bad: int
    overflows: int
    restarts: int
    lag_s: float


class _Block(NamedTuple):
    """Samples, float32 (time, channel). start: samples of each channel before them. breaks: places where sound was
    missing before them. away_s: seconds in which nothing was heard before them. rate: Hz. when: time.monotonic() at its
    end. name: of the source."""

    start: int
    breaks: int
    away_s: float
    rate: int
    when: float
    name: str
    samples: Array


class Capture:
    """Sound of a microphone or a command, for ever: iterate over it inside its `with` block.

    Yields float32 (time,) mono at `sample_rate`, on the grid of int16; a `Gap` where sound is missing; a `Turn` where
    the state changes. `blocks` gives the same as it comes, with all channels.

    Raises at once:
        InputError: a request that contradicts itself.
    Raises on iteration:
        InputError: what trying again cannot heal: a channel that the device has not, a name that means two devices, no
        PortAudio.
        MissingExtraError: sounddevice or soxr is needed and not installed.
    """

    def __init__(
        self,
        request: Request,
        sample_rate: int | None = None,
        watch: Watch | None = None,
        child: Sequence[str] = CHILD,
        idle_s: float | None = None,
    ) -> None:
        """request: what to hear. sample_rate: Hz of what is given on; None is the source's. watch: limits. child: the
        program that hears, for tests. idle_s: while nothing comes, an empty chunk is given each so many seconds; None
        gives none."""
        require_sense(request)
        if request.command is not None and request.rate is None:
            raise InputError(
                "a command writes raw samples that do not say their rate; give it with --rate, for instance 16000"
            )
        self._request, self._sample_rate, self._watch, self._child = request, sample_rate, watch or Watch(), child
        self._idle_s = idle_s
        self._health = Health(self._watch, time.monotonic())
        self._thread = threading.Thread(target=self._keep_hearing, daemon=True)
        self._stopping = threading.Event()
        self._changed = threading.Condition()  # guards the queue, the counts below and the error
        self._queue: deque[_Block | Turn] = deque()
        self._error: Exception | None = None
        self._received = self._given = self._dropped = self._waiting = self._bad = self._overflows = self._restarts = 0
        self._waiting_s = self._away_s = self._lag_s = 0.0
        self._last_sample = time.monotonic()  # clock at its end; before the first one, of the start
        self._breaks = 0
        self._heard_well = False  # in this attempt

    @property
    def counts(self) -> Counts:
        """What has been received and what became of it."""
        with self._changed:
            return Counts(
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
        """Since the newest sample, or since the start, seconds."""
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

    def __iter__(self) -> Iterator[Array | Gap | Turn]:
        ear = Ear(self._request.channel, self._sample_rate)
        for item in self.blocks():
            if item is None:
                yield np.empty(0, np.float32)
                continue
            if isinstance(item, Turn):
                yield item
                continue
            if item.gap is not None:
                yield item.gap._replace(dropped=round(item.gap.dropped * (self._sample_rate or item.rate) / item.rate))
            yield ear.hear(item)

    def blocks(self) -> Iterator[Heard | Turn | None]:
        """Blocks as they come, and turns; None for each `idle_s` without either. Raises as the class does."""
        expected, breaks, away_s = 0, 0, 0.0
        while (item := self._next()) is not None or not self._stopping.is_set():
            if item is None or isinstance(item, Turn):
                yield item
                continue
            broken = item.start != expected or item.breaks != breaks
            gap = Gap(item.start - expected, item.away_s - away_s) if broken else None
            expected, breaks, away_s = item.start + len(item.samples), item.breaks, item.away_s
            yield Heard(item.samples, item.rate, item.when, gap, item.name)

    def _next(self) -> _Block | Turn | None:
        """What comes next, after a wait; None after `idle_s`, or when the `with` block has been left by another
        thread."""
        with self._changed:
            while not self._queue:
                if self._error is not None:
                    raise self._error
                if self._stopping.is_set() or not self._changed.wait(self._idle_s):
                    return None
            item = self._queue.popleft()
            if isinstance(item, _Block):
                self._given += len(item.samples)
                self._waiting -= len(item.samples)
                self._waiting_s -= len(item.samples) / item.rate
            return item

    def _keep_hearing(self) -> None:
        """Attempt after attempt; runs in the thread."""
        wait_s = self._watch.first_wait_s
        while not self._stopping.is_set():
            try:
                with _Child([*self._child, json.dumps(self._request)]) as child:
                    self._hear(child)
            except (CaptureError, OSError) as failure:
                self._tell(self._health.lost(str(failure)))
            except Exception as error:  # also a bug: the thread must not die unseen
                with self._changed:
                    self._error = error
                    self._changed.notify()
                return
            if self._heard_well:
                wait_s = self._watch.first_wait_s
            again = time.monotonic() + wait_s
            while time.monotonic() < again and not self._stopping.wait(min(POLL_S, wait_s)):
                self._tell(self._health.waited(time.monotonic()))
            wait_s = min(2 * wait_s, self._watch.last_wait_s)
            with self._changed:
                self._restarts += 1

    def _hear(self, child: "_Child") -> None:
        """One attempt; returns when there is no more need.

        Raises:
            CaptureError: there is something wrong with what comes.
            InputError: trying again is of no use.
        """
        self._heard_well = False
        self._health.restarted()
        session, limit_s, newest = None, self._watch.open_s, time.monotonic()
        while not self._stopping.is_set():
            for kind, lost, start, when, payload in child.frames():
                if kind == OPENED:
                    session, limit_s = _Session(_told(Opened, payload)), self._watch.stall_s
                elif kind == FAILED:
                    failure = _told(Failure, payload)
                    raise InputError(failure.message) if failure.fatal else CaptureError(failure.message)
                elif kind == BLOCK and session is not None:
                    self._take(session, start, when, payload, overflow=lost)
                else:
                    raise CaptureError(f"the capture process sends a frame of an unknown kind {kind!r}")
                newest = time.monotonic()
            now = time.monotonic()
            self._tell(self._health.waited(now))
            if now - newest > limit_s:
                raise CaptureError(
                    f"no sound arrives for {limit_s:g} s" if session else f"nothing could be opened in {limit_s:g} s"
                )
            if self._health.has_only_zeros(now):
                raise CaptureError(f"nothing but zeros for {self._watch.zeros_s:g} s")

    def _take(self, session: "_Session", start: int, when: float, payload: bytes, *, overflow: bool) -> None:
        """Check a block, count it, and put it into the queue."""
        samples = session.samples(payload)
        rate = session.opened.rate
        bad = int(samples.size - np.isfinite(samples).sum())
        if bad:
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            self._tell(
                self._health.lost(
                    f"{counted(bad, 'sample that is', 'samples that are')} NaN or infinite, replaced by zeros"
                )
            )
        missing = session.missing(start, len(samples))
        lag_s = session.lag(when)
        away_s = 0.0
        broken = overflow or (session.is_first and self._restarts > 0)
        if session.is_first:
            away_s = max(0.0, when - len(samples) / rate - self._last_sample) if broken else 0.0
        # zeros after a pause are of another device
        elif lag_s > session.usual_lag_s + self._watch.lag_s and samples.any():
            away_s, overflow, broken = lag_s - session.usual_lag_s, True, True
            session.usual_lag_s = lag_s
        if overflow:
            self._tell(self._health.lost("samples were lost before they arrived; the machine or its bus is too busy"))
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
                _Block(self._received, self._breaks, self._away_s, rate, when, session.opened.name, samples)
            )
            self._received += len(samples)
            self._waiting += len(samples)
            self._waiting_s += len(samples) / rate
            while self._waiting_s > self._watch.queue_s and self._waiting > len(samples):
                self._drop_oldest()
            self._changed.notify()
        turn = self._health.heard(
            len(samples) / rate, time.monotonic(), session.text(), good=not bad and bool(samples.any())
        )
        self._heard_well = self._heard_well or self._health.state == "HEALTHY"
        self._tell(turn)

    def _drop_oldest(self) -> None:
        place, oldest = next((i, item) for i, item in enumerate(self._queue) if isinstance(item, _Block))
        del self._queue[place]
        self._dropped += len(oldest.samples)
        self._waiting -= len(oldest.samples)
        self._waiting_s -= len(oldest.samples) / oldest.rate

    def _tell(self, turn: Turn | None) -> None:
        if turn is not None:
            silent_s = self.silent_s if turn.state != "HEALTHY" else 0.0
            with self._changed:
                self._queue.append(turn._replace(silent_s=silent_s))
                self._changed.notify()


def _told(kind: type[Told], payload: bytes) -> Told:
    """What the capture process says in JSON, without the credentials of an address in a command: it goes to all
    outputs."""
    try:
        return msgspec.json.decode(CREDENTIALS.sub(b"://***@", payload), type=kind)
    except msgspec.MsgspecError as error:
        raise CaptureError(f"the capture process says what cannot be read ({error})") from None


class _Session:
    """One attempt's view of its own samples."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.is_first = True
        self.usual_lag_s = 0.0
        self._next = 0
        self._origin: float | None = None  # clock at sample 0

    def samples(self, payload: bytes) -> Array:
        """Interleaved bytes as float32 (time, channel)."""
        try:
            if self.opened.sample == "int16":
                return np.frombuffer(payload, "<i2").reshape(-1, self.opened.channels).astype(np.float32) / np.float32(
                    PCM_SCALE
                )
            return np.frombuffer(payload, "<f4").reshape(-1, self.opened.channels)
        except ValueError:
            raise CaptureError(
                f"the capture process sends {len(payload)} bytes, which are no samples of "
                f"{counted(self.opened.channels, 'channel')}"
            ) from None

    def missing(self, start: int, count: int) -> int:
        """Samples lost before a block of `count` that starts at `start`."""
        if start < self._next:
            raise CaptureError(f"the capture process sends sample {start} after {self._next}")
        missing, self._next = start - self._next, start + count
        return missing

    def lag(self, when: float) -> float:
        """Clock minus samples at the end of the newest block, seconds, after the first block."""
        heard_s = self._next / self.opened.rate
        if self._origin is None:
            self._origin = when - heard_s
        return when - self._origin - heard_s

    def text(self) -> str:
        """What is heard, for people."""
        channels = counted(self.opened.channels, "channel")
        return f"{self.opened.name} at {self.opened.rate} Hz, {channels}"


def require_sense(request: Request) -> None:
    """Refuse options of live sources that contradict each other.

    Raises:
        InputError: they do, or one is out of range.
    """
    if request.mic is not None and request.command is not None:
        raise InputError("a microphone and a command are two sources; give one of them")
    if request.channels is not None and request.command is None:
        raise InputError(
            "the number of channels is for a command; a microphone says how many it has, and a channel chooses one"
        )
    for name, value, least in (
        ("rate", request.rate, 1),
        ("channels", request.channels, 1),
        ("channel", request.channel, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")


class _Child:
    """A running capture process; leaving the `with` block kills it and all that it has started."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def frames(self) -> Iterator[tuple[bytes, bool, int, float, bytes]]:
        """Whole frames that are there, after a short wait: kind, whether samples were lost before it, first sample,
        clock, payload.

        Raises:
            CaptureError: the process ended, or writes something else.
        """
        pipe = self._process.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], POLL_S)[0]:
            return
        new = os.read(pipe.fileno(), READ_BYTES)
        if not new:
            raise CaptureError(f"the capture process has ended with status {self._status()}")
        self._bytes += new
        while len(self._bytes) >= HEADER.size:
            magic, kind, lost, start, when, size = HEADER.unpack_from(self._bytes)
            if magic != MAGIC or size > MAX_PAYLOAD:
                raise CaptureError("the capture process writes something else than blocks of sound")
            if len(self._bytes) < HEADER.size + size:
                return
            payload, self._bytes = self._bytes[HEADER.size : HEADER.size + size], self._bytes[HEADER.size + size :]
            yield kind, bool(lost), start, when, payload

    def _status(self) -> int | str:
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "unknown"
