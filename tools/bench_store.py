"""Times random clips of a store that is not in memory: page faults alone, against telling the kernel beforehand.

    python tools/bench_store.py --gib 4

Writes a store of random PCM (one-second clips at 16 kHz, 32 kB each), drops its pages before every turn, and gathers
batches of random clips, as a training does: "faults" reads through the map, "told" tells each window as it is read,
"ahead" tells the batch after the next too. Prints clips per second and the bytes that the disk gave for each clip, then
one JSON line.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekd.data.store.clips import Clip
from edgekd.data.store.page_cache import drop_pages
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter

RATE = 16000
BATCH = 64
AHEAD = 2
"""Batches that the kernel is told of before they are read."""
WORK_S = 0.02
"""What a training does with a batch meanwhile, here asleep: a fast CPU step."""
KIB = 1024


def make(path: Path, clips: int) -> None:
    """A store of random samples, which nothing compresses."""
    block = np.random.default_rng(0).integers(-32768, 32768, (RATE * 8, 1)).astype(np.int16)
    with StoreWriter(path, name="noise", licence="none", sample_rate=RATE, channels=1) as writer:
        for number in range(clips):
            writer.add(Clip(f"{number}.wav", str(number % 2), "train"), np.roll(block, number * 97)[:RATE])
        writer.finish()


def read_bytes() -> int:
    """What this process had read from disk so far."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes")
    )


def batches(store: ClipStore, order: np.ndarray, ahead: int) -> Iterator[np.ndarray]:
    """(batch, samples) float32, the kernel told of `ahead` batches beyond each."""
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for part in parts[:ahead]:
        store.prefetch(part)
    for number, part in enumerate(parts):
        if ahead and number + ahead < len(parts):
            store.prefetch(parts[number + ahead])
        yield np.stack([store.window(int(clip), 0, RATE) for clip in part])


def measure(path: Path, clips: int, streamed: bool, ahead: int) -> dict[str, float]:
    """One turn over random clips, from a cold cache."""
    store = ClipStore.open(path, streamed=streamed)
    with (path / "audio.i16").open("rb") as file:
        drop_pages(file.fileno())
    order = np.random.default_rng(1).permutation(len(store.clips))[:clips]
    before, began = read_bytes(), time.monotonic()
    waited = 0.0
    for _ in batches(store, order, ahead):
        slept = time.monotonic()
        time.sleep(WORK_S)
        waited += time.monotonic() - slept
    seconds = time.monotonic() - began
    return {
        "clips_per_s": round(len(order) / seconds),
        "kib_per_clip": round((read_bytes() - before) / len(order) / KIB, 1),
        "ms_per_batch": round(1e3 * (seconds - waited) / len(order) * BATCH, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading random clips of a large store.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the store")
    parser.add_argument("--clips", type=int, default=20000, help="clips gathered in a turn")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; a disk, not memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "store"
        make(path, int(arguments.gib * KIB**3 / (2 * RATE)))
        turns = {"faults": (False, 0), "told": (True, 0), "ahead": (True, AHEAD)}
        rows = {name: measure(path, arguments.clips, *turn) for name, turn in turns.items()}
    print(f"{'':<8}{'clips/s':>9}{'ms a batch':>12}{'KiB read a clip':>17}")
    for name, row in rows.items():
        print(f"{name:<8}{row['clips_per_s']:>9}{row['ms_per_batch']:>12}{row['kib_per_clip']:>17}")
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "gib": arguments.gib,
                "clips": arguments.clips,
                "work_ms": 1e3 * WORK_S,
                "turns": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
