"""Restarts a real mosquitto again and again while `edgekd listen` publishes to it, and plays the brokers that are worse.

    python tools/mqtt_restarts.py MODEL [--restarts 20]

Needs the extra `mqtt`, mosquitto and openssl (apt install mosquitto openssl). Each broker runs on loopback at a port and in a folder of its
own; a service of the system is left alone. A listener hears noise and tones whose kind changes all the time, faster than in real time. A
second client, whose session outlives the broker, receives everything; a third one joins after each restart and reads what is retained.

Brokers are stopped, killed, and killed and made to forget all that was retained. After each restart, what the third client reads must be a
line that the listener itself printed, with the label of its newest one; at the end no change of label may be missing, and memory, threads
and open files must be what they were. Prints tables, then one JSON line; exits 1 where something is wrong.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import paho.mqtt.client as paho
import typer

from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.pipeline.bench import machine

RATE = 16000
CHUNK_S = 0.1
SCENE_S = 0.7
"""Shorter than two hops: labels change often."""
TOPIC = "edgekd/restarts"
NAMES = ("state", "health", "availability", "config")
"""Last parts of the topics that are retained."""
USERNAME, SECRET = "listener", "correct-horse-7351"
LIMIT_S = 45.0
"""Longest wait for a reconnection, or a line."""
DOWN_S, UP_S = (0.2, 3.0), (3.5, 6.0)
"""Seconds for which a broker is away, and for which it then works."""
FRESH_S = 1.5
"""Of lines after what the third client read: it takes a moment to read."""
WARM = 4
"""Restarts after which memory must stay what it is."""
GROWTH_MB = 1.0


class Restart(msgspec.Struct, frozen=True):
    """One restart. back_s: from the broker's start until the listener had said everything again. own_mb: of the listener alone."""

    kind: str
    down_s: float
    back_s: float
    t: float
    label: str
    own_mb: float
    threads: int
    files: int
    wrong: tuple[str, ...] = ()


class Case(msgspec.Struct, frozen=True):
    """A broker that is worse than one that restarts. note: what was said."""

    name: str
    ok: bool
    note: str


class Mosquitto:
    """A broker of its own in a folder, with a password."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.folder, self.port, self._spare, self.tls = folder, free_port(), free_port(), tls
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        (folder / "data").mkdir()
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), USERNAME, SECRET], check=True, capture_output=True)
        for path in (folder, folder / "data", folder / "passwords"):
            path.chmod(0o700)
        for name, port in (("broker", self.port), ("seed", self._spare)):
            lines = [f"listener {port} 127.0.0.1", "allow_anonymous false", f"password_file {folder}/passwords", "persistence true",
                     f"persistence_location {folder}/data/", "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0",
                     "user root" if os.geteuid() == 0 else ""]
            if tls:
                lines += [f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
            (folder / f"{name}.conf").write_text("\n".join(lines) + "\n")

    def start(self, name: str = "broker", port: int | None = None) -> None:
        """Start, and wait until it listens."""
        self._process = subprocess.Popen(["mosquitto", "-c", str(self.folder / f"{name}.conf")], stdout=subprocess.DEVNULL,
                                         stderr=(self.folder / "log").open("ab"))
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port or self.port), 1.0):
                return
            time.sleep(0.02)
        raise GateError(f"mosquitto does not start: {(self.folder / 'log').read_text()[-300:]}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End with a signal."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def pause(self, seconds: float) -> None:
        """Let it neither read nor write for a while."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Lose all it knows, but for the session of the second client: that must not be what loses a message."""
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir(mode=0o700)
        self.start("seed", self._spare)
        done = threading.Event()
        client = Watcher.client()
        client.on_connect = lambda *_: client.subscribe("#", 1)
        client.on_subscribe = lambda *_: done.set()
        client.connect("127.0.0.1", self._spare)
        client.loop_start()
        done.wait(LIMIT_S)
        client.disconnect()
        client.loop_stop()
        self.end()


class Watcher:
    """The second client: receives everything, across restarts."""

    def __init__(self, port: int) -> None:
        self.changes: list[float] = []
        self.latest: dict[str, bytes] = {}
        self._client = self.client()
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)

    @staticmethod
    def client() -> paho.Client:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, "watcher", clean_session=False)
        client.username_pw_set(USERNAME, SECRET)
        return client

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def health(self, key: str) -> Any:
        """Of the newest message of health."""
        return json.loads(self.latest.get(f"{TOPIC}/health", b"{}")).get(key)

    def _take(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.latest[message.topic] = message.payload
        if message.topic == f"{TOPIC}/change":
            self.changes.append(json.loads(message.payload)["t"])


class Listener:
    """`edgekd listen -` on made-up sound, and its lines. seconds: of sound in one of the clock."""

    def __init__(self, model: Path, table: str, folder: Path, speed: float, password: str = SECRET) -> None:
        (folder / "box.toml").write_text(f"[decision]\nhop = 0.5\n[output]\njson = true\n[mqtt]\ntopic = '{TOPIC}'\nevery = 1.0\n{table}")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "EDGEKD_MQTT_USERNAME": USERNAME,
                       "EDGEKD_MQTT_PASSWORD": password}
        self.command = [sys.executable, "-P", "-m", "edgekd.cli", "listen", "-", "--model", str(model), "--config",
                        str(folder / "box.toml")]
        self.errors = folder / "errors"
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors.open("wb"),
                                        env=environment)
        self.lines: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (lambda: self._feed(speed), self._read)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.finish()

    def finish(self) -> float:
        """End the sound; seconds until the process has ended."""
        self._ended.set()
        self._threads[0].join()
        began = time.monotonic()
        self.process.wait(LIMIT_S)
        self._threads[1].join()
        return time.monotonic() - began

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Lines that are decisions."""
        return [line for line in self.lines if "label" in line]

    @property
    def changes(self) -> list[float]:
        """Times of the decisions that show another label than the one before."""
        told = self.decisions
        return [line["t"] for before, line in zip([{"label": None}, *told[:-1]], told, strict=True) if line["label"] != before["label"]]

    @property
    def troubles(self) -> list[str]:
        """What was said of MQTT."""
        return [line["reason"] for line in self.lines if line.get("reason", "").startswith("mqtt: ")]

    @property
    def said(self) -> str:
        """All of its output, and its command."""
        return json.dumps(self.lines) + self.errors.read_text() + " ".join(self.command)

    def held(self) -> tuple[float, int, int]:
        """Megabytes (10^6 bytes) that are its own alone, threads, open files."""
        where = Path(f"/proc/{self.process.pid}")
        fields = dict(line.split(":", 1) for line in (where / "smaps_rollup").read_text().splitlines() if ":" in line)
        own = sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
        return 1024 * own / 1e6, len(list((where / "task").iterdir())), len(list((where / "fd").iterdir()))

    def _feed(self, speed: float) -> None:
        rng, due, number = np.random.default_rng(0), time.monotonic(), 0
        chunk = round(CHUNK_S * RATE)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError), self.process.stdin as pipe:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                if number % round(SCENE_S / CHUNK_S) == 0:
                    level, tone, pitch = rng.uniform(0.001, 0.2), rng.uniform(0.0, 0.4) * (rng.random() < 0.6), rng.uniform(80.0, 6000.0)
                wave = level * rng.standard_normal(chunk) + tone * np.sin(2.0 * np.pi * pitch / RATE * np.arange(chunk))
                pipe.write((32767 * np.clip(wave, -1.0, 1.0)).astype("<i2").tobytes())
                pipe.flush()
                due, number = due + CHUNK_S / speed, number + 1

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            self.times.append(time.monotonic())


def free_port() -> int:
    """A port of loopback at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float = LIMIT_S) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def retained(port: int) -> dict[str, bytes]:
    """What somebody reads who joins now: last part of a topic -> payload."""
    found: dict[str, bytes] = {}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.username_pw_set(USERNAME, SECRET)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.on_message = lambda _client, _data, message: found.update(
        {message.topic.rpartition("/")[2]: message.payload} if message.retain else {})
    client.connect("127.0.0.1", port)
    client.loop_start()
    wait_for(lambda: found.keys() >= set(NAMES), 3.0)
    client.disconnect()
    client.loop_stop()
    return found


def judge(found: dict[str, bytes], listener: Listener, number: int) -> list[str]:
    """What is wrong with what is retained after the restart with this number."""
    missing = [f"no {name}" for name in NAMES if name not in found]
    if missing:
        return missing
    state, health, config = (json.loads(found[name]) for name in ("state", "health", "config"))
    lines = {line["t"]: line for line in listener.decisions}
    line, newest = lines.get(state["t"]), max(lines)
    between = {lines[t]["label"] for t in lines if state["t"] <= t and listener.times[-1] - time_of(listener, t) > FRESH_S}
    wrong = {
        f"availability is {found['availability']!r}": found["availability"] != b"online",
        f"the state at {state['t']} s is none that was printed": line is None or not line.items() <= state.items(),
        f"the state shows {state['label']} at {state['t']} s; printed were {sorted(between)} until {newest} s": between - {state["label"]},
        f"health tells {health['reconnects']} reconnections": health["reconnects"] != number,
        "no entity is made known": not config.get("components"),
    }
    return [what for what, is_so in wrong.items() if is_so]


def time_of(listener: Listener, t: float) -> float:
    """When a decision was printed."""
    return next(when for when, line in zip(listener.times, listener.lines, strict=False) if line["t"] == t)


def restart(number: int, broker: Mosquitto, watcher: Watcher, listener: Listener, moment: random.Random) -> Restart:
    """One restart, and a while in which all is well."""
    kind = ("stopped", "killed", "forgot")[number % 3]
    broker.end(signal.SIGTERM if kind == "stopped" else signal.SIGKILL)
    down_s = moment.uniform(*DOWN_S)
    time.sleep(down_s)
    if kind == "forgot":
        broker.forget()
    broker.start()
    began = time.monotonic()
    wrong = [] if wait_for(lambda: watcher.health("reconnects") == number) else [f"no reconnection in {LIMIT_S:g} s"]
    back_s = time.monotonic() - began
    found = retained(broker.port)
    wrong += judge(found, listener, number)
    told = json.loads(found.get("state", b"{}"))
    time.sleep(moment.uniform(*UP_S))
    return Restart(kind, down_s, back_s, told.get("t", 0.0), told.get("label", ""), *listener.held(), tuple(wrong))


def restarts(model: Path, count: int, speed: float, seed: int, folder: Path) -> tuple[list[Restart], list[Case]]:
    """All restarts with one listener, and what holds over all of them."""
    moment, broker, done = random.Random(seed), Mosquitto(folder / "broker"), []
    broker.start()
    try:
        with Watcher(broker.port) as watcher, Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener:
            wait_for(lambda: f"{TOPIC}/state" in watcher.latest)
            time.sleep(UP_S[1])
            for number in range(1, count + 1):
                done.append(restart(number, broker, watcher, listener, moment))
                print(f"restart {number}/{count}: {'; '.join(done[-1].wrong) or 'ok'}", file=sys.stderr, flush=True)
            lag_s = listener.finish()
            wait_for(lambda: watcher.latest.get(f"{TOPIC}/availability") == b"offline", 5.0)
            time.sleep(0.5)
            lost = sorted(set(listener.changes) - set(watcher.changes))
            extra = sorted(set(watcher.changes) - set(listener.changes))
            own = [each.own_mb for each in done]
            growth = median(own[-5:]) - median(own[WARM:WARM + 5]) if count >= 2 * WARM else 0.0
            steady = {(each.threads, each.files) for each in done[WARM:]}
            twice = len(watcher.changes) - len(set(watcher.changes))
            cases = [
                Case("changes of label", not lost and not extra and watcher.health("dropped") == 0,
                     f"{len(listener.changes)} printed, {len(lost)} lost, {twice} received twice"),
                Case("memory", growth < GROWTH_MB, f"{growth:+.2f} MB from restarts {WARM + 1}-{WARM + 5} to the last 5"),
                Case("threads and files", len(steady) <= 1, f"(threads, open files) {sorted(steady)}"),
                Case("the end", listener.process.returncode == 0 and lag_s < 1.5
                     and watcher.latest.get(f"{TOPIC}/availability") == b"offline", f"offline, {lag_s:.2f} s after the last sound"),
                Case("no secret", SECRET not in listener.said, f"in {len(listener.lines)} lines, errors and the command line"),
            ]
    finally:
        broker.end(signal.SIGKILL)
    return done, cases


@contextlib.contextmanager
def tcp(*, hangs_up: bool) -> Iterator[int]:
    """Takes connections and says nothing, or closes them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.close() if hangs_up else held.append(client)
        threading.Thread(target=take, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        for client in held:
            client.close()


def trouble(name: str, model: Path, table: str, expected: str, folder: Path, speed: float, password: str = SECRET) -> Case:
    """A listener that cannot publish: says so, goes on deciding, says no secret and ends in time."""
    with Listener(model, table, folder, speed, password) as listener:
        told = wait_for(lambda: any(expected in line for line in listener.troubles))
        before = len(listener.decisions)
        time.sleep(3.0)
        more = len(listener.decisions) - before
        lag_s = listener.finish()
        hidden = password not in listener.said
        said = listener.troubles[-1:] or [listener.errors.read_text().strip()[-150:]]
    ok = told and more >= 3 and hidden and lag_s < 1.5 and listener.process.returncode == 0
    return Case(name, ok, f"{said[0]} ({more} decisions in 3 s, ended in {lag_s:.2f} s{'' if hidden else ', SECRET SHOWN'})")


def refused(name: str, model: Path, url: str, expected: str) -> Case:
    """A command that ends with one line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-P", "-m", "edgekd.cli", "listen", "-", "--model", str(model), "--mqtt", url], input=b"",
                           capture_output=True, env=environment, check=False)
    said = (ended.stdout + ended.stderr).decode()
    return Case(name, ended.returncode == 2 and expected in said and SECRET not in said and said.count("\n") == 1, said.strip()[:110])


def frozen(model: Path, folder: Path, speed: float) -> Case:
    """A broker that stops answering for 15 s and goes on, and then a listener that is killed."""
    broker = Mosquitto(folder / "frozen")
    broker.start()
    try:
        with Watcher(broker.port) as watcher, Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener:
            wait_for(lambda: f"{TOPIC}/state" in watcher.latest)
            broker.pause(15.0)
            back = wait_for(lambda: (watcher.health("reconnects") or 0) > 0)
            time.sleep(3.0)
            printed = listener.changes
            time.sleep(1.0)
            lost = set(printed) - set(watcher.changes)
            said = next(iter(listener.troubles), "nothing")
            listener.process.kill()
            gone = wait_for(lambda: watcher.latest.get(f"{TOPIC}/availability") == b"offline", 5.0)
    finally:
        broker.end(signal.SIGKILL)
    return Case("frozen 15 s, listener killed", back and not lost and gone,
                f"{said}; back, {len(lost)} of {len(printed)} changes lost; offline by the will")


def secure(model: Path, folder: Path, speed: float) -> list[Case]:
    """TLS with an authority of our own, and with one that is unknown."""
    broker = Mosquitto(folder / "tls", tls=True)
    where = broker.folder

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=where)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=edgekd", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (where / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
            "-out", "server.pem")
    url = f"url = 'mqtts://localhost:{broker.port}'\n"
    broker.start()
    try:
        with Listener(model, f"{url}ca = '{where}/ca.pem'", folder, speed) as listener:
            wait_for(lambda: len(listener.decisions) > 5)
            time.sleep(3.0)
            listener.finish()
            known = "as edgekd_restarts" in (where / "log").read_text()  # as mosquitto tells whom it connects
            ok = known and not listener.troubles and SECRET not in listener.said
        cases = [Case("TLS, own authority", ok, f"connected, {len(listener.decisions)} decisions" if ok else str(listener.troubles))]
        cases.append(trouble("TLS, unknown authority", model, url, "certificate verify failed", folder, speed))
    finally:
        broker.end(signal.SIGKILL)
    return cases


def worse(model: Path, folder: Path, speed: float) -> list[Case]:
    """All brokers that are worse than one that restarts."""
    broker = Mosquitto(folder / "password")
    broker.start()
    try:
        url = f"url = 'mqtt://127.0.0.1:{broker.port}'"
        cases = [trouble("wrong password", model, url, "Not authorized", folder, speed, "wrong-horse-1234")]
    finally:
        broker.end(signal.SIGKILL)
    for name, hangs_up, expected in (("silent", False, "does not answer"), ("closes at once", True, "without an answer")):
        with tcp(hangs_up=hangs_up) as port:
            cases.append(trouble(name, model, f"url = 'mqtt://127.0.0.1:{port}'", expected, folder, speed))
    cases.append(trouble("nobody there", model, f"url = 'mqtt://127.0.0.1:{free_port()}'", "Connection refused", folder, speed))
    cases.append(trouble("unknown host", model, "url = 'mqtt://no-such-host.invalid'", "no-such-host.invalid", folder, speed))
    cases.append(frozen(model, folder, speed))
    cases += secure(model, folder, speed)
    cases.append(refused("malformed address", model, "broker.local:1883", "it is mqtt://HOST"))
    cases.append(refused("password in the address", model, f"mqtt://me:{SECRET}@broker", "list of processes"))
    return cases


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    count: Annotated[int, typer.Option("--restarts", min=0, help="Of the broker.")] = 20,
    speed: Annotated[float, typer.Option(help="Seconds of sound in one second of the clock.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Restart a broker under a listener, and more."""
    for program in ("mosquitto", "mosquitto_passwd", "openssl"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not installed; apt install mosquitto openssl")
    with tempfile.TemporaryDirectory(prefix="edgekd-mqtt-") as name:
        done, cases = restarts(model, count, speed, seed, Path(name)) if count else ([], [])
        cases += worse(model, Path(name), speed)
    if done:
        print(table([("restart", "broker", "away", "back after", "retained", "label", "own MB", "threads", "files", "wrong"), *(
            (str(i), each.kind, f"{each.down_s:.1f} s", f"{each.back_s:.2f} s", f"{each.t:.1f} s", each.label, f"{each.own_mb:.2f}",
             str(each.threads), str(each.files), "; ".join(each.wrong) or "-") for i, each in enumerate(done, start=1))]))
        print()
    print(table([("case", "ok", "note"), *((case.name, "yes" if case.ok else "NO", case.note) for case in cases)]))
    wrong = [f"restart {i}" for i, each in enumerate(done, start=1) if each.wrong] + [case.name for case in cases if not case.ok]
    print(msgspec.json.encode({"model": str(model), "restarts": len(done), "ok": not wrong, "wrong": wrong,
                               "back_s_max": max((each.back_s for each in done), default=None), "cases": cases,
                               "machine": machine()}).decode())
    if wrong:
        raise GateError(f"not well: {', '.join(wrong)}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"mqtt_restarts: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
