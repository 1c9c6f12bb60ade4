"""Compares the training throughput of edgekd with that of a conventional pipeline: the same network, front end, clips
and threads, measured alternately.

    python tools/bench_training.py [--rounds 3] [--clips 1024] [--threads 2]

Writes 44.1 kHz 24-bit wavs of one second, the format of TAU Urban Acoustic Scenes (noise: the content does not
influence the speed), prepares a 32 kHz store from them, and runs `edgekd bench-train tau22-cp-mobile` and
`conventional_training.py` alternately. Prints a table of medians, then one JSON line. The project's targets: 4.5 times
the conventional pipeline, and 80 % of the student step alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from toolbox import EDGEKD

from edgekd.text import columns
from edgekd.train.launch import ALLOCATOR, MARKER

RECIPE = "tau22-cp-mobile"
RATE = 44100
SCENES = 10
TRAIN_SHARE = 0.9
BAR_CONVENTIONAL, BAR_STEP = 4.5, 0.8
HERE = Path(__file__).resolve().parent


def write_wavs(folder: Path, clips: int) -> Path:
    """Write LABEL/*.wav of seeded noise, and a table that assigns nine tenths of them to "train"; returns its path."""
    rng = np.random.default_rng(0)
    rows = ["filename,label,split"]
    for number in range(clips):
        scene = f"scene{number % SCENES}"
        path = folder / scene / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(RATE), RATE, "PCM_24")
        rows.append(f"{scene}/{number}.wav,{scene},{'train' if number < TRAIN_SHARE * clips else 'evaluate'}")
    table = folder / "clips.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def run_json(command: list[str], threads: int, ours: bool) -> dict[str, Any]:
    """The last line of a command's output, as JSON. Only edgekd gets the allocator settings of its launcher."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    environment.pop(MARKER, None)
    if ours:
        environment |= ALLOCATOR
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(
    clips: Annotated[int, typer.Option(help="One-second wavs.")] = 1280,
    rounds: Annotated[int, typer.Option(help="Alternations of the two pipelines.")] = 3,
    steps: Annotated[int, typer.Option(help="Timed steps of each pipeline in a round.")] = 4,
    threads: Annotated[
        int, typer.Option(help="Of torch in both, and worker processes of the conventional loader.")
    ] = 2,
) -> None:
    """Measure both pipelines and compare them."""
    with tempfile.TemporaryDirectory() as temporary:
        wavs, store = Path(temporary) / "wavs", Path(temporary) / "store"
        table = write_wavs(wavs, clips)
        subprocess.run(
            [
                *EDGEKD,
                "data",
                "prepare",
                "folder",
                str(wavs),
                "--csv",
                str(table),
                "--out",
                str(store),
                "--sample-rate",
                "32000",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours, bare, theirs = [], [], []
        for number in range(rounds):
            report = run_json(
                [
                    *EDGEKD,
                    "bench-train",
                    RECIPE,
                    "--data",
                    str(store),
                    "--batches",
                    str(steps),
                    "--threads",
                    str(threads),
                    "--json",
                ],
                threads,
                ours=True,
            )
            ours.append(report["clips_per_s"]["end_to_end"])
            bare.append(report["clips_per_s"]["student_step"])
            speeds = run_json(
                [
                    sys.executable,
                    "-P",
                    str(HERE / "conventional_training.py"),
                    str(wavs),
                    RECIPE,
                    str(steps),
                    "--workers",
                    str(threads),
                    "--threads",
                    str(threads),
                ],
                threads,
                ours=False,
            )
            theirs.append(statistics.median(speeds["clips_per_s"]))
            print(
                f"round {number + 1}: edgekd {ours[-1]:.0f}, its step alone {bare[-1]:.0f}, conventional"
                f" {theirs[-1]:.1f} clips/s",
                flush=True,
            )
    figures = {
        name: statistics.median(values)
        for name, values in (("edgekd", ours), ("bare_step", bare), ("conventional", theirs))
    }
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    share = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    rows = [
        *([f"{name}, clips/s", f"{value:.1f}", ""] for name, value in figures.items()),
        ["edgekd / conventional", f"{ratio:.2f}", str(BAR_CONVENTIONAL)],
        ["edgekd / bare step", f"{share:.2f}", str(BAR_STEP)],
    ]
    print("\n".join(["", *columns(["", "median", "target"], rows)]))
    print(
        json.dumps(
            {
                **figures,
                "of_conventional": round(ratio, 3),
                "of_bare_step": round(share, 3),
                "rounds": rounds,
                "threads": threads,
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
