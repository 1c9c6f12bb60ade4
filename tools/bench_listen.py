"""Times listening: processor time of a decision back to back and at four a second, share of a core, memory, and start-up.

    OMP_NUM_THREADS=1 python tools/bench_listen.py MODEL [--conventional ../shared/data/models/dcase2022_baseline.tflite]

A decision is all that `edgekd listen --json` does for one hop of noise: chunks into windows, features of new frames, the network, the
JSON line. Times are processor time of the thread, in which an engine with one thread runs. Paced, each decision finds its data out of
the nearest caches, as on a device. Memory and start-up (from the start of the process to its first decision) are those of fresh
processes: the command itself on a pipe, and on a file of 16-bit PCM. PSS counts only a part of libraries that other processes have mapped
too, as this tool has; RSS counts all. With librosa and --conventional, a listener that computes each window anew takes turns with ours in
everything. Prints a table of medians over the repeats, then one JSON line.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import typer

from edgekd.data.store import to_pcm
from edgekd.engine import Model, open_model
from edgekd.errors import EdgekdError, InputError
from edgekd.pipeline.bench import machine
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
EDGEKD, CONVENTIONAL = "edgekd", "conventional"

Step = Callable[[], object]


def noise(model: Model, seconds: float) -> np.ndarray:
    """Seeded noise at the model's rate, float32 (time,)."""
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * model.manifest.frontend.sample_rate))).astype(np.float32)


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


def first_line_s(command: list[str], stdin: bytes | None = None) -> tuple[float, dict[str, float]]:
    """Seconds from a process's start to its first line, and, of one that waits for the end of its input, its memory after
    `FIRST_DECISIONS` lines.

    Raises:
        InputError: it ends before.
    """
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
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
            raise InputError(f"{' '.join(command)} made {len(lines)} decisions; it says: {process.stderr.read().decode().strip()[-200:]}")
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
    return {f"{name.lower()}_mb": 1024 * int(fields[name].split()[0]) / 1e6 for name in ("Pss", "Rss") if name in fields}


def fresh(model_path: Path, model: Model, conventional: Path | None, wav: Path) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Once each: the contender, seconds to the first decision on a file, memory."""
    listen = [sys.executable, "-P", "-m", "edgekd.cli", "listen"]
    options = ["--model", str(model_path), "--json", "--hop", str(HOP_S)]
    start_s, _ = first_line_s([*listen, str(wav), *options])
    seconds = model.manifest.window / model.manifest.frontend.sample_rate + FIRST_DECISIONS * HOP_S
    _, held = first_line_s([*listen, "-", *options], to_pcm(noise(model, seconds)).tobytes())
    yield EDGEKD, start_s, held
    if conventional is not None:
        yield CONVENTIONAL, *first_line_s([sys.executable, str(HERE / "conventional_listening.py"), str(conventional), str(HOP_S),
                                           str(FIRST_DECISIONS)])


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    conventional: Annotated[Path | None, typer.Option(
        help="The DCASE 2022 baseline's .tflite, heard through librosa; left out where that is not installed.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns, in each of which every contender does everything once.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Decisions back to back in a turn.")] = 200,
    paced_count: Annotated[int, typer.Option(min=1, help="Decisions at four a second in a turn.")] = 40,
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
    medians = {name: {key: round(statistics.median(values), 3) for key, values in rows.items()} for name, rows in figures.items()}
    print(f"{'':<14}{'us/decision':>13}{'us paced':>11}{'% of a core':>13}{'PSS MB':>9}{'RSS MB':>9}{'start s':>9}")
    for name, row in medians.items():
        print(f"{name:<14}{row['cpu_us']:>13.0f}{row['paced_cpu_us']:>11.0f}{row['core_percent']:>13.3f}{row['pss_mb']:>9.1f}"
              f"{row['rss_mb']:>9.1f}{row['start_s']:>9.3f}")
    print(json.dumps({"model": str(model_path), "engine": model.engine, "threads": 1, "hop_s": HOP_S, "repeats": repeats,
                      "machine": machine(), **medians}))


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        sys.exit(f"bench_listen: {error}")
