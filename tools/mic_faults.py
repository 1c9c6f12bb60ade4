"""Breaks a virtual microphone in every way that it can break, and times how long `listen`'s capture takes to notice and
to heal.

    python tools/mic_faults.py [--times N] [--only NAME] [--seed N]

Needs the extra `mic`, and (as root, without a sound card) apt install libportaudio2 libasound2-plugins pulseaudio
pulseaudio-utils. PulseAudio runs in a temporary folder of its own; its microphone is a pipe that a thread fills with
noise in real time, so the way from there on is that of a real one: PulseAudio, ALSA's plugin, PortAudio, the capture
process. Prints a table, then one JSON line. Lost samples are the one fault that no virtual microphone has:
`overflowing_child.py` takes the capture process's place there.
Detection: from the fault to the change of state. Healing: from when mending begins, at a random moment of the attempts,
to HEALTHY; the start of PulseAudio is part of it. Exits 1 where one took longer than its limit.
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

from edgekd.runtime.source.capture import CHILD, Capture, CaptureCounts
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import StateChange

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RATE, MODEL_RATE = 48000, 16000
FEED_S = 0.01
"""Seconds of noise written to the pipe at a time."""
LEVEL_TOLERANCE = 0.2
"""Of the level that is heard, as a share."""
LIMIT_S = 60.0
"""Longest wait for a change of state."""
DETECT_LIMIT_S, HEAL_LIMIT_S = 3.0, 5.0
HOLD_S = 5.0
"""Longest time that a fault stays after it was noticed."""
UNDISTURBED_S = 20.0
"""For each time that a fault is played."""
LEVELS = (0.1, 0.02)
"""Standard deviation of the noise in each channel of the microphone."""
SOURCE = "faultymic"
OVERFLOWING = (sys.executable, overflowing_child.__file__)


class Case(msgspec.Struct, frozen=True):
    """One fault, once. detect_s, heal_s: None where it was not seen in `LIMIT_S`, or where there is nothing to see.
    note: what else."""

    fault: str
    detect_s: float | None
    heal_s: float | None
    ok: bool
    note: str = ""


class Noise:
    """Fills a pipe with 16-bit noise in real time, in a thread; what the pipe does not take is lost, as air would
    be."""

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
            except OSError:  # nobody reads, or there is no pipe now
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
        """Start the daemon and plug the microphone in."""
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
        """Plug the microphone in and make it the default."""
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
        """Take the microphone away; PulseAudio moves its listeners to the speaker's monitor."""
        self._control("unload-module", "module-pipe-source")

    def suspend(self, *, on: bool) -> None:
        """Stop or go on with the microphone, as power saving may."""
        self._control("suspend-source", SOURCE, "1" if on else "0")

    def overflow(self, *, on: bool) -> None:
        """Begin or end to lose samples."""
        (self._switch.touch if on else self._switch.unlink)()

    def _control(self, *arguments: str, check: bool = True) -> int:
        """Run pactl; the status."""
        return subprocess.run(
            ["pactl", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check
        ).returncode


class Listener:
    """A capture that is consumed in a thread, with its changes of state and their times."""

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
        """Of the capture."""
        return self._capture.counts

    def wait(self, since: float, *states: str) -> tuple[float | None, str]:
        """Seconds from `since` until one of the states came, and why it came."""
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
"""What breaks the microphone, and what mends it."""
FORMS: dict[str, tuple[int, int, SourceRequest, float]] = {
    **{f"microphone at {rate} Hz": (rate, 1, SourceRequest("pulse"), LEVELS[0]) for rate in (16000, 44100, 96000)},
    **{
        f"opened at {rate} Hz": (RATE, 1, SourceRequest("pulse", rate=rate), LEVELS[0]) for rate in (8000, 16000, 96000)
    },
    "stereo, channel 0": (RATE, 2, SourceRequest("pulse", channel=0), LEVELS[0]),
    "stereo, channel 1": (RATE, 2, SourceRequest("pulse", channel=1), LEVELS[1]),
    "stereo, mean": (RATE, 2, SourceRequest("pulse"), float(np.hypot(*LEVELS) / 2)),
}
"""Rate and channels of the microphone, the request, the level to be heard were all of the noise below 8 kHz."""


@contextlib.contextmanager
def virtual() -> Iterator[tuple[Machine, Noise]]:
    """A machine with a microphone, in a temporary folder that PortAudio's ALSA plugin finds through the environment."""
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


def break_and_heal(fault: str, machine: Machine, noise: Noise, moment: random.Random) -> Case:
    """One fault against one listener that was well."""
    break_it, mend = FAULTS[fault]
    with Listener(SourceRequest("pulse"), OVERFLOWING if fault == "samples lost" else CHILD) as listener:
        heard_s, reason = listener.wait(time.monotonic(), "HEALTHY")
        if heard_s is None:
            return Case(fault, None, None, False, f"before the fault: {reason}")
        time.sleep(1.0)
        start = time.monotonic()
        break_it(machine, noise)
        detect_s, reason = listener.wait(start, "RECOVERING", "FAILED")
        time.sleep(moment.uniform(0.0, HOLD_S))
        start = time.monotonic()
        mend(machine, noise)
        heal_s, healed = listener.wait(start, "HEALTHY")
        time.sleep(1.0)
        expected = expected_level(noise.rate, noise.channels)
        ok = in_time(detect_s, heal_s) and is_balanced(listener.counts) and is_near(listener.level, expected)
        note = f"{reason}; then {healed}, level {listener.level:.4f}, expected {expected:.4f}"
    if (noise.rate, noise.channels) != (RATE, 1):
        machine.unplug()
        machine.plug()
    return Case(fault, detect_s, heal_s, ok, note)


def absent_at_start(machine: Machine, moment: random.Random) -> Case:
    """A listener that starts before there is anything to hear."""
    machine.crash()
    with Listener(SourceRequest("pulse")) as listener:
        detect_s, reason = listener.wait(time.monotonic(), "RECOVERING", "FAILED")
        time.sleep(moment.uniform(0.0, HOLD_S))
        start = time.monotonic()
        machine.boot()
        heal_s, _ = listener.wait(start, "HEALTHY")
    return Case("absent at start", detect_s, heal_s, in_time(detect_s, heal_s), reason)


def hear(form: str, machine: Machine) -> Case:
    """Another rate or number of channels; the level says whether the right sound came."""
    rate, channels, request, level = FORMS[form]
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
    return Case(form, None, heal_s, ok, note)


def undisturbed(seconds: float) -> Case:
    """No fault: nothing may be told, and no sample may be missing."""
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
    """What is left of white noise's level at a microphone's rate after it was opened at another and brought to the
    model's."""
    return float((min(rate, opened or rate, MODEL_RATE) / rate) ** 0.5)


def expected_level(rate: int, channels: int) -> float:
    """Of the mean of the microphone's channels, at the model's rate."""
    return float(np.linalg.norm(LEVELS[:channels])) / channels * band_share(rate)


def is_near(level: float, expected: float) -> bool:
    """Whether the right sound is heard."""
    return abs(level / expected - 1.0) < LEVEL_TOLERANCE


def in_time(detect_s: float | None, heal_s: float | None) -> bool:
    """Whether both came within their limits; a negative time is a HEALTHY while there was nothing to hear."""
    return detect_s is not None and detect_s <= DETECT_LIMIT_S and heal_s is not None and 0.0 < heal_s <= HEAL_LIMIT_S


def is_balanced(counts: CaptureCounts) -> bool:
    """Whether every sample that came is accounted for."""
    return counts.received == counts.given + counts.dropped + counts.waiting


def table(cases: list[Case]) -> str:
    """A row for each fault: how often it was noticed and healed, median and longest times, the last note."""
    rows = [("fault", "ok", "detected: median", "max", "healed: median", "max", "note")]
    for fault in dict.fromkeys(case.fault for case in cases):
        those = [case for case in cases if case.fault == fault]
        times = [
            [value for value in values if value is not None]
            for values in ((c.detect_s for c in those), (c.heal_s for c in those))
        ]
        shown = [
            f"{value:.2f} s" if some else "-"
            for some in times
            for value in ((median(some), max(some)) if some else (0.0, 0.0))
        ]
        rows.append((fault, f"{sum(case.ok for case in those)}/{len(those)}", *shown, those[-1].note))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@app.command()
def main(
    times: Annotated[int, typer.Option(help="How often each fault.")] = 1,
    only: Annotated[str, typer.Option(help="Only what has this in its name.")] = "",
    seed: Annotated[int, typer.Option(help="Of the moments at which faults end.")] = 0,
) -> None:
    """Break a virtual microphone and time the healing; exits 1 where something took too long or did not heal."""
    moment, cases = random.Random(seed), []
    with virtual() as (machine, noise):
        machine.boot()
        runs: list[tuple[str, Callable[[], Case]]] = [("undisturbed", lambda: undisturbed(times * UNDISTURBED_S))]
        runs += [(fault, lambda fault=fault: break_and_heal(fault, machine, noise, moment)) for fault in FAULTS]
        runs += [("absent at start", lambda: absent_at_start(machine, moment))]
        runs += [(form, lambda form=form: hear(form, machine)) for form in FORMS]
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
