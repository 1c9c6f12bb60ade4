"""Measures how much faster two processes train than one, each with one thread, and compares their metrics.

    python tools/torchrun_scale.py [--student serfr_cnn|cp_mobile] [--epochs 6] [--repeats 3]

Trains on a synthetic store with one process and with two under torchrun (gloo, loopback), alternately, on an otherwise
idle machine of two cores or more. Clips per second are by the run's own clock, which starts with the first step: it
leaves out the start-up and includes checkpoints and the test after the last epoch. Prints a table of medians, then one
JSON line with the ratio; exit status 1 where that is below --bar.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import typer
from toolbox import cores, run_tool

from edgekd.data.prepare import synth
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.frontend import FrontEnd
from edgekd.text import columns
from edgekd.train.run.folder import Run, load_run

STUDENTS: dict[str, dict[str, Any]] = {
    "serfr_cnn": {"kind": "serfr_cnn", "width": 24},
    "cp_mobile": {"kind": "cp_mobile"},
}
LAUNCHERS = {1: (), 2: ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")}
BAR = 1.7


def main(
    student: Annotated[str, typer.Option(help=f"One of: {', '.join(STUDENTS)}.")] = "serfr_cnn",
    clips: Annotated[int, typer.Option(help="Clips of 1 s in the store; a quarter is for test.")] = 800,
    epochs: Annotated[int, typer.Option(help="Of the float phase.")] = 6,
    qat_epochs: Annotated[int, typer.Option(help="Of the quantization-aware phase; 0 leaves it out.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Of one process; of two together.")] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds; in each, one process trains, then two.")] = 3,
    bar: Annotated[float, typer.Option(help="Least ratio that passes.")] = BAR,
) -> None:
    """Train with one and with two processes, and compare."""
    if student not in STUDENTS:
        raise InputError(f"student '{student}' is unknown; give one of: {', '.join(STUDENTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = synth(folder / "store", clips=clips, seconds=1.0).store
        (folder / "recipe.json").write_bytes(
            msgspec.json.encode(recipe(STUDENTS[student], epochs, qat_epochs, batch_size))
        )
        rows: dict[int, list[tuple[float, Run, float]]] = {count: [] for count in LAUNCHERS}
        for repeat in range(repeats):
            for count in LAUNCHERS:
                rows[count].append(trained(folder, count, repeat))
        clips_seen = len(store.indices(["train"])) * (epochs + qat_epochs)
        report(rows, clips_seen, store, student, bar)


def recipe(student: dict[str, Any], epochs: int, qat_epochs: int, batch_size: int) -> dict[str, Any]:
    """A recipe whose only test is after the last epoch."""
    return {
        "name": "scale",
        "student": student,
        "data": {"train": ["train"], "test": ["test"]},
        "frontend": msgspec.to_builtins(FrontEnd()),
        "augment": {"mixup_p": 0.5, "roll": 0.1},
        "train": {"epochs": epochs, "batch_size": batch_size, "lr": 3e-3, "test_every": 0},
        "qat": {"epochs": qat_epochs, "batch_size": batch_size},
    }


def trained(folder: Path, count: int, repeat: int) -> tuple[float, Run, float]:
    """Train once with `count` processes; returns the seconds of the run's clock, the run, and the seconds in all."""
    out = folder / f"{count}-{repeat}"
    command = [
        sys.executable,
        *LAUNCHERS[count],
        "-m",
        "edgekd.cli",
        "distill",
        str(folder / "recipe.json"),
        "--data",
        str(folder / "store"),
        "--out",
        str(out),
        "--threads",
        "1",
        "--accelerator",
        "cpu",
    ]
    began = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{count} of 2 processes: the training ended with status {done.returncode}\n{done.stderr}")
    run = load_run(out)
    return run.info.seconds, run, time.monotonic() - began


def report(
    rows: dict[int, list[tuple[float, Run, float]]], clips_seen: int, store: ClipStore, student: str, bar: float
) -> None:
    """Print the table and the JSON line.

    Raises:
        GateError: two processes are not `bar` times as fast as one.
    """
    speed = {count: statistics.median(clips_seen / seconds for seconds, _, _ in each) for count, each in rows.items()}
    names = list(rows[1][0][1].info.metrics)
    metrics = {
        count: {name: statistics.median(run.info.metrics[name] for _, run, _ in each) for name in names}
        for count, each in rows.items()
    }
    ratio = speed[2] / speed[1]
    cells = []
    for count, each in rows.items():
        speeds = [clips_seen / seconds for seconds, _, _ in each]
        figures = (speed[count], min(speeds), max(speeds), statistics.median(seconds for _, _, seconds in each))
        cells.append(
            [str(count), *(f"{value:.1f}" for value in figures), *(f"{metrics[count][name]:.3f}" for name in names)]
        )
    print("\n".join(columns(["processes", "clips/s", "least", "most", "seconds in all", *names], cells)))
    print(
        json.dumps(
            {
                "machine": cores(),
                "torch": torch.__version__,
                "student": student,
                "store": store.name,
                "clips": clips_seen,
                "repeats": len(rows[1]),
                "threads": 1,
                "backend": "gloo",
                "clips_per_s": {str(count): round(value, 1) for count, value in speed.items()},
                "metrics": metrics,
                "ratio": round(ratio, 3),
            }
        )
    )
    if ratio < bar:
        raise GateError(
            f"two processes are {ratio:.2f} times as fast as one; wanted {bar:g}; repeat it on an idle machine"
        )


if __name__ == "__main__":
    run_tool(main)
