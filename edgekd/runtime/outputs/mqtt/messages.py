"""What is to be published: of each topic the newest, and the changes of what is shown, all of them in their order.

Whoever joins late reads the retained topics, which need no more than the newest message. What happened while the broker
was away would be lost there, and must not look as if it happened now: it goes to a topic of its own that is not
retained.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.config_tables import OUTPUT_TABLES
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import WORKS_AGAIN, Moment
from edgekd.runtime.outputs.mqtt import homeassistant
from edgekd.runtime.source.health import Change

NAME = "mqtt"
"""Of the output."""
REPEATS = 3
"""How often what does not change is said in the time after which it expires: two messages may be lost."""


class Message(NamedTuple):
    """What is published. qos: 0 where it may be lost, 1 where the broker has to acknowledge it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class Terms(NamedTuple):
    """How news are published. topic: what all topics begin with. name: of the device. discovery: Home Assistant's
    prefix, None where it is told nothing. every_s: least seconds between messages of probabilities. expire_s: seconds
    after which news are none. buffer: changes that wait at most. version: of edgekd."""

    topic: str
    name: str
    discovery: str | None
    every_s: float
    expire_s: int
    buffer: int
    version: str


class News:
    """Is told by the stream, and read by the thread that publishes; neither waits for the other's work."""

    def __init__(self, terms: Terms, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self._terms, self._clock = terms, clock
        self._lock = threading.Lock()
        self._changes: deque[Message] = deque()
        self._due: set[str] = set()  # names of `_makers` that wait
        self._makers: dict[str, Callable[[], Message | None]] = {
            "config": self._config,
            "state": self._state,
            "probabilities": self._probabilities,
            "health": self._health,
        }
        self._said = dict.fromkeys(self._makers, -math.inf)  # clock at which each became due for the last time
        self._decision: Decision | None = None
        self._decided = ""  # when
        self._shown: tuple[object, ...] = ()
        self._manifest: Manifest | None = None
        self._heard = Change(0.0, "HEALTHY", "")  # the state of the source
        self._counts: dict[str, Any] | None = None
        self._troubles: dict[str, str] = {}
        self.dropped = 0
        """Changes that were lost, the oldest first, because too many waited."""
        self.connections = 0
        """To the broker, since the start."""

    @property
    def discovery(self) -> str | None:
        """Prefix of Home Assistant's discovery."""
        return self._terms.discovery

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Take a line of the stream and what a decision was made of."""
        now = self._clock()
        with self._lock:
            if isinstance(event, Change):
                self._take_change(event)
            else:
                self._take_decision(event, now)
            if moment is not None:
                self._counts = None if moment.counts is None else moment.counts._asdict()
                if moment.manifest is not self._manifest:
                    self._manifest = moment.manifest
                    self._due |= {"config", "health"}

    def next(self) -> Message | None:
        """What is to be published now, if anything; it counts as published."""
        with self._lock:
            for name in [name for name in self._makers if name in self._due]:
                self._due.discard(name)
                message = self._makers[name]()
                if message is not None:
                    return message
            return self._changes.popleft() if self._changes else None

    def again(self) -> None:
        """Somebody knows nothing yet: all that is retained is due."""
        with self._lock:
            self._due.update(self._makers)

    def give_back(self, messages: Sequence[Message]) -> None:
        """These were never acknowledged: changes among them wait once more, before all others; the rest is said `again`
        anyway."""
        with self._lock:
            self._changes.extendleft(
                message for message in reversed(messages) if message.topic == self._topic("change")
            )
            self._bound()

    def availability(self, *, online: bool) -> Message:
        """What tells whether this listener is there."""
        return Message(self._topic("availability"), b"online" if online else b"offline")

    def _take_change(self, change: Change) -> None:
        name, _, trouble = change.reason.partition(": ")
        if name not in OUTPUT_TABLES:
            self._heard = change
        elif name == NAME:  # over by the time it can be told
            pass
        elif trouble == WORKS_AGAIN:
            self._troubles.pop(name, None)
        else:
            self._troubles[name] = trouble
        self._heard = msgspec.structs.replace(self._heard, t=change.t)
        self._due.add("health")

    def _take_decision(self, decision: Decision, now: float) -> None:
        self._decision, self._decided = decision, datetime.now(UTC).isoformat(timespec="milliseconds")
        self._heard = msgspec.structs.replace(self._heard, t=decision.t, state=decision.state)
        shown = decision.label, decision.gated
        if shown != self._shown:
            self._shown = shown
            self._due.add("state")
            self._changes.append(Message(self._topic("change"), self._line(decision), retain=False))
            self._bound()
        repeat_s = self._terms.expire_s / REPEATS
        for name, every_s in (("state", repeat_s), ("health", repeat_s), ("probabilities", self._terms.every_s)):
            if name in self._due or now - self._said[name] >= every_s:
                self._due.add(name)
                self._said[name] = now

    def _bound(self) -> None:
        while len(self._changes) > self._terms.buffer:
            self._changes.popleft()
            self.dropped += 1

    def _topic(self, part: str) -> str:
        return f"{self._terms.topic}/{part}"

    def _config(self) -> Message | None:
        terms = self._terms
        if terms.discovery is None or self._manifest is None:
            return None
        told = homeassistant.device(terms.topic, terms.name, self._manifest, terms.expire_s, terms.version)
        return Message(homeassistant.config_topic(terms.discovery, terms.topic), msgspec.json.encode(told))

    def _state(self) -> Message | None:
        return None if self._decision is None else Message(self._topic("state"), self._line(self._decision))

    def _line(self, decision: Decision) -> bytes:
        """As `listen --json` prints it, with when it was and its level."""
        return msgspec.json.encode(
            {"time": self._decided, **msgspec.to_builtins(decision), "level": level(decision.rms)}
        )

    def _probabilities(self) -> Message | None:
        decision = self._decision
        if decision is None:
            return None
        told = {
            "time": self._decided,
            "t": decision.t,
            "label": decision.label,
            "probability": decision.probability,
            "probabilities": dict(decision.top),
            "level": level(decision.rms),
        }
        return Message(self._topic("probabilities"), msgspec.json.encode(told), qos=0, retain=False)

    def _health(self) -> Message:
        heard = self._heard
        told = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "t": heard.t,
            "state": heard.state,
            "reason": heard.reason,
            "problem": heard.state != "HEALTHY" or bool(self._troubles),
            "outputs": self._troubles,
            "drops": 0 if self._decision is None else self._decision.drops,
            "counts": self._counts,
            "reconnects": max(0, self.connections - 1),
            "dropped": self.dropped,
            "version": self._terms.version,
            "model": None if self._manifest is None else self._manifest.name,
        }
        return Message(self._topic("health"), msgspec.json.encode(told))


def level(rms: float) -> float | None:
    """dBFS of an rms of 0..1; None for digital silence."""
    return round(20.0 * math.log10(rms), 1) if rms > 0.0 else None
