"""The web output on loopback sockets: what it serves, to whom, and what hostile clients cannot do to it.

Past 400 lines because every endpoint and every hostile client stands here, on the same few helpers.
"""

import base64
import errno
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from runtime.observations import MANIFEST, decision, observation
from runtime.toy_listener import eventually, raw, thread_ended, tone

from edgekd.errors import InputError
from edgekd.frontend import log_mel
from edgekd.runtime.config import read_config
from edgekd.runtime.config_tables import WebTable
from edgekd.runtime.outputs.web import server as serving
from edgekd.runtime.outputs.web.access import Access, ListenAddress, client_of, parse_address, read_token, warning
from edgekd.runtime.outputs.web.application import PAGE, STATIC
from edgekd.runtime.outputs.web.prometheus import Metrics
from edgekd.runtime.outputs.web.spectrogram import Spectrogram
from edgekd.runtime.outputs.web.timeline import Timeline
from edgekd.runtime.outputs.web.web import Web
from edgekd.runtime.source.health import StatusLine

LOCAL = ListenAddress("127.0.0.1", 0)
TOKEN = "correct-horse-battery"


@pytest.fixture
def web(request) -> Iterator[Web]:
    output = Web(getattr(request, "param", WebTable(":1")), LOCAL)
    assert eventually(lambda: output.port)
    yield output
    output.close()


def connect(web: Web, receive_bytes: int | None = None, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.socket()
    connection.bind((source, 0))
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(8.0)
    connection.connect(("127.0.0.1", web.port))
    return connection


def ask(
    web: Web, target: str | bytes, *headers: str, host: str = "localhost", method: str = "GET"
) -> tuple[int, str, str]:
    """Status, head (names in lower case) and body of a path, or of a whole request in bytes."""
    lines = f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""
    request = target if isinstance(target, bytes) else "\r\n".join(lines).encode()
    with connect(web) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head[9:12]), re.sub(r"(?m)^[\w-]+:", lambda name: name[0].lower(), head), body


class Stream:
    """A client of /events."""

    def __init__(self, web: Web, receive_bytes: int | None = None, source: str = "127.0.0.1") -> None:
        self.connection = connect(web, receive_bytes, source)
        self.connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._file = self.connection.makefile("rb")

    def until(self, kind: str) -> dict:
        """The next event of a kind."""
        found = ""
        for line in self._file:
            if line.startswith(b"event: "):
                found = line.decode().split()[1]
            elif line.startswith(b"data: ") and found == kind:
                return json.loads(line[6:])
        raise AssertionError(f"the stream ended before {kind}")

    def close(self) -> None:
        self._file.close()
        self.connection.close()


# --- what it serves ---


def test_a_stream_begins_with_a_snapshot_and_goes_on_with_the_lines(web):
    web.publish(decision(1.0, "low"), observation())
    web.publish(StatusLine(1.0, "HEALTHY", "mqtt: no broker"), None)
    assert eventually(lambda: "edgekd_output_trouble" in ask(web, "/metrics")[2])
    first, second = Stream(web), Stream(web)
    for stream in (first, second):
        data = stream.until("snapshot")
        assert data["decision"] == json.loads(msgspec.json.encode(decision(1.0, "low")))
        assert (data["state"], data["troubles"], data["fresh"]) == ("HEALTHY", {"mqtt": "no broker"}, True)
        assert len(base64.b64decode(data["columns"])) == 14 * data["bands"]  # 28 frames, 2 a column
    web.publish(decision(1.5, "high"), observation())
    web.publish(StatusLine(2.0, "FAILED", "gone"), None)
    for stream in (first, second):
        data = stream.until("decision")
        assert data["decision"]["label"] == "high"
        assert len(base64.b64decode(data["columns"])) in (7 * 64, 8 * 64)
        data = stream.until("change")
        assert (data["state"], data["reason"]) == ("FAILED", "gone")
        stream.close()


def test_a_stream_without_lines_still_has_heartbeats(web):
    stream = Stream(web)
    assert stream.until("snapshot")["decision"] is None
    assert stream.until("beat")["age"] is None
    stream.close()


def test_another_model_is_an_event_before_its_first_decision(web):
    web.publish(decision(1.0), observation())
    assert eventually(lambda: json.loads(ask(web, "/model.json")[2]))
    stream = Stream(web)
    stream.until("snapshot")
    other = msgspec.structs.replace(MANIFEST, name="other")
    web.publish(decision(1.5), observation(manifest=other))
    assert stream.until("model")["bands"] == 64
    stream.until("decision")
    stream.close()
    assert json.loads(ask(web, "/model.json")[2])["name"] == "other"


def test_the_model_the_timeline_and_the_numbers_are_served(web):
    assert json.loads(ask(web, "/model.json")[2]) is None
    web.publish(decision(1.0), observation())
    assert eventually(lambda: json.loads(ask(web, "/model.json")[2]))
    data = json.loads(ask(web, "/model.json")[2])
    assert (data["labels"], data["window_s"], data["provenance"]["data_licence"]) == (
        ["low", "middle", "high"],
        1.0,
        "none",
    )
    data = json.loads(ask(web, "/history.json")[2])
    assert (data["labels"], data["hours"], [run[1:] for run in data["runs"]]) == (["low"], 24.0, [[1, 0]])
    status, head, body = ask(web, "/metrics")
    assert (status, "content-type: text/plain; version=0.0.4" in head) == (200, True)
    assert 'edgekd_decisions_total{label="low"} 1' in body
    assert "edgekd_web_requests_total" in body


def test_health_is_503_without_fresh_decisions_of_a_healthy_source(web):
    assert ask(web, "/healthz")[::2] == (503, "HEALTHY: no decision yet\n")
    web.publish(decision(1.0), observation())
    assert eventually(lambda: ask(web, "/healthz")[0] == 200)
    web.publish(StatusLine(1.0, "RECOVERING", "no sound"), None)
    assert eventually(lambda: ask(web, "/healthz")[0] == 503)


class Links(HTMLParser):
    """Collects what a page loads, and scripts and styles that are in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.links, self.inline = [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[key] for key in ("src", "href") if key in given]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []
        self.inline += [key for key in given if key == "style" or key.startswith("on")]


@pytest.mark.parametrize("name", ["index.html", "login.html"])
def test_pages_load_nothing_from_elsewhere_and_hold_no_script_of_their_own(web, name):
    links = Links()
    links.feed((PAGE / name).read_text())
    assert links.inline == []
    assert {f"/{link}" for link in links.links} <= {*STATIC, "/metrics"}
    for path, (_, kind) in STATIC.items():
        status, head, body = ask(web, path)
        assert (status, f"content-type: {kind}" in head) == (200, True)
        assert "://" not in body.replace("http://www.w3.org/2000/svg", "")


def test_the_script_never_makes_markup_of_data():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", (PAGE / "script.js").read_text()
    )


def test_answers_forbid_scripts_from_elsewhere_and_guessing_of_types(web):
    head = ask(web, "/")[1]
    assert "default-src 'none'; script-src 'self'" in head
    assert "unsafe" not in head
    assert "x-content-type-options: nosniff" in head


# --- to whom ---


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:1", ("::1", 1)),
        ("pi.local:65535", ("pi.local", 65535)),
    ],
)
def test_an_address_is_a_host_or_none_and_a_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":",
        ":0",
        ":65536",
        ":-1",
        ":http",
        "::1:80",
        "[127.0.0.1]:80",
        "[pi]:80",
        "a b:80",
        "300.1.1.1:80",
        "http://localhost:80",
        ":8080/",
        "*:80",
        ":٣",
    ],
)
def test_what_is_no_address_is_refused_before_the_first_decision(text):
    with pytest.raises(InputError, match=r"web: .*\[HOST\]:PORT"):
        Web(WebTable(text))


def test_a_token_comes_from_one_place_and_is_in_no_error(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(WebTable(":1", token_file=str(tmp_path / "token")), {}) == TOKEN
    assert read_token(WebTable(":1", token="of-the-file"), {"EDGEKD_WEB_TOKEN": TOKEN}) == TOKEN
    assert read_token(WebTable(":1"), {}) is None
    for table in (
        WebTable(":1", token="short"),
        WebTable(":1", token="with a space"),
        WebTable(":1", token=TOKEN, token_file="x"),
        WebTable(":1", token_file=str(tmp_path / "absent")),
    ):
        with pytest.raises(InputError) as raised:
            read_token(table, {})
        assert not re.search("short|with a space|horse", str(raised.value))
    assert TOKEN not in repr(WebTable(":1", token=TOKEN))


def test_an_empty_token_of_the_environment_is_none(monkeypatch, listen_command):
    monkeypatch.setenv("EDGEKD_WEB_TOKEN", "")
    status, _, err = listen_command("-", "--model", "x.tflite", "--web", "0.0.0.0:1", stdin=raw(tone(16000)))
    assert status == 0
    assert "everyone who can reach 0.0.0.0:1 sees" in err
    assert read_token(WebTable(":1", token=TOKEN)) == TOKEN


def test_a_token_file_is_beside_the_configuration(tmp_path):
    (tmp_path / "box.toml").write_text(
        '[web]\naddress = ":8080"\ntoken_file = "token"\nhosts = ["a.example"]\nhours = 6'
    )
    table = read_config(tmp_path / "box.toml").web
    assert (table.token_file, table.hosts, table.hours) == (str(tmp_path / "token"), ("a.example",), 6.0)


def test_who_is_open_to_all_is_warned(monkeypatch):
    monkeypatch.delenv("EDGEKD_WEB_TOKEN", raising=False)
    assert "everyone who can reach 0.0.0.0:80 sees" in warning(WebTable("0.0.0.0:80"))
    assert warning(WebTable("0.0.0.0:80", token=TOKEN)) is None
    assert warning(WebTable("[::1]:80")) is None


@pytest.mark.parametrize("web", [WebTable(":1", token=TOKEN)], indirect=True)
def test_with_a_token_only_who_has_it_reads(web):
    for path in ("/", "/events", "/metrics", "/history.json", "/model.json"):
        for headers in (
            (),
            ("Authorization: Bearer wrong",),
            ("Cookie: edgekd_0=wrong",),
            (f"Cookie: edgekd_0={TOKEN}",),
        ):
            assert ask(web, path, *headers)[0] == 401
    assert ask(web, "/?token=wrong")[0] == ask(web, "/?token=")[0] == 401
    assert "<form" in ask(web, "/")[2]
    assert ["hidden" in ask(web, path)[2] for path in ("/", "/?token=wrong")] == [True, False]
    assert ask(web, "/style.css")[0] == 200
    assert ask(web, "/healthz")[0] == 503
    assert ask(web, "/metrics", f"Authorization: Bearer {TOKEN}")[0] == 200
    status, head, _ = ask(web, f"/?token={TOKEN}")
    cookie = re.search(r"set-cookie: ([^;]+); HttpOnly; .*SameSite=strict", head)
    assert status == 303
    assert TOKEN not in head
    assert ask(web, "/history.json", f"Cookie: other=1; {cookie[1]}")[0] == 200


@pytest.mark.parametrize("web", [WebTable(":1", token=TOKEN)], indirect=True)
@pytest.mark.parametrize("host", ["x/style.css?", "x/healthz#", "x/style.css?token="])
def test_a_host_header_that_holds_a_path_needs_the_token_too(web, host):
    for target in ("/", "/metrics", "/events", "/model.json", "/history.json"):
        assert ask(web, target, host=host)[0] == 401


def test_without_a_token_only_names_of_this_machine_are_known(web):
    assert ask(web, "/", host="rebound.example")[0] == ask(web, "/events", host="localhost.example:80")[0] == 403
    assert ask(web, b"GET / HTTP/1.0\r\n\r\n")[0] == 403
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
        assert ask(web, "/", host=host)[0] == 200


@pytest.fixture
def open_web() -> Iterator[Web]:
    """A page for every machine, on a loopback socket."""
    output = Web(WebTable("0.0.0.0:1", hosts=("Scenes.example.",)), ListenAddress("0.0.0.0", 0))
    assert eventually(lambda: output.port)
    yield output
    output.close()


def test_a_page_of_another_site_is_refused(web, open_web):
    assert ask(web, "/events", "Origin: https://rebound.example", method="HEAD")[0] == 403
    for page in (web, open_web):
        assert ask(page, "/history.json", "Origin: null")[0] == 403
        assert ask(page, "/history.json", "Origin: http://localhost:8080")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("pi", "pi.fritz.box", "PI.lan:8080", "pi.local.", "pi.home.arpa", "a.b.internal"),
        *("192.168.1.7:80", "[fe80::1]:80", "scenes.example:80", socket.gethostname()),
    ],
)
def test_names_of_a_local_network_are_answered(open_web, host):
    assert ask(open_web, "/", host=host)[0] == 200


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("pi.example", "pi.example"),
        ("lan.example:80", "lan.example"),
        ("fritz.box.example", "fritz.box.example"),
        ("pi.evilfritz.box", "pi.evilfritz.box"),
        ("", "NAME"),
        ("pi lan", "NAME"),
    ],
)
def test_a_name_that_another_site_may_have_is_refused_with_the_option_that_allows_it(open_web, host, told):
    status, _, body = ask(open_web, "/", host=host)
    assert status == 403
    assert f"--web-host {told}," in body


def test_a_name_is_allowed_on_the_command_line(monkeypatch, listen_command):
    monkeypatch.delenv("EDGEKD_WEB_TOKEN", raising=False)
    opened = []
    start = Web.__init__
    monkeypatch.setattr(Web, "__init__", lambda web, table: (start(web, table, LOCAL), opened.append(web))[0])
    monkeypatch.setattr(Web, "close", lambda _: None)
    hosts = ("--web-host", "scenes.example", "--web-host", "b.example")
    status, _, _ = listen_command("-", "--model", "x.tflite", "--web", ":1", *hosts, stdin=raw(tone(16000)))
    assert status == 0
    assert eventually(lambda: opened[0].port)
    assert [ask(opened[0], "/", host=host)[0] for host in ("scenes.example", "b.example", "c.example")] == [
        200,
        200,
        403,
    ]
    monkeypatch.undo()
    opened[0].close()


def test_addresses_that_one_machine_may_choose_from_are_one_client():
    one, also_one, two = map(client_of, ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"))
    assert one == also_one != two
    assert client_of("::ffff:10.0.0.1") != client_of("::ffff:10.0.0.2")
    assert client_of("10.0.0.1") != client_of("10.0.0.2")


def test_a_name_without_a_page_is_refused(listen_command):
    status, out, err = listen_command("-", "--model", "x.tflite", "--web-host", "a.example")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "hosts without address; give it with --web" in err


def test_beyond_this_machine_addresses_and_given_names_are_known():
    access = Access(ListenAddress("0.0.0.0", 80), None, ("scenes.example",))
    assert [
        access.allows_host(host)
        for host in ("192.168.1.7:80", "scenes.example", f"{socket.gethostname()}:80", "rebound.example")
    ] == [True, True, True, False]
    assert Access(ListenAddress("0.0.0.0", 80), TOKEN).allows_host("any.example")


# --- what clients cannot do ---


@pytest.mark.parametrize(
    "target", ["/../web.py", "/page/index.html", "/%2e%2e/web.py", "//etc/passwd", "/style.css/", "/login.html"]
)
def test_only_known_paths_are_there(web, target):
    assert ask(web, target)[0] == 404


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 400),
        (b"a" * 100_000, 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nbody", 405),
        (b"G\0T / HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_requests_that_are_none_are_refused(web, request_bytes, status):
    assert ask(web, request_bytes)[0] == status
    assert ask(web, "/")[0] == 200


def test_head_has_no_body_and_does_not_open_a_stream(web):
    status, head, body = ask(web, "/", method="HEAD")
    assert (status, body) == (200, "")
    assert re.search(r"content-length: [1-9]", head)
    assert ask(web, "/events", method="HEAD")[::2] == (200, "")


@pytest.mark.parametrize("header", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
def test_a_stream_takes_no_endless_body(web, header):
    request = f"GET /events HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n"
    assert ask(web, request.encode())[0] == 413
    assert metric(web, "edgekd_web_streams") == 0


def test_headers_that_come_too_slowly_are_cut_off(web, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_S", 0.2)
    with connect(web) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def metric(web: Web, name: str) -> float:
    """The value of a metric without labels."""
    return float(re.search(rf"^{name} (\S+)$", ask(web, "/metrics")[2], re.MULTILINE)[1])


def test_a_stream_that_never_reads_is_cut_off_and_the_others_are_not(web):
    reader, silent = Stream(web), Stream(web, receive_bytes=4096)
    reader.until("snapshot")
    assert eventually(lambda: metric(web, "edgekd_web_streams") == 2)
    names = tuple((f"label {number} " + "x" * 100, 0.01) for number in range(100))
    big = msgspec.structs.replace(decision(1.0), top=names)
    for number in range(60):
        web.publish(big, None)
        assert len(reader.until("decision")["decision"]["top"]) == 100, number
    assert eventually(lambda: metric(web, "edgekd_web_cut_streams_total") == 1)
    assert metric(web, "edgekd_web_streams") == 1
    with pytest.raises(OSError, match="reset"):
        list(iter(lambda: silent.connection.recv(65536), b""))
    web.publish(decision(2.0, "high"), None)
    assert reader.until("decision")["decision"]["label"] == "high"
    silent.close()
    reader.close()


def test_a_stream_without_progress_is_cut_off(web, monkeypatch):
    monkeypatch.setattr(serving, "STALL_S", 0.3)
    monkeypatch.setattr(serving, "MAX_WAITING", 1 << 30)
    silent = Stream(web, receive_bytes=4096)
    assert eventually(lambda: metric(web, "edgekd_web_streams") == 1)
    big = msgspec.structs.replace(decision(1.0), top=(("x" * 400_000, 0.1),))
    web.publish(big, None)
    assert eventually(lambda: metric(web, "edgekd_web_cut_streams_total") == 1)
    silent.close()


def test_idle_connections_make_room_for_those_who_ask(web, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CLIENTS", 10)
    idle = [connect(web) for _ in range(60)]
    began = time.monotonic()
    assert ask(web, "/healthz")[0] == 503
    assert time.monotonic() - began < serving.REQUEST_S / 2
    assert metric(web, "edgekd_web_refused_connections_total") >= 50
    for connection in idle:
        connection.close()


def test_more_streams_than_there_is_room_for_are_refused(web, monkeypatch):
    monkeypatch.setattr(serving, "MAX_STREAMS", 2)
    streams = [Stream(web) for _ in range(2)]
    for stream in streams:
        stream.until("snapshot")
    status, head, _ = ask(web, "/events")
    assert (status, "retry-after" in head) == (503, True)
    streams[0].close()
    assert eventually(lambda: metric(web, "edgekd_web_streams") == 1)
    streams[1].close()


def test_nobody_can_take_all_streams(web, monkeypatch):
    monkeypatch.setattr(serving, "MAX_STREAMS", 4)
    greedy = [Stream(web) for _ in range(4)]
    for stream in greedy:
        stream.until("snapshot")
    others = [Stream(web, source="127.0.0.2"), Stream(web, source="127.0.0.3")]
    for stream in others:
        assert stream.until("snapshot")["decision"] is None
    with pytest.raises((AssertionError, OSError)):  # the oldest has made room
        greedy[0].until("never")
    web.publish(decision(1.0, "low"), observation())
    for stream in (*greedy[2:], *others):
        assert stream.until("decision")["decision"]["label"] == "low"
    assert ask(web, "/events")[0] == 503
    for stream in (*greedy, *others):
        stream.close()


def test_nobody_can_take_all_connections(web, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CLIENTS", 3)
    greedy = [Stream(web) for _ in range(3)]
    for stream in greedy:
        stream.until("snapshot")
    other = Stream(web, source="127.0.0.2")
    assert other.until("snapshot")["decision"] is None
    for stream in (*greedy, other):
        stream.close()


def test_connections_are_taken_at_a_bounded_rate(monkeypatch, request):
    monkeypatch.setattr(serving, "ACCEPTS_PER_S", 20.0)
    monkeypatch.setattr(serving, "ACCEPT_BURST", 1.0)
    web = request.getfixturevalue("web")
    began = time.monotonic()
    for _ in range(10):
        ask(web, "/healthz")
    assert time.monotonic() - began > 0.3


def test_a_port_in_use_is_an_error_that_ends_when_it_is_free(monkeypatch):
    monkeypatch.setattr(serving, "FIRST_RETRY_S", 0.1)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    web = Web(WebTable(f":{port}"))
    try:
        assert eventually(lambda: web.error == f"127.0.0.1:{port} is in use; trying again")
        taken.close()
        assert eventually(lambda: web.error is None)
        assert ask(web, "/")[0] == 200
    finally:
        web.close()


def test_connections_that_cannot_be_accepted_are_one_error_until_they_can(web, monkeypatch):
    def accept(_listener):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(serving, "NOTED_S", 1.5)
    with monkeypatch.context() as patch, connect(web):
        patch.setattr(socket.socket, "accept", accept)
        with connect(web):
            assert eventually(lambda: "Too many open files" in (web.error or ""))
            assert not eventually(lambda: web.error is None, 0.9)
    assert eventually(lambda: web.error is None)
    assert ask(web, "/")[0] == 200


def test_publishing_returns_at_once_and_what_is_too_much_is_counted(web, monkeypatch):
    taken, gate, add = threading.Event(), threading.Event(), Metrics.add

    def held(*arguments):
        taken.set()
        gate.wait(10.0)
        add(*arguments)

    monkeypatch.setattr(Metrics, "add", held)
    web.publish(decision(-1.0), observation())
    assert taken.wait(5.0)  # the server's thread works no line off
    began = time.thread_time()  # of this thread alone: the machine may have other things to do
    for number in range(1000):
        web.publish(decision(float(number)), observation())
    assert time.thread_time() - began < 0.5
    gate.set()
    assert metric(web, "edgekd_web_dropped_events_total") == 1000 - 64
    assert 'edgekd_decisions_total{label="low"} 65' in ask(web, "/metrics")[2]


def test_closing_ends_streams_and_the_thread(web):
    stream = Stream(web)
    stream.until("snapshot")
    began = time.monotonic()
    web.close()
    assert time.monotonic() - began < 3.0
    assert thread_ended("web")
    with pytest.raises(AssertionError, match="ended"):
        stream.until("decision")
    stream.close()


def test_closing_right_after_the_start_ends_the_thread():
    Web(WebTable(":1"), LOCAL).close()
    assert thread_ended("web")


def test_a_malformed_line_is_an_error_and_the_next_line_is_served(web):
    web.publish(decision(1.0), observation(np.zeros((3, 28), np.float32)))
    assert eventually(lambda: web.error)
    web.publish(decision(1.5), observation())
    assert eventually(lambda: ask(web, "/healthz")[0] == 200)


def test_nothing_of_it_is_imported_where_it_is_off():
    code = (
        "import sys; import edgekd.runtime.outputs.opening as o; from edgekd.runtime.config import Config;"
        " o.open_outputs(Config());print([name for name in sys.modules if name.startswith('edgekd.runtime.outputs.')])"
    )
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "web" not in loaded
    assert "server" not in loaded


# --- what it keeps ---


def test_slots_hold_what_was_shown_most_and_equal_neighbours_are_one_run():
    timeline = Timeline(1.0)
    for second in range(60):
        timeline.add("rain" if second < 25 or second == 33 else "dog", 100.0 + second)
    data = timeline.document(160.0)
    assert (data["slot_s"], data["now"], data["labels"]) == (10.0, 16.0, ["rain", "dog"])
    assert data["runs"] == [(10, 3, 0), (13, 2, 1), (15, 1, 1)]
    timeline.add("dog", 200.0)  # nothing was shown for a while
    assert timeline.document(200.0)["runs"] == [(10, 3, 0), (13, 3, 1), (20, 1, 1)]
    made = timeline.document(201.0)["runs"]
    assert timeline.document(202.0)["runs"] is made  # whoever asks again and again costs little
    for _ in range(9):
        timeline.add("tram", 203.0)
    assert timeline.document(203.0)["labels"][-1] == "tram"


def test_a_timeline_forgets_what_is_older_than_its_hours():
    timeline = Timeline(0.05)  # 18 slots
    for second in range(0, 1000, 2):
        timeline.add(f"label {second // 10 % 2}", float(second))
    runs = timeline.document(1000.0)["runs"]
    assert 17 <= len(runs) <= 19
    assert runs[0][0] >= 81
    timeline = Timeline(0.05)
    for second in range(1000):
        timeline.add("rain", float(second))
    assert timeline.document(1000.0)["runs"] == [(81, 18, 0), (99, 1, 0)]


def test_columns_are_new_frames_alone_however_the_windows_overlap():
    fe = MANIFEST.frontend
    picture = Spectrogram(fe)
    sound = np.random.default_rng(0).normal(-3.0, 1.0, (fe.n_mels, 28 + 32 * 31)).astype(np.float32)
    drawn = []
    for frame in range(28, sound.shape[1] + 1, 16):
        t = (fe.win_length + (frame - 1) * fe.hop_length) / fe.sample_rate
        drawn.append(picture.add(t, observation(sound[:, frame - 28 : frame])))
    columns = np.frombuffer(b"".join(drawn), np.uint8).reshape(-1, picture.bands)  # (column, band)
    expected = sound.reshape(picture.bands, 4, -1, 2).mean(axis=3).max(axis=1).T
    assert len(columns) == sound.shape[1] // 2
    assert np.corrcoef(columns.ravel(), expected.ravel())[0, 1] > 0.99
    assert len(picture.recent) == round(30 / picture.column_s) * picture.bands


def test_bytes_are_even_steps_from_the_floor_to_full_scale():
    picture = Spectrogram(MANIFEST.frontend)
    assert set(picture.add(1.0, observation())) == {1}  # silence is the floor
    sine = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    loud = picture.add(2.0, observation(log_mel(MANIFEST.frontend, sine)))
    assert 225 <= max(loud) <= 255
    assert set(picture.add(3.0, observation(features=None))) == {0}  # gated


def test_the_page_is_in_the_package():
    assert {file.name for file in PAGE.iterdir()} >= {
        "index.html",
        "login.html",
        *(file for file, _ in STATIC.values()),
    }


# --- the command ---


def test_listen_warns_who_may_read_and_serves_what_it_prints(monkeypatch, listen_command):
    monkeypatch.delenv("EDGEKD_WEB_TOKEN", raising=False)
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    closed = []
    close = Web.close
    monkeypatch.setattr(Web, "close", lambda web: closed.append(web))  # noqa: PLW0108 (a method binds)
    status, out, err = listen_command(
        "-", "--model", "x.tflite", "--json", "--web", f"0.0.0.0:{port}", stdin=raw(tone(32000))
    )
    assert status == 0
    assert f"everyone who can reach 0.0.0.0:{port} sees" in err
    assert len(out.splitlines()) == 3
    assert eventually(lambda: "edgekd_audio_seconds_total" in ask(closed[0], "/metrics")[2])
    close(closed[0])
