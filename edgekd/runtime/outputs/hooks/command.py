"""A shell command that runs for each event, with the event as JSON on its standard input.

Commands run one after the other, each in a process group of its own. The group is killed when the time is up, and also
when its first process ends, so that nothing that a command starts outlives it. Processes that leave the group (setsid,
a daemon) are found on Linux by a mark in their environment. All children inherit the mark unless they clear it.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from edgekd.runtime.outputs.base import reason_text
from edgekd.runtime.outputs.hooks.delivery import POLL_S, DeliveryError
from edgekd.runtime.shell_command import KEPT_STDERR_BYTES, last_line, without_credentials

MAX_STDERR_BYTES = 1 << 20
"""Bytes of a command's standard error that are read."""
MARK = "EDGEKD_HOOK_RUN"
"""Environment variable that marks every process of one run of a command."""
MAX_SEARCHES = 10
"""Most searches for processes that a command has left: one may start another while it is being found."""


class CommandDelivery:
    """Runs a shell command with each event on its standard input; its standard output is not read."""

    name = "command"

    def __init__(self, command: str, timeout_s: float) -> None:
        self._command, self._timeout_s, self._stopped = command, timeout_s, threading.Event()
        self.error: str | None = None

    def deliver(self, body: bytes) -> None:
        """Run the command until it ends or its time is up.

        Raises:
            DeliveryError: it cannot be started, takes too long, or ends with another status than 0.
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
                env={**without_credentials(os.environ), MARK: mark},
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            raise DeliveryError(f"the command cannot be started ({reason_text(error)})") from None
        with process:
            in_time, reason = self._run(process, body)
        _kill_marked(mark)
        self.error = None
        if not in_time and not self._stopped.is_set():
            raise DeliveryError(f"the command took longer than {self._timeout_s:g} s and was killed{reason}")
        if in_time and process.returncode:
            how = (
                f"with status {process.returncode}"
                if process.returncode > 0
                else f"by {signal.Signals(-process.returncode).name}"
            )
            raise DeliveryError(f"the command ended {how}{reason}")

    def stop(self) -> None:
        """Kill the running command, and run no other."""
        self._stopped.set()

    def _run(self, process: "subprocess.Popen[bytes]", body: bytes) -> tuple[bool, str]:
        """Write to the command and read from it until it ends or must end.

        Returns:
            Whether it ended by itself, and the last line of its standard error as ": ...", or "".
        """
        assert process.stdin is not None
        assert process.stderr is not None
        deadline, rest, tail, read, in_time = time.monotonic() + self._timeout_s, body, b"", 0, True
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stderr.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stderr, selectors.EVENT_READ)
            while not _has_ended(process.pid):
                if self._stopped.is_set() or time.monotonic() >= deadline:
                    in_time = False
                    break
                for key, _ in selector.select(POLL_S):
                    if key.fileobj is process.stderr:
                        new = os.read(key.fd, KEPT_STDERR_BYTES)
                        tail, read = (tail + new)[-KEPT_STDERR_BYTES:], read + len(new)
                        if not new or read > MAX_STDERR_BYTES:
                            selector.unregister(process.stderr)
                        continue
                    try:
                        rest = rest[os.write(key.fd, rest) :]
                    except BrokenPipeError:  # the command does not read its input
                        rest = b""
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
        try:
            # before the first process is waited for, so that no other group can have its number
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # where SIGCHLD is ignored, the system has already waited for it
            pass
        except PermissionError:  # a process of another user, started with sudo; also one that has ended
            self.error = (
                None if in_time else f"the command takes longer than {self._timeout_s:g} s and may not be killed"
            )
        with suppress(BlockingIOError):  # no more to read
            rest_of_stderr = os.read(process.stderr.fileno(), MAX_STDERR_BYTES) if read <= MAX_STDERR_BYTES else b""
            tail = (tail + rest_of_stderr)[-KEPT_STDERR_BYTES:]
        last = last_line(tail, self._command)
        return in_time, f": {last}" if last else ""


def _has_ended(pid: int) -> bool:
    """Whether a child has ended. It is not waited for, so that no other process can get its number."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # where SIGCHLD is ignored, the system has waited for it
        return True


def _kill_marked(mark: str) -> None:
    """Kill the remaining processes of one run, found by their mark; only on Linux, which has /proc."""
    if sys.platform != "linux":
        return
    line = f"{MARK}={mark}".encode()
    for _ in range(MAX_SEARCHES):
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or belongs to another user
                # a process number may be given to another process before the kill; a pidfd stays with this one
                process = os.pidfd_open(int(folder.name))
                try:
                    if line in (folder / "environ").read_bytes().split(b"\0"):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                        found = True
                finally:
                    os.close(process)
        if not found:
            return
