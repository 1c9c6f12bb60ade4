"""The capture process alone: a command's samples in frames, PortAudio's faults, its end."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd.runtime.source import child
from edgekd.runtime.source.child import BLOCK, FAILED, HEADER, MAGIC, OPENED, SourceRequest

PROGRAM = [sys.executable, "-m", "edgekd.runtime.source.child"]


def frames(data: bytes) -> list[tuple[bytes, bool, int, bytes]]:
    """Kind, loss, first sample and payload of each frame."""
    found = []
    while data:
        magic, kind, lost, start, _, size = HEADER.unpack_from(data)
        assert magic == MAGIC
        found.append((kind, bool(lost), start, data[HEADER.size : HEADER.size + size]))
        data = data[HEADER.size + size :]
    return found


def started(request: SourceRequest) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_commands_samples_come_in_blocks_until_it_ends():
    samples = bytes(range(256)) * 30
    write = (
        f'{sys.executable} -c \'import os; os.write(1, bytes(range(256)) * 30 + b"x"); os.write(2, b"no such'
        " card\\n\")'; exit 4"
    )
    with started(SourceRequest(command=write, rate=8000, channels=2)) as process:
        opened, *blocks, failed = frames(process.stdout.read())
    assert opened[0] == OPENED
    assert json.loads(opened[3]) == [Path(sys.executable).name, 8000, 2, "int16"]
    assert {block[0] for block in blocks} == {BLOCK}
    assert b"".join(block[3] for block in blocks) == samples
    assert [block[2] for block in blocks] == [0, 800, 1600]
    assert failed[0] == FAILED
    assert json.loads(failed[3]) == ["the command ended with status 4: no such card", False]


def test_it_ends_with_its_command_when_the_parent_goes():
    hanging = f"{sys.executable} -c 'import os, time; os.write(1, bytes(1600)); time.sleep(600)'"
    with started(SourceRequest(command=hanging, rate=8000)) as process:
        process.stdout.read(HEADER.size + 1600)
        process.stdin.close()
        start = time.monotonic()
        while process.stdout.read(1 << 16):  # the command has this pipe's other end no more
            pass
        process.wait()
        assert time.monotonic() - start < 5


class FakeStream:
    """Two blocks, the second after an overflow, then the end."""

    calls: list[str] = []

    def __init__(self, rate, size, device, channels, sample, latency, *, callback, finished_callback):
        self.calls[:] = [f"{rate} {size} {device} {channels} {sample} {latency}"]
        self._callback, self._finished = callback, finished_callback

    def start(self):
        self._callback(b"abcd", 1, None, SimpleNamespace(input_overflow=False))
        self._callback(b"efgh", 1, None, SimpleNamespace(input_overflow=True))
        self._finished()

    def abort(self):
        self.calls.append("abort")

    def close(self):
        self.calls.append("close")


class PortAudioError(Exception):
    pass


class Pipe:
    """Collects what an outbox sends."""

    def __init__(self, monkeypatch):
        self.data = b""
        monkeypatch.setattr(child.os, "write", self.write)

    def write(self, _descriptor, data):
        self.data += bytes(data)
        return len(data)


@pytest.fixture
def portaudio(monkeypatch):
    """A PortAudio with one device that PulseAudio would give."""
    fake = SimpleNamespace(RawInputStream=FakeStream, PortAudioError=PortAudioError)
    one = child.InputDevice(3, "pulse", "", "", "", 44100, 32, True)
    monkeypatch.setattr(child, "portaudio", lambda: fake)
    monkeypatch.setattr(child, "microphones", lambda: [one])
    return fake


@pytest.mark.usefixtures("portaudio")
def test_a_microphone_is_captured_at_its_rate_in_short_blocks_and_never_stopped(monkeypatch):
    pipe = Pipe(monkeypatch)
    failure = child.capture_microphone(SourceRequest(), child.Outbox(1))
    opened, first, second = frames(pipe.data)
    assert json.loads(opened[3]) == ["pulse", 44100, 2, "float32"]
    assert (first, second) == ((BLOCK, False, 0, b"abcd"), (BLOCK, True, 1, b"efgh"))
    assert FakeStream.calls == ["44100 4410 3 2 float32 0.2", "abort", "close"]
    assert failure == ("PortAudio has finished the stream of pulse", False)


def test_a_device_that_cannot_be_opened_is_tried_again(portaudio, monkeypatch):
    def refuse(*_, **__):
        raise PortAudioError("Device unavailable")

    portaudio.RawInputStream = refuse
    Pipe(monkeypatch)
    failure = child.capture_microphone(SourceRequest(rate=8000), child.Outbox(1))
    assert failure == ("pulse cannot be opened at 8000 Hz with 2 channels (Device unavailable)", False)


def test_the_oldest_blocks_are_lost_while_nobody_reads(monkeypatch):
    pipe, finished = Pipe(monkeypatch), child.threading.Event()
    outbox = child.Outbox(1)
    for i in range(child.OUTBOX_BLOCKS + 3):
        outbox.put(child.frame(BLOCK, b"", i))
    finished.set()
    outbox.send_until(finished)
    assert [start for _, _, start, _ in frames(pipe.data)] == list(range(3, child.OUTBOX_BLOCKS + 3))


def test_a_device_that_another_process_has_open_is_told(portaudio, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PortAudioError("Device unavailable")

    card = tmp_path / "proc/asound/card1"
    (card / "pcm0c/sub0").mkdir(parents=True)
    (card / "pcm0c/sub0/status").write_text("state: RUNNING\nowner_pid   : 77\n")
    (tmp_path / "proc/asound/cards").write_text(" 1 [Device         ]: USB-Audio - USB\n")
    (tmp_path / "proc/77").mkdir()
    (tmp_path / "proc/77/comm").write_text("arecord\n")
    (tmp_path / "dev/snd").mkdir(parents=True)
    (tmp_path / "dev/snd/pcmC1D0c").touch()
    monkeypatch.setattr("edgekd.runtime.source.sound_cards.ROOT", tmp_path)
    portaudio.RawInputStream = refuse
    Pipe(monkeypatch)
    failure = child.capture_microphone(SourceRequest(rate=8000), child.Outbox(1))
    assert "(Device unavailable); card Device is in use by arecord (process 77)" in failure.message
    assert not failure.fatal


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory of a process")
def test_standard_error_without_line_ends_takes_no_memory():
    endless = "head -c 300000000 /dev/zero >&2; head -c 1600 /dev/zero; exec sleep 60"
    with started(SourceRequest(command=endless, rate=8000)) as process:
        opened = process.stdout.read(HEADER.size)
        process.stdout.read(HEADER.unpack(opened)[-1] + HEADER.size + 1600)  # the block comes after it
        memory = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.close()
    assert int(re.search(r"VmHWM:\s+(\d+) kB", memory)[1]) < 100_000


def test_it_is_small():
    program = (
        "import sys, edgekd.runtime.source.child; sys.exit(str({'numpy', 'msgspec', 'typer', 'sounddevice'} &"
        " {name.split('.')[0] for name in sys.modules} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
