"""What every output shares: the protocol, the observation behind a decision, the group of all outputs, and a worker
thread with a bounded queue, so that no output delays the stream of decisions.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision
from edgekd.runtime.source.capture import CaptureCounts
from edgekd.runtime.source.health import State, StatusLine

Array = NDArray[np.float32]
Item = TypeVar("Item")

CLOSE_S = 0.4
"""Longest wait for an output's thread at the end, seconds; the whole listener ends within one second."""
WORKS_AGAIN = "works again"
"""Reported when the error of an output has ended."""


class Observation(NamedTuple):
    """The data behind a decision. The arrays do not change later.

    manifest: of the model that decided. waveform: float32 (time,), the window at the model's rate. features: float32
    (mel, frame), None below the gate. features_s, inference_s: clock time of both, seconds. counts: of the live source
    since its start, None for files and pipes. breaks: places with missing samples before the window, also where the
    missing time is unknown.
    """

    manifest: Manifest
    waveform: Array
    features: Array | None
    features_s: float
    inference_s: float
    counts: CaptureCounts | None
    breaks: int = 0


class Output(Protocol):
    """A receiver of every line of the stream."""

    name: str
    """The name of its table in the configuration."""

    @property
    def error(self) -> str | None:
        """Why it does not work, in one line without secrets; None while it works."""
        ...

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Take a line, and the observation behind a decision. Returns at once and never raises."""
        ...

    def close(self) -> None:
        """End the output within `CLOSE_S`."""
        ...


class OutputGroup:
    """All outputs of a listener. Leaving its `with` block closes them."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = tuple(outputs)
        self._errors: dict[str, str | None] = {}
        self._bugs: dict[str, str] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        closing = [threading.Thread(target=output.close, daemon=True) for output in self._outputs]
        for thread in closing:  # all at once, because each may wait
            thread.start()
        end = time.monotonic() + CLOSE_S
        for thread in closing:
            thread.join(max(0.0, end - time.monotonic()))

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Pass a line to all outputs. An exception in one of them is reported as its error."""
        for output in self._outputs:
            try:
                output.publish(event, observation)
            except Exception as error:  # a bug: the stream and the other outputs go on, and the error is reported
                self._bugs[output.name] = error_text(error)
            else:
                self._bugs.pop(output.name, None)

    def status(self, t: float, state: State) -> list[StatusLine]:
        """A line for each output whose error begins, changes or ends.

        Args:
            t: time of the lines, seconds since the start.
            state: of the source; it is copied into the lines.
        """
        lines = []
        for output in self._outputs:
            error = self._error(output)
            if error != self._errors.get(output.name):
                self._errors[output.name] = error
                lines.append(StatusLine(t, state, f"{output.name}: {error or WORKS_AGAIN}"))
        return lines

    def forward(self, lines: Iterator[Decision | StatusLine]) -> Iterator[Decision | StatusLine]:
        """Yield the lines as they come, then close the outputs, then yield what they could not deliver at the end."""
        line = None
        for line in lines:
            yield line
        self._close()
        if line is not None:
            yield from self.status(line.t, line.state)

    def _error(self, output: Output) -> str | None:
        try:
            return self._bugs.get(output.name) or output.error
        except Exception as error:  # a bug, as in `publish`
            return error_text(error)


class Worker(Generic[Item]):
    """A thread that works through a bounded queue. When the queue is full, the oldest item is dropped and counted."""

    def __init__(self, name: str, work: Callable[[Item], None], limit: int = 64) -> None:
        """name: of the thread. work: processes one item; an exception becomes `error`, and the next success clears it.
        limit: most items that wait."""
        self._work, self._limit = work, limit
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.dropped = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Add an item; returns at once."""
        with self._changed:
            if len(self._queue) >= self._limit:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(item)
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Process the items that wait, for at most `wait_s` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._stopping:
                        return
                    self._changed.wait()
                item = self._queue.popleft()
            try:
                self._work(item)
            except Exception as error:  # also a bug: the thread goes on, and the error is reported
                self.error = error_text(error)
            else:
                self.error = None


def error_text(error: Exception) -> str:
    """The message of an error in one line, or its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_text(error: Exception) -> str:
    """The system's words for an `OSError`, such as "No space left on device"; the message of any other error."""
    return (error.strerror if isinstance(error, OSError) else None) or error_text(error)
