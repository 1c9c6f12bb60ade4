"""Clients of the web page for `web_page_check.py`, in a separate process: well-behaved, silent, slow and hostile ones.

    python tools/web_clients.py KIND PORT COUNT SECONDS

Prints one JSON line when the clients are connected and one at the end.
"""

import contextlib
import json
import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable

HOST = "127.0.0.1"
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
TRAVERSALS = (
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc/passwd",
    "/page/../web.py",
    "//etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/style.css/../../web.py",
    "http://localhost/etc/passwd",
    "/page/index.html",
    "/style.css%00",
    "\\..\\web.py",
)
BAD_REQUESTS = (
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/9\r\n\r\n",
    b"G\0T / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\r\n\r\n",
)


def print_json(**figures: object) -> None:
    """Print a line."""
    print(json.dumps(figures), flush=True)


def connect(port: int, receive_bytes: int | None = None) -> socket.socket:
    """A connection to the page's server."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(10.0)
    connection.connect((HOST, port))
    return connection


def response_to(port: int, request: bytes) -> bytes:
    """All bytes that the server sends for a request."""
    with connect(port) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        received = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                received += part
        return received


def watch(port: int, count: int, seconds: float) -> None:
    """Read event streams; count their decisions and those that the server closed."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = connect(port)
        connection.sendall(EVENTS)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    print_json(open=count)
    received, ended, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.2):
            part = key.fileobj.recv(65536)
            received += part.count(b"event: decision")
            if not part:
                ended += 1
                selector.unregister(key.fileobj)
    print_json(decisions=received, ended=ended)


def silent(port: int, count: int, seconds: float) -> None:
    """Open event streams and never read; measure the seconds until the server has reset each."""
    began = time.monotonic()
    connections = [connect(port) for _ in range(count)]
    for connection in connections:
        connection.sendall(EVENTS)
    print_json(open=count)
    closed: list[float] = []
    while connections and time.monotonic() - began < seconds:
        time.sleep(0.25)
        for connection in [each for each in connections if not is_established(each)]:
            closed.append(time.monotonic() - began)
            connections.remove(connection)
    print_json(closed=len(closed), still_open=len(connections), last_s=max(closed, default=None))


def is_established(connection: socket.socket) -> bool:
    """Whether a connection is open according to the kernel; these clients must not find out by reading."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


def slow(port: int, count: int, seconds: float) -> None:
    """Send headers byte by byte; measure the seconds until the server has closed each connection."""
    began = time.monotonic()
    connections = {connect(port): b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " for _ in range(count)}
    print_json(open=count)
    closed: list[float] = []
    while connections and time.monotonic() - began < seconds:
        for connection, rest in list(connections.items()):
            try:
                connection.send(rest[:1] or b"x")
                connections[connection] = rest[1:]
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while connection.recv(4096):
                        pass
                    raise OSError
            except OSError:
                closed.append(time.monotonic() - began)
                connection.close()
                del connections[connection]
        time.sleep(0.2)
    print_json(closed=len(closed), still_open=len(connections), last_s=max(closed, default=None))


def hostile(port: int, count: int, seconds: float) -> None:  # noqa: ARG001
    """Send requests that are too large, malformed, or for other files; record their statuses."""
    print_json(open=1)
    statuses: dict[str, str] = {}
    for path in TRAVERSALS:
        response = response_to(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        statuses[path] = response[9:12].decode() + (" LEAKED" if b"root:" in response or b"import " in response else "")
    for request in BAD_REQUESTS:
        statuses[repr(request)[2:40]] = response_to(port, request)[9:12].decode() or "closed"
    big = response_to(port, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000)
    statuses["10 MB of headers"] = big[9:12].decode() or "closed"
    statuses["other host"] = response_to(port, b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n")[9:12].decode()
    end = time.monotonic() + seconds
    requests = 0
    while time.monotonic() < end:  # as often as possible
        response_to(port, b"GET /history.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        requests += 1
    print_json(statuses=statuses, asked=requests)


def flood(port: int, count: int, seconds: float) -> None:
    """Open connections without requests as fast as possible, a new one whenever one is closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, count + 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    selector = selectors.DefaultSelector()
    opened = ended = 0
    end = time.monotonic() + seconds
    print_json(open=0)
    while time.monotonic() < end and (opened < count or selector.get_map()):
        for _ in range(200):
            if opened < count and opened - ended < limit - 100:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex((HOST, port))
                selector.register(connection, selectors.EVENT_READ)
                opened += 1
        for key, _ in selector.select(0.01):
            try:
                closed = not key.fileobj.recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                closed = True
            if closed:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                ended += 1
    print_json(opened=opened, turned_away=ended, at_once=opened - ended)


KINDS: dict[str, Callable[[int, int, float], None]] = {
    "watch": watch,
    "silent": silent,
    "slow": slow,
    "hostile": hostile,
    "flood": flood,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
