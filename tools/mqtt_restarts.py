"""Restarts a real mosquitto again and again while `edgekd listen` publishes to it, and plays the brokers that are
worse.

    python tools/mqtt_restarts.py MODEL [--restarts 20]

Needs the extra `mqtt`, mosquitto and openssl (apt install mosquitto openssl). Each broker runs on loopback at a port
and in a folder of its own; a service of the system is left alone. A listener hears noise and tones whose kind changes
all the time, faster than in real time. A second client, whose session outlives the broker, receives everything; a third
one joins after each restart and reads what is retained.

Brokers are stopped, killed, and killed and made to forget all that was retained. After each restart, what the third
client reads must be a line that the listener itself printed, with the label of its newest one; at the end no change of
label may be missing, and memory, threads and open files must be what they were. Prints tables, then one JSON line;
exits 1 where something is wrong.
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
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import paho.mqtt.client as paho
import typer
from mqtt_players import LIMIT_S, SECRET, TOPIC, USERNAME, Listener, Mosquitto, Watcher, free_port, wait_for

from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.evaluation.bench import machine

NAMES = ("state", "health", "availability", "config")
"""Last parts of the topics that are retained."""
DOWN_S, UP_S = (0.2, 3.0), (3.5, 6.0)
"""Seconds for which a broker is away, and for which it then works."""
FRESH_S = 1.5
"""Of lines after what the third client read: it takes a moment to read."""
WARM = 4
"""Restarts after which memory must stay what it is."""
GROWTH_MB = 1.0


class Restart(msgspec.Struct, frozen=True):
    """One restart. back_s: from the broker's start until the listener had said everything again. own_mb: of the
    listener alone."""

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


def retained(port: int) -> dict[str, bytes]:
    """What somebody reads who joins now: last part of a topic -> payload."""
    found: dict[str, bytes] = {}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.username_pw_set(USERNAME, SECRET)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.on_message = lambda _client, _data, message: found.update(
        {message.topic.rpartition("/")[2]: message.payload} if message.retain else {}
    )
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
    between = {
        lines[t]["label"] for t in lines if state["t"] <= t and listener.times[-1] - time_of(listener, t) > FRESH_S
    }
    wrong = {
        f"availability is {found['availability']!r}": found["availability"] != b"online",
        f"the state at {state['t']} s is none that was printed": line is None or not line.items() <= state.items(),
        f"the state shows {state['label']} at {state['t']} s; printed were {sorted(between)} until {newest} s": (
            between - {state["label"]}
        ),
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
        with (
            Watcher(broker.port) as watcher,
            Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener,
        ):
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
            growth = median(own[-5:]) - median(own[WARM : WARM + 5]) if count >= 2 * WARM else 0.0
            steady = {(each.threads, each.files) for each in done[WARM:]}
            twice = len(watcher.changes) - len(set(watcher.changes))
            cases = [
                Case(
                    "changes of label",
                    not lost and not extra and watcher.health("dropped") == 0,
                    f"{len(listener.changes)} printed, {len(lost)} lost, {twice} received twice",
                ),
                Case(
                    "memory", growth < GROWTH_MB, f"{growth:+.2f} MB from restarts {WARM + 1}-{WARM + 5} to the last 5"
                ),
                Case("threads and files", len(steady) <= 1, f"(threads, open files) {sorted(steady)}"),
                Case(
                    "the end",
                    listener.process.returncode == 0
                    and lag_s < 1.5
                    and watcher.latest.get(f"{TOPIC}/availability") == b"offline",
                    f"offline, {lag_s:.2f} s after the last sound",
                ),
                Case(
                    "no secret",
                    SECRET not in listener.said,
                    f"in {len(listener.lines)} lines, errors and the command line",
                ),
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


def trouble(
    name: str, model: Path, table: str, expected: str, folder: Path, speed: float, password: str = SECRET
) -> Case:
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
    return Case(
        name, ok, f"{said[0]} ({more} decisions in 3 s, ended in {lag_s:.2f} s{'' if hidden else ', SECRET SHOWN'})"
    )


def refused(name: str, model: Path, url: str, expected: str) -> Case:
    """A command that ends with one line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "edgekd.cli", "listen", "-", "--model", str(model), "--mqtt", url],
        input=b"",
        capture_output=True,
        env=environment,
        check=False,
    )
    said = (ended.stdout + ended.stderr).decode()
    return Case(
        name,
        ended.returncode == 2 and expected in said and SECRET not in said and said.count("\n") == 1,
        said.strip()[:110],
    )


def frozen(model: Path, folder: Path, speed: float) -> Case:
    """A broker that stops answering for 15 s and goes on, and then a listener that is killed."""
    broker = Mosquitto(folder / "frozen")
    broker.start()
    try:
        with (
            Watcher(broker.port) as watcher,
            Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener,
        ):
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
    return Case(
        "frozen 15 s, listener killed",
        back and not lost and gone,
        f"{said}; back, {len(lost)} of {len(printed)} changes lost; offline by the will",
    )


def secure(model: Path, folder: Path, speed: float) -> list[Case]:
    """TLS with an authority of our own, and with one that is unknown."""
    broker = Mosquitto(folder / "tls", tls=True)
    where = broker.folder

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=where)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=edgekd",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    )
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"
    )
    (where / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    )
    url = f"url = 'mqtts://localhost:{broker.port}'\n"
    broker.start()
    try:
        with Listener(model, f"{url}ca = '{where}/ca.pem'", folder, speed) as listener:
            wait_for(lambda: len(listener.decisions) > 5)
            time.sleep(3.0)
            listener.finish()
            known = "as edgekd_restarts" in (where / "log").read_text()  # as mosquitto tells whom it connects
            ok = known and not listener.troubles and SECRET not in listener.said
        cases = [
            Case(
                "TLS, own authority",
                ok,
                f"connected, {len(listener.decisions)} decisions" if ok else str(listener.troubles),
            )
        ]
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
    for name, hangs_up, expected in (
        ("silent", False, "does not answer"),
        ("closes at once", True, "without an answer"),
    ):
        with tcp(hangs_up=hangs_up) as port:
            cases.append(trouble(name, model, f"url = 'mqtt://127.0.0.1:{port}'", expected, folder, speed))
    cases.append(
        trouble("nobody there", model, f"url = 'mqtt://127.0.0.1:{free_port()}'", "Connection refused", folder, speed)
    )
    cases.append(
        trouble("unknown host", model, "url = 'mqtt://no-such-host.invalid'", "no-such-host.invalid", folder, speed)
    )
    cases.append(frozen(model, folder, speed))
    cases += secure(model, folder, speed)
    cases.append(refused("malformed address", model, "broker.local:1883", "it is mqtt://HOST"))
    cases.append(refused("password in the address", model, f"mqtt://me:{SECRET}@broker", "list of processes"))
    return cases


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
        print(
            table(
                [
                    (
                        "restart",
                        "broker",
                        "away",
                        "back after",
                        "retained",
                        "label",
                        "own MB",
                        "threads",
                        "files",
                        "wrong",
                    ),
                    *(
                        (
                            str(i),
                            each.kind,
                            f"{each.down_s:.1f} s",
                            f"{each.back_s:.2f} s",
                            f"{each.t:.1f} s",
                            each.label,
                            f"{each.own_mb:.2f}",
                            str(each.threads),
                            str(each.files),
                            "; ".join(each.wrong) or "-",
                        )
                        for i, each in enumerate(done, start=1)
                    ),
                ]
            )
        )
        print()
    print(table([("case", "ok", "note"), *((case.name, "yes" if case.ok else "NO", case.note) for case in cases)]))
    wrong = [f"restart {i}" for i, each in enumerate(done, start=1) if each.wrong] + [
        case.name for case in cases if not case.ok
    ]
    print(
        msgspec.json.encode(
            {
                "model": str(model),
                "restarts": len(done),
                "ok": not wrong,
                "wrong": wrong,
                "back_s_max": max((each.back_s for each in done), default=None),
                "cases": cases,
                "machine": machine(),
            }
        ).decode()
    )
    if wrong:
        raise GateError(f"not well: {', '.join(wrong)}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"mqtt_restarts: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
