"""The parent's side of the capture process: starts it, reads its frames, kills it."""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_SCALE
from edgekd.runtime.shell_command import without_credentials
from edgekd.runtime.source.child import HEADER, MAGIC, Failure, Opened
from edgekd.runtime.source.rate import RateWatch
from edgekd.runtime.source.raw_format import RawFormat
from edgekd.text import counted

POLL_S = 0.1
"""Longest wait for new bytes from the process, seconds."""
READ_BYTES = 1 << 16
MAX_PAYLOAD = 1 << 24
"""Bytes. A longer frame is an error."""
END_S = 0.5
"""Longest wait for the end of a killed process or of the thread, seconds. A process that hangs in the kernel is left
behind."""
Array = NDArray[np.float32]
Payload = TypeVar("Payload", Opened, Failure)


class CaptureError(Exception):
    """Why an attempt to capture has ended; the next attempt follows."""


class CaptureProcess:
    """A running capture process. Leaving the `with` block kills it and everything that it started."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=without_credentials(os.environ),  # a command inherits it
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
        """Complete frames that have arrived, after a short wait: kind, whether samples were lost before it, first
        sample, clock, payload.

        Raises:
            CaptureError: the process has ended, or it writes something else.
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
                raise CaptureError("the capture process writes something else than blocks of samples")
            if len(self._bytes) < HEADER.size + size:
                return
            payload, self._bytes = self._bytes[HEADER.size : HEADER.size + size], self._bytes[HEADER.size + size :]
            yield kind, bool(lost), start, when, payload

    def _status(self) -> int | str:
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "unknown"


class CaptureSession:
    """The sample counts of one attempt."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.is_first = True
        self.usual_lag_s = 0.0
        self.rate_watch = RateWatch(opened.rate)
        self._format = RawFormat(f"the command {opened.name} writes")
        self._next = 0
        self._origin: float | None = None  # clock at sample 0

    def samples(self, payload: bytes) -> Array:
        """Interleaved bytes as float32 (time, channel).

        Raises:
            CaptureError: not a whole number of samples.
            InputError: a command writes something else than signed 16-bit samples.
        """
        try:
            if self.opened.sample == "int16":
                self._format.check(payload, self.opened.channels)
                return np.frombuffer(payload, "<i2").reshape(-1, self.opened.channels).astype(np.float32) / np.float32(
                    PCM_SCALE
                )
            return np.frombuffer(payload, "<f4").reshape(-1, self.opened.channels)
        except ValueError:
            raise CaptureError(
                f"the capture process sends {len(payload)} bytes, which are no samples of "
                f"{counted(self.opened.channels, 'channel')}"
            ) from None

    @property
    def received(self) -> int:
        """Samples of each channel until the end of the newest block."""
        return self._next

    def missing(self, start: int, count: int) -> int:
        """Number of samples lost before a block of `count` samples that starts at `start`."""
        if start < self._next:
            raise CaptureError(f"the capture process sends sample {start} after {self._next}")
        missing, self._next = start - self._next, start + count
        return missing

    def lag(self, when: float) -> float:
        """Clock minus samples at the end of the newest block, relative to the first block, seconds."""
        sample_s = self._next / self.opened.rate
        if self._origin is None:
            self._origin = when - sample_s
        return when - self._origin - sample_s

    def text(self) -> str:
        """The source for people."""
        channels = counted(self.opened.channels, "channel")
        return f"{self.opened.name} at {self.opened.rate} Hz, {channels}"


def decode_payload(kind: type[Payload], payload: bytes) -> Payload:
    """A JSON payload of the capture process."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise CaptureError(f"the capture process sends a payload that cannot be read ({error})") from None
