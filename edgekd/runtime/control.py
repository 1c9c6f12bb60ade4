"""What signals ask of a running listener: to end, or to read its configuration and its model again.

A handler only sets a flag. The listener looks at it between chunks of sound, and ten times a second where none arrive.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError, InputError
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import PLAIN, DecisionSettings
from edgekd.runtime.source.child import Request
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED, Watch

IDLE_S = 0.1
"""How often a listener that hears nothing looks at the flags."""
STOPS = (signal.SIGTERM, signal.SIGINT)

Array = NDArray[np.float32]


class Classifier(Protocol):
    """What the listener needs of a model; `edgekd.modelfile.engine.open_model` gives one."""

    @property
    def manifest(self) -> Manifest:
        """What travels in the file."""
        ...

    def logits(self, features: Array) -> Array:
        """float32 (batch, mel, frame) -> float32 (batch, labels)."""
        ...


class Setup(NamedTuple):
    """All that a listener works with. source: a file, "-" for standard input, None for what `request` says. hop_s:
    seconds. top: labels."""

    source: str | None
    request: Request
    classifier: Classifier
    hop_s: float
    top: int
    settings: DecisionSettings = PLAIN
    watch: Watch = Watch()

    @property
    def sample_rate(self) -> int:
        """Of the model, Hz."""
        return self.classifier.manifest.frontend.sample_rate


class Swap(NamedTuple):
    """A reload on its way through a stream of samples. setup: what holds from here on; None: the old one stays. reason:
    what happened."""

    setup: Setup | None
    reason: str


class StoppedError(Exception):
    """A signal asks for the end. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Control:
    """Inside its `with` block SIGTERM and SIGINT ask for the end and SIGHUP for a reload; a second SIGTERM or SIGINT
    acts as ever."""

    def __init__(self, load: Callable[[], Setup] | None = None) -> None:
        """load: reads, opens and verifies anew what was told; without it nothing can be reloaded."""
        self._load = load
        self._before: dict[signal.Signals, Any] = {}
        self._stop = 0
        self._reload = False

    def __enter__(self) -> Self:
        for number in (*STOPS, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
            return
        self._stop = number
        for stop in STOPS:
            signal.signal(stop, self._before[stop])

    def asked(self, running: Setup) -> Swap | None:
        """What to do now, if anything.

        Raises:
            StoppedError: the end was asked for.
        """
        if self._stop:
            raise StoppedError(self._stop)
        if not self._reload or self._load is None:
            return None
        self._reload = False
        try:
            setup = self._load()
            if setup.source != running.source:
                raise InputError(f"the source is now {setup.source or 'a microphone or command'}; start again for it")
            if setup.source is not None and setup.sample_rate != running.sample_rate:
                raise InputError(
                    f"the new model hears at {setup.sample_rate} Hz and this source goes on at {running.sample_rate}"
                    " Hz; start again for it"
                )
        except EdgekdError as error:
            return Swap(None, f"{NOT_RELOADED}: {error}")
        return Swap(setup, f"{RELOADED} {setup.classifier.manifest.name}")
