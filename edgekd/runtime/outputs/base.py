"""Where decisions go besides standard output: what an output is, what it is told, and how none of them holds up the
stream."""

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
from edgekd.runtime.source.capture import Counts
from edgekd.runtime.source.health import Change, State

Array = NDArray[np.float32]
Item = TypeVar("Item")

CLOSE_S = 0.4
"""Longest wait for an output's thread at the end: the whole listener has a second."""
WORKS_AGAIN = "works again"
"""What is said of an output whose trouble has ended."""


class Moment(NamedTuple):
    """What a decision was made of; the arrays do not change later.

    manifest: of the model that decided. waveform: float32 (time,) of the window at the model's rate. features: float32
    (mel, frame), None below the gate. features_s, inference_s: clock seconds they took. counts: of the live source
    since its start, None for files and pipes.
    breaks: how often sound was missing before the window, be it for no time that is known.
    """

    manifest: Manifest
    waveform: Array
    features: Array | None
    features_s: float
    inference_s: float
    counts: Counts | None
    breaks: int = 0


class Output(Protocol):
    """Something that is told of every line."""

    name: str
    """As its table in the configuration."""

    @property
    def trouble(self) -> str | None:
        """What is wrong, in a line without secrets; None while it works."""
        ...

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Take a line, and what a decision was made of. Returns at once, and never raises."""
        ...

    def close(self) -> None:
        """The end; returns within `CLOSE_S`."""
        ...


class Outputs:
    """All outputs of a listener; closes them when its `with` block is left."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = tuple(outputs)
        self._troubles: dict[str, str | None] = {}
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
        for thread in closing:  # together, as each may wait
            thread.start()
        end = time.monotonic() + CLOSE_S
        for thread in closing:
            thread.join(max(0.0, end - time.monotonic()))

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Tell all outputs; what one raises all the same is its trouble."""
        for output in self._outputs:
            try:
                output.tell(event, moment)
            except Exception as error:  # a bug: the stream and the others go on, and the reason is shown
                self._bugs[output.name] = in_a_line(error)
            else:
                self._bugs.pop(output.name, None)

    def news(self, t: float, state: State) -> list[Change]:
        """A line for each output whose trouble begins, changes or ends.

        Args:
            t: of the lines, seconds since the start.
            state: of the source; it stays.
        """
        lines = []
        for output in self._outputs:
            trouble = self._trouble(output)
            if trouble != self._troubles.get(output.name):
                self._troubles[output.name] = trouble
                lines.append(Change(t, state, f"{output.name}: {trouble or WORKS_AGAIN}"))
        return lines

    def through(self, lines: Iterator[Decision | Change]) -> Iterator[Decision | Change]:
        """The lines as they come. Where they end, the outputs are closed: what they cannot deliver at the end is said
        too."""
        line = None
        for line in lines:
            yield line
        self._close()
        if line is not None:
            yield from self.news(line.t, line.state)

    def _trouble(self, output: Output) -> str | None:
        try:
            return self._bugs.get(output.name) or output.trouble
        except Exception as error:  # as in `tell`
            return in_a_line(error)


class Worker(Generic[Item]):
    """A bounded queue and the thread that works it off. What is too much is dropped, the oldest first, and counted."""

    def __init__(self, name: str, work: Callable[[Item], None], limit: int = 64) -> None:
        """name: of the thread. work: takes one item; what it raises becomes the trouble, and the next success ends it.
        limit: of items."""
        self._work, self._limit = work, limit
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.dropped = 0
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand an item over; returns at once."""
        with self._changed:
            if len(self._queue) >= self._limit:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(item)
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Work off what waits, for at most `wait_s` seconds."""
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
            except Exception as error:  # also a bug: the stream goes on, and the reason is shown
                self.trouble = in_a_line(error)
            else:
                self.trouble = None


def in_a_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split()) or type(error).__name__
