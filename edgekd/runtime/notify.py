"""Tells systemd that the listener is ready, alive, and what it hears: the protocol of sd_notify, without its library.

Ready is a listener that has decided on fresh sound once, and alive one that goes on doing so: nothing else feeds the
watchdog, so that a microphone that hangs, a device that gives zeros and a listener that is stuck are all noticed. Quiet
or gated windows count as well, because they too are sound that was heard. Until the first decision there is no
watchdog: a microphone may be plugged in much later. What limits the start is then the unit's TimeoutStartSec, which the
first word of the stream, for instance that no microphone is there, makes as good as endless. A microphone that is lost
later costs one restart: the watchdog ends the listener, and the new one waits.

Sent from the thread of the stream, which is what the watchdog is to judge; a datagram that finds no room is kept for
the next line.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping

from edgekd.runtime.decision import Decision
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED, WENT_BACK, StatusLine

SOCKET, WATCHDOG, WATCHDOG_PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
"""Variables by which systemd tells where to send to, within how many microseconds it wants to be fed, and by which
process."""
RELOADS = (RELOADED, NOT_RELOADED, WENT_BACK)
RELOAD_MARK = "; reload"
"""Between the state and what came of the last reload, in the text that systemd shows; a number tells it from the one
before."""
FEEDS = 4
"""In each watchdog interval, so that a lost one does no harm."""
WAIT_S = 10 * 365 * 86400.0
"""By which the start is extended while there is no sound."""
MAX_TEXT = 250
"""Characters of the state, and of what came of the last reload; systemd takes 4096 bytes in all."""
STATUS_S = 1.0
"""Least seconds between two texts that differ in the label alone."""


class Notifier:
    """Sends to systemd; like any output it neither waits nor raises."""

    name = "systemd"

    def __init__(
        self, address: str, watchdog_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """address: of a datagram socket, "@" before the name of an abstract one. watchdog_s: in which it wants to be
        fed; None: never."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_s = None if watchdog_s is None else watchdog_s / FEEDS
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._error: str | None = None
        self._ready = self._extended = self._reloading = False
        # seconds of sound; of the clock at the newest feed and text
        self._newest_s = self._fed_at = self._sent_at = -float("inf")
        self._status = self._sent_status = self._reload_text = ""
        self._reloads = 0

    @property
    def error(self) -> str | None:
        """Why the newest message did not get through; None where it did."""
        return self._error

    def publish(self, event: Decision | StatusLine, _moment: object = None) -> None:
        """A line of the stream."""
        if isinstance(event, StatusLine):
            self._changed(event)
        else:
            self._decided(event)

    def reloading(self) -> None:
        """A reload begins; the next line of the stream says how it ended."""
        if self._ready:
            self._reloading = self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}")

    def close(self) -> None:
        """The listener ends on purpose."""
        self._send("STOPPING=1")
        self._socket.close()

    def _changed(self, change: StatusLine) -> None:
        if change.reason.startswith(RELOADS):
            self._reloads += 1
            self._reload_text = f"{RELOAD_MARK} {self._reloads}: {change.reason}"
            self._fed_at = -float("inf")  # whoever asked for the reload waits for the first decision behind it
        else:
            self._status = f"{change.state}: {change.reason}"
        lines = []
        if not self._ready and not self._extended:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(WAIT_S * 1e6)}")
        if self._reloading:
            lines.append("READY=1")
        if self._send(*lines, self._text()):
            self._extended, self._reloading = True, False

    def _decided(self, decision: Decision) -> None:
        now = self._clock()
        fresh = decision.state == "HEALTHY" and decision.t > self._newest_s
        if fresh:
            self._newest_s = decision.t
        if decision.state == "HEALTHY":  # else the last change says why not
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
        """Whether it got through."""
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            self._error = f"systemd cannot be told ({error.strerror or error})"
            return False
        self._error = None
        self._sent_status = lines[-1] if lines[-1].startswith("STATUS=") else self._sent_status
        return True


def notifier(environ: MutableMapping[str, str] = os.environ) -> Notifier | None:
    """What systemd asks for, taken out of the environment so that no command that is started answers for the listener;
    None: nothing.

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
