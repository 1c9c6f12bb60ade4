"""The connection to the broker: one thread that connects, publishes pending messages, and connects again after every
error, for ever.

paho's own reconnection is not used. After a reconnection it sends unacknowledged old messages after new ones, so that
an old state would stay as the retained one, and when too many wait it keeps the oldest. Here each connection has a paho
client of its own, and unacknowledged messages go back into the queue.
"""

import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Observation, reason_text
from edgekd.runtime.outputs.mqtt import homeassistant
from edgekd.runtime.outputs.mqtt.messages import NAME, Message, PendingMessages
from edgekd.runtime.source.health import StatusLine

if TYPE_CHECKING:
    import paho.mqtt.client as paho

POLL_S = 0.1
"""How often the thread looks for pending messages, seconds."""
CONNECT_S = 5.0
"""Longest wait for the TCP connection and for the TLS handshake, seconds."""
REPLY_S = 10.0
"""Longest wait for a reply of a connected broker, seconds."""
KEEPALIVE_S = 15
"""An idle connection is tested after so many seconds."""
FIRST_WAIT_S, LAST_WAIT_S = 1.0, 30.0
"""Seconds between attempts, doubling."""
STABLE_S = 3.0
"""After a connection that worked for so many seconds the next wait is `FIRST_WAIT_S` again."""
CREDENTIALS = ("Bad user name or password", "Not authorized")
"""Reasons of a refusal that another password may end, in paho's words."""
IN_FLIGHT = 20
"""Most messages that wait for their acknowledgement; paho's default limit."""


class Broker(NamedTuple):
    """Address of the broker, and the identity of this client."""

    host: str
    port: int
    client_id: str
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Broker({self.host}:{self.port})"


class BrokerError(Exception):
    """A connection cannot be used any more. The message says why."""


class Connection:
    """One connection, from the attempt to its end."""

    def __init__(self, broker: Broker, pending: PendingMessages) -> None:
        """Prepare the client; nothing is sent yet."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._broker, self._pending = broker, pending
        # message id -> time on the monotonic clock and message, of all that are not acknowledged
        self._waiting: dict[int, tuple[float, Message]] = {}
        self._refused: str | None = None
        self._accepted = self._announced = False
        self.worked_at: float | None = None
        """When the broker first acknowledged a message, on the monotonic clock."""
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, broker.client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        client.on_connect, client.on_publish, client.on_message = self._on_connect, self._on_publish, self._on_message
        will = pending.availability(online=False)
        client.will_set(*will)

    def serve(self, closing: threading.Event) -> None:
        """Connect and publish until `closing` is set.

        Raises:
            BrokerError: the broker refuses, does not reply or has closed the connection.
            OSError, ValueError: the broker cannot be reached.
        """
        try:
            self._client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            since = time.monotonic()
            while not closing.is_set():
                self._step(POLL_S)
                if not self._accepted and time.monotonic() - since > REPLY_S:
                    raise BrokerError("it takes the connection and does not answer")
                if self._accepted:
                    self._publish_pending()
            if self._accepted:
                self._disconnect()
        finally:
            self._close()

    def _step(self, seconds: float) -> None:
        """Let the client send and receive for at most `seconds`."""
        status = self._client.loop(seconds)
        if self._refused is not None:
            raise BrokerError(self._refused)
        if status:
            raise BrokerError(
                "the connection is lost" if self._accepted else "it closed the connection without an answer"
            )

    def _publish_pending(self) -> bool:
        """Publish as many pending messages as may be in flight. Returns whether none is left."""
        if not self._announced:
            self._announced = True
            self._pending.connections += 1
            if self._pending.discovery is not None:
                self._client.subscribe(f"{self._pending.discovery}/{homeassistant.BIRTH}", qos=1)
            self._client.subscribe(self._pending.health_topic)
            self._publish(self._pending.availability(online=True))
            self._pending.repeat_all()
        if self._waiting and time.monotonic() - next(iter(self._waiting.values()))[0] > REPLY_S:
            raise BrokerError("it does not acknowledge what is published")
        while len(self._waiting) < IN_FLIGHT and not self._client.want_write():
            message = self._pending.next()
            if message is None:
                return True
            self._publish(message)
        return False

    def _publish(self, message: Message) -> None:
        sent = self._client.publish(*message)
        if message.qos:
            self._waiting[sent.mid] = time.monotonic(), message

    def _disconnect(self) -> None:
        """Publish the pending messages, then disconnect. If the time is not enough, the broker publishes the will."""
        end, offline = time.monotonic() + 0.7 * CLOSE_S, False
        while time.monotonic() < end and not (offline and not self._waiting):
            if not offline and self._publish_pending():
                offline = True
                self._publish(self._pending.availability(online=False))
            self._step(POLL_S / 10)
        if offline and not self._waiting:
            self._client.disconnect()

    def _close(self) -> None:
        """Close the socket without a DISCONNECT packet, and requeue unacknowledged messages."""
        # breaks the reference cycle that would keep the client alive
        self._client.on_connect = self._client.on_publish = self._client.on_message = None
        connected = self._client.socket()
        if connected is not None:
            connected.close()
        self._pending.requeue([message for _, message in self._waiting.values()])

    def _on_connect(self, _client: "paho.Client", _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = (
                "it refuses the connection"
                f" ({reason}){'; check username and password' if str(reason) in CREDENTIALS else ''}"
            )
        else:
            self._accepted = True

    def _on_publish(self, _client: "paho.Client", _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        if self._waiting.pop(mid, None) is not None:
            self.worked_at = self.worked_at or time.monotonic()

    def _on_message(self, _client: "paho.Client", _data: Any, message: "paho.MQTTMessage") -> None:
        if message.topic == self._pending.health_topic:
            self._pending.notice_health(message.payload)
        elif message.payload == homeassistant.BORN:
            self._pending.repeat_all()


class Mqtt:
    """The output of `[mqtt]`: a thread that keeps one connection after the other."""

    name = NAME

    def __init__(self, broker: Broker, pending: PendingMessages) -> None:
        """Start the thread, which begins to connect."""
        self._broker, self._pending = broker, pending
        self._closing = threading.Event()
        self._connection: Connection | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """Why nothing is published, or that another listener publishes to the same topics; None while a connection
        works, and until a first attempt has failed."""
        rival = self._pending.rival
        if rival is not None:  # also the reason for lost connections, if the other runs on this machine
            return rival
        connection = self._connection
        return self._error if connection is None or connection.worked_at is None else None

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Take a line; the thread publishes it."""
        self._pending.add(event, observation)

    def close(self) -> None:
        """End within `CLOSE_S`. A thread that waits for a reply at that moment ends later."""
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            try:
                self._connection = Connection(self._broker, self._pending)
                self._connection.serve(self._closing)
            except Exception as error:  # also a bug, in paho or here: the stream goes on, and the error is reported
                where = f"{self._broker.host}:{self._broker.port}"
                self._error = f"no connection to {where}: {reason_text(error)}; trying again"
            connection, self._connection = self._connection, None
            if (
                connection is not None
                and connection.worked_at is not None
                and time.monotonic() - connection.worked_at > STABLE_S
                and self._pending.rival is None
            ):
                wait_s = FIRST_WAIT_S
            self._closing.wait(wait_s)
            wait_s = min(2.0 * wait_s, LAST_WAIT_S)
