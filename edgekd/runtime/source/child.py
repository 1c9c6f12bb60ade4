"""The capture process: reads a microphone or a command, and writes framed blocks of samples to its standard output.

    python -m edgekd.runtime.source.child '[MIC, COMMAND, RATE, CHANNELS, CHANNEL]'

It is a process of its own because PortAudio can hang for ever inside a call; `edgekd.runtime.source.capture` then kills
it. It ends when its standard input ends, that is when its parent ends, however that happens. It imports neither numpy
nor an engine, to stay small.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from edgekd.errors import EdgekdError, InputError
from edgekd.rates import require_rate
from edgekd.runtime.shell_command import KEPT_STDERR_BYTES, last_line, shown_command
from edgekd.runtime.source.microphones import InputDevice, MicrophoneAbsentError, choose, microphones, portaudio
from edgekd.runtime.source.sound_cards import hindrance
from edgekd.text import counted

BLOCK_S = 0.1
"""Length of a block, seconds. Longer blocks would arrive late."""
LATENCY_S = 0.2
"""Seconds of samples that PortAudio may hold back. With less, a busy machine loses samples."""
OUTBOX_BLOCKS = 50
"""Blocks kept while the parent does not read; beyond that the oldest are dropped."""
FEW_CHANNELS = 2
"""Channels opened of a device that is not a sound card's: it offers as many as one asks for."""
MAGIC = b"EKD1"
HEADER = struct.Struct("<4scBxxQdI")
"""Header of a frame: `MAGIC`, kind, 1 where samples were lost before it, number of its first sample, time.monotonic()
in seconds, bytes that follow."""
OPENED, BLOCK, FAILED = b"O", b"B", b"E"
"""Kinds of frames: JSON of an `Opened`, interleaved samples, JSON of a `Failure`."""


class SourceRequest(NamedTuple):
    """Which live source to capture. mic: as `choose` takes it; None for the default. command: a shell command that
    writes raw s16le samples, instead of a microphone. rate: Hz; None for the native rate. channels: of the command.
    channel: the one that will be used, so that enough are opened; None for all."""

    mic: str | None = None
    command: str | None = None
    rate: int | None = None
    channels: int | None = None
    channel: int | None = None


class Opened(NamedTuple):
    """The source that was opened. name: of the device, or what is shown of the command. rate: Hz. channels:
    interleaved. sample: "float32" or "int16"."""

    name: str
    rate: int
    channels: int
    sample: str


class Failure(NamedTuple):
    """Why the capture ended. fatal: another attempt cannot succeed."""

    message: str
    fatal: bool


def frame(kind: bytes, payload: bytes, start: int = 0, when: float = 0.0, *, lost: bool = False) -> bytes:
    """The bytes of one frame. start: number of its first sample, per channel. when: time.monotonic() at its end,
    seconds."""
    return HEADER.pack(MAGIC, kind, lost, start, when, len(payload)) + payload


class Outbox:
    """Frames on their way to the parent. While it does not read, the oldest are dropped; the sample numbers show
    that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._frames: deque[bytes] = deque(maxlen=OUTBOX_BLOCKS)
        self._filled = threading.Event()

    def put(self, data: bytes) -> None:
        """Add a frame. Never waits, so a callback may call it."""
        self._frames.append(data)
        self._filled.set()

    def send_until(self, finished: threading.Event) -> None:
        """Write frames as they come, until `finished` is set and none is left."""
        while True:
            self._filled.wait(LATENCY_S)
            self._filled.clear()
            done = finished.is_set()
            while self._frames:
                self.send(self._frames.popleft())
            if done:
                return

    def send(self, data: bytes) -> None:
        """Write one frame at once."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


def main() -> None:
    """Capture until the source ends, then send the reason."""
    request = SourceRequest(*json.loads(sys.argv[1]))
    outbox = Outbox(_own_standard_output())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    failure = Failure("", False)
    with contextlib.suppress(BrokenPipeError):  # the parent has gone
        try:
            failure = capture_microphone(request, outbox) if request.command is None else _run_command(request, outbox)
        except MicrophoneAbsentError as error:
            failure = Failure(str(error), False)
        except EdgekdError as error:
            failure = Failure(str(error), True)
        outbox.send(frame(FAILED, json.dumps(failure).encode()))
    os._exit(0)  # no exit handlers: PortAudio's may hang


def capture_microphone(request: SourceRequest, outbox: Outbox) -> Failure:
    """Send a microphone's blocks until PortAudio reports the end of the stream."""
    microphone = choose(request.mic, microphones())
    sounddevice = portaudio()
    rate, channels = request.rate or microphone.rate, _channels(microphone, request.channel)
    require_rate(rate, f"{microphone.name}: its sample rate is", "give the true one by --rate")
    finished, count = threading.Event(), 0

    def callback(samples: Any, frames: int, _times: object, status: Any) -> None:
        nonlocal count
        outbox.put(frame(BLOCK, bytes(samples), count, time.monotonic(), lost=bool(status.input_overflow)))
        count += frames

    try:
        stream = sounddevice.RawInputStream(
            rate,
            int(BLOCK_S * rate),
            microphone.number,
            channels,
            "float32",
            LATENCY_S,
            callback=callback,
            finished_callback=finished.set,
        )
        stream.start()  # may take seconds, for instance over Bluetooth
        outbox.send(frame(OPENED, json.dumps(Opened(microphone.name, rate, channels, "float32")).encode()))
        outbox.send_until(finished)
        stream.abort()  # not stop(), which waits for a stalled device
        stream.close()
    except sounddevice.PortAudioError as error:
        what = f"{microphone.name} cannot be opened at {rate} Hz with {counted(channels, 'channel')} ({error})"
        return Failure("; ".join(filter(None, (what, hindrance(microphone.alsa)))), False)
    return Failure(f"PortAudio has finished the stream of {microphone.name}", False)


def _channels(microphone: InputDevice, channel: int | None) -> int:
    """Number of channels to open: all of a sound card, which often cannot open fewer; few of other devices."""
    if channel is not None and channel >= microphone.channels:
        raise InputError(f"channel is {channel}; {microphone.name} has {microphone.channels}, counted from 0")
    return microphone.channels if microphone.alsa else min(microphone.channels, max(FEW_CHANNELS, (channel or 0) + 1))


def _run_command(request: SourceRequest, outbox: Outbox) -> Failure:
    """Send the blocks that a command writes, until it ends."""
    assert request.command is not None
    rate, channels = request.rate or 0, request.channels or 1
    name = shown_command(request.command)
    outbox.send(frame(OPENED, json.dumps(Opened(name, rate, channels, "int16")).encode()))
    count, width = 0, 2 * channels
    with subprocess.Popen(
        request.command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        tail = bytearray()
        reading = threading.Thread(target=_keep_tail, args=(process.stderr.fileno(), tail), daemon=True)
        reading.start()
        while block := process.stdout.read(width * int(BLOCK_S * rate)):
            block = block[: len(block) - len(block) % width]  # the last block may end inside a sample
            outbox.send(frame(BLOCK, block, count, time.monotonic()))
            count += len(block) // width
        status = process.wait()
        reading.join(BLOCK_S)
    reason = last_line(bytes(tail), request.command)
    return Failure(f"the command ended with status {status}" + (f": {reason}" if reason else ""), False)


def _keep_tail(descriptor: int, tail: bytearray) -> None:
    """Read a pipe to its end, and keep its last bytes in `tail`: a display of progress has no line ends."""
    while new := os.read(descriptor, KEPT_STDERR_BYTES):
        tail += new
        del tail[:-KEPT_STDERR_BYTES]


def _own_standard_output() -> int:
    """A duplicate of the pipe to the parent. Standard output itself now leads to standard error, for native libraries
    that print."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


def _end_with_parent() -> None:
    """Wait for the end of standard input, then end at once, together with a running command."""
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():  # the parent starts it as the leader of a group
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
