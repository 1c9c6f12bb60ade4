"""The way to the broker: one thread that connects, publishes what is new, and begins again after every fault, for ever.

paho's own reconnecting is not used: it sends again what was not acknowledged after what is new, so that an old state
would stay as the retained one, and keeps the oldest where too many wait. Each connection has a client of its own, and
what it did not get acknowledged goes back to the news.
"""

import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Moment
from edgekd.runtime.outputs.mqtt import homeassistant
from edgekd.runtime.outputs.mqtt.messages import NAME, Message, News
from edgekd.runtime.source.health import Change

if TYPE_CHECKING:
    import paho.mqtt.client as paho

POLL_S = 0.1
"""How often the thread looks for news."""
CONNECT_S = 5.0
"""Longest wait for a broker to take a connection, and for the handshake of TLS."""
ANSWER_S = 10.0
"""Longest wait for an answer of a broker that took it."""
KEEPALIVE_S = 15
"""Without news the connection is tested after so long."""
FIRST_WAIT_S, LAST_WAIT_S = 1.0, 30.0
"""Between attempts, doubling."""
STEADY_S = 3.0
"""A connection that worked for so long was a good one: the next wait is the first again."""
CREDENTIALS = ("Bad user name or password", "Not authorized")
"""Reasons for a refusal that another password may end, as paho names them."""
IN_FLIGHT = 20
"""Messages that wait for their acknowledgement at most; paho keeps no more on the way by default."""


class Broker(NamedTuple):
    """Where the broker is, and how it knows us."""

    host: str
    port: int
    client_id: str
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Broker({self.host}:{self.port})"


class LinkError(Exception):
    """A connection is of no use any more. The message says why."""


class Connection:
    """One connection, from its attempt to its end."""

    def __init__(self, broker: Broker, news: News) -> None:
        """Nothing is sent yet."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._broker, self._news = broker, news
        # id -> since when, on the monotonic clock, and what is not acknowledged
        self._waiting: dict[int, tuple[float, Message]] = {}
        self._refused: str | None = None
        self._answered = self._greeted = False
        self.worked_at: float | None = None
        """When the broker first acknowledged something, on the monotonic clock."""
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, broker.client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        client.on_connect, client.on_publish, client.on_message = self._on_connect, self._on_publish, self._on_message
        gone = news.availability(online=False)
        client.will_set(*gone)

    def serve(self, closing: threading.Event) -> None:
        """Connect and publish until `closing`.

        Raises:
            LinkError: the broker refuses, does not answer or has closed the connection.
            OSError, ValueError: there is no way to it.
        """
        try:
            self._client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            since = time.monotonic()
            while not closing.is_set():
                self._step(POLL_S)
                if not self._answered and time.monotonic() - since > ANSWER_S:
                    raise LinkError("it takes the connection and does not answer")
                if self._answered:
                    self._publish_news()
            if self._answered:
                self._farewell()
        finally:
            self._end()

    def _step(self, seconds: float) -> None:
        """Let the client send and receive for at most `seconds`."""
        status = self._client.loop(seconds)
        if self._refused is not None:
            raise LinkError(self._refused)
        if status:
            raise LinkError(
                "the connection is lost" if self._answered else "it closed the connection without an answer"
            )

    def _publish_news(self) -> bool:
        """Publish what may be on its way now; whether that is all there is."""
        if not self._greeted:
            self._greeted = True
            self._news.connections += 1
            if self._news.discovery is not None:
                self._client.subscribe(f"{self._news.discovery}/{homeassistant.BIRTH}", qos=1)
            self._publish(self._news.availability(online=True))
            self._news.again()
        if self._waiting and time.monotonic() - next(iter(self._waiting.values()))[0] > ANSWER_S:
            raise LinkError("it does not acknowledge what is published")
        while len(self._waiting) < IN_FLIGHT and not self._client.want_write():
            message = self._news.next()
            if message is None:
                return True
            self._publish(message)
        return False

    def _publish(self, message: Message) -> None:
        sent = self._client.publish(*message)
        if message.qos:
            self._waiting[sent.mid] = time.monotonic(), message

    def _farewell(self) -> None:
        """Publish what is left and say goodbye; where there is no time for it, the broker publishes the will."""
        end, gone = time.monotonic() + 0.7 * CLOSE_S, False
        while time.monotonic() < end and not (gone and not self._waiting):
            if not gone and self._publish_news():
                gone = True
                self._publish(self._news.availability(online=False))
            self._step(POLL_S / 10)
        if gone and not self._waiting:
            self._client.disconnect()

    def _end(self) -> None:
        """Close the socket without a word, and take back what was not acknowledged."""
        # no cycle keeps the client alive
        self._client.on_connect = self._client.on_publish = self._client.on_message = None
        connected = self._client.socket()
        if connected is not None:
            connected.close()
        self._news.give_back([message for _, message in self._waiting.values()])

    def _on_connect(self, _client: "paho.Client", _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = (
                "it refuses the connection"
                f" ({reason}){'; check username and password' if str(reason) in CREDENTIALS else ''}"
            )
        else:
            self._answered = True

    def _on_publish(self, _client: "paho.Client", _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        if self._waiting.pop(mid, None) is not None:
            self.worked_at = self.worked_at or time.monotonic()

    def _on_message(self, _client: "paho.Client", _data: Any, message: "paho.MQTTMessage") -> None:
        if message.payload == homeassistant.BORN:
            self._news.again()


class Mqtt:
    """The output: a thread with one connection after the other."""

    name = NAME

    def __init__(self, broker: Broker, news: News) -> None:
        """Begins to connect."""
        self._broker, self._news = broker, news
        self._closing = threading.Event()
        self._connection: Connection | None = None
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why nothing is published; None while a connection works, and until something has failed."""
        connection = self._connection
        return self._trouble if connection is None or connection.worked_at is None else None

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Take a line; the thread publishes it."""
        self._news.tell(event, moment)

    def close(self) -> None:
        """The end, within `CLOSE_S`; a thread that waits for an answer just then ends when it has come or not."""
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            try:
                self._connection = Connection(self._broker, self._news)
                self._connection.serve(self._closing)
            except Exception as error:  # also a bug, in paho or here: the stream goes on, and the reason is shown
                reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
                self._trouble = f"no connection to {self._broker.host}:{self._broker.port}: {reason}; trying again"
            connection, self._connection = self._connection, None
            if (
                connection is not None
                and connection.worked_at is not None
                and time.monotonic() - connection.worked_at > STEADY_S
            ):
                wait_s = FIRST_WAIT_S
            self._closing.wait(wait_s)
            wait_s = min(2.0 * wait_s, LAST_WAIT_S)
