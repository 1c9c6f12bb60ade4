"""A small HTTP server for a page and a stream of events: one thread, sockets that never block, and a bound on
everything.

It answers GET and HEAD of known paths and closes. A stream stays open: what is published goes to all streams as the
same bytes. Whoever sends too much, too slowly or too often is cut off, and so is whoever does not read; the thread that
publishes never waits for any of it.
"""

import contextlib
import errno
import re
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from edgekd.runtime.outputs.base import CLOSE_S, in_a_line
from edgekd.runtime.outputs.web.access import Address

MAX_REQUEST = 8192
"""Bytes of request line and headers."""
MAX_CLIENTS, MAX_STREAMS = 128, 100
"""Connections, and streams among them."""
ACCEPTS_PER_S, ACCEPT_BURST = 200.0, 256.0
"""Connections taken; the others wait in the kernel, which bounds what a flood of them costs."""
ACCEPTS_AT_ONCE = 8
REQUEST_S, ANSWER_S, STALL_S, LINGER_S = 5.0, 20.0, 15.0, 1.0
"""Longest time for a request to arrive, for an answer to be read, without any progress of a stream, for the other side
to close."""
MAX_WAITING = 1 << 16
"""Bytes that wait for one stream, beyond the snapshot it begins with."""
SEND_BUFFER = 1 << 14
"""Bytes of the kernel's buffer of a connection."""
TICK_S = 0.5
"""How often deadlines are looked at."""
ROUND_S = 0.01
"""Between two rounds of work: what comes meanwhile is done together, which bounds what busy clients cost; and as the
interpreter runs one thread at a time, whoever called `wake` goes on first."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
"""Between attempts to listen, doubling."""
BACKLOG = 128
READ_BYTES = 4096

REASONS = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
TEXT = "text/plain; charset=utf-8"
HEADERS = "".join(
    f"{name}: {value}\r\n"
    for name, value in {
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }.items()
)

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t\x80-\xff]*)")


class Request(NamedTuple):
    """What is asked. path: without the query. headers: names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class Response(NamedTuple):
    """What is answered. kind: the content type. headers: further ones. stream: it stays open, and `body` is how it
    begins."""

    status: int
    kind: str = TEXT
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    stream: bool = False


def problem(status: int) -> Response:
    """A refusal in a word."""
    return Response(status, TEXT, f"{REASONS[status]}\n".encode())


def parse(head: bytes) -> Request | None:
    """Request line and headers, up to and without the empty line; None where they are none."""
    first, *lines = head.decode("latin-1").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    pairs = [_HEADER.fullmatch(line) for line in lines]
    if request is None or None in pairs:
        return None
    headers = {pair[1].lower(): pair[2].strip() for pair in pairs if pair is not None}
    if len(headers) < len(lines) and sum(line.lower().startswith("host:") for line in lines) > 1:
        return None
    path, _, query = request[2].partition("?")
    return Request(request[1], path, query, headers)


def encode(response: Response, *, with_body: bool = True) -> bytes:
    """A response as it is sent."""
    length = "" if response.stream else f"Content-Length: {len(response.body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    head = (
        f"HTTP/1.1 {response.status} {REASONS[response.status]}\r\nContent-Type:"
        f" {response.kind}\r\n{length}{more}{HEADERS}\r\n"
    )
    return head.encode("latin-1") + (response.body if with_body else b"")


class Counts(NamedTuple):
    """Of a server. streams: open now. requests: answered since the start. refused: connections turned away. cut:
    streams that were closed because they did not read."""

    streams: int
    requests: int
    refused: int
    cut: int


class _Client:
    """A connection. waiting: bytes not sent yet. until: when it is closed unless something happens, clock seconds."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection, self.until = connection, until
        self.phase: Literal["asking", "answering", "streaming", "ending"] = "asking"
        self.received = bytearray()
        self.parts: deque[memoryview] = deque()
        self.waiting = self.allowed = self.read = 0


class Server:
    """Listens in a thread from its start until it is closed; what keeps it from that is its trouble, and is tried
    again."""

    def __init__(self, address: Address, answer: Callable[[Request], Response], news: Callable[[], bytes]) -> None:
        """answer: to a request. news: what to send to all streams now; called where `wake` was, and at least every
        `TICK_S`. Both are called in the server's thread and must not wait."""
        self._address, self._answer, self._news = address, answer, news
        self.trouble: str | None = None
        self.port: int | None = None
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._hears = False  # the listener is being watched
        self._clients: dict[_Client, None] = {}  # in the order they came
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
    def counts(self) -> Counts:
        """What happened; read them in the server's thread."""
        return Counts(len(self._streams), self._requests, self._refused, self._cut)

    def wake(self) -> None:
        """There is news; returns at once, in any thread."""
        with contextlib.suppress(OSError):  # full: it is awake; closed: it is too late
            self._waker.send(b"\0")

    def close(self) -> None:
        """The end of all connections."""
        self._stopping = True
        self.wake()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        self._selector.register(self._wakes, selectors.EVENT_READ)
        looked = 0.0
        while not self._stopping:
            try:
                self._listen(time.monotonic())
                may_sleep = self._hears or self._listener is None
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
                self._publish(self._news())
                now = time.monotonic()
                if now - looked >= TICK_S:
                    looked = now
                    self._expire(now)
                self.trouble = self.trouble if self._listener is None else None
            except Exception as error:  # a bug: the stream of decisions goes on, and the reason is shown
                self.trouble = in_a_line(error)
                time.sleep(TICK_S)
        for client in list(self._clients):
            self._drop(client)
        for end in (self._listener, self._wakes, self._waker, self._selector):
            if end is not None:
                end.close()

    def _listen(self, now: float) -> None:
        """Be ready for connections, where that can be."""
        if self._listener is None:
            if now < self._retry_at:
                return
            try:
                listener = _bound(self._address)
            except (OSError, UnicodeError) as error:
                reason = (
                    "is in use"
                    if getattr(error, "errno", None) == errno.EADDRINUSE
                    else f"cannot be had ({_reason(error)})"
                )
                self.trouble = f"{self._address} {reason}; trying again"
                self._retry_at, self._retry_s = now + self._retry_s, min(2.0 * self._retry_s, LAST_RETRY_S)
                return
            self._listener, self.port, self.trouble = listener, listener.getsockname()[1], None
        self._may_accept = min(ACCEPT_BURST, self._may_accept + ACCEPTS_PER_S * (now - self._accepted_at))
        self._accepted_at = now
        if self._hears != (self._may_accept >= 1.0):
            self._hears = not self._hears
            if self._hears:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(min(ACCEPTS_AT_ONCE, int(self._may_accept))):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # gone again, or no descriptors are left: not at once again
                self._may_accept = 0.0
                return
            self._may_accept -= 1.0
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if len(self._clients) >= MAX_CLIENTS and not self._made_room():
                self._refused += 1
                with connection, contextlib.suppress(OSError):
                    connection.send(encode(problem(503)))
                continue
            client = _Client(connection, time.monotonic() + REQUEST_S)
            self._clients[client] = None
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _made_room(self) -> bool:
        """Whether a connection could be closed that has not asked for anything yet, the oldest: whoever means it asks
        at once."""
        for client in self._clients:
            if client.phase in ("asking", "ending"):
                self._refused += client.phase == "asking"
                self._drop(client)
                return True
        return False

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
                    problem(400) if request is None else self._judged(request),
                    with_body=request is None or request.method != "HEAD",
                )

    def _judged(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return problem(405)._replace(headers=(("Allow", "GET, HEAD"),))
        response = self._answer(request)
        if response.stream and request.method == "HEAD":
            return response._replace(stream=False, body=b"")
        if response.stream and len(self._streams) >= MAX_STREAMS:
            self._refused += 1
            return problem(503)._replace(headers=(("Retry-After", "10"),))
        return response

    def _reply(self, client: _Client, response: Response, *, with_body: bool = True) -> None:
        self._requests += 1
        client.received.clear()
        client.phase = "streaming" if response.stream else "answering"
        client.until = time.monotonic() + (STALL_S if response.stream else ANSWER_S)
        reply = encode(response, with_body=with_body)
        client.allowed = len(reply) + MAX_WAITING
        if response.stream:
            self._streams[client] = None
        self._send(client, memoryview(reply))

    def _publish(self, news: bytes) -> None:
        if news:
            part = memoryview(news)
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
        """Send what waits, as far as it is taken; behind an answer wait for the other side to close, so that it is
        read."""
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
        """Close a stream that is not read, and what the kernel still holds for it."""
        self._cut += 1
        with contextlib.suppress(OSError):
            client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._streams.pop(client, None)
        if self._clients.pop(client, client) is None:
            self._selector.unregister(client.connection)
            client.connection.close()


def _bound(address: Address) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: it cannot.
    """
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and address.host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener


def _reason(error: OSError | UnicodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is no host"
