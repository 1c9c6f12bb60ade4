"""Reports to systemd that the listener is ready and alive, and its state: the protocol of sd_notify, without its
library.

The listener is ready after the first decision on new samples, and alive while such decisions follow. Nothing else feeds
the watchdog, so that systemd notices a hanging microphone, a device that delivers zeros, and a listener that is stuck.
Decisions on quiet or gated windows count too, because their samples are new. There is no watchdog before the first
decision, because a microphone may be plugged in much later. Until then the unit's TimeoutStartSec limits the start; the
first line of the stream, for instance that no microphone is there, extends it practically without end. When a
microphone is lost later, the watchdog restarts the listener once, and the new one waits.

The messages are sent from the thread of the stream, because that is what the watchdog supervises. A datagram that does
not fit into the socket's buffer is sent again with the next line.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping

from edgekd.runtime.decision import Decision
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED, WENT_BACK, StatusLine

SOCKET, WATCHDOG, WATCHDOG_PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
"""Environment variables of systemd: the socket to send to, the watchdog interval in microseconds, and the process that
has to feed it."""
RELOADS = (RELOADED, NOT_RELOADED, WENT_BACK)
RELOAD_MARK = "; reload"
"""Separates the state from the result of the last reload in the status text. A number distinguishes it from earlier
reloads."""
FEEDS = 4
"""Feeds of the watchdog in each interval, so that a lost one does no harm."""
WAIT_S = 10 * 365 * 86400.0
"""Seconds by which the start is extended while no samples arrive."""
MAX_TEXT = 250
"""Characters of the state, and of the result of the last reload; systemd takes 4096 bytes in all."""
STATUS_S = 1.0
"""Least time between two texts that differ only in the label, seconds."""


class Notifier:
    """Sends messages to systemd. Like an output it neither waits nor raises."""

    name = "systemd"

    def __init__(
        self, address: str, watchdog_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """address: of a datagram socket, "@" before the name of an abstract one. watchdog_s: interval in which the
        watchdog must be fed; None for no watchdog."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_s = None if watchdog_s is None else watchdog_s / FEEDS
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._error: str | None = None
        self._ready = self._extended = self._reloading = False
        # audio time of the newest decision; clock times of the newest feed and text
        self._newest_s = self._fed_at = self._sent_at = -float("inf")
        self._status = self._sent_status = self._reload_text = ""
        self._reloads = 0

    @property
    def error(self) -> str | None:
        """Why the newest message did not get through; None where it did."""
        return self._error

    def publish(self, event: Decision | StatusLine, _moment: object = None) -> None:
        """Take a line of the stream."""
        if isinstance(event, StatusLine):
            self._report_status(event)
        else:
            self._report_decision(event)

    def reloading(self) -> None:
        """A reload begins; the next line of the stream brings its result."""
        if self._ready:
            self._reloading = self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}")

    def close(self) -> None:
        """The listener ends on purpose."""
        self._send("STOPPING=1")
        self._socket.close()

    def _report_status(self, change: StatusLine) -> None:
        if change.reason.startswith(RELOADS):
            self._reloads += 1
            self._reload_text = f"{RELOAD_MARK} {self._reloads}: {change.reason}"
            self._fed_at = -float("inf")  # the one who requested the reload waits for the first decision after it
        else:
            self._status = f"{change.state}: {change.reason}"
        lines = []
        if not self._ready and not self._extended:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(WAIT_S * 1e6)}")
        if self._reloading:
            lines.append("READY=1")
        if self._send(*lines, self._text()):
            self._extended, self._reloading = True, False

    def _report_decision(self, decision: Decision) -> None:
        now = self._clock()
        fresh = decision.state == "HEALTHY" and decision.t > self._newest_s
        if fresh:
            self._newest_s = decision.t
        if decision.state == "HEALTHY":  # otherwise the last status line holds the reason
            self._status = f"{decision.state}: {decision.label}"
        feed = fresh and self._feed_s is not None and now - self._fed_at >= self._feed_s
        ready = (fresh and not self._ready) or self._reloading
        lines = ["READY=1"] * ready + ["WATCHDOG=1"] * feed
        new = self._text() != self._sent_status and now - self._sent_at >= STATUS_S
        if (lines or new) and self._send(*lines, self._text()):
            self._ready, self._reloading, self._sent_at = self._ready or ready, False, now
            self._fed_at = now if feed else self._fed_at

    def _text(self) -> str:
        return f"STATUS={_one_line(self._status)}{_one_line(self._reload_text)}"

    def _send(self, *lines: str) -> bool:
        """Send a message. Returns whether it got through."""
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            self._error = f"systemd does not receive messages ({error.strerror or error})"
            return False
        self._error = None
        self._sent_status = lines[-1] if lines[-1].startswith("STATUS=") else self._sent_status
        return True


def notifier(environ: MutableMapping[str, str] = os.environ) -> Notifier | None:
    """The notifier that systemd's environment asks for; None without one. The variables are removed from the
    environment, so that commands started later do not use them.

    Args:
        environ: of this process.
    """
    address, watchdog, process = (environ.pop(name, "") for name in (SOCKET, WATCHDOG, WATCHDOG_PROCESS))
    if not address.startswith(("/", "@")) or len(address) < 2:
        return None
    wanted = watchdog.isdecimal() and int(watchdog) > 0 and process in ("", str(os.getpid()))
    return Notifier(address, int(watchdog) / 1e6 if wanted else None)


def _one_line(text: str) -> str:
    return " ".join(text[:MAX_TEXT].splitlines())
