"""Turns the table `[mqtt]` and the environment into the MQTT output. Credentials appear in no message, error or
`repr`."""

import hashlib
import importlib.metadata
import os
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.errors import InputError, MissingExtraError
from edgekd.resources import TEXT
from edgekd.runtime.config_tables import MqttTable
from edgekd.runtime.outputs.base import Output
from edgekd.runtime.outputs.mqtt import homeassistant
from edgekd.runtime.outputs.mqtt.connection import Broker, Mqtt
from edgekd.runtime.outputs.mqtt.messages import PendingMessages, PublishSettings

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""URL scheme -> default port; mqtts is TLS."""
USERNAME, PASSWORD = "EDGEKD_MQTT_USERNAME", "EDGEKD_MQTT_PASSWORD"
"""Environment variables."""
MACHINE_ID, MACHINE_FILES = re.compile("[0-9a-f]{32}"), ("/etc/machine-id", "/var/lib/dbus/machine-id")
"""The identifier of a machine, and the files that may hold it, as systemd and D-Bus define them."""
PREFIX = "homeassistant"
"""Discovery prefix where `discovery = true`."""
LONGEST_TOPIC = 200
"""Characters. Some brokers and Home Assistant's database take no more than 255, including the suffixes."""


def open_mqtt(table: MqttTable, environment: Mapping[str, str] = os.environ) -> Output:
    """The output of `[mqtt]`, which begins to connect.

    Raises:
        InputError: an address, a topic or a file that can never work, or credentials in the wrong place.
        MissingExtraError: paho-mqtt is not installed.
    """
    try:
        import paho.mqtt.client  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("paho-mqtt (which [mqtt] and --mqtt need)", "mqtt") from None
    scheme, host, port = address(table.url)
    settings = publish_settings(table)
    username, password = credentials(table, environment)
    tls = tls_context(table, secure=scheme == "mqtts")
    broker = Broker(host, port, client_id(settings.topic, machine_id()), tls, username, password)
    return Mqtt(broker, PendingMessages(settings))


def client_id(topic: str, machine: str) -> str:
    """The name of a listener at the broker. It differs between machines and between topics. It is the same after a
    restart, so that the broker ends the connection before at once.

    Args:
        topic: prefix of all topics.
        machine: see `machine_id`.

    Returns:
        Letters and digits, at most 23, which every broker takes.
    """
    return f"edgekd{hashlib.sha256(f'{machine} {topic}'.encode()).hexdigest()[:16]}"


def machine_id() -> str:
    """What identifies this machine: its identifier, or its host name where it has none, as in many containers."""
    for file in MACHINE_FILES:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if MACHINE_ID.fullmatch(text):
            return text
    return socket.gethostname()


def address(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL.

    Raises:
        InputError: not the address of a broker, or it holds credentials.
    """
    if "@" in url:  # the error does not show the URL
        raise InputError(
            "[mqtt] url: a username or password in an address can be seen in the list of processes and in logs; give"
            f" them as username and password in --config, or as {USERNAME} and {PASSWORD} in the environment"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # refuses host names that DNS cannot express
    except ValueError:
        host, port = "", None
    if (
        not host
        or parts.scheme not in PORTS
        or port == 0
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise InputError(
            f"[mqtt] url is {url!r}; it is mqtt://HOST[:PORT], or mqtts:// for TLS, for instance"
            " mqtt://homeassistant.local"
        )
    return parts.scheme, host, port or PORTS[parts.scheme]


def publish_settings(table: MqttTable) -> PublishSettings:
    """Topics and intervals of the messages.

    Raises:
        InputError: a topic that cannot be published to, or probabilities that expire before the next message.
    """
    topic = f"edgekd/{homeassistant.device_id(socket.gethostname())}" if table.topic is None else table.topic
    discovery = PREFIX if table.discovery is True else table.discovery or None
    for key, value in (("topic", topic), ("discovery", discovery)):
        if value is not None and (
            not 0 < len(value) <= LONGEST_TOPIC
            or value != value.strip("/")
            or not value.isprintable()
            or re.search(r"[+#]|//|^[$]", value)
        ):
            raise InputError(
                f"[mqtt] {key} is {value!r}; it is names with a / between them, without +, # and $, of at most "
                f"{LONGEST_TOPIC} characters, for instance edgekd/kitchen"
            )
    if table.every > table.expire:
        raise InputError(
            f"[mqtt] every is {table.every:g} s and expire {table.expire} s: probabilities would expire before the next"
            " come; raise expire or lower every"
        )
    return PublishSettings(
        topic,
        table.name or topic.rpartition("/")[2],
        discovery,
        table.every,
        table.expire,
        table.buffer,
        importlib.metadata.version("edgekd"),
    )


def credentials(table: MqttTable, environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Username and password, None where there is none.

    Raises:
        InputError: two passwords, a password without a username, a file that cannot be read.
    """
    password = table.password
    if table.password_file is not None:
        if password is not None:
            raise InputError("[mqtt] password and password_file are two passwords; keep one of them")
        try:
            password = Path(table.password_file).read_text(encoding=TEXT).rstrip("\r\n")
        except (
            OSError,
            UnicodeDecodeError,
        ) as error:  # the message of a decoding error would show a part of the password
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InputError(
                f"[mqtt] password_file: {table.password_file} cannot be read ({why}); it holds the password alone"
            ) from None
    username, password = environment.get(USERNAME) or table.username, environment.get(PASSWORD) or password
    if password is not None and username is None:
        raise InputError(
            f"[mqtt]: there is a password and no username; give username, or {USERNAME} in the environment"
        )
    return username, password


def tls_context(table: MqttTable, *, secure: bool) -> ssl.SSLContext | None:
    """How to check the broker's certificate, and this client's own certificate; None where `secure` is false.

    Raises:
        InputError: a file that cannot be used, or that would not be used.
    """
    given = [key for key in ("ca", "certificate", "key") if getattr(table, key) is not None]
    if not secure:
        if given:
            raise InputError(
                f"[mqtt]: {' and '.join(given)} would not be used, as the url begins with mqtt://; let it begin with"
                " mqtts://"
            )
        return None
    if given[-1:] == ["key"] and "certificate" not in given:
        raise InputError("[mqtt]: there is a key and no certificate; give certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the host name
    try:
        if table.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(table.ca)
    except OSError as error:  # includes ssl.SSLError
        raise InputError(
            f"[mqtt] ca: {table.ca} cannot be used ({error.strerror}); give a file of certificates in PEM"
        ) from None
    if table.certificate is not None:
        try:
            # an encrypted key would ask for its password on the terminal
            context.load_cert_chain(table.certificate, table.key, password="")
        except OSError as error:
            raise InputError(
                f"[mqtt] certificate, key: {table.certificate} and {table.key or 'no key'} cannot be used"
                f" ({error.strerror}); give files in PEM, the key not encrypted"
            ) from None
    return context
