"""The messages to systemd, on a socket of the test's own and a clock that the test sets."""

import os
import socket

import pytest

from edgekd.runtime import notify
from edgekd.runtime.decision import Decision
from edgekd.runtime.notify import WAIT_S, Notifier, notifier
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED, StatusLine

WATCHDOG_S = 60.0


class Manager:
    """systemd's end of the socket, with a clock that a test sets."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.now = 1000.0
        self.notifier = Notifier(address, WATCHDOG_S, clock=lambda: self.now)

    def messages(self):
        """The lines since the last call."""
        found = []
        while True:
            try:
                found += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return found

    def window(self, t, label="rain", state="HEALTHY", **more):
        """Publish a decision at `t` seconds of audio and of the clock. Returns the lines that systemd received."""
        self.now = 1000.0 + t
        self.notifier.publish(
            Decision(t=t, label=label, probability=0.5, top=(), state=state, rms=0.1, drops=0, **more)
        )
        return self.messages()

    def change(self, t, state, reason):
        self.now = 1000.0 + t
        self.notifier.publish(StatusLine(t, state, reason))
        return self.messages()


@pytest.fixture
def manager(tmp_path):
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.notifier.close()
    made.socket.close()


def test_ready_comes_with_the_first_decision_on_fresh_sound_and_once(manager):
    assert manager.change(0.0, "RECOVERING", "no microphone") == [
        f"EXTEND_TIMEOUT_USEC={int(WAIT_S * 1e6)}",
        "STATUS=RECOVERING: no microphone",
    ]
    assert manager.change(30.0, "FAILED", "no good sound") == ["STATUS=FAILED: no good sound"]  # minutes may pass
    assert "READY=1" not in manager.window(600.0, state="FAILED")  # a window of zeros
    assert manager.change(601.0, "HEALTHY", "listening to USB") == ["STATUS=HEALTHY: listening to USB"]
    assert manager.window(602.0) == ["READY=1", "WATCHDOG=1", "STATUS=HEALTHY: rain"]
    assert manager.window(602.5) == []


def test_the_watchdog_is_fed_a_quarter_of_its_interval_apart(manager):
    manager.window(1.0)
    fed = [t for t in range(2, 62) if "WATCHDOG=1" in manager.window(float(t))]
    assert fed == [16, 31, 46, 61]


def test_nothing_but_fresh_sound_that_was_decided_on_feeds_the_watchdog(manager):
    manager.window(1.0)
    manager.now = 1100.0
    manager.notifier.publish(StatusLine(2.0, "HEALTHY", "listening to USB"))
    # the same again
    manager.notifier.publish(Decision(t=1.0, label="rain", probability=0.5, top=(), state="HEALTHY", rms=0.1, drops=0))
    manager.notifier.publish(
        Decision(t=3.0, label="rain", probability=0.5, top=(), state="RECOVERING", rms=0.0, drops=0)
    )
    assert "WATCHDOG=1" not in manager.messages()
    assert "WATCHDOG=1" in manager.window(101.0, gated=True)  # quiet, but new samples


def test_a_flickering_label_is_sent_at_most_once_a_second(manager):
    manager.window(1.0)
    messages = [manager.window(1.0 + i / 4, label=f"label{i}") for i in range(1, 13)]
    assert sum(map(bool, messages)) == 3


def test_a_reload_is_reported_with_its_result_and_a_decision_after_it(manager):
    manager.window(1.0)
    manager.notifier.reloading()
    assert manager.messages()[0] == "RELOADING=1"
    assert manager.change(2.0, "HEALTHY", f"{NOT_RELOADED}: box.toml: not valid\nTOML") == [
        "READY=1",
        f"STATUS=HEALTHY: rain; reload 1: {NOT_RELOADED}: box.toml: not valid TOML",
    ]
    manager.change(3.0, "HEALTHY", f"{RELOADED} scenes")
    assert manager.window(3.5) == ["WATCHDOG=1", f"STATUS=HEALTHY: rain; reload 2: {RELOADED} scenes"]
    assert manager.window(9.0, label="dog") == [f"STATUS=HEALTHY: dog; reload 2: {RELOADED} scenes"]


def test_a_reload_before_the_first_decision_makes_nobody_ready(manager):
    manager.change(0.0, "FAILED", "no microphone")
    manager.notifier.reloading()
    assert manager.messages() == []
    assert manager.change(1.0, "FAILED", f"{RELOADED} scenes") == [
        f"STATUS=FAILED: no microphone; reload 1: {RELOADED} scenes"
    ]


def test_a_long_reason_keeps_the_note_and_the_limit_of_a_message(manager):
    manager.change(1.0, "HEALTHY", f"{RELOADED} scenes")
    (status,) = manager.change(2.0, "RECOVERING", "\N{SNOWMAN}" * 9999)
    assert status.endswith(f"; reload 1: {RELOADED} scenes")
    assert len(status.encode()) < 4000


def test_the_end_is_reported(manager):
    manager.window(1.0)
    manager.notifier.close()
    assert manager.messages() == ["STOPPING=1"]


def test_an_absent_manager_is_an_error_until_it_is_back(tmp_path):
    address = str(tmp_path / "notify")
    output = Notifier(address, WATCHDOG_S)
    decision = Decision(t=1.0, label="rain", probability=0.5, top=(), state="HEALTHY", rms=0.1, drops=0)
    output.publish(decision)
    assert output.error == "systemd does not receive messages (No such file or directory)"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address)
        output.publish(Decision(t=1.5, label="rain", probability=0.5, top=(), state="HEALTHY", rms=0.1, drops=0))
        assert end.recv(4096).startswith(b"READY=1\nWATCHDOG=1\n")  # a lost message is sent again
    assert output.error is None
    output.close()


def test_a_manager_that_does_not_read_holds_nothing_up(manager):
    for t in range(1, 2000):  # far more than a socket holds
        manager.now = 1000.0 + 60.0 * t
        manager.notifier.publish(
            Decision(t=float(t), label="rain", probability=0.5, top=(), state="HEALTHY", rms=0.1, drops=0)
        )
    assert manager.notifier.error == "systemd does not receive messages (Resource temporarily unavailable)"
    manager.messages()
    assert "WATCHDOG=1" in manager.window(1e6)
    assert manager.notifier.error is None


def test_an_abstract_socket_is_reached():
    made = Manager(f"@edgekd-test-{os.getpid()}")
    assert "READY=1" in made.window(1.0)
    made.notifier.close()
    made.socket.close()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "/run/none"}, None),
        ({"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}, 8.0),
        ({"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_decides_what_is_sent_and_is_not_passed_on(environ, watchdog_s, monkeypatch):
    monkeypatch.setattr(notify, "Notifier", lambda *arguments: arguments)
    assert notifier(environ) == ("/run/none", watchdog_s)
    assert environ == {}


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1", "notify"])
def test_without_a_known_socket_nothing_is_sent(address):
    assert notifier({"NOTIFY_SOCKET": address}) is None
