"""systemd, through its own commands, as far as the verbs of the service need it."""

import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from edgekd.errors import InputError
from edgekd.runtime.notify import RELOAD_MARK
from edgekd.runtime.source.health import RELOADED
from edgekd.service.paths import UNIT

RUNS = Path("/run/systemd/system")
"""Exists while this machine runs systemd."""
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "StatusText",
    "UnitFileState",
    "MemoryCurrent",
    "WatchdogUSec",
    "WatchdogTimestampMonotonic",
)
COMMAND_S = 90.0
"""Longest wait for a command, seconds; a stop may take as long as the unit allows."""
POLL_S = 0.25
UNSET = 2**64 - 1
"""systemd's value for an unknown number."""


class UnitState(NamedTuple):
    """State of the unit.

    load, active, sub: states of systemd, such as "loaded", "active" and "running". result: why the unit ended last,
    "success" if without error. enabled: state of the unit file. process: id of the listener, 0 for none. restarts: by
    systemd since the unit was started. text: status text of the listener. memory: bytes, None where systemd does not
    count it. fed: when the watchdog was fed last, seconds of time.monotonic(), 0 for never.
    """

    load: str = ""
    active: str = ""
    sub: str = ""
    result: str = ""
    enabled: str = ""
    process: int = 0
    restarts: int = 0
    text: str = ""
    memory: int | None = None
    fed: float = 0.0

    @property
    def reload_note(self) -> str:
        """Result of the last reload, with its number; "" before the first."""
        _, found, reload_note = self.text.partition(RELOAD_MARK)
        return reload_note.strip() if found else ""

    @property
    def reloaded(self) -> bool:
        """Whether the last reload succeeded."""
        return self.reload_note.partition(": ")[2].startswith(RELOADED)


class Manager(Protocol):
    """The part of systemd that the verbs need; `Systemd` is the real one."""

    def add_user(self) -> None:
        """Create the user of the service."""
        ...

    def prepare(self) -> None:
        """Set modes and reload unit files."""
        ...

    def start(self) -> None:
        """Start the unit anew, without waiting until it is ready."""
        ...

    def reload(self) -> None:
        """Ask the listener to read its configuration and its model again."""
        ...

    def stop(self) -> None:
        """Stop the unit."""
        ...

    def forget(self) -> None:
        """Reload unit files after one was removed."""
        ...

    def state(self) -> UnitState:
        """State of the unit."""
        ...

    def last_line(self) -> str:
        """The newest line of the listener in the journal; "" where there is none or it cannot be read."""
        ...

    def clock(self) -> float:
        """Seconds of time.monotonic()."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Systemd:
    """The systemd of this machine."""

    def add_user(self) -> None:
        """Create the user of the service."""
        _run("systemd-sysusers", "edgekd.conf")

    def prepare(self) -> None:
        """Set modes and reload unit files."""
        _run("systemd-tmpfiles", "--create", "edgekd.conf")
        _run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start the unit anew. Does not wait until it is ready, which may take until a microphone is plugged in."""
        _run("systemctl", "reset-failed", UNIT, fails=True)  # fails if systemd does not know the unit yet
        _run("systemctl", "restart", "--no-block", UNIT)

    def reload(self) -> None:
        """As `systemctl reload`, but also for a listener that still waits for its first samples."""
        _run("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)

    def stop(self) -> None:
        """Stop the unit."""
        _run("systemctl", "stop", UNIT)

    def forget(self) -> None:
        """Reload unit files after one was removed."""
        _run("systemctl", "daemon-reload")
        _run("systemctl", "reset-failed", UNIT, fails=True)

    def state(self) -> UnitState:
        """State of the unit."""
        message = dict(
            line.partition("=")[::2]
            for line in _run("systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}").splitlines()
        )
        memory = _number(message.get("MemoryCurrent", ""))
        return UnitState(
            message.get("LoadState", ""),
            message.get("ActiveState", ""),
            message.get("SubState", ""),
            message.get("Result", ""),
            message.get("UnitFileState", ""),
            _number(message.get("MainPID", "")) or 0,
            _number(message.get("NRestarts", "")) or 0,
            message.get("StatusText", ""),
            memory,
            (_number(message.get("WatchdogTimestampMonotonic", "")) or 0) / 1e6,
        )

    def last_line(self) -> str:
        """The newest line of the listener in the journal; "" where there is none or it cannot be read."""
        return _run(
            "journalctl",
            f"_SYSTEMD_UNIT={UNIT}",
            "_TRANSPORT=stdout",
            "--lines=1",
            "--output=cat",
            "--no-pager",
            "--quiet",
            fails=True,
        ).strip()

    def clock(self) -> float:
        """Seconds of time.monotonic()."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def local_systemd(verb: str, command: str, *, changes: bool = True) -> Systemd:
    """The systemd of this machine.

    Args:
        verb: of `edgekd service`, for errors.
        command: path of the program `edgekd`, for errors.
        changes: whether the verb changes the system, which needs root.

    Raises:
        InputError: systemd does not run here, or the user is not root.
    """
    if not RUNS.is_dir():
        raise InputError(
            f"systemd does not run here, and 'edgekd service {verb}' needs it; to prepare a system that will run it,"
            " give --root DIRECTORY (--root / for this one)"
        )
    if changes and os.geteuid() != 0:
        raise InputError(
            f"'edgekd service {verb}' changes the system, which only root may: sudo {command} service {verb} ..."
        )
    return Systemd()


def _run(*words: str, fails: bool = False) -> str:
    """The standard output of a command. fails: whether it may fail.

    Raises:
        InputError: it fails, hangs or does not exist.
    """
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=COMMAND_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if fails:
            return ""
        why = error.strerror if isinstance(error, OSError) else f"no end after {COMMAND_S:g} s"
        raise InputError(f"'{' '.join(words)}' cannot be run ({why}); look at systemd itself") from None
    if done.returncode and not fails:
        why = next(iter(done.stderr.strip().splitlines()), "no message")
        raise InputError(f"'{' '.join(words)}' failed with status {done.returncode}: {why}")
    return done.stdout


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) < UNSET else None
