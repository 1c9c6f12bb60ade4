"""The processes of `mqtt_restarts.py`: a mosquitto, a client that receives everything, and `edgekd listen` on synthetic
audio."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import paho.mqtt.client as paho
from toolbox import EDGEKD, environment, private_mb, wait_for

from edgekd.errors import GateError

RATE = 16000
CHUNK_S = 0.1
SCENE_S = 0.7
"""Seconds of each sound: shorter than two hops, so that labels change often."""
TOPIC = "edgekd/restarts"
USERNAME, SECRET = "listener", "correct-horse-7351"
LIMIT_S = 45.0
"""Longest wait for a connection, a line, or the end of a process."""


class Mosquitto:
    """A broker with its own folder, port and password."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.folder, self.port, self._spare, self.tls = folder, free_port(), free_port(), tls
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        (folder / "data").mkdir()
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), USERNAME, SECRET],
            check=True,
            capture_output=True,
        )
        for path in (folder, folder / "data", folder / "passwords"):
            path.chmod(0o700)
        for name, port in (("broker", self.port), ("seed", self._spare)):
            lines = [
                f"listener {port} 127.0.0.1",
                "allow_anonymous false",
                f"password_file {folder}/passwords",
                "persistence true",
                f"persistence_location {folder}/data/",
                "autosave_on_changes true",
                "autosave_interval 1",
                "max_queued_messages 0",
                "user root" if os.geteuid() == 0 else "",
            ]
            if tls:
                lines += [f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
            (folder / f"{name}.conf").write_text("\n".join(lines) + "\n")

    def start(self, name: str = "broker", port: int | None = None) -> None:
        """Start it and wait until it accepts connections."""
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self.folder / f"{name}.conf")],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )
        if not wait_for(lambda: is_open(port or self.port), LIMIT_S):
            raise GateError(f"mosquitto does not start: {(self.folder / 'log').read_text()[-300:]}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def pause(self, seconds: float) -> None:
        """Stop the process for some seconds."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Delete its data, then restore the session of the second client, so that no message is lost with that."""
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
    """The second client: receives everything, also after restarts."""

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
        """A client whose session outlives the broker."""
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
        """A field of the newest health message."""
        return json.loads(self.latest.get(f"{TOPIC}/health", b"{}")).get(key)

    def _take(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self.latest[message.topic] = message.payload
        if message.topic == f"{TOPIC}/change":
            self.changes.append(json.loads(message.payload)["t"])


class Listener:
    """`edgekd listen -` on synthetic audio, with its lines. speed: seconds of audio in one second."""

    def __init__(self, model: Path, table: str, folder: Path, speed: float, password: str = SECRET) -> None:
        (folder / "box.toml").write_text(
            f"[decision]\nhop = 0.5\n[output]\njson = true\n[mqtt]\ntopic = '{TOPIC}'\nevery = 1.0\n{table}"
        )
        self.command = [
            *EDGEKD,
            "listen",
            "-",
            "--model",
            str(model),
            "--config",
            str(folder / "box.toml"),
        ]
        self.errors = folder / "errors"
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("wb"),
            env=environment(EDGEKD_MQTT_USERNAME=USERNAME, EDGEKD_MQTT_PASSWORD=password),
        )
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
        """End the audio; returns the seconds until the process has ended."""
        self._ended.set()
        self._threads[0].join()
        began = time.monotonic()
        self.process.wait(LIMIT_S)
        self._threads[1].join()
        return time.monotonic() - began

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The lines that are decisions."""
        return [line for line in self.lines if "label" in line]

    @property
    def changes(self) -> list[float]:
        """Times of the decisions with another label than the one before."""
        decisions = self.decisions
        return [
            line["t"]
            for before, line in zip([{"label": None}, *decisions[:-1]], decisions, strict=True)
            if line["label"] != before["label"]
        ]

    @property
    def mqtt_errors(self) -> list[str]:
        """The reasons of the lines about MQTT."""
        return [line["reason"] for line in self.lines if line.get("reason", "").startswith("mqtt: ")]

    @property
    def all_output(self) -> str:
        """Its output, its errors and its command line."""
        return json.dumps(self.lines) + self.errors.read_text() + " ".join(self.command)

    def resources(self) -> tuple[float, int, int]:
        """Megabytes (10^6 bytes) that it shares with no other process, threads, open files."""
        pid = self.process.pid
        threads, files = (len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("task", "fd"))
        return private_mb(pid), threads, files

    def _feed(self, speed: float) -> None:
        rng, due, number = np.random.default_rng(0), time.monotonic(), 0
        chunk = round(CHUNK_S * RATE)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError), self.process.stdin as pipe:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                if number % round(SCENE_S / CHUNK_S) == 0:
                    level, tone, pitch = (
                        rng.uniform(0.001, 0.2),
                        rng.uniform(0.0, 0.4) * (rng.random() < 0.6),
                        rng.uniform(80.0, 6000.0),
                    )
                wave = level * rng.standard_normal(chunk) + tone * np.sin(2.0 * np.pi * pitch / RATE * np.arange(chunk))
                pipe.write((32767 * np.clip(wave, -1.0, 1.0)).astype("<i2").tobytes())
                pipe.flush()
                due, number = due + CHUNK_S / speed, number + 1

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            self.times.append(time.monotonic())


def is_open(port: int) -> bool:
    """Whether a server accepts connections at a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of loopback without a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
