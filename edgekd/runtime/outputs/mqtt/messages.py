"""The messages that wait to be published: the newest of each topic, and every change of the label shown, in order.

A client that connects late reads the retained topics, which need only the newest message. Changes that happened while
the broker was away must not look as if they happened now. They go to a topic of their own, which is not retained.
"""

import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision
from edgekd.runtime.level import to_dbfs
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.error_line import output_error
from edgekd.runtime.outputs.mqtt import homeassistant
from edgekd.runtime.source.health import StatusLine

NAME = "mqtt"
"""Of the output."""
REPEATS = 3
"""How often an unchanged message is repeated within its time of expiry: two of them may be lost."""


RIVAL_S = 600.0
"""So many seconds after its last message another listener on the same topics is reported."""


class Message(NamedTuple):
    """A message for the broker. qos: 0 where it may be lost, 1 where the broker has to acknowledge it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class PublishSettings(NamedTuple):
    """Topics and intervals.

    topic: the prefix of all topics. name: of the device. discovery: Home Assistant's prefix, None for no discovery
    message. every_s: least time between messages of probabilities, seconds. expire_s: time after which messages expire,
    seconds. buffer: most changes that wait. version: of edgekd.
    """

    topic: str
    name: str
    discovery: str | None
    every_s: float
    expire_s: int
    buffer: int
    version: str


class _Health(msgspec.Struct):
    """What a listener reads of a health message."""

    listener: str = ""


class PendingMessages:
    """Filled by the stream and emptied by the publishing thread. Neither waits for the other's work."""

    def __init__(self, settings: PublishSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._changes: deque[Message] = deque()
        self._due: set[str] = set()  # names of the `_makers` whose message waits
        self._makers: dict[str, Callable[[], Message | None]] = {
            "config": self._config,
            "state": self._state,
            "probabilities": self._probabilities,
            "health": self._health,
        }
        self._due_since = dict.fromkeys(
            self._makers, -math.inf
        )  # clock time at which each became due for the last time
        self._decision: Decision | None = None
        self._decided_at = ""  # UTC, ISO 8601
        self._shown: tuple[object, ...] = ()
        self._manifest: Manifest | None = None
        self._source = StatusLine(0.0, "HEALTHY", "")
        self._counts: dict[str, Any] | None = None
        self._errors: dict[str, str] = {}
        self._listener = secrets.token_hex(4)  # of this process, in its health messages
        self._is_echoed = False  # the broker has delivered this process's health message
        self._rival_at = -math.inf  # clock time
        self.dropped = 0
        """Changes that were dropped, the oldest first, because too many waited."""
        self.connections = 0
        """Connections to the broker since the start."""

    @property
    def discovery(self) -> str | None:
        """Prefix of Home Assistant's discovery."""
        return self._settings.discovery

    @property
    def health_topic(self) -> str:
        """Topic of the health messages."""
        return self._topic("health")

    @property
    def rival(self) -> str | None:
        """What to tell while another listener publishes to the same topics; None where none does."""
        if self._clock() - self._rival_at > RIVAL_S:
            return None
        return f"another listener publishes to {self._settings.topic}; give each its own mqtt.topic (--mqtt-topic)"

    def notice_health(self, payload: bytes | bytearray) -> None:
        """Take a health message from the broker. One of another listener is older than this process until a message of
        this process has come back."""
        try:
            listener = msgspec.json.decode(payload, type=_Health).listener
        except msgspec.DecodeError:
            return
        if listener == self._listener:
            self._is_echoed = True
        elif self._is_echoed:
            self._rival_at = self._clock()

    def add(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Take a line of the stream and the observation behind a decision."""
        now = self._clock()
        with self._lock:
            if isinstance(event, StatusLine):
                self._take_status(event)
            else:
                self._take_decision(event, now)
            if observation is not None:
                self._counts = None if observation.counts is None else observation.counts._asdict()
                if observation.manifest is not self._manifest:
                    self._manifest = observation.manifest
                    self._due |= {"config", "health"}

    def next(self) -> Message | None:
        """Remove and return the next message; None where none waits."""
        with self._lock:
            for name in [name for name in self._makers if name in self._due]:
                self._due.discard(name)
                message = self._makers[name]()
                if message is not None:
                    return message
            return self._changes.popleft() if self._changes else None

    def repeat_all(self) -> None:
        """Make all retained messages due again, for a subscriber that has none of them."""
        with self._lock:
            self._due.update(self._makers)

    def requeue(self, messages: Sequence[Message]) -> None:
        """Put unacknowledged changes back in front of all others. Other messages are not put back, because `repeat_all`
        repeats them on the next connection."""
        with self._lock:
            self._changes.extendleft(
                message for message in reversed(messages) if message.topic == self._topic("change")
            )
            self._drop_oldest()

    def availability(self, *, online: bool) -> Message:
        """The message that says whether this listener is online."""
        return Message(self._topic("availability"), b"online" if online else b"offline")

    def _take_status(self, line: StatusLine) -> None:
        reported = output_error(line)
        if reported is None:
            self._source = line
        else:
            name, error = reported
            self._errors.pop(name, None)
            if error and name != NAME:  # this output's own error is over by the time it can be published
                self._errors[name] = error
        self._source = msgspec.structs.replace(self._source, t=line.t)
        self._due.add("health")

    def _take_decision(self, decision: Decision, now: float) -> None:
        self._decision, self._decided_at = decision, datetime.now(UTC).isoformat(timespec="milliseconds")
        self._source = msgspec.structs.replace(self._source, t=decision.t, state=decision.state)
        shown = decision.label, decision.gated
        if shown != self._shown:
            self._shown = shown
            self._due.add("state")
            self._changes.append(Message(self._topic("change"), self._line(decision), retain=False))
            self._drop_oldest()
        repeat_s = self._settings.expire_s / REPEATS
        for name, every_s in (("state", repeat_s), ("health", repeat_s), ("probabilities", self._settings.every_s)):
            if name in self._due or now - self._due_since[name] >= every_s:
                self._due.add(name)
                self._due_since[name] = now

    def _drop_oldest(self) -> None:
        while len(self._changes) > self._settings.buffer:
            self._changes.popleft()
            self.dropped += 1

    def _topic(self, part: str) -> str:
        return f"{self._settings.topic}/{part}"

    def _config(self) -> Message | None:
        settings = self._settings
        if settings.discovery is None or self._manifest is None:
            return None
        payload = homeassistant.device(
            settings.topic, settings.name, self._manifest, settings.expire_s, settings.version
        )
        return Message(homeassistant.config_topic(settings.discovery, settings.topic), msgspec.json.encode(payload))

    def _state(self) -> Message | None:
        return None if self._decision is None else Message(self._topic("state"), self._line(self._decision))

    def _line(self, decision: Decision) -> bytes:
        """The decision as `listen --json` prints it, with its time and level."""
        return msgspec.json.encode(
            {"time": self._decided_at, **msgspec.to_builtins(decision), "level": level(decision.rms)}
        )

    def _probabilities(self) -> Message | None:
        decision = self._decision
        if decision is None:
            return None
        payload = {
            "time": self._decided_at,
            "t": decision.t,
            "label": decision.label,
            "probability": decision.probability,
            "probabilities": dict(decision.top),
            "level": level(decision.rms),
        }
        return Message(self._topic("probabilities"), msgspec.json.encode(payload), qos=0, retain=False)

    def _health(self) -> Message:
        source = self._source
        payload = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "t": source.t,
            "state": source.state,
            "reason": source.reason,
            "problem": source.state != "HEALTHY" or bool(self._errors),
            "outputs": self._errors,
            "drops": 0 if self._decision is None else self._decision.drops,
            "counts": self._counts,
            "reconnects": max(0, self.connections - 1),
            "dropped": self.dropped,
            "listener": self._listener,
            "version": self._settings.version,
            "model": None if self._manifest is None else self._manifest.name,
        }
        return Message(self._topic("health"), msgspec.json.encode(payload))


def level(rms: float) -> float | None:
    """dBFS of an rms of 0..1; None for digital silence."""
    return round(to_dbfs(rms), 1) if rms > 0.0 else None
