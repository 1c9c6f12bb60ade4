"""Measures `edgekd listen`: processor time of a decision, back to back and at four a second, share of a core, memory,
and start-up.

    OMP_NUM_THREADS=1 python tools/bench_listen.py MODEL [--conventional dcase2022_baseline.tflite] [--mic]

A decision is all that `edgekd listen --json` does for one hop of noise: windows from chunks, features of the new
frames, the network, the JSON line. Times are processor time of one thread, in which an engine with one thread computes.
At four decisions a second ("paced") the data have left the nearest caches, as on a device.

Memory and start-up (from the start of the process to its first decision) are measured in fresh processes: the command
on a pipe, and on a file of 16-bit PCM. PSS counts a share of libraries that other processes map too, as this tool does;
RSS counts them completely. With librosa and --conventional, a listener that computes the features of each window anew
is measured alternately with edgekd.

The complete command is also run on terminals, side by side: with its terminal view, with --plain and with --json, on
noise in real time; with --mic also with the view on the virtual microphone of `mic_faults.py`, which takes two
processes. Their memory counts shared pages once, as if nothing else ran on the machine (`alone`). Prints tables of
medians over the repeats, then one JSON line.
"""

import contextlib
import itertools
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Self

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import typer
from toolbox import EDGEKD, MEGABYTE, children, cpu_seconds, environment, memory_mb, run_tool

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import InputError
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import Model, open_model
from edgekd.runtime.decision import DecisionSettings, to_json
from edgekd.runtime.listen import decisions
from edgekd.text import columns

HERE = Path(__file__).parent
HOP_S = 0.25
"""Four decisions a second."""
STEADY = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=1.0, unknown=0.3)
"""Settings of edgekd: all rules that take time at each decision."""
NOISE_S = 8
WARM_UP = 20
FIRST_DECISIONS = 8
"""Decisions of a fresh process after which its memory is read."""
START_TIMEOUT_S = 120
SETTLE_S = 5.0
"""Seconds after the start of a process on a terminal that are not measured."""
CHUNK_S = 0.1
"""Seconds of audio written to a pipe at a time, as a microphone does."""
ROWS_COLUMNS = 24, 80
OUTPUTS = {"view": (), "plain": ("--plain",), "json": ("--json",)}
VIRTUAL_MICROPHONE = "pulse"
LISTEN = (*EDGEKD, "listen")
OURS, CONVENTIONAL = "edgekd", "conventional"

Step = Callable[[], object]
DECISION_COLUMNS = {
    "cpu_us": ("us/decision", ".0f"),
    "paced_cpu_us": ("us paced", ".0f"),
    "core_percent": ("% of a core", ".3f"),
    "pss_mb": ("PSS MB", ".1f"),
    "rss_mb": ("RSS MB", ".1f"),
    "start_s": ("start s", ".3f"),
}
PROCESS_COLUMNS = {name: DECISION_COLUMNS[name] for name in ("core_percent", "pss_mb")} | {
    "alone_mb": ("alone MB", ".1f")
}
"""Figure -> title and format."""


def noise(model: Model, seconds: float) -> np.ndarray:
    """Seeded noise at the model's rate, float32 (time,)."""
    return (
        0.1 * np.random.default_rng(0).standard_normal(round(seconds * model.manifest.frontend.sample_rate))
    ).astype(np.float32)


def step_of(model: Model) -> Step:
    """A function that makes the next decision of an endless stream and encodes its line."""
    chunks = np.split(noise(model, NOISE_S), round(NOISE_S / HOP_S))
    endless = decisions(model, itertools.cycle(chunks), "noise", HOP_S, 3, STEADY)
    return lambda: to_json(next(endless))


def back_to_back(step: Step, count: int) -> float:
    """Microseconds of processor time of a decision, without pauses between decisions."""
    began = time.thread_time()
    for _ in range(count):
        step()
    return 1e6 * (time.thread_time() - began) / count


def paced(step: Step, count: int) -> tuple[float, float]:
    """Microseconds of processor time of a decision at one each `HOP_S`, and the share of a core that it takes."""
    began, cpu_began = time.monotonic(), time.thread_time()
    for number in range(1, count + 1):
        step()
        time.sleep(max(0.0, began + number * HOP_S - time.monotonic()))
    cpu_s = time.thread_time() - cpu_began
    return 1e6 * cpu_s / count, cpu_s / (time.monotonic() - began)


def first_line_s(command: list[str], stdin: bytes | None = None) -> tuple[float, dict[str, float]]:
    """Seconds from a process's start to its first line, and its memory after `FIRST_DECISIONS` lines (empty where it
    has ended by then).

    Raises:
        InputError: it ends before these lines.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(TERM="xterm-256color"),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if stdin is not None:
            process.stdin.write(stdin)
            process.stdin.flush()
        lines: list[bytes] = []
        first_s = 0.0
        while len(lines) < FIRST_DECISIONS and (line := process.stdout.readline()):
            first_s = first_s or time.monotonic() - began
            lines.append(line)
        if len(lines) < FIRST_DECISIONS:
            raise InputError(
                f"{' '.join(command)} made {len(lines)} decisions; its errors:"
                f" {process.stderr.read().decode().strip()[-200:]}"
            )
        memory = process_memory(process.pid)
        process.stdin.close()
        process.stdout.read()
        process.wait(START_TIMEOUT_S)
    return first_s, memory


def process_memory(pid: int) -> dict[str, float]:
    """PSS and RSS of a process in megabytes (10^6 bytes); empty where it has ended."""
    try:
        found = memory_mb(pid)
    except OSError:
        return {}
    return {f"{name.lower()}_mb": found[name] for name in ("Pss", "Rss") if name in found}


def fresh(
    model_path: Path, model: Model, conventional: Path | None, wav: Path
) -> Iterator[tuple[str, float, dict[str, float]]]:
    """For each listener: its name, seconds to the first decision on a file, memory."""
    options = ["--model", str(model_path), "--json", "--hop", str(HOP_S)]
    start_s, _ = first_line_s([*LISTEN, str(wav), *options])
    seconds = model.manifest.window / model.manifest.frontend.sample_rate + FIRST_DECISIONS * HOP_S
    _, memory = first_line_s([*LISTEN, "-", *options], to_pcm(noise(model, seconds)).tobytes())
    yield OURS, start_s, memory
    if conventional is not None:
        yield (
            CONVENTIONAL,
            *first_line_s(
                [
                    sys.executable,
                    str(HERE / "conventional_listening.py"),
                    str(conventional),
                    str(HOP_S),
                    str(FIRST_DECISIONS),
                ]
            ),
        )


class Terminal:
    """`edgekd listen` on a pseudo-terminal of its own, whose output is discarded."""

    def __init__(self, *arguments: str) -> None:
        self._screen, screen = pty.openpty()
        termios.tcsetwinsize(screen, ROWS_COLUMNS)
        self._process = subprocess.Popen(
            [*LISTEN, *arguments],
            stdin=subprocess.PIPE,
            stdout=screen,
            stderr=screen,
            bufsize=0,
            env=environment(TERM="xterm-256color"),
        )
        os.close(screen)
        self._last_output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its input
            self._process.terminate()
        self._reader.join()
        os.close(self._screen)

    def write(self, pcm: bytes) -> None:
        """Send it raw samples.

        Raises:
            InputError: it has ended; the message has its last output.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pcm)
        except BrokenPipeError:
            self._reader.join()
            output = self._last_output.decode(errors="replace")
            raise InputError(f"{' '.join(map(str, self._process.args))} ended; its output: {output}") from None

    def cpu_s(self) -> float:
        """Processor seconds of all threads of all its processes."""
        return sum(map(cpu_seconds, self.processes()))

    def memory(self) -> dict[str, float]:
        """Megabytes (10^6 bytes) of its processes together: PSS, and `alone`, which counts a page of a file once and
        ignores all other processes."""
        files: Counter[tuple[str, ...]] = Counter()
        pss_kb = own_kb = 0
        for pid in self.processes():
            clean: Counter[tuple[str, ...]] = Counter()
            mapping: tuple[str, ...] = ()
            for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
                name, *values = line.split()
                if not name.endswith(":"):  # address, rights, offset, device, inode, path
                    mapping = tuple(values[1:])
                elif name == "Pss:":
                    pss_kb += int(values[0])
                elif name in ("Shared_Clean:", "Private_Clean:"):
                    clean[mapping] += int(values[0])
                elif name in ("Shared_Dirty:", "Private_Dirty:"):
                    own_kb += int(values[0])
            files |= clean  # of each file the largest part that a process has in memory
        return {"pss_mb": 1024 * pss_kb / MEGABYTE, "alone_mb": 1024 * (own_kb + files.total()) / MEGABYTE}

    def processes(self) -> list[int]:
        """Its process and those that it started."""
        return [self._process.pid, *children(self._process.pid)]

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            while output := os.read(self._screen, 1 << 16):
                self._last_output = output[-200:]


def on_terminals(model_path: Path, model: Model, seconds: float) -> dict[str, dict[str, float]]:
    """Percent of a core and megabytes of the command with each output, run side by side."""
    options = ("--model", str(model_path), "--hop", str(HOP_S))
    audio = itertools.cycle(
        to_pcm(chunk).tobytes() for chunk in np.split(noise(model, NOISE_S), round(NOISE_S / CHUNK_S))
    )
    with contextlib.ExitStack() as stack:
        terminals = {
            name: stack.enter_context(Terminal("-", *options, *arguments)) for name, arguments in OUTPUTS.items()
        }
        began, counted, before = time.monotonic(), 0.0, dict.fromkeys(OUTPUTS, 0.0)
        for number in range(round((SETTLE_S + seconds) / CHUNK_S)):
            if not counted and number * CHUNK_S >= SETTLE_S:
                counted, before = time.monotonic(), {name: each.cpu_s() for name, each in terminals.items()}
            chunk = next(audio)
            for each in terminals.values():
                each.write(chunk)
            time.sleep(max(0.0, began + (number + 1) * CHUNK_S - time.monotonic()))
        wall_s = time.monotonic() - counted
        return {
            name: {"core_percent": 100.0 * (each.cpu_s() - before[name]) / wall_s, **each.memory()}
            for name, each in terminals.items()
        }


def on_microphone(model_path: Path, seconds: float) -> dict[str, float]:
    """Percent of a core and megabytes of the command with its view on a virtual microphone, capture process
    included."""
    from mic_faults import virtual

    with virtual() as (machine, _):
        machine.boot()
        with Terminal("--mic", VIRTUAL_MICROPHONE, "--model", str(model_path), "--hop", str(HOP_S)) as terminal:
            time.sleep(SETTLE_S)
            began, before = time.monotonic(), terminal.cpu_s()
            time.sleep(seconds)
            return {
                "core_percent": 100.0 * (terminal.cpu_s() - before) / (time.monotonic() - began),
                **terminal.memory(),
            }


def _table(title: str, figures: dict[str, tuple[str, str]], rows: dict[str, dict[str, float]]) -> list[str]:
    cells = ([name, *(format(row[key], form) for key, (_, form) in figures.items())] for name, row in rows.items())
    return columns([title, *(each for each, _ in figures.values())], cells)


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    conventional: Annotated[
        Path | None,
        typer.Option(
            help="The DCASE 2022 baseline's .tflite, with features by librosa; left out where that is not installed."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every listener is measured once.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Decisions back to back in a round.")] = 200,
    paced_count: Annotated[int, typer.Option(min=1, help="Decisions at four a second in a round.")] = 40,
    terminal_s: Annotated[float, typer.Option(min=1, help="Seconds on terminals in a round.")] = 20.0,
    mic: Annotated[
        bool, typer.Option("--mic", help="Also listen to a virtual microphone; needs PulseAudio as mic_faults.py does.")
    ] = False,
) -> None:
    """Measure listening."""
    model = open_model(model_path)
    if conventional is not None and find_spec("librosa") is None:
        print("librosa is not installed: the conventional listener is left out", file=sys.stderr)
        conventional = None
    steps = {OURS: step_of(model)}
    if conventional is not None:
        from conventional_listening import Conventional

        steps[CONVENTIONAL] = Conventional(conventional, HOP_S)
    for step in steps.values():
        back_to_back(step, WARM_UP)
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in steps}
    processes: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        wav = Path(temporary) / "noise.wav"
        with wave.open(str(wav), "wb") as file:
            file.setparams((1, 2, model.manifest.frontend.sample_rate, 0, "NONE", ""))
            file.writeframes(to_pcm(noise(model, 60)).tobytes())
        for _ in range(repeats):
            for name, step in steps.items():
                paced_us, share = paced(step, paced_count)
                row = {"cpu_us": back_to_back(step, count), "paced_cpu_us": paced_us, "core_percent": 100.0 * share}
                for key, value in row.items():
                    figures[name].setdefault(key, []).append(value)
            for name, start_s, memory in fresh(model_path, model, conventional, wav):
                for key, value in {"start_s": start_s, **memory}.items():
                    figures[name].setdefault(key, []).append(value)
            for name, row in {
                **on_terminals(model_path, model, terminal_s),
                **({"view, microphone": on_microphone(model_path, terminal_s)} if mic else {}),
            }.items():
                for key, value in row.items():
                    processes.setdefault(name, {}).setdefault(key, []).append(value)
    medians, on_terminal = (
        {
            name: {key: round(statistics.median(values), 3) for key, values in rows.items()}
            for name, rows in each.items()
        }
        for each in (figures, processes)
    )
    print("\n".join(_table("", DECISION_COLUMNS, medians)))
    print("\n".join(["", *_table("whole processes", PROCESS_COLUMNS, on_terminal)]))
    print(
        json.dumps(
            {
                "model": str(model_path),
                "engine": model.engine,
                "threads": 1,
                "hop_s": HOP_S,
                "repeats": repeats,
                "machine": machine(),
                **medians,
                "processes": on_terminal,
            }
        )
    )


if __name__ == "__main__":
    run_tool(main)
