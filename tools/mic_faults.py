"""Makes a virtual microphone fail in every possible way, and measures how long the capture of `listen` takes to detect
each fault and to recover.

    python tools/mic_faults.py [--times N] [--only NAME] [--seed N]

Needs the extra `mic`, and (as root, without a sound card) apt install libportaudio2 libasound2-plugins pulseaudio
pulseaudio-utils. PulseAudio runs in a temporary folder of its own. Its microphone is a pipe that a thread fills with
noise in real time; from there on the path is that of a real one: PulseAudio, ALSA's plugin, PortAudio, the capture
process. Lost samples are the only fault that a virtual microphone cannot have: `overflowing_child.py` replaces the
capture process for it. Prints a table, then one JSON line.

Detection time: from the fault to the change of state. Recovery time: from the start of the repair, at a random time
between two attempts, to HEALTHY; the start of PulseAudio is included. Exits 1 where one takes longer than its limit.

Longer than 400 lines because every fault shares one virtual microphone and one table.
"""

import contextlib
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Self

import msgspec
import numpy as np
import overflowing_child
import typer
from toolbox import NOTHING

from edgekd.runtime.source.capture import CHILD, Capture, CaptureCounts
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import StateChange
from edgekd.text import columns

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RATE, MODEL_RATE = 48000, 16000
FEED_S = 0.01
"""Seconds of noise written to the pipe at a time."""
LEVEL_TOLERANCE = 0.2
"""Largest relative deviation of a level from the expected one."""
LIMIT_S = 60.0
"""Longest wait for a change of state."""
DETECT_LIMIT_S, HEAL_LIMIT_S = 3.0, 5.0
HOLD_S = 5.0
"""Longest time from the detection of a fault to its repair."""
UNDISTURBED_S = 20.0
"""Seconds without a fault, for each repetition."""
LEVELS = (0.1, 0.02)
"""Standard deviation of the noise in each channel of the microphone."""
SOURCE = "faultymic"
OVERFLOWING = (sys.executable, overflowing_child.__file__)


class Case(msgspec.Struct, frozen=True):
    """The result of one fault.

    Attributes:
        detect_s, heal_s: seconds; None where it took longer than `LIMIT_S`, or does not apply.
        ok: whether both were within their limits and the audio after it is correct.
        note: reasons and levels.
    """

    fault: str
    detect_s: float | None
    heal_s: float | None
    ok: bool
    note: str = ""


class Noise:
    """Fills a pipe with 16-bit noise in real time, in a thread. Samples that do not fit into the pipe are lost."""

    def __init__(self, pipe: Path) -> None:
        self.pipe, self.rate, self.channels = pipe, RATE, 1
        self.paused, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _feed(self) -> None:
        rng, due, descriptor = np.random.default_rng(0), time.monotonic(), None
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + FEED_S, time.monotonic() - 1.0)
            if self.paused.is_set():
                continue
            noise = rng.standard_normal((int(FEED_S * self.rate), self.channels)) * LEVELS[: self.channels]
            try:
                if descriptor is None:
                    descriptor = os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(descriptor, np.clip(noise * 32768, -32768, 32767).astype("<i2").tobytes())
            except BlockingIOError:
                pass
            except OSError:  # nobody reads, or the pipe does not exist
                if descriptor is not None:
                    os.close(descriptor)
                descriptor = None


class Machine:
    """A PulseAudio daemon of its own in a folder, with one microphone."""

    def __init__(self, folder: Path, noise: Noise) -> None:
        self._folder, self._noise = folder, noise
        self._daemon: subprocess.Popen[bytes] | None = None
        self._socket, self._switch = folder / "native", folder / "overflow"

    def boot(self, rate: int = RATE, channels: int = 1) -> None:
        """Start the daemon and connect the microphone."""
        script = self._folder / "start.pa"
        script.write_text(
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self._socket}\n"
            "load-module module-null-sink sink_name=speaker\n"
        )
        self._socket.unlink(missing_ok=True)
        command = ["pulseaudio", "-n", "-F", str(script), "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        self._daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + LIMIT_S
        while self._control("info", check=False):
            if time.monotonic() > end:
                raise SystemExit("PulseAudio does not start; run the daemon by hand to see why: " + " ".join(command))
            time.sleep(0.05)
        self.plug(rate, channels)

    def crash(self) -> None:
        """Kill the daemon."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def plug(self, rate: int = RATE, channels: int = 1) -> None:
        """Connect the microphone and make it the default."""
        self._noise.rate, self._noise.channels = rate, channels
        self._noise.pipe.unlink(missing_ok=True)
        self._control(
            "load-module",
            "module-pipe-source",
            f"source_name={SOURCE}",
            f"file={self._noise.pipe}",
            "format=s16le",
            f"rate={rate}",
            f"channels={channels}",
        )
        self._control("set-default-source", SOURCE)

    def unplug(self) -> None:
        """Disconnect the microphone; PulseAudio moves its clients to the speaker's monitor."""
        self._control("unload-module", "module-pipe-source")

    def suspend(self, *, on: bool) -> None:
        """Suspend or resume the microphone, as power saving may."""
        self._control("suspend-source", SOURCE, "1" if on else "0")

    def overflow(self, *, on: bool) -> None:
        """Start or stop losing samples."""
        (self._switch.touch if on else self._switch.unlink)()

    def _control(self, *arguments: str, check: bool = True) -> int:
        """Exit status of pactl."""
        return subprocess.run(
            ["pactl", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check
        ).returncode


class Listener:
    """A capture that a thread reads, with its changes of state and their times."""

    def __init__(self, request: SourceRequest, child: Sequence[str] = CHILD) -> None:
        self._capture = Capture(request, MODEL_RATE, child=child)
        self._turns: queue.SimpleQueue[tuple[float, StateChange]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.level = 0.0

    def __enter__(self) -> Self:
        self._capture.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.__exit__(None, None, None)
        self._thread.join()

    @property
    def counts(self) -> CaptureCounts:
        """Sample counts of the capture."""
        return self._capture.counts

    def wait(self, since: float, *states: str) -> tuple[float | None, str]:
        """Seconds from `since` to one of the states, and its reason; None and a note where it did not occur."""
        end = time.monotonic() + LIMIT_S
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                when, turn = self._turns.get(timeout=left)
                if turn.state in states:
                    return when - since, turn.reason
        return None, f"not {' or '.join(states)} in {LIMIT_S:g} s"

    def _listen(self) -> None:
        for item in self._capture:
            if isinstance(item, StateChange):
                self._turns.put((time.monotonic(), item))
            elif isinstance(item, np.ndarray) and len(item):
                self.level = float(np.std(item))


Fault = Callable[[Machine, Noise], None]
FAULTS: dict[str, tuple[Fault, Fault]] = {
    "feeder stalls": (lambda _, noise: noise.paused.set(), lambda _, noise: noise.paused.clear()),
    "source suspended": (lambda machine, _: machine.suspend(on=True), lambda machine, _: machine.suspend(on=False)),
    "module unloaded": (lambda machine, _: machine.unplug(), lambda machine, _: machine.plug()),
    "daemon killed": (lambda machine, _: machine.crash(), lambda machine, _: machine.boot()),
    "another at 16000 Hz": (lambda machine, _: machine.unplug(), lambda machine, _: machine.plug(16000)),
    "another in stereo": (lambda machine, _: machine.unplug(), lambda machine, _: machine.plug(RATE, 2)),
    "samples lost": (lambda machine, _: machine.overflow(on=True), lambda machine, _: machine.overflow(on=False)),
}
"""Name -> the functions that cause and repair the fault."""
FORMATS: dict[str, tuple[int, int, SourceRequest, float]] = {
    **{f"microphone at {rate} Hz": (rate, 1, SourceRequest("pulse"), LEVELS[0]) for rate in (16000, 44100, 96000)},
    **{
        f"opened at {rate} Hz": (RATE, 1, SourceRequest("pulse", rate=rate), LEVELS[0]) for rate in (8000, 16000, 96000)
    },
    "stereo, channel 0": (RATE, 2, SourceRequest("pulse", channel=0), LEVELS[0]),
    "stereo, channel 1": (RATE, 2, SourceRequest("pulse", channel=1), LEVELS[1]),
    "stereo, mean": (RATE, 2, SourceRequest("pulse"), float(np.hypot(*LEVELS) / 2)),
}
"""Rate and channels of the microphone, the request, and the expected level for noise below 8 kHz."""


@contextlib.contextmanager
def virtual() -> Iterator[tuple[Machine, Noise]]:
    """A machine with a microphone in a temporary folder; environment variables name it to PortAudio's ALSA plugin."""
    with tempfile.TemporaryDirectory(prefix="edgekd-mic-") as name:
        folder = Path(name)
        os.environ.update(
            PULSE_RUNTIME_PATH=name,
            PULSE_CONFIG_PATH=name,
            PULSE_STATE_PATH=name,
            PULSE_SERVER=f"unix:{folder / 'native'}",
            **{overflowing_child.OVERFLOW: str(folder / "overflow")},
        )
        with Noise(folder / "mic.fifo") as noise:
            machine = Machine(folder, noise)
            try:
                yield machine, noise
            finally:
                machine.crash()


def fault_case(fault: str, machine: Machine, noise: Noise, rng: random.Random) -> Case:
    """Cause and repair a fault while a listener runs that was HEALTHY before."""
    cause, repair = FAULTS[fault]
    with Listener(SourceRequest("pulse"), OVERFLOWING if fault == "samples lost" else CHILD) as listener:
        healthy_s, reason = listener.wait(time.monotonic(), "HEALTHY")
        if healthy_s is None:
            return Case(fault, None, None, False, f"before the fault: {reason}")
        time.sleep(1.0)
        start = time.monotonic()
        cause(machine, noise)
        detect_s, reason = listener.wait(start, "RECOVERING", "FAILED")
        time.sleep(rng.uniform(0.0, HOLD_S))
        start = time.monotonic()
        repair(machine, noise)
        heal_s, healed = listener.wait(start, "HEALTHY")
        time.sleep(1.0)
        expected = expected_level(noise.rate, noise.channels)
        ok = in_time(detect_s, heal_s) and is_balanced(listener.counts) and is_near(listener.level, expected)
        note = f"{reason}; then {healed}, level {listener.level:.4f}, expected {expected:.4f}"
    if (noise.rate, noise.channels) != (RATE, 1):
        machine.unplug()
        machine.plug()
    return Case(fault, detect_s, heal_s, ok, note)


def absent_at_start(machine: Machine, rng: random.Random) -> Case:
    """Start a listener before PulseAudio."""
    machine.crash()
    with Listener(SourceRequest("pulse")) as listener:
        detect_s, reason = listener.wait(time.monotonic(), "RECOVERING", "FAILED")
        time.sleep(rng.uniform(0.0, HOLD_S))
        start = time.monotonic()
        machine.boot()
        heal_s, _ = listener.wait(start, "HEALTHY")
    return Case("absent at start", detect_s, heal_s, in_time(detect_s, heal_s), reason)


def format_case(name: str, machine: Machine) -> Case:
    """Listen at another rate or number of channels; the level shows whether the right channels arrived."""
    rate, channels, request, level = FORMATS[name]
    machine.unplug()
    machine.plug(rate, channels)
    with Listener(request) as listener:
        heal_s, reason = listener.wait(time.monotonic(), "HEALTHY")
        time.sleep(1.0)
        expected = level * band_share(rate, request.rate)
        ok = heal_s is not None and is_near(listener.level, expected)
        note = f"{reason}; level {listener.level:.4f}, expected {expected:.4f}"
    machine.unplug()
    machine.plug()
    return Case(name, None, heal_s, ok, note)


def undisturbed(seconds: float) -> Case:
    """Listen without a fault: no state may change, and no sample may be lost."""
    with Listener(SourceRequest("pulse")) as listener:
        heal_s, reason = listener.wait(time.monotonic(), "HEALTHY")
        time.sleep(seconds)
        counts = listener.counts
    ok = (
        heal_s is not None
        and not (counts.dropped or counts.overflows or counts.restarts or counts.bad)
        and is_balanced(counts)
    )
    return Case("undisturbed", None, heal_s, ok, f"{reason}; {counts.received} samples, lag {counts.lag_s:.3f} s")


def band_share(rate: int, opened: int | None = None) -> float:
    """Level of white noise after resampling, relative to its level at the microphone's rate: from that to the rate
    opened, then to the model's."""
    return float((min(rate, opened or rate, MODEL_RATE) / rate) ** 0.5)


def expected_level(rate: int, channels: int) -> float:
    """Expected level of the mean of the microphone's channels, at the model's rate."""
    return float(np.linalg.norm(LEVELS[:channels])) / channels * band_share(rate)


def is_near(level: float, expected: float) -> bool:
    """Whether a level is the expected one, within `LEVEL_TOLERANCE`."""
    return abs(level / expected - 1.0) < LEVEL_TOLERANCE


def in_time(detect_s: float | None, heal_s: float | None) -> bool:
    """Whether both times are within their limits; a negative one means HEALTHY before the repair."""
    return detect_s is not None and detect_s <= DETECT_LIMIT_S and heal_s is not None and 0.0 < heal_s <= HEAL_LIMIT_S


def is_balanced(counts: CaptureCounts) -> bool:
    """Whether all received samples are accounted for."""
    return counts.received == counts.given + counts.dropped + counts.waiting


def table(cases: list[Case]) -> str:
    """A row for each fault: repetitions that were ok, median and longest times, the last note."""
    header = ["fault", "ok", "detected: median", "max", "healed: median", "max", "note"]
    rows = []
    for fault in dict.fromkeys(case.fault for case in cases):
        those = [case for case in cases if case.fault == fault]
        times = [
            [value for value in values if value is not None]
            for values in ((c.detect_s for c in those), (c.heal_s for c in those))
        ]
        shown = [
            f"{value:.2f} s" if some else NOTHING
            for some in times
            for value in ((median(some), max(some)) if some else (0.0, 0.0))
        ]
        rows.append((fault, f"{sum(case.ok for case in those)}/{len(those)}", *shown, those[-1].note))
    return "\n".join(columns(header, rows, left=len(header)))


@app.command()
def main(
    times: Annotated[int, typer.Option(help="Repetitions of each fault.")] = 1,
    only: Annotated[str, typer.Option(help="Only cases with this in their name.")] = "",
    seed: Annotated[int, typer.Option(help="Of the times at which faults are repaired.")] = 0,
) -> None:
    """Make a virtual microphone fail and time the recovery; exits 1 where it took too long or failed."""
    rng, cases = random.Random(seed), []
    with virtual() as (machine, noise):
        machine.boot()
        runs: list[tuple[str, Callable[[], Case]]] = [("undisturbed", lambda: undisturbed(times * UNDISTURBED_S))]
        runs += [(fault, lambda fault=fault: fault_case(fault, machine, noise, rng)) for fault in FAULTS]
        runs += [("absent at start", lambda: absent_at_start(machine, rng))]
        runs += [(name, lambda name=name: format_case(name, machine)) for name in FORMATS]
        for name, case in (run for run in runs if only in run[0]):
            for number in range(1 if name == "undisturbed" else times):
                cases.append(case())
                typer.echo(
                    f"{name} {number + 1}/{times}: {'ok' if cases[-1].ok else 'NOT OK'} {cases[-1].note}", err=True
                )
    typer.echo(table(cases))
    typer.echo(msgspec.json.encode({"times": times, "ok": all(case.ok for case in cases), "cases": cases}))
    raise typer.Exit(0 if cases and all(case.ok for case in cases) else 1)


if __name__ == "__main__":
    app()
