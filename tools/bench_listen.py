"""Times listening: processor time of a decision back to back and at four a second, share of a core, memory, and
start-up.

    OMP_NUM_THREADS=1 python tools/bench_listen.py MODEL [--conventional
    ../shared/data/models/dcase2022_baseline.tflite] [--mic]

A decision is all that `edgekd listen --json` does for one hop of noise: chunks into windows, features of new frames,
the network, the JSON line. Times are processor time of the thread, in which an engine with one thread runs. Paced, each
decision finds its data out of the nearest caches, as on a device. Memory and start-up (from the start of the process to
its first decision) are those of fresh
processes: the command itself on a pipe, and on a file of 16-bit PCM. PSS counts only a part of libraries that other
processes have mapped too, as this tool has; RSS counts all. With librosa and --conventional, a listener that computes
each window anew takes turns with ours in everything. The command is also heard side by side with its terminal view,
with --plain and with --json, each on a terminal and on a pipe of noise in real time; with --mic also with the view on
the virtual microphone of `mic_faults.py`, as two processes. Of these the memory counts what processes share once, as if
nothing else ran on the machine (`alone`). Prints tables of medians over the repeats, then one JSON line.
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

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import EdgekdError, InputError
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import Model, open_model
from edgekd.runtime.decision import DecisionSettings, to_json
from edgekd.runtime.listen import decisions

HERE = Path(__file__).parent
HOP_S = 0.25
"""Four decisions a second."""
STEADY = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=1.0, unknown=0.3)
"""Of ours: all rules that cost anything at each decision."""
NOISE_S = 8
WARM_UP = 20
FIRST_DECISIONS = 8
"""Of a fresh process, after which its memory is read."""
START_TIMEOUT_S = 120
SETTLE_S = 5.0
"""Of a process on a terminal, before its processor time counts."""
CHUNK_S = 0.1
"""Of sound on a pipe at a time, as a microphone gives it."""
ROWS_COLUMNS = 24, 80
OUTPUTS = {"view": (), "plain": ("--plain",), "json": ("--json",)}
VIRTUAL_MICROPHONE = "pulse"
LISTEN = (sys.executable, "-P", "-m", "edgekd.cli", "listen")
EDGEKD, CONVENTIONAL = "edgekd", "conventional"

Step = Callable[[], object]


def noise(model: Model, seconds: float) -> np.ndarray:
    """Seeded noise at the model's rate, float32 (time,)."""
    return (
        0.1 * np.random.default_rng(0).standard_normal(round(seconds * model.manifest.frontend.sample_rate))
    ).astype(np.float32)


def step_of(model: Model) -> Step:
    """What makes the next decision of an endless listener and writes its line."""
    chunks = np.split(noise(model, NOISE_S), round(NOISE_S / HOP_S))
    endless = decisions(model, itertools.cycle(chunks), "noise", HOP_S, 3, STEADY)
    return lambda: to_json(next(endless))


def back_to_back(step: Step, count: int) -> float:
    """Microseconds of processor time of a decision, one right after the other."""
    began = time.thread_time()
    for _ in range(count):
        step()
    return 1e6 * (time.thread_time() - began) / count


def paced(step: Step, count: int) -> tuple[float, float]:
    """Microseconds of processor time of a decision, one each `HOP_S`, and the share of a core that this is."""
    began, cpu_began = time.monotonic(), time.thread_time()
    for number in range(1, count + 1):
        step()
        time.sleep(max(0.0, began + number * HOP_S - time.monotonic()))
    cpu_s = time.thread_time() - cpu_began
    return 1e6 * cpu_s / count, cpu_s / (time.monotonic() - began)


def environment() -> dict[str, str]:
    """For a process that imports what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm-256color"}


def first_line_s(command: list[str], stdin: bytes | None = None) -> tuple[float, dict[str, float]]:
    """Seconds from a process's start to its first line, and, of one that waits for the end of its input, its memory
    after `FIRST_DECISIONS` lines.

    Raises:
        InputError: it ends before.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
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
                f"{' '.join(command)} made {len(lines)} decisions; it says:"
                f" {process.stderr.read().decode().strip()[-200:]}"
            )
        held = memory(process.pid)
        process.stdin.close()
        process.stdout.read()
        process.wait(START_TIMEOUT_S)
    return first_s, held


def memory(pid: int) -> dict[str, float]:
    """Megabytes (10^6 bytes) of a process: its PSS and RSS; none where it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in rollup.splitlines() if ":" in line)
    return {
        f"{name.lower()}_mb": 1024 * int(fields[name].split()[0]) / 1e6 for name in ("Pss", "Rss") if name in fields
    }


def fresh(
    model_path: Path, model: Model, conventional: Path | None, wav: Path
) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Once each: the contender, seconds to the first decision on a file, memory."""
    options = ["--model", str(model_path), "--json", "--hop", str(HOP_S)]
    start_s, _ = first_line_s([*LISTEN, str(wav), *options])
    seconds = model.manifest.window / model.manifest.frontend.sample_rate + FIRST_DECISIONS * HOP_S
    _, held = first_line_s([*LISTEN, "-", *options], to_pcm(noise(model, seconds)).tobytes())
    yield EDGEKD, start_s, held
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
    """The listener on a terminal of its own, on which nobody looks."""

    def __init__(self, *arguments: str) -> None:
        self._screen, screen = pty.openpty()
        termios.tcsetwinsize(screen, ROWS_COLUMNS)
        self._process = subprocess.Popen(
            [*LISTEN, *arguments], stdin=subprocess.PIPE, stdout=screen, stderr=screen, bufsize=0, env=environment()
        )
        os.close(screen)
        self._seen = b""
        self._looking = threading.Thread(target=self._look)
        self._looking.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its input
            self._process.terminate()
        self._looking.join()
        os.close(self._screen)

    def hear(self, sound: bytes) -> None:
        """Give it raw samples.

        Raises:
            InputError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(sound)
        except BrokenPipeError:
            self._looking.join()
            raise InputError(
                f"{' '.join(map(str, self._process.args))} ended; it says: {self._seen.decode(errors='replace')}"
            ) from None

    def cpu_s(self) -> float:
        """Processor seconds of all threads of all its processes."""
        threads = (stat for pid in self._processes() for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return sum(int(stat.read_text().split()[0]) for stat in threads) / 1e9

    def memory(self) -> dict[str, float]:
        """Megabytes of its processes together: PSS, and `alone`, in which a page of a file counts once and no other
        process matters."""
        files: Counter[tuple[str, ...]] = Counter()
        pss_kb = own_kb = 0
        for pid in self._processes():
            clean: Counter[tuple[str, ...]] = Counter()
            place: tuple[str, ...] = ()
            for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
                name, *values = line.split()
                if not name.endswith(":"):  # address, rights, offset, device, inode, path
                    place = tuple(values[1:])
                elif name == "Pss:":
                    pss_kb += int(values[0])
                elif name in ("Shared_Clean:", "Private_Clean:"):
                    clean[place] += int(values[0])
                elif name in ("Shared_Dirty:", "Private_Dirty:"):
                    own_kb += int(values[0])
            files |= clean  # the larger of each
        return {"pss_mb": 1024 * pss_kb / 1e6, "alone_mb": 1024 * (own_kb + files.total()) / 1e6}

    def _processes(self) -> list[int]:
        """It and the children of its threads."""
        pid = self._process.pid
        return [
            pid,
            *(
                int(child)
                for each in Path(f"/proc/{pid}/task").glob("*/children")
                for child in each.read_text().split()
            ),
        ]

    def _look(self) -> None:
        with contextlib.suppress(OSError):  # the terminal's end
            while seen := os.read(self._screen, 1 << 16):
                self._seen = seen[-200:]


def on_terminals(model_path: Path, model: Model, seconds: float) -> dict[str, dict[str, float]]:
    """Percent of a core and megabytes of the command with each output, side by side."""
    options = ("--model", str(model_path), "--hop", str(HOP_S))
    sound = itertools.cycle(
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
            chunk = next(sound)
            for each in terminals.values():
                each.hear(chunk)
            time.sleep(max(0.0, began + (number + 1) * CHUNK_S - time.monotonic()))
        wall_s = time.monotonic() - counted
        return {
            name: {"core_percent": 100.0 * (each.cpu_s() - before[name]) / wall_s, **each.memory()}
            for name, each in terminals.items()
        }


def on_microphone(model_path: Path, seconds: float) -> dict[str, float]:
    """The same of the view on a virtual microphone, and of the process that hears it."""
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


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    conventional: Annotated[
        Path | None,
        typer.Option(
            help="The DCASE 2022 baseline's .tflite, heard through librosa; left out where that is not installed."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Turns, in each of which every contender does everything once.")
    ] = 5,
    count: Annotated[int, typer.Option(min=1, help="Decisions back to back in a turn.")] = 200,
    paced_count: Annotated[int, typer.Option(min=1, help="Decisions at four a second in a turn.")] = 40,
    terminal_s: Annotated[float, typer.Option(min=1, help="Seconds on terminals in a turn.")] = 20.0,
    mic: Annotated[
        bool, typer.Option("--mic", help="Also hear a virtual microphone; needs PulseAudio as mic_faults.py does.")
    ] = False,
) -> None:
    """Measure listening."""
    model = open_model(model_path)
    if conventional is not None and find_spec("librosa") is None:
        print("librosa is not installed: the conventional listener is left out", file=sys.stderr)
        conventional = None
    steps = {EDGEKD: step_of(model)}
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
            for name, start_s, held in fresh(model_path, model, conventional, wav):
                for key, value in {"start_s": start_s, **held}.items():
                    figures[name].setdefault(key, []).append(value)
            for name, row in {
                **on_terminals(model_path, model, terminal_s),
                **({"view, microphone": on_microphone(model_path, terminal_s)} if mic else {}),
            }.items():
                for key, value in row.items():
                    processes.setdefault(name, {}).setdefault(key, []).append(value)
    medians, whole = (
        {
            name: {key: round(statistics.median(values), 3) for key, values in rows.items()}
            for name, rows in each.items()
        }
        for each in (figures, processes)
    )
    print(f"{'':<14}{'us/decision':>13}{'us paced':>11}{'% of a core':>13}{'PSS MB':>9}{'RSS MB':>9}{'start s':>9}")
    for name, row in medians.items():
        print(
            f"{name:<14}{row['cpu_us']:>13.0f}{row['paced_cpu_us']:>11.0f}{row['core_percent']:>13.3f}{row['pss_mb']:>9.1f}"
            f"{row['rss_mb']:>9.1f}{row['start_s']:>9.3f}"
        )
    print(f"\n{'whole processes':<20}{'% of a core':>13}{'PSS MB':>9}{'alone MB':>10}")
    for name, row in whole.items():
        print(f"{name:<20}{row['core_percent']:>13.3f}{row['pss_mb']:>9.1f}{row['alone_mb']:>10.1f}")
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
                "processes": whole,
            }
        )
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        sys.exit(f"bench_listen: {error}")
