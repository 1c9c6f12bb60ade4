"""Signals to a running listener: to end, or to read its configuration and its model again.

SIGHUP comes also from a terminal that closes, where it asks for the end. A handler only sets a flag. The listener
checks the flags between chunks, and ten times a second while no samples arrive.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError, InputError
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import PLAIN, DecisionSettings
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED, Watch

IDLE_S = 0.1
"""How often a listener without samples checks the flags, seconds."""
STOPS = (signal.SIGTERM, signal.SIGINT)

Array = NDArray[np.float32]


class WindowClassifier(Protocol):
    """What the listener needs of a model; `edgekd.modelfile.engine.open_model` returns one."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model file."""
        ...

    def logits(self, features: Array) -> Array:
        """float32 (batch, mel, frame) -> float32 (batch, labels)."""
        ...


class Configuration(NamedTuple):
    """Everything that a listener works with. source: a file, "-" for standard input, None for the live source in
    `request`. hop_s: seconds. top: labels."""

    source: str | None
    request: SourceRequest
    classifier: WindowClassifier
    hop_s: float
    top: int
    settings: DecisionSettings = PLAIN
    watch: Watch = Watch()

    @property
    def sample_rate(self) -> int:
        """Of the model, Hz."""
        return self.classifier.manifest.frontend.sample_rate


class Reload(NamedTuple):
    """The result of a reload, on its way through a stream of samples. configuration: valid from here on; None where the
    old one stays. reason: what happened."""

    configuration: Configuration | None
    reason: str


class StoppedError(Exception):
    """A signal asks for the end. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def has_terminal() -> bool:
    """Whether a terminal controls this process, which gets SIGHUP when it closes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Control:
    """Inside its `with` block SIGTERM and SIGINT ask for the end and SIGHUP for a reload. A second SIGTERM or SIGINT
    acts as without it."""

    def __init__(self, load: Callable[[], Configuration] | None = None, *, on_terminal: bool = False) -> None:
        """load: reads, opens and verifies the configuration again; without it nothing can be reloaded. on_terminal:
        SIGHUP means that the terminal has closed and asks for the end, unless it was ignored until now (nohup)."""
        self._load, self._on_terminal = load, on_terminal
        self._previous: dict[signal.Signals, Any] = {}
        self._stop = 0
        self._reload = False

    def __enter__(self) -> Self:
        for number in (*STOPS, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP and not (self._on_terminal and self._previous[signal.SIGHUP] != signal.SIG_IGN):
            self._reload = True
            return
        self._stop = number  # a terminal that closes may send SIGHUP twice: it stays handled
        for stop in STOPS:
            signal.signal(stop, self._previous[stop])

    def poll(self, running: Configuration) -> Reload | None:
        """The result of a reload, if one was requested.

        Raises:
            StoppedError: the end was requested.
        """
        if self._stop:
            raise StoppedError(self._stop)
        if not self._reload or self._load is None:
            return None
        self._reload = False
        try:
            configuration = self._load()
            if configuration.source != running.source:
                raise InputError(
                    f"the source is now {configuration.source or 'a microphone or command'}; start again for it"
                )
            if configuration.source is not None and configuration.sample_rate != running.sample_rate:
                raise InputError(
                    f"the new model needs {configuration.sample_rate} Hz and this source goes on at"
                    f" {running.sample_rate} Hz; start again for it"
                )
        except EdgekdError as error:
            return Reload(None, f"{NOT_RELOADED}: {error}")
        return Reload(configuration, f"{RELOADED} {configuration.classifier.manifest.name}")
