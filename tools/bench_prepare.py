"""Times `edgekd data prepare`: generated one-second 44.1 kHz wavs, 16 and 24 bit, to a 16 kHz store.

    python tools/bench_prepare.py --clips 20000

Wall clock of the whole command in a fresh process, start and read-back included, on all processors; then the same
command goes on with a store that was stopped after the last clip, which is what checking costs. Prints a table, then
one JSON line. The wavs are noise in a temporary folder, just written: reading them from a slow disk is not measured.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 44100
SUBTYPES = {"16 bit": "PCM_16", "24 bit": "PCM_24"}
LABELS = 10
LEVEL = 0.3


def make_wavs(folder: Path, clips: int, subtype: str) -> None:
    """LABEL/N.wav; every file other noise, cut from one long one."""
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
    """Wall clock and processor time, all threads together, of one prepare that ends with a status.

    Raises:
        SystemExit: it ends with another.
    """
    began, used = time.monotonic(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgekd.cli", "data", "prepare", "folder", str(wavs), "--out", str(store)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != wanted:
        sys.exit(f"prepare ended with {done.returncode}, not {wanted}: {done.stderr}")
    return time.monotonic() - began, processor_seconds() - used


def processor_seconds() -> float:
    """Of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, clips: int, subtype: str) -> dict[str, float]:
    """Clips per second, undisturbed and going on."""
    wavs, store, stopped = folder / subtype, folder / f"{subtype}.store", folder / f"{subtype}.stopped"
    make_wavs(wavs, clips, subtype)
    whole, used = seconds(wavs, store, 0)
    bad = wavs / f"label{LABELS - 1}" / "z.wav"
    bad.write_bytes(b"no audio")
    seconds(wavs, stopped, 2)
    bad.unlink()
    again, _ = seconds(wavs, stopped, 0)
    if any(file.read_bytes() != (stopped / file.name).read_bytes() for file in store.iterdir()):
        sys.exit("the store that was stopped and gone on with is another")
    return {
        "seconds": round(whole, 2),
        "clips_per_s": round(clips / whole),
        "processor_ms_per_clip": round(1e3 * used / clips, 3),
        "going_on_seconds": round(again, 2),
        "going_on_clips_per_s": round(clips / again),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time edgekd data prepare.")
    parser.add_argument("--clips", type=int, default=20000, help="wavs of each kind (88 and 132 kB each)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = {name: measure(Path(folder), arguments.clips, subtype) for name, subtype in SUBTYPES.items()}
    print(f"{'':<8}{'clips':>8}{'s':>8}{'clips/s':>9}{'CPU ms/clip':>13}{'going on s':>12}{'clips/s':>9}")
    for name, row in rows.items():
        print(
            f"{name:<8}{arguments.clips:>8}{row['seconds']:>8.1f}{row['clips_per_s']:>9}{row['processor_ms_per_clip']:>13.2f}"
            f"{row['going_on_seconds']:>12.1f}{row['going_on_clips_per_s']:>9}"
        )
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load": round(os.getloadavg()[0], 1),
                "clips": arguments.clips,
                "prepare": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
