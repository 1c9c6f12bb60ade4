"""An MQTT 3.1.1 broker with just enough of the protocol for one client at a time."""

import contextlib
import socket
import struct
import threading
from typing import Self

CONNECT, PUBLISH, SUBSCRIBE, PING, DISCONNECT = 1, 3, 8, 12, 14


class BrokerDouble:
    """Records the packets that it receives. code: of its CONNACK, None for no reply. acknowledges: whether it
    acknowledges messages. hangs_up: closes each connection at once."""

    def __init__(
        self, code: int | None = 0, *, acknowledges: bool = True, hangs_up: bool = False, port: int = 0
    ) -> None:
        self.code, self.acknowledges, self.hangs_up = code, acknowledges, hangs_up
        self.packets: list[tuple[int, bytes]] = []
        """Kind and content."""
        self.published: list[tuple[str, bytes, bool]] = []
        """Topic, payload and whether it is retained."""
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.drop()
        self._thread.join(5.0)

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.packets]

    def of(self, topic: str) -> list[bytes]:
        """All payloads of a topic."""
        return [payload for name, payload, _ in self.published if name == topic]

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a message to the client."""
        self._client.sendall(packet(0x30, text(topic) + payload))

    def drop(self) -> None:
        """Close the connection without a DISCONNECT."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while True:
            try:
                self._client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            with self._client, contextlib.suppress(OSError, EOFError):
                while not self.hangs_up:
                    self._answer(*self._read())

    def _answer(self, first: int, content: bytes) -> None:
        kind = first >> 4
        self.packets.append((kind, content))
        if kind == CONNECT and self.code is not None:
            self._client.sendall(bytes([0x20, 2, 0, self.code]))
        elif kind == SUBSCRIBE:
            self._client.sendall(bytes([0x90, 3, *content[:2], 0]))
        elif kind == PING:
            self._client.sendall(bytes([0xD0, 0]))
        elif kind == PUBLISH:
            size = struct.unpack("!H", content[:2])[0]
            rest, acknowledged = content[2 + size :], first >> 1 & 3
            self.published.append((content[2 : 2 + size].decode(), rest[2:] if acknowledged else rest, bool(first & 1)))
            if acknowledged and self.acknowledges:
                self._client.sendall(bytes([0x40, 2]) + rest[:2])

    def _read(self) -> tuple[int, bytes]:
        first, size, shift = self._exactly(1)[0], 0, 0
        while True:
            byte = self._exactly(1)[0]
            size, shift = size | (byte & 127) << shift, shift + 7
            if byte < 128:
                return first, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        held = b""
        while len(held) < size:
            more = self._client.recv(size - len(held))
            if not more:
                raise EOFError
            held += more
        return held


def text(value: str) -> bytes:
    """A string in the format of MQTT."""
    return struct.pack("!H", len(value.encode())) + value.encode()


def packet(first: int, content: bytes) -> bytes:
    """A packet of less than 128 bytes."""
    return bytes([first, len(content)]) + content
