"""Measures how much faster two processes train than one, each with one thread, and whether they end in the same place.

    python tools/torchrun_scale.py [--student serfr_cnn|cp_mobile] [--epochs 6] [--repeats 3]

The same training of a synthetic store by one process and by two under torchrun (gloo, loopback), in turns on an
otherwise idle machine of two cores or more. Clips per second are those of the run's own clock, which begins with the
first step: start-up is left out, the test after the last epoch and the checkpoints of all are in. Prints a table of
medians, then one JSON line with the ratio; ends with status 1 where it is below --bar.
"""

import json
import os
import platform
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

from edgekd.data.prepare import synth
from edgekd.data.store.store import ClipStore
from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.frontend import FrontEnd
from edgekd.train.run.folder import Run, load_run

STUDENTS: dict[str, dict[str, Any]] = {
    "serfr_cnn": {"kind": "serfr_cnn", "width": 24},
    "cp_mobile": {"kind": "cp_mobile"},
}
STARTERS = {1: (), 2: ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")}
BAR = 1.7


def main(
    student: Annotated[str, typer.Option(help=f"One of: {', '.join(STUDENTS)}.")] = "serfr_cnn",
    clips: Annotated[int, typer.Option(help="Clips of 1 s in the store; a fifth are tested on.")] = 800,
    epochs: Annotated[int, typer.Option(help="Of the float phase.")] = 6,
    qat_epochs: Annotated[int, typer.Option(help="Of the quantization-aware phase; 0 leaves it out.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Of one process, and of two together.")] = 64,
    repeats: Annotated[int, typer.Option(help="Turns; in each, one process trains and then two.")] = 3,
    bar: Annotated[float, typer.Option(help="Least ratio that passes.")] = BAR,
) -> None:
    """Train in turns and compare."""
    if student not in STUDENTS:
        raise InputError(f"student '{student}' is unknown; give one of: {', '.join(STUDENTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = synth(folder / "store", clips=clips, seconds=1.0).store
        (folder / "recipe.json").write_bytes(
            msgspec.json.encode(recipe(STUDENTS[student], epochs, qat_epochs, batch_size))
        )
        rows: dict[int, list[tuple[float, Run, float]]] = {count: [] for count in STARTERS}
        for turn in range(repeats):
            for count in STARTERS:
                rows[count].append(trained(folder, count, turn))
        heard = len(store.indices(["train"])) * (epochs + qat_epochs)
        report(rows, heard, store, student, bar)


def recipe(student: dict[str, Any], epochs: int, qat_epochs: int, batch_size: int) -> dict[str, Any]:
    """A recipe without tests before the end."""
    return {
        "name": "scale",
        "student": student,
        "data": {"train": ["train"], "test": ["test"]},
        "frontend": msgspec.to_builtins(FrontEnd()),
        "augment": {"mixup_p": 0.5, "roll": 0.1},
        "train": {"epochs": epochs, "batch_size": batch_size, "lr": 3e-3, "test_every": 0},
        "qat": {"epochs": qat_epochs, "batch_size": batch_size},
    }


def trained(folder: Path, count: int, turn: int) -> tuple[float, Run, float]:
    """Train once with `count` processes: seconds of the run's clock, the run, and seconds from start to end."""
    out = folder / f"{count}-{turn}"
    command = [
        sys.executable,
        *STARTERS[count],
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
    rows: dict[int, list[tuple[float, Run, float]]], heard: int, store: ClipStore, student: str, bar: float
) -> None:
    """Print the table and the line.

    Raises:
        GateError: two processes are not `bar` times as fast as one.
    """
    speed = {count: statistics.median(heard / seconds for seconds, _, _ in each) for count, each in rows.items()}
    names = list(rows[1][0][1].info.metrics)
    metrics = {
        count: {name: statistics.median(run.info.metrics[name] for _, run, _ in each) for name in names}
        for count, each in rows.items()
    }
    ratio = speed[2] / speed[1]
    print(
        f"{'processes':<12}{'clips/s':>10}{'least':>10}{'most':>10}{'whole s':>10}"
        + "".join(f"{name:>27}" for name in names)
    )
    for count, each in rows.items():
        speeds = [heard / seconds for seconds, _, _ in each]
        whole = statistics.median(seconds for _, _, seconds in each)
        print(
            f"{count:<12}{speed[count]:>10.1f}{min(speeds):>10.1f}{max(speeds):>10.1f}{whole:>10.1f}"
            + "".join(f"{metrics[count][name]:>27.3f}" for name in names)
        )
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "torch": torch.__version__,
                "student": student,
                "store": store.name,
                "clips": heard,
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
        raise GateError(f"two processes are {ratio:.2f} times as fast as one; wanted {bar:g}; was the machine idle?")


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"torchrun_scale: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
