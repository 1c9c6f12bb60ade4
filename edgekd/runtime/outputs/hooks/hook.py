"""A command that is run, and an address that is posted to, where the label shown changes; each gets the event as JSON.

Each has its own queue and thread, so that neither waits for the other. A command runs alone, in a process group of its
own that is killed when its time is up and also when its first process ends: nothing that it starts outlives it. What
leaves the group (setsid, a daemon) is known on Linux by a mark in the environment, which all that a command starts
inherit unless they clear it.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from edgekd.errors import InputError
from edgekd.runtime.config_tables import HookTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Moment, Worker
from edgekd.runtime.source.health import Change

QUEUE = 16
"""Events that wait for a slow command or address."""
FINISH_S = 0.4 * CLOSE_S
"""What is running at the listener's end may go on for so long."""
TICK_S = 0.05
MAX_SAID, KEPT, SHOWN = 1 << 20, 1 << 12, 120
"""Bytes of a command's standard error that are read, and kept of them; characters of its last line that are shown."""
SECRET = re.compile(r"EDGEKD_.*(PASSWORD|TOKEN).*")
"""Variables of the environment that a command does not get."""
MARK = "EDGEKD_HOOK_RUN"
"""Variable of the environment by which all that one run of a command starts is found."""
SWEEPS = 10
"""Searches for what a command has left at most: a process may start another while it is found."""


class DeliveryError(Exception):
    """An event did not arrive. The message is shown."""


class Note(NamedTuple):
    """Something that changed. what: "label" or "state". when: UTC. before: the label or state until now, None at the
    first."""

    what: str
    when: datetime
    before: str | None
    event: Decision | Change


class Delivery(Protocol):
    """Brings events somewhere."""

    name: str

    @property
    def trouble(self) -> str | None:
        """Why what is tried now did not arrive yet; None where it did."""
        ...

    def deliver(self, body: bytes) -> None:
        """Bring an event, JSON, or raise an error whose text holds no secret."""
        ...

    def stop(self) -> None:
        """Give up what is under way, and whatever comes."""
        ...


class Hook:
    """Tells its deliveries of changes."""

    name = "hook"

    def __init__(self, deliveries: Sequence[Delivery], on: Sequence[str] = ("label",)) -> None:
        self._queues, self._on = [_Queue(delivery) for delivery in deliveries], on
        self._label: str | None = None
        self._state: str | None = None

    @property
    def dropped(self) -> int:
        """Events that were not delivered because too many waited."""
        return sum(queue.worker.dropped for queue in self._queues)

    @property
    def trouble(self) -> str | None:
        """What is wrong with any of the deliveries."""
        return "; ".join(queue.trouble for queue in self._queues if queue.trouble) or None

    def tell(self, event: Decision | Change, _moment: Moment | None) -> None:
        """Take a line; also a `Change` may leave the state as it is, as the troubles of outputs do."""
        if isinstance(event, Decision) and event.label != self._label:
            self._send("label", self._label, event)
            self._label = event.label
        if event.state != self._state:
            self._send("state", self._state, event)
            self._state = event.state

    def close(self) -> None:
        """Let what runs finish for a moment, then end it."""
        end = time.monotonic() + FINISH_S
        for queue in self._queues:
            queue.worker.close(max(0.0, end - time.monotonic()))
        for queue in self._queues:
            queue.delivery.stop()
        for queue in self._queues:
            queue.worker.close(2.0 * TICK_S)

    def _send(self, what: str, before: str | None, event: Decision | Change) -> None:
        if what in self._on:
            note = Note(what, datetime.now(UTC), before, event)
            for queue in self._queues:
                queue.worker.put(note)


class _Queue:
    """A delivery and the events that wait for it."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery, self._dropped = delivery, 0
        self.worker: Worker[Note] = Worker(f"hook {delivery.name}", self._work, QUEUE)

    @property
    def trouble(self) -> str | None:
        return self.delivery.trouble or self.worker.trouble

    def _work(self, note: Note) -> None:
        dropped = self.worker.dropped
        self.delivery.deliver(to_body(note))
        if dropped > self._dropped:
            self._dropped = dropped
            raise DeliveryError(f"the {self.delivery.name} is slower than events come; the oldest are dropped")


class Command:
    """Runs a shell command with an event on its standard input; what it prints is not read."""

    name = "command"

    def __init__(self, command: str, timeout_s: float) -> None:
        self._command, self._timeout_s, self._stopped = command, timeout_s, threading.Event()
        self.trouble: str | None = None

    def deliver(self, body: bytes) -> None:
        """Run the command to its end, or to the end of its time.

        Raises:
            DeliveryError: it cannot be started, takes too long, or ends with a status that is not 0.
        """
        if self._stopped.is_set():
            return
        mark = os.urandom(16).hex()
        try:
            process = subprocess.Popen(
                self._command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env={**_without_secrets(os.environ), MARK: mark},
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            raise DeliveryError(
                f"the command cannot be started ({getattr(error, 'strerror', None) or error})"
            ) from None
        with process:
            in_time, said = self._attend(process, body)
        _kill_marked(mark)
        self.trouble = None
        if not in_time and not self._stopped.is_set():
            raise DeliveryError(f"the command took longer than {self._timeout_s:g} s and was killed{said}")
        if in_time and process.returncode:
            how = (
                f"with status {process.returncode}"
                if process.returncode > 0
                else f"by {signal.Signals(-process.returncode).name}"
            )
            raise DeliveryError(f"the command ended {how}{said}")

    def stop(self) -> None:
        """Kill what runs; nothing is run any more."""
        self._stopped.set()

    def _attend(self, process: "subprocess.Popen[bytes]", body: bytes) -> tuple[bool, str]:
        """Feed and read the command until it ends or must end. Returns whether it ended by itself, and its last words,
        ": ..." or ""."""
        assert process.stdin is not None
        assert process.stderr is not None
        deadline, rest, said, read, in_time = time.monotonic() + self._timeout_s, body, b"", 0, True
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stderr.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stderr, selectors.EVENT_READ)
            while not _has_ended(process.pid):
                if self._stopped.is_set() or time.monotonic() >= deadline:
                    in_time = False
                    break
                for key, _ in selector.select(TICK_S):
                    if key.fileobj is process.stderr:
                        new = os.read(key.fd, KEPT)
                        said, read = (said + new)[-KEPT:], read + len(new)
                        if not new or read > MAX_SAID:
                            selector.unregister(process.stderr)
                        continue
                    try:
                        rest = rest[os.write(key.fd, rest) :]
                    except BrokenPipeError:  # it does not want to know
                        rest = b""
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
        try:
            # before the first process is waited for, while the number is its own
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # whoever ignores SIGCHLD has nothing to wait for
            pass
        except PermissionError:  # another user's, by sudo; one that has ended is among them
            self.trouble = (
                None if in_time else f"the command takes longer than {self._timeout_s:g} s and may not be killed"
            )
        with suppress(BlockingIOError):  # nothing more
            said = (said + (os.read(process.stderr.fileno(), MAX_SAID) if read <= MAX_SAID else b""))[-KEPT:]
        return in_time, _last_words(said)


def open_hook(table: HookTable) -> Hook:
    """The hook of a configuration.

    Raises:
        InputError: neither command nor address, or one that can never work.
    """
    deliveries: list[Delivery] = []
    if table.command is not None:
        if not table.command.strip():
            raise InputError("hook: the command is empty; give what a shell runs, for instance 'logger -t edgekd'")
        deliveries.append(Command(table.command, table.timeout))
    if table.url is not None:
        from edgekd.runtime.outputs.hooks.webhook import open_webhook  # HTTP and TLS take megabytes

        deliveries.append(open_webhook(table.url, table.timeout, table.token))
    if not deliveries:
        raise InputError("hook: nothing to run and nowhere to post; give the table a command, a url or both")
    return Hook(deliveries, table.on)


def to_body(note: Note) -> bytes:
    """The event as a line of JSON: what, time, before, and all that a line of `listen --json` has."""
    when = note.when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        msgspec.json.encode(
            {"event": note.what, "time": when, "before": note.before, **msgspec.to_builtins(note.event)}
        )
        + b"\n"
    )


def printable(text: str) -> str:
    """Text from elsewhere, short and without what moves a terminal's cursor."""
    visible = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return visible if len(visible) <= SHOWN else visible[: SHOWN - 3] + "..."


def _last_words(said: bytes) -> str:
    lines = said.decode(errors="replace").split("\n")
    last = next((words for line in reversed(lines) if (words := printable(line))), "")
    return f": {last}" if last else ""


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it is left to be waited for, so that its number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # where SIGCHLD is ignored, the system has waited for it
        return True


def _kill_marked(mark: str) -> None:
    """Kill what is left of a run of a command, known by its mark; needs Linux's /proc."""
    if sys.platform != "linux":
        return
    line = f"{MARK}={mark}".encode()
    for _ in range(SWEEPS):
        found = False
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is another user's
                # the number may be another's by the time of the kill, this may not
                process = os.pidfd_open(int(place.name))
                try:
                    if line in (place / "environ").read_bytes().split(b"\0"):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                        found = True
                finally:
                    os.close(process)
        if not found:
            return


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not SECRET.fullmatch(name)}
