"""The MQTT output: what it publishes and when, to a working broker and to every kind of broken one.

Past 400 lines because every way in which a broker fails stands here, on the same broker double.
"""

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from runtime.broker_double import CONNECT, DISCONNECT, SUBSCRIBE, BrokerDouble
from runtime.test_homeassistant import DECISION, SETTINGS
from runtime.toy_listener import MANIFEST, eventually, thread_ended

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.config import Config, read_config
from edgekd.runtime.config_tables import MqttTable
from edgekd.runtime.decision import to_json
from edgekd.runtime.outputs.base import CLOSE_S, Observation
from edgekd.runtime.outputs.mqtt import connection
from edgekd.runtime.outputs.mqtt.connection import Broker, Mqtt
from edgekd.runtime.outputs.mqtt.messages import PendingMessages
from edgekd.runtime.outputs.mqtt.settings import (
    PASSWORD,
    USERNAME,
    address,
    credentials,
    open_mqtt,
    publish_settings,
    tls_context,
)
from edgekd.runtime.source.capture import CaptureCounts
from edgekd.runtime.source.health import StatusLine

SECRET = "hunter2-secret"
OBSERVATION = Observation(MANIFEST, np.zeros(3, np.float32), None, 0.0, 0.0, CaptureCounts(9, 8, 1, 0, 0, 0, 2, 0.0))
STATE, CHANGE, HEALTH, PROBABILITIES = (
    f"edgekd/kitchen/{part}" for part in ("state", "change", "health", "probabilities")
)
CONFIG, AVAILABILITY = "homeassistant/device/edgekd_kitchen/config", "edgekd/kitchen/availability"


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def decided(t: float, label: str = "low"):
    return msgspec.structs.replace(DECISION, t=t, label=label)


def taken(pending: PendingMessages) -> list[tuple[str, dict]]:
    """All pending messages: last part of the topic, and content."""
    given = []
    while (message := pending.next()) is not None:
        given.append((message.topic.rpartition("/")[2], json.loads(message.payload)))
    return given


def topics(pending: PendingMessages) -> list[str]:
    return [topic for topic, _ in taken(pending)]


# --- what is published ---


def test_the_first_decision_publishes_everything_and_the_same_again_nothing():
    pending = PendingMessages(SETTINGS, Clock())
    pending.add(decided(1.0), OBSERVATION)
    payload = dict(taken(pending))
    assert set(payload) == {"config", "state", "probabilities", "health", "change"}
    line = json.loads(to_json(decided(1.0)))
    assert line.items() <= payload["state"].items()
    assert payload["change"] == payload["state"]
    assert payload["state"]["level"] == -20.0
    assert payload["probabilities"]["probabilities"] == {"low": 0.8765, "high": 0.1}
    assert payload["health"] | {"time": ""} == {
        "time": "",
        "t": 1.0,
        "state": "HEALTHY",
        "reason": "",
        "problem": False,
        "outputs": {},
        "drops": 7,
        "counts": OBSERVATION.counts._asdict(),
        "reconnects": 0,
        "dropped": 0,
        "version": "1.2",
        "model": "toy",
    }
    pending.add(decided(1.5), OBSERVATION)
    assert topics(pending) == []


def test_a_change_is_published_at_once_and_a_constant_state_before_it_expires():
    clock = Clock()
    pending = PendingMessages(SETTINGS, clock)
    pending.add(decided(1.0), OBSERVATION)
    taken(pending)
    pending.add(decided(1.5, "high"), OBSERVATION)
    assert topics(pending) == ["state", "change"]
    clock.now += SETTINGS.every_s
    pending.add(decided(2.0, "high"), OBSERVATION)
    assert topics(pending) == ["probabilities"]
    clock.now += SETTINGS.expire_s / 3
    pending.add(decided(2.5, "high"), OBSERVATION)
    assert topics(pending) == ["state", "probabilities", "health"]


def test_health_has_the_source_and_the_errors_of_the_other_outputs():
    pending = PendingMessages(SETTINGS, Clock())

    def payload(reason: str, state: str = "HEALTHY") -> dict:
        pending.add(StatusLine(3.0, state, reason), None)
        return dict(taken(pending))["health"]

    health = payload("no sound", "RECOVERING")
    assert (health["state"], health["reason"], health["problem"], health["t"]) == ("RECOVERING", "no sound", True, 3.0)
    assert payload("listening to usb")["problem"] is False
    health = payload("hook: exit status 1: no such file")
    assert (health["reason"], health["outputs"], health["problem"]) == (
        "listening to usb",
        {"hook": "exit status 1: no such file"},
        True,
    )
    assert payload("mqtt: no connection")["outputs"] == health["outputs"]
    assert payload("hook: works again")["outputs"] == {}


def test_while_nobody_reads_the_newest_state_and_the_last_changes_are_kept():
    pending = PendingMessages(SETTINGS, Clock())
    for number in range(SETTINGS.buffer + 5):
        pending.add(decided(float(number), f"label {number}"), OBSERVATION)
    payload = taken(pending)
    assert [topic for topic, _ in payload].count("state") == 1
    assert dict(payload)["state"]["t"] == 14.0
    assert [content["t"] for topic, content in payload if topic == "change"] == [float(t) for t in range(5, 15)]
    assert pending.dropped == dict(payload)["health"]["dropped"] == 5


def test_what_was_not_acknowledged_comes_back_before_what_is_new_and_within_the_bound():
    pending = PendingMessages(SETTINGS, Clock())
    for number in range(10):
        pending.add(decided(float(number), str(number)), OBSERVATION)
    sent = [pending.next() for _ in range(14)]
    assert pending.next() is None
    pending.add(decided(10.0, "new"), OBSERVATION)
    pending.requeue(sent)
    assert [content["t"] for topic, content in taken(pending) if topic == "change"] == [float(t) for t in range(1, 11)]
    assert pending.dropped == 1


def test_another_model_is_made_known():
    pending = PendingMessages(SETTINGS, Clock())
    pending.add(decided(1.0), OBSERVATION)
    taken(pending)
    pending.add(decided(1.5), OBSERVATION._replace(manifest=msgspec.structs.replace(MANIFEST, labels=("a", "b"))))
    assert dict(taken(pending))["config"]["components"]["label"]["options"] == ["a", "b", "unknown", "quiet"]


def test_without_discovery_nothing_is_published_for_home_assistant():
    pending = PendingMessages(SETTINGS._replace(discovery=None), Clock())
    pending.add(decided(1.0), OBSERVATION)
    assert "config" not in topics(pending)


# --- a broker that is well ---


@pytest.fixture
def fast(monkeypatch):
    """Short waits."""
    for name, seconds in (
        ("FIRST_WAIT_S", 0.02),
        ("LAST_WAIT_S", 0.05),
        ("REPLY_S", 0.4),
        ("POLL_S", 0.02),
        ("CONNECT_S", 0.5),
    ):
        monkeypatch.setattr(connection, name, seconds)


@contextlib.contextmanager
def publishing(port: int, pending: PendingMessages | None = None, **broker):
    output = Mqtt(Broker("127.0.0.1", port, "edgekd_kitchen", **broker), pending or PendingMessages(SETTINGS))
    try:
        yield output
    finally:
        output.close()
        assert thread_ended("mqtt")


@pytest.mark.usefixtures("fast")
def test_it_connects_publishes_and_disconnects():
    with BrokerDouble() as broker:
        with publishing(broker.port, username="me", password=SECRET) as output:
            output.publish(decided(1.0), OBSERVATION)
            assert eventually(lambda: broker.of(CHANGE))
            assert broker.of(AVAILABILITY) == [b"online"]
            assert output.error is None
            kind, hello = broker.packets[0]
            assert (kind, SUBSCRIBE in broker.kinds) == (CONNECT, True)
            assert all(
                text in hello for text in (b"edgekd_kitchen", AVAILABILITY.encode(), b"offline", b"me", SECRET.encode())
            )
            output.publish(decided(1.5, "high"), OBSERVATION)
            assert eventually(lambda: len(broker.of(CHANGE)) == 2)
            output.publish(decided(2.0, "middle"), OBSERVATION)
            began = time.monotonic()
            output.close()
            assert time.monotonic() - began < CLOSE_S + 1.0  # a busy machine has its say
        assert eventually(lambda: DISCONNECT in broker.kinds)
        assert len(broker.of(CHANGE)) == 3
        assert broker.of(AVAILABILITY) == [b"online", b"offline"]
    assert {(topic, retain) for topic, _, retain in broker.published} == {
        (STATE, True),
        (CHANGE, False),
        (HEALTH, True),
        (PROBABILITIES, False),
        (CONFIG, True),
        (AVAILABILITY, True),
    }


@pytest.mark.usefixtures("fast")
def test_everything_is_repeated_when_home_assistant_starts():
    with BrokerDouble() as broker, publishing(broker.port) as output:
        output.publish(decided(1.0), OBSERVATION)
        assert eventually(lambda: broker.of(CONFIG) and broker.of(STATE))
        broker.say("homeassistant/status", b"offline")
        broker.say("homeassistant/status", b"online")
        assert eventually(lambda: len(broker.of(CONFIG)) == 2 and len(broker.of(STATE)) == 2)
        assert len(broker.of(CHANGE)) == 1


@pytest.mark.usefixtures("fast")
def test_after_a_lost_connection_all_is_published_again_and_no_change_is_missing():
    with BrokerDouble() as broker, publishing(broker.port) as output:
        output.publish(decided(1.0), OBSERVATION)
        assert eventually(lambda: broker.of(CHANGE))
        broker.acknowledges = False
        output.publish(decided(1.5, "high"), OBSERVATION)
        assert eventually(lambda: len(broker.of(CHANGE)) == 2)
        broker.published.clear()
        broker.acknowledges = True
        broker.drop()
        output.publish(decided(2.0, "middle"), OBSERVATION)
        assert eventually(lambda: len(broker.of(CHANGE)) == 2)
        assert [json.loads(payload)["t"] for payload in broker.of(CHANGE)] == [1.5, 2.0]
        assert broker.of(AVAILABILITY) == [b"online"]
        assert json.loads(broker.of(STATE)[-1])["t"] == 2.0
        assert json.loads(broker.of(HEALTH)[-1])["reconnects"] == 1
        assert broker.of(CONFIG)
        assert eventually(lambda: output.error is None)


# --- all the others ---


@contextlib.contextmanager
def nothing():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield SimpleNamespace(port=port)


BAD = {
    "nobody": (nothing, "Connection refused"),
    "silent": (lambda: BrokerDouble(None), "it takes the connection and does not answer"),
    "closes": (lambda: BrokerDouble(hangs_up=True), "without an answer|Connection reset"),
    "wrong password": (
        lambda: BrokerDouble(4),
        "refuses the connection.*user name or password.*; check username and password",
    ),
    "unauthorised": (lambda: BrokerDouble(5), r"refuses the connection \(Not authorized\); check"),
    "no place": (lambda: BrokerDouble(3), r"refuses the connection \(Server unavailable\); trying again"),
    "deaf": (lambda: BrokerDouble(acknowledges=False), "does not acknowledge"),
}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("case", BAD)
def test_a_bad_broker_is_an_error_without_secrets_and_tried_again_while_the_stream_goes_on(case):
    broken, reason = BAD[case]
    pending = PendingMessages(SETTINGS)
    with broken() as broker, publishing(broker.port, pending, username="me", password=SECRET) as output:
        assert eventually(lambda: output.error is not None)
        waits = []
        for number in range(200):
            began = time.perf_counter()
            output.publish(decided(float(number), str(number)), OBSERVATION)
            waits.append(time.perf_counter() - began)
            time.sleep(0.001)
        assert sorted(waits)[-10] < 0.3  # less than any wait of the thread; a busy machine may hold up a few
        assert re.search(reason, output.error), output.error
        assert SECRET not in output.error + repr(Broker("b", 1, "c", password=SECRET))
        if isinstance(broker, BrokerDouble):
            assert eventually(lambda: broker.connections > 2)
        assert pending.dropped > 0
        began = time.monotonic()
        output.close()
        assert time.monotonic() - began < CLOSE_S + 1.0  # a busy machine has its say
    assert sum(thread.name == "mqtt" for thread in threading.enumerate()) == 0


def test_no_more_than_a_few_messages_wait_for_a_broker_that_does_not_acknowledge():
    pending = PendingMessages(SETTINGS._replace(buffer=100))
    for number in range(100):
        pending.add(decided(float(number), str(number)), OBSERVATION)
    with BrokerDouble(acknowledges=False) as broker:
        output = Mqtt(Broker("127.0.0.1", broker.port, "a"), pending)
        assert eventually(lambda: broker.of(CHANGE))
        time.sleep(0.3)
        acknowledged = [topic for topic, _, _ in broker.published if topic != PROBABILITIES]
        assert len(acknowledged) == connection.IN_FLIGHT
        output.close()
        assert thread_ended("mqtt")
    assert sum(message.topic == CHANGE for message in iter(pending.next, None)) == 100


@pytest.mark.usefixtures("fast")
def test_it_works_again_when_the_broker_comes_back():
    with nothing() as free, publishing(free.port) as output:
        assert eventually(lambda: output.error is not None)
        output.publish(decided(1.0), OBSERVATION)
        with BrokerDouble(port=free.port) as broker:
            assert eventually(lambda: output.error is None and broker.of(STATE))


def test_an_unknown_host_is_an_error(monkeypatch):
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    output = Mqtt(Broker("no-such-host.invalid", 1883, "a"), PendingMessages(SETTINGS))
    assert eventually(lambda: output.error is not None)
    assert output.error == "no connection to no-such-host.invalid:1883: Name or service not known; trying again"
    output.close()


def test_waits_double_to_a_limit_and_begin_anew_after_a_connection_that_worked(monkeypatch):
    waits, worked = [], iter([None] * 7 + [time.monotonic() - 60.0] + [None] * 2)

    class Fails:
        def __init__(self, *_: object) -> None:
            self.worked_at = next(worked)

        def serve(self, _closing: threading.Event) -> None:
            raise OSError("no")

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            if len(waits) == 10:
                self.set()
            return True

    monkeypatch.setattr(connection, "Connection", Fails)
    monkeypatch.setattr(connection, "threading", SimpleNamespace(Thread=threading.Thread, Event=Waits))
    Mqtt(Broker("b", 1, "c"), PendingMessages(SETTINGS))
    assert thread_ended("mqtt")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 1.0, 2.0, 4.0]


# --- the table ---


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("mqtt://broker", ("mqtt", "broker", 1883)),
        ("mqtts://10.0.0.1:8884/", ("mqtts", "10.0.0.1", 8884)),
        ("mqtts://[::1]", ("mqtts", "::1", 8883)),
    ],
)
def test_addresses(url, where):
    assert address(url) == where


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://broker:0",
        "mqtt://broker:99999",
        "mqtt://broker:x",
        "mqtt://broker/topic",
        "mqtt://[::1",
        "mqtt://a..b",
        "mqtt://broker?a=b",
        "ws://broker",
    ],
)
def test_what_is_no_address_is_refused_with_the_form(url):
    with pytest.raises(InputError, match=r"\[mqtt\] url .*mqtt://HOST"):
        address(url)


@pytest.mark.parametrize(
    "url",
    [
        f"mqtt://me:{SECRET}@broker",
        f"mqtt://{SECRET}@broker",
        f"mqtt://me:/{SECRET}#@broker",
        f"me:{SECRET}@broker",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_shown(url):
    with pytest.raises(InputError, match="list of processes") as refused:
        open_mqtt(MqttTable(url), {})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"mqtt = 'mqtt://me:{SECRET}@broker'",
        f"[mqtt]\nurl = ['mqtt://me:{SECRET}@broker']",
        "[mqtt]\nurl = 'mqtt://b'\npassword = 4242424242",
        f"[mqtt]\nurl = 'mqtt://b'\npassword = ['{SECRET}']",
        f"[mqtt]\nurl = 'mqtt://b'\npasword = '{SECRET}'",
        f"[mqtt]\nurl = 'mqtt://b'\npassword = '{SECRET}",
    ],
)
def test_mistakes_in_the_file_do_not_show_secrets(tmp_path, text):
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(InputError, match=r"mqtt|password|not valid TOML") as refused:
        read_config(tmp_path / "box.toml")
    assert SECRET not in str(refused.value)
    assert "4242424242" not in str(refused.value)


def test_no_repr_shows_the_password():
    table = MqttTable("mqtt://b", username="me", password=SECRET)
    shown = [
        repr(Config(mqtt=table)),
        repr(table),
        str(table.__rich_repr__()),
        repr(Broker("b", 1, "c", None, "me", SECRET)),
    ]
    assert SECRET not in "".join(shown)
    assert "username='me', password='***'" in shown[0]
    assert "password=None" in repr(MqttTable("mqtt://b"))


def test_credentials_come_from_the_table_a_file_or_the_environment(tmp_path):
    (tmp_path / "pass").write_text(f"{SECRET}\n")
    (tmp_path / "box.toml").write_text("[mqtt]\nurl = 'mqtt://b'\nusername = 'me'\npassword_file = 'pass'")
    assert credentials(read_config(tmp_path / "box.toml").mqtt, {}) == ("me", SECRET)
    assert credentials(MqttTable("mqtt://b", username="me", password="a"), {}) == ("me", "a")
    assert credentials(MqttTable("mqtt://b", username="me", password="a"), {USERNAME: "you", PASSWORD: "b"}) == (
        "you",
        "b",
    )
    assert credentials(MqttTable("mqtt://b"), {USERNAME: "", PASSWORD: ""}) == (None, None)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"password": SECRET}, "a password and no username"),
        ({"username": "a", "password": SECRET, "password_file": "b"}, "two passwords"),
        ({"username": "a", "password_file": "/no/such"}, "password_file: /no/such .*No such file"),
        ({"topic": "a/#"}, "topic is 'a/#'"),
        ({"topic": "/a"}, "topic is"),
        ({"topic": ""}, "topic is"),
        ({"topic": "$SYS"}, "topic is"),
        ({"topic": "a\0b"}, "topic is"),
        ({"topic": "a" * 201}, "at most 200"),
        ({"discovery": "+"}, "discovery is"),
        ({"every": 61.0}, "every is 61 s and expire 60 s"),
        ({"ca": "a"}, "ca would not be used, .*mqtt://"),
    ],
)
def test_tables_that_can_never_work_are_refused(table, message):
    with pytest.raises(InputError, match=message) as refused:
        open_mqtt(MqttTable("mqtt://127.0.0.1", **table), {})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ca": "/no/such.pem"}, r"ca: /no/such\.pem .*No such file"),
        ({"certificate": "/no/such.pem"}, r"certificate, key: /no/such\.pem"),
        ({"key": "/no/such.pem"}, "a key and no certificate"),
    ],
)
def test_files_of_tls_that_cannot_be_used_are_named(table, message):
    with pytest.raises(InputError, match=message):
        tls_context(MqttTable("mqtts://b", **table), secure=True)


def test_tls_checks_certificate_and_name():
    context = tls_context(MqttTable("mqtts://b"), secure=True)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert tls_context(MqttTable("mqtt://b"), secure=False) is None


def test_missing_keys_have_defaults():
    settings = publish_settings(MqttTable("mqtt://b"))
    assert settings.topic.startswith("edgekd/")
    assert (settings.name, settings.discovery) == (settings.topic[len("edgekd/") :], "homeassistant")
    assert publish_settings(MqttTable("mqtt://b", discovery=False)).discovery is None
    assert publish_settings(MqttTable("mqtt://b", discovery=True)).discovery == "homeassistant"


def test_without_paho_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.delitem(sys.modules, "paho.mqtt.client", raising=False)
    with pytest.raises(MissingExtraError, match=r"paho-mqtt.*pip install 'edgekd\[mqtt\]'"):
        open_mqtt(MqttTable("mqtt://b"), {})


# --- a real one ---


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@pytest.mark.skipif(shutil.which("mosquitto") is None, reason="no mosquitto on this machine")
def test_a_real_broker_keeps_what_is_retained_and_publishes_the_will(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT_S", 0.1)
    import paho.mqtt.client as paho

    with nothing() as free:
        port = free.port
    (tmp_path / "broker.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with subprocess.Popen(["mosquitto", "-c", str(tmp_path / "broker.conf")], stderr=subprocess.DEVNULL) as mosquitto:
        try:
            got = {}
            with publishing(port) as output:
                output.publish(decided(1.0), OBSERVATION)
                assert eventually(lambda: listens(port))
                reader = paho.Client(paho.CallbackAPIVersion.VERSION2)
                reader.on_message = lambda _client, _data, message: got.update({message.topic: message.payload})
                reader.connect("127.0.0.1", port)
                reader.subscribe("#")
                reader.loop_start()
                assert eventually(lambda: got.keys() >= {STATE, HEALTH, CONFIG, AVAILABILITY})
                assert got[AVAILABILITY] == b"online"
                other = paho.Client(paho.CallbackAPIVersion.VERSION2, "edgekd_kitchen")
                other.connect("127.0.0.1", port)  # another of the same name: the broker ends the first connection
                other.loop(1.0)
                assert eventually(lambda: got[AVAILABILITY] == b"offline")
                assert eventually(lambda: got[AVAILABILITY] == b"online")
            assert eventually(lambda: got[AVAILABILITY] == b"offline")
            other.disconnect()
            reader.disconnect()
            reader.loop_stop()
        finally:
            mosquitto.terminate()
