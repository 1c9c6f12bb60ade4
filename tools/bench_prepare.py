"""Times `edgekd data prepare` on generated one-second 44.1 kHz wavs of 16 and 24 bit, into a 16 kHz store.

    python tools/bench_prepare.py --clips 20000

Measures the wall clock of the complete command in a fresh process, on all processors. Then the same command resumes a
store that was stopped after the last clip; that is the cost of checking. Prints a table, then one JSON line. The wavs
are noise, just written to a temporary folder: reading from a slow disk is not measured.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from toolbox import EDGEKD, cores

from edgekd.text import columns

RATE = 44100
SUBTYPES = {"16 bit": "PCM_16", "24 bit": "PCM_24"}
LABELS = 10
LEVEL = 0.3


def make_wavs(folder: Path, clips: int, subtype: str) -> None:
    """Write LABEL/N.wav, each cut from another position of one long noise."""
    rng = np.random.default_rng(0)
    noise = (LEVEL * rng.standard_normal(4 * RATE)).clip(-1, 1)
    for label in range(LABELS):
        (folder / f"label{label}").mkdir(parents=True)
    for number in range(clips):
        start = int(rng.integers(len(noise) - RATE))
        soundfile.write(
            folder / f"label{number % LABELS}" / f"{number}.wav", noise[start : start + RATE], RATE, subtype=subtype
        )


def seconds(wavs: Path, store: Path, wanted: int) -> tuple[float, float]:
    """Wall clock and processor time of all threads of one prepare that must end with status `wanted`.

    Raises:
        SystemExit: it ends with another status.
    """
    began, used = time.monotonic(), processor_seconds()
    done = subprocess.run(
        [*EDGEKD, "data", "prepare", "folder", str(wavs), "--out", str(store)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != wanted:
        sys.exit(f"prepare ended with {done.returncode}, not {wanted}: {done.stderr}")
    return time.monotonic() - began, processor_seconds() - used


def processor_seconds() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, clips: int, subtype: str) -> dict[str, float]:
    """Times of one kind of wavs: a complete run, and one that resumes."""
    wavs, store, stopped = folder / subtype, folder / f"{subtype}.store", folder / f"{subtype}.stopped"
    make_wavs(wavs, clips, subtype)
    complete, used = seconds(wavs, store, 0)
    bad = wavs / f"label{LABELS - 1}" / "z.wav"
    bad.write_bytes(b"no audio")
    seconds(wavs, stopped, 2)
    bad.unlink()
    resumed, _ = seconds(wavs, stopped, 0)
    if any(file.read_bytes() != (stopped / file.name).read_bytes() for file in store.iterdir()):
        sys.exit("the store that was stopped and resumed differs from the other")
    return {
        "seconds": round(complete, 2),
        "clips_per_s": round(clips / complete),
        "processor_ms_per_clip": round(1e3 * used / clips, 3),
        "going_on_seconds": round(resumed, 2),
        "going_on_clips_per_s": round(clips / resumed),
    }


def main() -> None:
    """Time both kinds of wavs."""
    parser = argparse.ArgumentParser(description="Time edgekd data prepare.")
    parser.add_argument("--clips", type=int, default=20000, help="wavs of each kind (88 and 132 kB each)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = {name: measure(Path(folder), arguments.clips, subtype) for name, subtype in SUBTYPES.items()}
    cells = [
        [
            name,
            str(arguments.clips),
            f"{row['seconds']:.1f}",
            str(row["clips_per_s"]),
            f"{row['processor_ms_per_clip']:.2f}",
            f"{row['going_on_seconds']:.1f}",
            str(row["going_on_clips_per_s"]),
        ]
        for name, row in rows.items()
    ]
    print("\n".join(columns(["", "clips", "s", "clips/s", "CPU ms/clip", "resumed s", "clips/s"], cells)))
    print(
        json.dumps(
            {
                "machine": cores(),
                "load": round(os.getloadavg()[0], 1),
                "clips": arguments.clips,
                "prepare": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
