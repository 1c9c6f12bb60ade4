"""Training throughput of edgekd against a conventional pipeline: the same network, front end, clips and threads,
interleaved in one run.

    python tools/bench_training.py [--rounds 3] [--clips 1024] [--threads 2]

Makes 44.1 kHz 24-bit wavs of one second as TAU Urban Acoustic Scenes has them (noise: content does not matter to
speed), prepares a 32 kHz store from them, and lets `edgekd bench-train tau22-cp-mobile` and `conventional_training.py`
run in turns. Prints a table of medians, then one JSON line. The bars of the project: 4.5 times the conventional
pipeline, and 80 % of the bare student step.
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

from edgekd.train.launch import ALLOCATOR, MARKER

RECIPE = "tau22-cp-mobile"
RATE = 44100
SCENES = 10
TRAIN_SHARE = 0.9
BAR_CONVENTIONAL, BAR_STEP = 4.5, 0.8
HERE = Path(__file__).resolve().parent


def write_wavs(folder: Path, clips: int) -> Path:
    """LABEL/*.wav of seeded noise, and a table that gives nine tenths of them the split "train"; the table's path."""
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


def child(arguments: list[str], threads: int, ours: bool) -> dict[str, Any]:
    """The last line of a fresh interpreter's output, as JSON; the allocator is tuned for edgekd alone, as its own
    launcher does."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    environment.pop(MARKER, None)
    if ours:
        environment |= ALLOCATOR
    done = subprocess.run(
        [sys.executable, "-P", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(
    clips: Annotated[int, typer.Option(help="One-second wavs.")] = 1280,
    rounds: Annotated[int, typer.Option(help="Turns of both pipelines.")] = 3,
    steps: Annotated[int, typer.Option(help="Timed steps of each pipeline in a round.")] = 4,
    threads: Annotated[
        int, typer.Option(help="Of torch in both, and worker processes of the conventional loader.")
    ] = 2,
) -> None:
    """Measure both and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        wavs, store = Path(temporary) / "wavs", Path(temporary) / "store"
        table = write_wavs(wavs, clips)
        edgekd = ["-m", "edgekd.cli"]
        subprocess.run(
            [
                sys.executable,
                "-P",
                *edgekd,
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
            report = child(
                [
                    *edgekd,
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
            speeds = child(
                [
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
                f"round {number + 1}: edgekd {ours[-1]:.0f}, its bare step {bare[-1]:.0f}, conventional"
                f" {theirs[-1]:.1f} clips/s",
                flush=True,
            )
    figures = {
        name: statistics.median(values)
        for name, values in (("edgekd", ours), ("bare_step", bare), ("conventional", theirs))
    }
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    share = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    print(f"\n{'':24} {'median':>9}  bar")
    for name, value in figures.items():
        print(f"{name + ', clips/s':24} {value:9.1f}")
    print(
        f"{'edgekd / conventional':24} {ratio:9.2f}  {BAR_CONVENTIONAL}\n{'edgekd / bare step':24} {share:9.2f} "
        f" {BAR_STEP}"
    )
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
