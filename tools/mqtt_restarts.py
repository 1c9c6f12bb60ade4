"""Restarts a mosquitto again and again while `edgekd listen` publishes to it, and tests brokers with other faults.

    python tools/mqtt_restarts.py MODEL [--restarts 20]

Needs the extra `mqtt`, mosquitto and openssl (apt install mosquitto openssl). Each broker runs on loopback with its own
port and folder; a broker of the system is not touched. `edgekd listen` gets noise and tones that change all the time,
faster than real time. A second client, whose session outlives the broker, receives everything. A third client connects
after each restart and reads the retained messages.

Brokers are stopped, killed, or killed with all retained messages deleted. After each restart, the state that the third
client reads must be a line that the listener printed, with the label of its newest one. At the end no change of label
may be missing, and memory, threads and open files must not have grown. Prints tables, then one JSON line; exits 1 where
something is wrong.

Longer than 400 lines because all rounds share one broker, one listener and one table.
"""

import contextlib
import json
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
from mqtt_processes import LIMIT_S, SECRET, TOPIC, USERNAME, Listener, Mosquitto, Watcher, free_port
from toolbox import EDGEKD, NOTHING, environment, run_tool, wait_for

from edgekd.errors import GateError, InputError
from edgekd.evaluation.bench import machine
from edgekd.runtime.outputs.mqtt.settings import client_id, machine_id
from edgekd.text import columns

NAMES = ("state", "health", "availability", "config")
"""Last parts of the retained topics."""
DOWN_S, UP_S = (0.2, 3.0), (3.5, 6.0)
"""Ranges of the seconds for which a broker is down, and then up."""
FRESH_S = 1.5
"""Age in seconds below which a line may be newer than what the third client has read."""
WARM = 4
"""Restarts after which memory must not grow."""
GROWTH_MB = 1.0


class Restart(msgspec.Struct, frozen=True):
    """One restart.

    Attributes:
        back_s: seconds from the broker's start until the listener had published everything again.
        t, label: of the retained state.
        own_mb: memory that the listener shares with no other process.
        wrong: what is wrong with the retained messages.
    """

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
    """The result of one other test. note: the message of the listener."""

    name: str
    ok: bool
    note: str


def retained(port: int) -> dict[str, bytes]:
    """The retained messages that a new client receives: last part of a topic -> payload."""
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


def errors_of(found: dict[str, bytes], listener: Listener, number: int) -> list[str]:
    """What is wrong with the retained messages after the restart with this number."""
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
        f"the state at {state['t']} s was not printed": line is None or not line.items() <= state.items(),
        f"the state shows {state['label']} at {state['t']} s; printed were {sorted(between)} until {newest} s": (
            between - {state["label"]}
        ),
        f"health reports {health['reconnects']} reconnections": health["reconnects"] != number,
        "no entity is announced": not config.get("components"),
    }
    return [what for what, is_so in wrong.items() if is_so]


def time_of(listener: Listener, t: float) -> float:
    """Time of the clock at which a decision was printed."""
    return next(when for when, line in zip(listener.times, listener.lines, strict=False) if line["t"] == t)


def restart(number: int, broker: Mosquitto, watcher: Watcher, listener: Listener, rng: random.Random) -> Restart:
    """Restart the broker, check the retained messages, and wait a while."""
    kind = ("stopped", "killed", "forgot")[number % 3]
    broker.end(signal.SIGTERM if kind == "stopped" else signal.SIGKILL)
    down_s = rng.uniform(*DOWN_S)
    time.sleep(down_s)
    if kind == "forgot":
        broker.forget()
    broker.start()
    began = time.monotonic()
    reconnected = wait_for(lambda: watcher.health("reconnects") == number, LIMIT_S)
    wrong = [] if reconnected else [f"no reconnection in {LIMIT_S:g} s"]
    back_s = time.monotonic() - began
    found = retained(broker.port)
    wrong += errors_of(found, listener, number)
    state = json.loads(found.get("state", b"{}"))
    time.sleep(rng.uniform(*UP_S))
    return Restart(
        kind, down_s, back_s, state.get("t", 0.0), state.get("label", ""), *listener.resources(), tuple(wrong)
    )


def restarts(model: Path, count: int, speed: float, seed: int, folder: Path) -> tuple[list[Restart], list[Case]]:
    """All restarts with one listener, and the checks over all of them."""
    rng, broker, done = random.Random(seed), Mosquitto(folder / "broker"), []
    broker.start()
    try:
        with (
            Watcher(broker.port) as watcher,
            Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener,
        ):
            wait_for(lambda: f"{TOPIC}/state" in watcher.latest, LIMIT_S)
            time.sleep(UP_S[1])
            for number in range(1, count + 1):
                done.append(restart(number, broker, watcher, listener, rng))
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
                    f"offline, {lag_s:.2f} s after the last audio",
                ),
                Case(
                    "no secret",
                    SECRET not in listener.all_output,
                    f"in {len(listener.lines)} lines, errors and the command line",
                ),
            ]
    finally:
        broker.end(signal.SIGKILL)
    return done, cases


@contextlib.contextmanager
def tcp(*, hangs_up: bool) -> Iterator[int]:
    """A server that accepts connections and sends nothing, or closes them; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.close() if hangs_up else clients.append(client)

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        for client in clients:
            client.close()


def unreachable(
    name: str, model: Path, table: str, expected: str, folder: Path, speed: float, password: str = SECRET
) -> Case:
    """A listener that cannot publish must report that, go on deciding, print no secret and end in time."""
    with Listener(model, table, folder, speed, password) as listener:
        reported = wait_for(lambda: any(expected in line for line in listener.mqtt_errors), LIMIT_S)
        before = len(listener.decisions)
        time.sleep(3.0)
        more = len(listener.decisions) - before
        lag_s = listener.finish()
        hidden = password not in listener.all_output
        message = listener.mqtt_errors[-1] if listener.mqtt_errors else listener.errors.read_text().strip()[-150:]
    ok = reported and more >= 3 and hidden and lag_s < 1.5 and listener.process.returncode == 0
    return Case(
        name, ok, f"{message} ({more} decisions in 3 s, ended in {lag_s:.2f} s{'' if hidden else ', SECRET SHOWN'})"
    )


def refused(name: str, model: Path, url: str, expected: str) -> Case:
    """A command that must end with one line of error."""
    ended = subprocess.run(
        [*EDGEKD, "listen", "-", "--model", str(model), "--mqtt", url],
        input=b"",
        capture_output=True,
        env=environment(),
        check=False,
    )
    output = (ended.stdout + ended.stderr).decode()
    return Case(
        name,
        ended.returncode == 2 and expected in output and SECRET not in output and output.count("\n") == 1,
        output.strip()[:110],
    )


def frozen(model: Path, folder: Path, speed: float) -> Case:
    """A broker that does not answer for 15 s; after that the listener is killed."""
    broker = Mosquitto(folder / "frozen")
    broker.start()
    try:
        with (
            Watcher(broker.port) as watcher,
            Listener(model, f"url = 'mqtt://127.0.0.1:{broker.port}'", folder, speed) as listener,
        ):
            wait_for(lambda: f"{TOPIC}/state" in watcher.latest, LIMIT_S)
            broker.pause(15.0)
            back = wait_for(lambda: (watcher.health("reconnects") or 0) > 0, LIMIT_S)
            time.sleep(3.0)
            printed = listener.changes
            time.sleep(1.0)
            lost = set(printed) - set(watcher.changes)
            message = next(iter(listener.mqtt_errors), "nothing")
            listener.process.kill()
            offline = wait_for(lambda: watcher.latest.get(f"{TOPIC}/availability") == b"offline", 5.0)
    finally:
        broker.end(signal.SIGKILL)
    return Case(
        "frozen 15 s, listener killed",
        back and not lost and offline,
        f"{message}; back, {len(lost)} of {len(printed)} changes lost; offline by the will",
    )


def secure(model: Path, folder: Path, speed: float) -> list[Case]:
    """TLS with a known certificate authority, and with an unknown one."""
    broker = Mosquitto(folder / "tls", tls=True)
    home = broker.folder

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=home)

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
    (home / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
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
        with Listener(model, f"{url}ca = '{home}/ca.pem'", folder, speed) as listener:
            wait_for(lambda: len(listener.decisions) > 5, LIMIT_S)
            time.sleep(3.0)
            listener.finish()
            # mosquitto logs the name of a client that connects
            known = f"as {client_id(TOPIC, machine_id())}" in (home / "log").read_text()
            ok = known and not listener.mqtt_errors and SECRET not in listener.all_output
        cases = [
            Case(
                "TLS, own authority",
                ok,
                f"connected, {len(listener.decisions)} decisions" if ok else str(listener.mqtt_errors),
            )
        ]
        cases.append(unreachable("TLS, unknown authority", model, url, "certificate verify failed", folder, speed))
    finally:
        broker.end(signal.SIGKILL)
    return cases


def other_faults(model: Path, folder: Path, speed: float) -> list[Case]:
    """All other faults of brokers."""
    broker = Mosquitto(folder / "password")
    broker.start()
    try:
        url = f"url = 'mqtt://127.0.0.1:{broker.port}'"
        cases = [unreachable("wrong password", model, url, "Not authorized", folder, speed, "wrong-horse-1234")]
    finally:
        broker.end(signal.SIGKILL)
    for name, hangs_up, expected in (
        ("silent", False, "does not answer"),
        ("closes at once", True, "without an answer"),
    ):
        with tcp(hangs_up=hangs_up) as port:
            cases.append(unreachable(name, model, f"url = 'mqtt://127.0.0.1:{port}'", expected, folder, speed))
    cases.append(
        unreachable(
            "nobody there", model, f"url = 'mqtt://127.0.0.1:{free_port()}'", "Connection refused", folder, speed
        )
    )
    cases.append(
        unreachable("unknown host", model, "url = 'mqtt://no-such-host.invalid'", "no-such-host.invalid", folder, speed)
    )
    cases.append(frozen(model, folder, speed))
    cases += secure(model, folder, speed)
    cases.append(refused("malformed address", model, "broker.local:1883", "it is mqtt://HOST"))
    cases.append(refused("password in the address", model, f"mqtt://me:{SECRET}@broker", "list of processes"))
    return cases


def restart_table(done: list[Restart]) -> list[str]:
    """A row for each restart."""
    header = ["restart", "broker", "label", "down", "back after", "retained", "own MB", "threads", "files", "wrong"]
    rows = [
        [
            str(number),
            each.kind,
            each.label,
            f"{each.down_s:.1f} s",
            f"{each.back_s:.2f} s",
            f"{each.t:.1f} s",
            f"{each.own_mb:.2f}",
            str(each.threads),
            str(each.files),
            "; ".join(each.wrong) or NOTHING,
        ]
        for number, each in enumerate(done, start=1)
    ]
    return columns(header, rows, left=3)


def main(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    count: Annotated[int, typer.Option("--restarts", min=0, help="Restarts of the broker.")] = 20,
    speed: Annotated[float, typer.Option(help="Seconds of audio in one second.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the times between restarts.")] = 0,
) -> None:
    """Restart a broker while a listener publishes, and test other faults."""
    for program in ("mosquitto", "mosquitto_passwd", "openssl"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not installed; apt install mosquitto openssl")
    with tempfile.TemporaryDirectory(prefix="edgekd-mqtt-") as name:
        done, cases = restarts(model, count, speed, seed, Path(name)) if count else ([], [])
        cases += other_faults(model, Path(name), speed)
    if done:
        print("\n".join([*restart_table(done), ""]))
    rows = [[case.name, "yes" if case.ok else "NO", case.note] for case in cases]
    print("\n".join(columns(["case", "ok", "note"], rows, left=3)))
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
        raise GateError(f"failed: {', '.join(wrong)}")


if __name__ == "__main__":
    run_tool(main)
