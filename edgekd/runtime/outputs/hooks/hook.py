"""The output of `[hook]`: sends each change to a shell command, to a web address, or to both, as JSON.

Each delivery has its own queue and thread, so that none waits for the other.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from edgekd.errors import InputError
from edgekd.runtime.config_tables import HookTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Observation, Worker
from edgekd.runtime.outputs.hooks.command import CommandDelivery
from edgekd.runtime.outputs.hooks.delivery import POLL_S, Delivery, DeliveryError
from edgekd.runtime.source.health import StatusLine

QUEUE = 16
"""Events that wait for a slow command or address."""
FINISH_S = 0.4 * CLOSE_S
"""How long a running delivery may go on after the listener ends, seconds."""


class HookEvent(NamedTuple):
    """A change.

    what: "label" or "state". when: UTC. before: the label or state until now, None for the first one. line: the line of
    the stream that brought the change.
    """

    what: str
    when: datetime
    before: str | None
    line: Decision | StatusLine


class Hook:
    """Sends changes to its deliveries."""

    name = "hook"

    def __init__(self, deliveries: Sequence[Delivery], on: Sequence[str] = ("label",)) -> None:
        """on: which changes are sent, "label", "state" or both."""
        self._queues, self._on = [_Queue(delivery) for delivery in deliveries], on
        self._label: str | None = None
        self._state: str | None = None

    @property
    def dropped(self) -> int:
        """Events that were dropped because too many waited."""
        return sum(queue.worker.dropped for queue in self._queues)

    @property
    def error(self) -> str | None:
        """The errors of all deliveries."""
        return "; ".join(queue.error for queue in self._queues if queue.error) or None

    def publish(self, event: Decision | StatusLine, _observation: Observation | None) -> None:
        """Queue a line if it changes label or state. A `StatusLine` may leave the state as it is, for instance when it
        reports the error of an output."""
        if isinstance(event, Decision) and event.label != self._label:
            self._send("label", self._label, event)
            self._label = event.label
        if event.state != self._state:
            self._send("state", self._state, event)
            self._state = event.state

    def close(self) -> None:
        """Wait at most `FINISH_S` for the running deliveries, then stop them."""
        end = time.monotonic() + FINISH_S
        for queue in self._queues:
            queue.worker.close(max(0.0, end - time.monotonic()))
        for queue in self._queues:
            queue.delivery.stop()
        for queue in self._queues:
            queue.worker.close(2.0 * POLL_S)

    def _send(self, what: str, before: str | None, line: Decision | StatusLine) -> None:
        if what in self._on:
            hook_event = HookEvent(what, datetime.now(UTC), before, line)
            for queue in self._queues:
                queue.worker.put(hook_event)


class _Queue:
    """A delivery and the events that wait for it."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery, self._dropped = delivery, 0
        self.worker: Worker[HookEvent] = Worker(f"hook {delivery.name}", self._work, QUEUE)

    @property
    def error(self) -> str | None:
        return self.delivery.error or self.worker.error

    def _work(self, hook_event: HookEvent) -> None:
        dropped = self.worker.dropped
        self.delivery.deliver(to_body(hook_event))
        if dropped > self._dropped:
            self._dropped = dropped
            raise DeliveryError(f"the {self.delivery.name} is slower than events come; the oldest are dropped")


def open_hook(table: HookTable) -> Hook:
    """The hook of a configuration.

    Raises:
        InputError: neither a command nor an address, or one that can never work.
    """
    deliveries: list[Delivery] = []
    if table.command is not None:
        if not table.command.strip():
            raise InputError("hook: the command is empty; give what a shell runs, for instance 'logger -t edgekd'")
        deliveries.append(CommandDelivery(table.command, table.timeout))
    if table.url is not None:
        from edgekd.runtime.outputs.hooks.webhook import open_webhook  # HTTP and TLS take megabytes

        deliveries.append(open_webhook(table.url, table.timeout, table.token))
    if not deliveries:
        raise InputError("hook: nothing to run and nowhere to post; give the table a command, a url or both")
    return Hook(deliveries, table.on)


def to_body(hook_event: HookEvent) -> bytes:
    """The event as a line of JSON: event, time, before, and all fields of the line of `listen --json`."""
    when = hook_event.when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"event": hook_event.what, "time": when, "before": hook_event.before}
    return msgspec.json.encode({**fields, **msgspec.to_builtins(hook_event.line)}) + b"\n"
