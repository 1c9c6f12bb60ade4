"""systemd as the service's verbs see it: what to tell it and what it says, through its own commands."""

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
"""There while systemd is what started this machine."""
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
"""Longest wait for a command; a stop may take as long as the unit allows."""
POLL_S = 0.25
UNSET = 2**64 - 1
"""What systemd says for a number that it does not know."""


class UnitState(NamedTuple):
    """What systemd says of the unit.

    load, active, sub: states, such as "loaded", "active" and "running". result: why it ended last, "success" while all
    is well. enabled: of the unit file. process: id of the listener, 0 for none. restarts: by systemd since the unit was
    started. text: what the listener says.
    memory: bytes, None where it is not counted. fed: clock at the newest food of the watchdog, seconds of
    time.monotonic(), 0 for none.
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
        """What came of the last reload, with its number; "" before one."""
        _, found, reload_note = self.text.partition(RELOAD_MARK)
        return reload_note.strip() if found else ""

    @property
    def reloaded(self) -> bool:
        """Whether the last reload took what was given."""
        return self.reload_note.partition(": ")[2].startswith(RELOADED)


class Manager(Protocol):
    """What the verbs need of systemd; `Systemd` is the real one."""

    def prepare(self) -> None:
        """Make users, set modes and read units anew."""
        ...

    def start(self) -> None:
        """Start the unit anew, and do not wait until it is ready."""
        ...

    def reload(self) -> None:
        """Ask the listener to read its configuration and its model again."""
        ...

    def stop(self) -> None:
        """End the unit."""
        ...

    def forget(self) -> None:
        """Read units anew, one of which has gone."""
        ...

    def state(self) -> UnitState:
        """What it says of the unit."""
        ...

    def last_line(self) -> str:
        """The newest line that the listener wrote to the journal; "" where there is none to be read."""
        ...

    def clock(self) -> float:
        """Seconds of time.monotonic()."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Systemd:
    """The systemd of this machine."""

    def prepare(self) -> None:
        """Make users, set modes and read units anew."""
        _run("systemd-sysusers", "edgekd.conf")
        _run("systemd-tmpfiles", "--create", "edgekd.conf")
        _run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start the unit anew, and do not wait until it is ready: that may take until a microphone is plugged in."""
        _run("systemctl", "reset-failed", UNIT, fails=True)  # it fails where systemd has never seen the unit
        _run("systemctl", "restart", "--no-block", UNIT)

    def reload(self) -> None:
        """As `systemctl reload`, but also of a listener that still waits for its first sound."""
        _run("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)

    def stop(self) -> None:
        """End the unit."""
        _run("systemctl", "stop", UNIT)

    def forget(self) -> None:
        """Read units anew, one of which has gone."""
        _run("systemctl", "daemon-reload")
        _run("systemctl", "reset-failed", UNIT, fails=True)

    def state(self) -> UnitState:
        """What it says of the unit."""
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
        """The newest line that the listener wrote to the journal; "" where there is none to be read."""
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
        changes: whether it changes the system, for which one has to be root.

    Raises:
        InputError: systemd does not run here, or the user may not do that.
    """
    if not RUNS.is_dir():
        raise InputError(
            f"systemd does not run here, so 'edgekd service {verb}' has nothing to work on; to prepare a system in"
            " which it will run give --root DIRECTORY (--root / for this one)"
        )
    if changes and os.geteuid() != 0:
        raise InputError(
            f"'edgekd service {verb}' changes the system, which only root may: sudo {command} service {verb} ..."
        )
    return Systemd()


def _run(*words: str, fails: bool = False) -> str:
    """What a command prints. fails: it may.

    Raises:
        InputError: it fails, hangs or is not there.
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
        why = next(iter(done.stderr.strip().splitlines()), "it says nothing")
        raise InputError(f"'{' '.join(words)}' failed with status {done.returncode}: {why}")
    return done.stdout


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) < UNSET else None
