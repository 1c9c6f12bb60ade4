"""The hook: deliveries of changes to a command and an address, and their errors.

Past 400 lines because every way in which a command and an address can fail stands here, on the same two receivers.
"""

import json
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from runtime.toy_listener import eventually, thread_ended

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.config import read_config
from edgekd.runtime.config_tables import HookTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S
from edgekd.runtime.outputs.hooks import command as command_module
from edgekd.runtime.outputs.hooks import webhook as webhook_module
from edgekd.runtime.outputs.hooks.command import CommandDelivery
from edgekd.runtime.outputs.hooks.delivery import DeliveryError
from edgekd.runtime.outputs.hooks.hook import QUEUE, Hook, open_hook
from edgekd.runtime.outputs.hooks.webhook import open_webhook, read_address
from edgekd.runtime.source.health import StatusLine


def decision(label: str, t: float = 1.0, state: str = "HEALTHY") -> Decision:
    return Decision(t, label, 0.5, ((label, 0.5),), state, 0.1, 0)


class Fake:
    """A delivery that records the events."""

    name, error = "fake", None

    def __init__(self) -> None:
        self.bodies, self.gate, self.began = [], threading.Event(), threading.Event()
        self.gate.set()

    def deliver(self, body: bytes) -> None:
        self.began.set()
        self.gate.wait(5.0)
        self.bodies.append(json.loads(body))

    def stop(self) -> None:
        self.gate.set()


LINES = [
    StatusLine(0.0, "HEALTHY", "listening"),
    decision("rain"),
    decision("rain", 2.0),
    decision("wind", 3.0),
    StatusLine(4.0, "HEALTHY", "mqtt: no broker"),
    StatusLine(5.0, "FAILED", "gone"),
    decision("rain", 6.0, "FAILED"),
]


@pytest.mark.parametrize(
    ("on", "wanted"),
    [
        (("label",), [("label", None, 1.0), ("label", "rain", 3.0), ("label", "wind", 6.0)]),
        (("state",), [("state", None, 0.0), ("state", "HEALTHY", 5.0)]),
        (
            ("label", "state"),
            [
                ("state", None, 0.0),
                ("label", None, 1.0),
                ("label", "rain", 3.0),
                ("state", "HEALTHY", 5.0),
                ("label", "wind", 6.0),
            ],
        ),
    ],
)
def test_only_changes_are_delivered_and_errors_of_outputs_are_none(on, wanted):
    fake = Fake()
    hook = Hook([fake], on)
    for line in LINES:
        hook.publish(line, None)
    hook.close()
    assert [(body["event"], body["before"], body["t"]) for body in fake.bodies] == wanted


def test_the_event_is_a_line_of_listen_with_what_changed_when():
    fake = Fake()
    hook = Hook([fake])
    hook.publish(decision("rain"), None)
    hook.close()
    (body,) = fake.bodies
    assert (body["label"], body["probability"], body["top"], body["state"]) == ("rain", 0.5, [["rain", 0.5]], "HEALTHY")
    assert body["time"].endswith("Z")


def test_a_slow_delivery_loses_the_oldest_and_reports_it():
    fake = Fake()
    hook = Hook([fake])
    fake.gate.clear()
    hook.publish(decision("first"), None)
    assert fake.began.wait(5.0)
    for number in range(QUEUE + 3):
        hook.publish(decision(f"n{number}"), None)
    assert hook.dropped == 3
    fake.gate.set()
    assert eventually(lambda: len(fake.bodies) == QUEUE + 1)
    assert fake.bodies[1]["label"] == "n3"
    assert eventually(lambda: hook.error is None)
    hook.close()


def hooked(command: str, timeout: float = 10.0) -> Hook:
    hook = open_hook(HookTable(command=command, timeout=timeout))
    hook.publish(decision("rain"), None)
    return hook


def test_a_command_gets_the_event_on_standard_input_and_the_environment_without_secrets(tmp_path, monkeypatch):
    for name in ("EDGEKD_MQTT_USERNAME", "EDGEKD_MQTT_PASSWORD", "EDGEKD_WEBHOOK_TOKEN", "EDGEKD_PLACE"):
        monkeypatch.setenv(name, "hush")
    out = tmp_path / "out"
    hook = hooked(f"cat > {out}.json; env > {out}.part; mv {out}.part {out}.env")
    assert eventually((tmp_path / "out.env").exists)
    hook.close()
    assert json.loads((tmp_path / "out.json").read_text())["label"] == "rain"
    environment = (tmp_path / "out.env").read_text()
    assert "EDGEKD_PLACE=hush" in environment
    assert "PASSWORD" not in environment
    assert "TOKEN" not in environment
    assert "USERNAME" not in environment


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            "echo one >&2; printf 'no \\033[31mlamp\\n\\n' >&2; exit 3",
            "the command ended with status 3: no \\x1b[31mlamp",
        ),
        ("printf 'sent 1\\rsent 2\\r' >&2; exit 3", "the command ended with status 3: sent 2"),
        (
            "echo curl https://box.lan/bot/S3cret77 S3cret77 no >&2; exit 3",
            "the command ended with status 3: curl https://box.lan *** no",
        ),
        ("kill -9 $$", "the command ended by SIGKILL"),
        (
            "head -c 3000000 /dev/zero | tr '\\0' x >&2",
            "the command took longer than 0.5 s and was killed: " + "x" * 117 + "...",
        ),
        ("sleep 60; true", "the command took longer than 0.5 s and was killed"),
    ],
)
def test_a_failing_command_is_an_error_in_a_line_until_one_works(command, error):
    hook = hooked(f'if grep -q \'"label":"rain"\'; then {command}; fi', 0.5)
    assert eventually(lambda: hook.error == error), hook.error
    hook.publish(decision("wind"), None)
    assert eventually(lambda: hook.error is None)
    hook.close()


def test_a_command_that_cannot_be_started_is_an_error(monkeypatch):
    def none_left(*_arguments, **_options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("edgekd.runtime.outputs.hooks.command.subprocess.Popen", none_left)
    hook = hooked("true")
    assert eventually(lambda: hook.error == "the command cannot be started (Resource temporarily unavailable)")
    hook.close()


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


@pytest.mark.parametrize(
    ("command", "troubled"),
    [
        ("sleep 60 & echo $! > {0}; wait", True),
        ("sleep 60 & echo $! > {0}", False),
        ("setsid sh -c 'echo $$ > {0}; exec sleep 60' & sleep 60", True),
        ("setsid sh -c 'echo $$ > {0}; exec sleep 60' & while ! [ -s {0} ]; do sleep 0.01; done", False),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_nothing_that_a_command_starts_outlives_it(tmp_path, command, troubled):
    hook = hooked(command.format(tmp_path / "pid"), 0.5)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))
    assert eventually(lambda: bool(hook.error) == troubled)
    hook.close()


def test_a_hanging_command_ends_with_the_listener(tmp_path):
    hook = hooked(f"echo $$ > {tmp_path}/pid; trap '' TERM; sleep 60")
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    hook.publish(decision("wind"), None)
    began = time.monotonic()
    hook.close()
    assert time.monotonic() - began < CLOSE_S + 1.0  # a busy machine has its say
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_commands_leave_no_descriptors_and_no_processes_behind(tmp_path):
    done = tmp_path / "done"
    done.touch()
    hook = open_hook(HookTable(command=f"echo >> {shlex.quote(str(done))}; exit 1"))
    counts = []
    for number in range(12):
        hook.publish(decision(f"n{number}"), None)
        assert eventually(lambda number=number: done.stat().st_size == number + 1)
        time.sleep(0.05)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    hook.close()
    assert counts[-1] <= counts[2] + 3  # one may be running


# --- webhook ---


class Server(HTTPServer):
    """Replies with the statuses of its script, then with the last one for ever."""

    def __init__(self, *statuses: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.statuses, self.got = list(statuses), []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, self.headers["Authorization"], body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", "http://127.0.0.1:9/secret")
        self.end_headers()

    def log_message(self, *_arguments) -> None:
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*statuses: int, port: int = 0) -> Server:
        servers.append(Server(*statuses, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(webhook_module, "WAITS_S", (0.05, 0.05))


def test_an_event_is_posted_with_the_bearer_of_the_environment(serve, monkeypatch):
    monkeypatch.setenv("EDGEKD_WEBHOOK_TOKEN", "hush")
    server = serve(204)
    hook = open_hook(HookTable(url=f"{server.url}/a b".replace(" ", "%20") + "?c=d"))
    hook.publish(decision("rain"), None)
    assert eventually(lambda: server.got)
    hook.close()
    ((path, authorization, body),) = server.got
    assert (path, authorization, body["label"]) == ("/a%20b?c=d", "Bearer hush", "rain")
    assert hook.error is None


def test_an_event_goes_through_the_proxy_of_the_environment(serve, monkeypatch):
    proxy = serve(200)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    open_webhook("http://scenes.example/new", 5.0, None).deliver(b"{}")
    assert [path for path, _, _ in proxy.got] == ["http://scenes.example/new"]
    direct = serve(200)
    open_webhook(f"{direct.url}/new", 5.0, None).deliver(b"{}")
    assert [path for path, _, _ in direct.got] == ["/new"]


@pytest.mark.parametrize("proxy", ["http://me:hu/sh@proxy:3128", "http://me:hush@proxy:port", "ftp://me:hush@proxy"])
def test_a_proxy_that_is_no_address_is_an_error_without_its_password(proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    webhook = open_webhook("http://scenes.example/new", 5.0, None)
    webhook.deliver(b"{}")
    assert "proxy of the environment" in webhook.error
    assert "hu" not in webhook.error


def test_without_httpx_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[webhook\]"):
        open_hook(HookTable(url="http://localhost/"))


def test_a_user_in_the_address_is_basic_authentication(serve):
    server = serve(200)
    open_webhook(server.url.replace("//", "//me:p%40ss@"), 5.0, None).deliver(b"{}")
    assert server.got[0][1] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    ("statuses", "posts", "error"),
    [
        ((503, 429, 200), 3, None),
        ((500,), 3, "answers 500 Internal Server Error"),
        ((401,), 1, "answers 401 Unauthorized"),
        ((302,), 1, "answers 302 Found: redirects are not followed, give the address it leads to"),
        ((799,), 1, "answers 799"),
    ],
)
def test_what_may_pass_is_tried_again_within_a_bound(serve, statuses, posts, error):
    server = serve(*statuses)
    webhook = open_webhook(f"{server.url}/s3cret?key=s3cret", 5.0, "s3cret")
    webhook.deliver(b"{}")
    assert len(server.got) == posts
    assert webhook.error == (error and f"127.0.0.1:{server.server_port} {error}")


def test_no_server_is_an_error_until_there_is_one(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        webhook = open_webhook(f"http://u:s3cret@localhost:{port}/s3cret", 5.0, None)
        webhook.deliver(b"{}")
    assert webhook.error == f"localhost:{port}: Connection refused"
    serve(200, port=port)
    webhook.deliver(b"{}")
    assert webhook.error is None


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_drips_bytes_does_not_last_longer_than_the_limit(monkeypatch, reply, scheme):
    monkeypatch.setattr(webhook_module, "WAITS_S", ())
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.sendall(reply)
                while not stop.wait(0.05):
                    connection.sendall(b"x" if reply else b"")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        webhook = open_webhook(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/", 0.4, None)
        began = time.monotonic()
        webhook.deliver(b"{}")
        assert time.monotonic() - began < 2.0
        stop.set()
        dripping.join(5.0)
    assert webhook.error is not None
    if scheme == "http":
        assert webhook.error.endswith(": no answer in time")


def test_a_hanging_server_does_not_hold_up_the_end():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hook = open_hook(HookTable(url=f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=1.0))
        hook.publish(decision("rain"), None)
        connection, _ = listening.accept()
        began = time.monotonic()
        hook.close()
        assert time.monotonic() - began < CLOSE_S + 1.0  # a busy machine has its say
        connection.close()
        assert thread_ended("hook webhook")


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("ftp://s3cret@host", None, "neither http"),
        ("s3cret", None, "neither http"),
        ("http://", None, "no host"),
        ("http://host:99999/s3cret", None, "port"),
        ("http://host:0/s3cret", None, "port 0"),
        ("http://[s3cret/", None, "malformed"),
        ("http://ho st/s3cret", None, "blank"),
        ("http://host/\ns3cret", None, "control"),
        ("http://u:s3cret@host", "t", "keep one"),
        ("http://host", "s3cret\n", "token"),
        ("http://host", "s3crét", "token"),
    ],
)
def test_addresses_and_tokens_that_can_never_work_are_refused_without_showing_them(url, token, message):
    with pytest.raises(InputError, match=message) as caught:
        read_address(url, token)
    assert "s3cr" not in str(caught.value)


def test_secrets_are_in_no_repr():
    table = HookTable(url="https://u:s3cret@host/s3cret", token="s3cret")
    assert "s3cret" not in repr(table) + repr(read_address("https://u:s3cret@host/s3cret?s3cret", None))


@pytest.mark.parametrize(("table", "message"), [(HookTable(), "nothing to run"), (HookTable(command=" "), "empty")])
def test_a_hook_with_nothing_to_do_is_refused(table, message):
    with pytest.raises(InputError, match=message):
        open_hook(table)


def test_an_untrusted_certificate_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(webhook_module, "WAITS_S", ())
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost"
    )
    try:
        subprocess.run(shlex.split(command), check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(200)
    try:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_port}/"
        server.handle_error = lambda *_: None
        webhook = open_webhook(url, 5.0, None)
        webhook.deliver(b"{}")
        assert (
            webhook.error == f"localhost:{server.server_port}: its certificate is not trusted (self-signed certificate)"
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        webhook = open_webhook(url, 5.0, None)
        webhook.deliver(b"{}")
        assert (webhook.error, len(server.got)) == (None, 1)
    finally:
        server.shutdown()
        server.server_close()


def test_the_table_is_read_and_its_mistakes_are_named(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text("hook = { command = 'true', on = ['label', 'state'], timeout = 2 }")
    assert read_config(file).hook == HookTable(command="true", on=("label", "state"), timeout=2.0)
    for text, message in (
        ("on = []", "hook.on"),
        ("on = ['lable']", "hook.on"),
        ("timeout = 0", "hook.timeout"),
        ("tokn = 's3cret'", "token"),
    ):
        file.write_text(f"hook = {{ command = 'true', {text} }}")
        with pytest.raises(InputError, match=message) as caught:
            read_config(file)
        assert "s3cret" not in str(caught.value)


def test_a_command_of_another_user_is_waited_for_and_reported(monkeypatch):
    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(command_module.os, "killpg", refuse)
    CommandDelivery("true", 5.0).deliver(b"{}")
    command = CommandDelivery("sleep 1", 0.1)
    seen = []
    listening = threading.Thread(target=lambda: seen.append(eventually(lambda: command.error is not None)))
    listening.start()
    with pytest.raises(DeliveryError, match="took longer"):
        command.deliver(b"{}")
    listening.join()
    assert seen == [True]
    assert command.error is None


def test_a_listener_that_inherits_ignored_children_runs_commands(tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        CommandDelivery(f"sleep 0.1; touch {tmp_path}/done", 10.0).deliver(b"{}")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (tmp_path / "done").exists()
