"""A small HTTP server for a page and an event stream: one thread, non-blocking sockets, a bound on everything.

It answers GET and HEAD requests of known paths and closes the connection. An event stream stays open; each event goes
to all streams as the same bytes. A client that sends too much, too slowly or too often is disconnected, and so is a
stream that does not read. The thread that publishes never waits for any of this.
"""

import contextlib
import errno
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from edgekd.runtime.outputs.base import CLOSE_S, error_text
from edgekd.runtime.outputs.web.access import ListenAddress, client_of
from edgekd.runtime.outputs.web.http import MAX_REQUEST, HttpRequest, HttpResponse, encode, parse, problem

MAX_CLIENTS, MAX_STREAMS = 128, 100
"""Connections, and streams among them."""
ACCEPTS_PER_S, ACCEPT_BURST = 200.0, 256.0
"""Connections accepted per second, and at once. The others wait in the kernel, which bounds the cost of a flood."""
ACCEPTS_AT_ONCE = 8
REQUEST_S, ANSWER_S, STALL_S, LINGER_S = 5.0, 20.0, 15.0, 1.0
"""Longest time, in seconds, for a request to arrive, for a response to be read, without progress of a stream, and for
the client to close."""
MAX_WAITING = 1 << 16
"""Bytes that wait for one stream, beyond its first snapshot."""
SEND_BUFFER = 1 << 14
"""Bytes of the kernel's send buffer of a connection."""
TICK_S = 0.5
"""How often deadlines are checked, seconds."""
ROUND_S = 0.01
"""Seconds between two rounds of work. Events of that time are processed together, which bounds the cost of busy
clients. The interpreter runs one thread at a time, so the caller of `wake` also continues first."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""Seconds between attempts to listen, doubling."""
BACKLOG = 128
READ_BYTES = 4096


class ServerCounts(NamedTuple):
    """Counts of a server. streams: open now. requests: responses since the start. refused: connections refused. cut:
    streams closed because they did not read, or to make room."""

    streams: int
    requests: int
    refused: int
    cut: int


class _Client:
    """A connection. who: see `client_of`. waiting: bytes not sent yet. until: when it is closed unless there is
    progress, clock seconds."""

    def __init__(self, connection: socket.socket, who: str, until: float) -> None:
        self.connection, self.who, self.until = connection, who, until
        self.phase: Literal["asking", "answering", "streaming", "ending"] = "asking"
        self.received = bytearray()
        self.parts: deque[memoryview] = deque()
        self.waiting = self.allowed = self.read = 0


class Server:
    """Listens in a thread from `start` until `close`. If it cannot listen, `error` says why, and it tries again."""

    def __init__(
        self, address: ListenAddress, respond: Callable[[HttpRequest], HttpResponse], events: Callable[[], bytes]
    ) -> None:
        """respond: the response to a request. events: bytes to send to all streams now; called after `wake`, and at
        least every `TICK_S`. Both run in the server's thread and must not wait."""
        self._address, self._respond, self._events = address, respond, events
        self.error: str | None = None
        self.port: int | None = None
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._accepting = False  # the listening socket is registered with the selector
        self._clients: dict[_Client, None] = {}  # in the order of their connection
        self._streams: dict[_Client, None] = {}
        self._requests = self._refused = self._cut = 0
        self._may_accept, self._accepted_at = ACCEPT_BURST, time.monotonic()
        self._retry_s, self._retry_at = FIRST_RETRY_S, 0.0
        self._wakes, self._waker = socket.socketpair()
        for end in (self._wakes, self._waker):
            end.setblocking(False)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    @property
    def counts(self) -> ServerCounts:
        """Counts; read them in the server's thread."""
        return ServerCounts(len(self._streams), self._requests, self._refused, self._cut)

    def wake(self) -> None:
        """Announce new events. Returns at once, in any thread."""
        with contextlib.suppress(OSError):  # full: the thread is awake already; closed: it has ended
            self._waker.send(b"\0")

    def close(self) -> None:
        """Close all connections."""
        self._stopping = True
        self.wake()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        self._selector.register(self._wakes, selectors.EVENT_READ)
        looked = 0.0
        while not self._stopping:
            try:
                self._listen(time.monotonic())
                may_sleep = self._accepting or self._listener is None
                if self._selector.select(TICK_S if may_sleep else 0.0):
                    time.sleep(ROUND_S)
                    for key, events in self._selector.select(0.0):
                        if key.fileobj is self._wakes:
                            self._wakes.recv(READ_BYTES)
                        elif key.fileobj is self._listener:
                            self._accept(self._listener)
                        else:
                            self._serve(key.data, events)
                elif not may_sleep:
                    time.sleep(ROUND_S)
                self._publish(self._events())
                now = time.monotonic()
                if now - looked >= TICK_S:
                    looked = now
                    self._expire(now)
                self.error = self.error if self._listener is None else None
            except Exception as error:  # a bug: the stream of decisions goes on, and the error is reported
                self.error = error_text(error)
                time.sleep(TICK_S)
        for client in list(self._clients):
            self._drop(client)
        for end in (self._listener, self._wakes, self._waker, self._selector):
            if end is not None:
                end.close()

    def _listen(self, now: float) -> None:
        """Open the listening socket, and accept connections if the rate allows."""
        if self._listener is None:
            if now < self._retry_at:
                return
            try:
                listener = _bound(self._address)
            except (OSError, UnicodeError) as error:
                reason = (
                    "is in use"
                    if getattr(error, "errno", None) == errno.EADDRINUSE
                    else f"cannot be used ({_bind_error(error)})"
                )
                self.error = f"{self._address} {reason}; trying again"
                self._retry_at, self._retry_s = now + self._retry_s, min(2.0 * self._retry_s, LAST_RETRY_S)
                return
            self._listener, self.port, self.error = listener, listener.getsockname()[1], None
        self._may_accept = min(ACCEPT_BURST, self._may_accept + ACCEPTS_PER_S * (now - self._accepted_at))
        self._accepted_at = now
        if self._accepting != (self._may_accept >= 1.0):
            self._accepting = not self._accepting
            if self._accepting:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(min(ACCEPTS_AT_ONCE, int(self._may_accept))):
            try:
                connection, (address, *_) = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # the client has left, or no descriptors are left: do not try again at once
                self._may_accept = 0.0
                return
            self._may_accept -= 1.0
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            who = client_of(address)
            if len(self._clients) >= MAX_CLIENTS and not self._close_idle() and not self._make_room(self._clients, who):
                self._refused += 1
                with connection, contextlib.suppress(OSError):
                    connection.send(encode(problem(503)))
                continue
            client = _Client(connection, who, time.monotonic() + REQUEST_S)
            self._clients[client] = None
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _close_idle(self) -> bool:
        """Close the oldest connection that has not sent its request yet: a real client sends it at once. Returns
        whether there was one."""
        for client in self._clients:
            if client.phase in ("asking", "ending"):
                self._refused += client.phase == "asking"
                self._drop(client)
                return True
        return False

    def _make_room(self, clients: Iterable[_Client], who: str) -> bool:
        """Close the oldest connection of whoever has the most, so that nobody can take them all. Returns whether there
        was one; there is none where `who` would have as many."""
        counts = Counter(client.who for client in clients)
        greediest, most = counts.most_common(1)[0]
        if counts[who] + 1 >= most:
            return False
        self._cut_off(next(client for client in clients if client.who == greediest))
        return True

    def _serve(self, client: _Client, events: int) -> None:
        if client not in self._clients:  # closed in this round
            return
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(client)
            if events & selectors.EVENT_READ and client in self._clients:
                self._read(client)
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        received = client.connection.recv(READ_BYTES)
        client.read += len(received)
        if not received or (client.phase != "asking" and client.read > 8 * MAX_REQUEST):
            self._drop(client)
        elif client.phase == "asking":
            client.received += received
            head, end, _ = client.received.partition(b"\r\n\r\n")
            if len(head) > MAX_REQUEST:
                self._reply(client, problem(431))
            elif end:
                request = parse(bytes(head))
                self._reply(
                    client,
                    problem(400) if request is None else self._checked_response(request, client.who),
                    with_body=request is None or request.method != "HEAD",
                )

    def _checked_response(self, request: HttpRequest, who: str) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return problem(405)._replace(headers=(("Allow", "GET, HEAD"),))
        response = self._respond(request)
        if response.stream and request.method == "HEAD":
            return response._replace(stream=False, body=b"")
        if response.stream and len(self._streams) >= MAX_STREAMS and not self._make_room(self._streams, who):
            self._refused += 1
            return problem(503)._replace(headers=(("Retry-After", "10"),))
        return response

    def _reply(self, client: _Client, response: HttpResponse, *, with_body: bool = True) -> None:
        self._requests += 1
        client.received.clear()
        client.phase = "streaming" if response.stream else "answering"
        client.until = time.monotonic() + (STALL_S if response.stream else ANSWER_S)
        reply = encode(response, with_body=with_body)
        client.allowed = len(reply) + MAX_WAITING
        if response.stream:
            self._streams[client] = None
        self._send(client, memoryview(reply))

    def _publish(self, events: bytes) -> None:
        if events:
            part = memoryview(events)
            for client in list(self._streams):
                try:
                    self._send(client, part)
                except OSError:
                    self._drop(client)

    def _send(self, client: _Client, part: memoryview) -> None:
        if client.waiting + len(part) > client.allowed:
            self._cut_off(client)
            return
        if not client.waiting:
            client.until = time.monotonic() + (STALL_S if client.phase == "streaming" else ANSWER_S)
        client.parts.append(part)
        client.waiting += len(part)
        if len(client.parts) == 1:
            self._flush(client)
            if client.parts and client in self._clients:
                self._selector.modify(client.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _flush(self, client: _Client) -> None:
        """Send what waits, as far as the kernel takes it. After a response, wait for the client to close, so that it
        can read the response."""
        while client.parts:
            part = client.parts.popleft()
            try:
                sent = client.connection.send(part)
            except BlockingIOError:
                sent = 0
            client.waiting -= sent
            if sent and client.phase == "streaming":
                client.until = time.monotonic() + STALL_S
            if sent < len(part):
                client.parts.appendleft(part[sent:])
                return
        if client.phase == "streaming":
            client.allowed = MAX_WAITING
        else:
            client.phase, client.until = "ending", time.monotonic() + LINGER_S
            client.connection.shutdown(socket.SHUT_WR)
        self._selector.modify(client.connection, selectors.EVENT_READ, client)

    def _expire(self, now: float) -> None:
        for client in [client for client in self._clients if now >= client.until]:
            if client.phase == "asking":
                with contextlib.suppress(OSError):
                    self._reply(client, problem(408))
                    continue
            if client.phase == "streaming" and not client.waiting:
                continue
            if client.phase == "streaming":
                self._cut_off(client)
            self._drop(client)

    def _cut_off(self, client: _Client) -> None:
        """Close a stream that does not read, and discard what the kernel holds for it."""
        self._cut += 1
        with contextlib.suppress(OSError):
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._streams.pop(client, None)
        if self._clients.pop(client, client) is None:
            self._selector.unregister(client.connection)
            client.connection.close()


def _bound(address: ListenAddress) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: it cannot be opened.
    """
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and address.host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener


def _bind_error(error: OSError | UnicodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "not a host name"
