"""A web server in a thread of its own: uvicorn with the bounds that it lacks.

uvicorn parses requests and runs the ASGI application. Here are the promises that it does not make: connections are
accepted at a bounded rate, so that a flood does not delay decisions; an idle connection makes room for one that asks;
request headers, responses and streams have deadlines; a stream that does not read is closed. A port in use is tried
again until it is free. The thread that publishes never waits for any of this.
"""

import asyncio
import contextlib
import errno
import math
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgekd.runtime.outputs.base import CLOSE_S, error_text
from edgekd.runtime.outputs.web.access import ListenAddress, client_of

MAX_CLIENTS, MAX_STREAMS = 128, 100
"""Connections, and streams among them."""
ACCEPTS_PER_S, ACCEPT_BURST = 200.0, 256.0
"""Connections accepted per second, and at once. The others wait in the kernel, which bounds the cost of a flood."""
ACCEPTS_AT_ONCE = 8
MAX_REQUEST = 8192
"""Bytes of request line and headers."""
REQUEST_S, ANSWER_S, STALL_S = 5.0, 20.0, 15.0
"""Longest time, in seconds, for a request to arrive, for a response to be read, and without progress of a stream."""
MAX_WAITING = 1 << 16
"""Bytes that wait for one stream, beyond its first snapshot."""
SEND_BUFFER = 1 << 14
"""Bytes of the kernel's send buffer of a connection, and of uvicorn's before it asks to wait."""
TICK_S = 0.5
"""Longest time between two looks for events, seconds."""
ROUND_S = 0.01
"""Seconds between two rounds of work. Events of that time are processed together, which bounds the cost of busy
clients. The interpreter runs one thread at a time, so the caller of `wake` also continues first."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""Seconds between attempts to listen, doubling."""
NOTED_S = 5.0
"""How long an error of the event loop is reported, seconds. Where no descriptors are left, it comes each second."""
BACKLOG = 128
TIMEOUT, UNAVAILABLE = (
    f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
    for status in ("408 Request Timeout", "503 Service Unavailable")
)
"""Answers to a connection without a request, which uvicorn cannot give."""

Application = Callable[[Any, Any, Any], Any]
"""An ASGI application."""


class ServerCounts(NamedTuple):
    """Counts of a server. streams: open now. requests: responses since the start. refused: connections refused. cut:
    streams closed because they did not read, or to make room."""

    streams: int
    requests: int
    refused: int
    cut: int


class Stream:
    """One open event stream: the bytes that wait for its client."""

    def __init__(self, first: bytes, cut_off: Callable[[], None]) -> None:
        """first: its first bytes. cut_off: closes the connection."""
        self._cut_off = cut_off
        self._parts = deque([first])
        self._waiting, self._allowed = len(first), len(first) + MAX_WAITING
        self._woken = asyncio.Event()
        self._woken.set()

    def put(self, part: bytes) -> None:
        """Queue bytes, or close a stream for which too much waits already."""
        if self._waiting + len(part) > self._allowed:
            self._cut_off()
            return
        self._parts.append(part)
        self._waiting += len(part)
        self._woken.set()

    async def parts(self) -> AsyncIterator[bytes]:
        """The bytes in order, for ever. The next part is taken once the client has room for it."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._parts:
                part = self._parts.popleft()
                yield part
                self._waiting -= len(part)
            self._allowed = MAX_WAITING


class Server:
    """Listens in a thread from `start` until `close`. If it cannot listen, `error` says why, and it tries again."""

    def __init__(
        self,
        address: ListenAddress,
        application: Application,
        events: Callable[[], bytes],
        headers: Mapping[str, str],
    ) -> None:
        """application: of ASGI; the state of a request has its `connection`. events: bytes to send to all streams now;
        called after `wake`, and at least every `TICK_S`. Both run in the server's thread and must not wait. headers:
        of every response."""
        self._address, self._application, self._events = address, application, events
        self._headers = [*headers.items(), ("Connection", "close")]
        self.error: str | None = None
        self._noted_at = -math.inf  # clock, seconds
        self.port: int | None = None
        self.requests = self.refused = self.cut = 0
        self.connections: dict[BoundedConnection, None] = {}  # in the order of their connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._woken, self._stopped = asyncio.Event(), asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._loop = asyncio.new_event_loop()  # here, so that a `close` right after it reaches the thread
        self._thread = threading.Thread(target=self._work, args=(self._loop,), name="web", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> ServerCounts:
        """Counts; read them in the server's thread."""
        return ServerCounts(len(self.streams), self.requests, self.refused, self.cut)

    @property
    def streams(self) -> list[Stream]:
        """The open streams; read them in the server's thread."""
        return [each.stream for each in self.connections if each.stream is not None]

    def wake(self) -> None:
        """Announce new events. Returns at once, in any thread."""
        self._call(self._woken.set)

    def close(self) -> None:
        """Close all connections."""
        self._call(self._stop)
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function)

    def _stop(self) -> None:
        self._stopped.set()
        for connection in list(self.connections):
            connection.transport.abort()
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._note)
        publishing = asyncio.create_task(self._publish())
        retry_s = FIRST_RETRY_S
        while not self._stopped.is_set():
            try:
                listener = _bound(self._address)
            except (OSError, UnicodeError) as error:
                self.error = f"{self._address} {_bind_error(error)}; trying again"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), retry_s)
                retry_s = min(2.0 * retry_s, LAST_RETRY_S)
                continue
            self.port, self.error = listener.getsockname()[1], None
            self._server = uvicorn.Server(self._config())
            with listener:  # older versions of uvicorn leave it open where they are stopped as they start
                await self._server.serve(sockets=[listener])
        publishing.cancel()

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report what the event loop would log, for instance that no descriptors are left."""
        error, self._noted_at = context.get("exception"), time.monotonic()
        self.error = error_text(error) if isinstance(error, Exception) else str(context["message"])

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._application,
            http=cast(Any, partial(BoundedConnection, self)),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # requests that are malformed would fill the journal
            access_log=False,
            server_header=False,
            date_header=False,
            headers=self._headers,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=MAX_REQUEST,
            timeout_graceful_shutdown=1,
        )

    async def _publish(self) -> None:
        """Send events to all streams as they come."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), TICK_S)
            await asyncio.sleep(ROUND_S)
            self._woken.clear()
            try:
                events = self._events()
            except Exception as error:  # a bug: the stream of decisions goes on, and the error is reported
                self.error = error_text(error)
                continue
            if self.port is not None and time.monotonic() - self._noted_at > NOTED_S:
                self.error = None
            for stream in self.streams if events else ():
                stream.put(events)


class BoundedConnection(H11Protocol):
    """A connection of uvicorn with deadlines. It closes after one response.

    Attributes:
        stream: the event stream that is its response, if it has one.
        who: see `client_of`.
    """

    def __init__(self, owner: Server, *, app_state: dict[str, Any], **arguments: Any) -> None:
        super().__init__(app_state={**app_state, "connection": self}, **arguments)
        self.stream: Stream | None = None
        self.who = ""
        self._owner = owner
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        transport.set_write_buffer_limits(SEND_BUFFER)
        self._owner.connections[self] = None
        self._within(REQUEST_S, lambda: self._refuse(TIMEOUT))
        self.who = client_of(str(self.client[0])) if self.client else ""
        if len(self._owner.connections) > MAX_CLIENTS:
            # a real client sends its request at once
            others = [other for other in self._owner.connections if other is not self]
            idle = next((other for other in others if other.cycle is None), None)
            if idle is not None or not self._make_room(others):
                (idle or self)._refuse(UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._within(None)
        self._owner.connections.pop(self, None)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        was_idle = self.cycle is None
        super().handle_events()
        if was_idle and self.cycle is not None:
            self._owner.requests += 1
            self._within(ANSWER_S, self.transport.abort)

    def open_stream(self, first: bytes) -> Stream | None:
        """Make this connection's response an event stream that begins with `first`; None where there are too many."""
        streams = [other for other in self._owner.connections if other.stream is not None]
        if len(streams) >= MAX_STREAMS and not self._make_room(streams):
            self._owner.refused += 1
            return None
        self._within(None)
        self.stream = Stream(first, self.cut_off)
        return self.stream

    def cut_off(self) -> None:
        """Close a stream that does not read, and discard what waits for it."""
        self._owner.cut += 1
        self._owner.connections.pop(self, None)
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # also in the kernel
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.stream is not None:
            self._within(STALL_S, self.cut_off)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stream is not None:
            self._within(None)

    def _make_room(self, others: Sequence["BoundedConnection"]) -> bool:
        """Close the oldest connection of whoever has the most, so that nobody can take them all. Returns whether there
        was one; there is none where this connection's client would have as many."""
        counts = Counter(other.who for other in others)
        greediest, most = counts.most_common(1)[0]
        if counts[self.who] + 1 >= most:
            return False
        next(other for other in others if other.who == greediest).cut_off()
        return True

    def _refuse(self, answer: bytes) -> None:
        """Close a connection that has not sent its request."""
        self._owner.refused += 1
        self._owner.connections.pop(self, None)
        self.transport.write(answer)
        self.transport.close()

    def _within(self, seconds: float | None, act: Callable[[], None] = lambda: None) -> None:
        """Replace the deadline: call `act` after so many seconds, or never."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, act)


class _Listener(socket.socket):
    """A listening socket that accepts at a bounded rate."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(fileno=listener.detach())
        self._may_accept, self._at = ACCEPT_BURST, time.monotonic()
        self._in_a_row = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: none is due now.
        """
        now = time.monotonic()
        self._may_accept = min(ACCEPT_BURST, self._may_accept + ACCEPTS_PER_S * (now - self._at))
        self._at = now
        if self._may_accept < 1.0:
            time.sleep(ROUND_S)  # the event loop would ask again at once
            raise BlockingIOError
        self._in_a_row += 1
        if self._in_a_row > ACCEPTS_AT_ONCE:
            self._in_a_row = 0
            raise BlockingIOError
        connection, client = super().accept()
        self._may_accept -= 1.0
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        return connection, client


def _bound(address: ListenAddress) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: it cannot be opened.
    """
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and address.host == "::" and socket.has_dualstack_ipv6()
    return _Listener(socket.create_server(where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both))


def _bind_error(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "is in use"
    return f"cannot be used ({(error.strerror if isinstance(error, OSError) else None) or 'not a host name'})"
