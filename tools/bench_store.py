"""Times random clips of a store that is not in memory: with page faults alone, and with prefetching.

    python tools/bench_store.py --gib 4

Writes a store of random PCM (one-second clips at 16 kHz, 32 kB each), drops its pages from memory before every run, and
gathers batches of random clips, as a training does. "faults" reads through the map; "told" prefetches each window when
it is read; "ahead" also prefetches the batch after the next. Prints clips per second and the bytes read from disk for
each clip, then one JSON line.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from toolbox import cores

from edgekd.data.store.clips import Clip
from edgekd.data.store.page_cache import drop_pages
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.text import columns

RATE = 16000
BATCH = 64
AHEAD = 2
"""Batches that are prefetched before they are read."""
WORK_S = 0.02
"""Pause for each batch in the place of a training step: a fast one on a CPU."""
KIB = 1024


def make(path: Path, clips: int) -> None:
    """Write a store of random samples, which no file system can compress."""
    block = np.random.default_rng(0).integers(-32768, 32768, (RATE * 8, 1)).astype(np.int16)
    with StoreWriter(path, name="noise", licence="none", sample_rate=RATE, channels=1) as writer:
        for number in range(clips):
            writer.add(Clip(f"{number}.wav", str(number % 2), "train"), np.roll(block, number * 97)[:RATE])
        writer.finish()


def read_bytes() -> int:
    """Bytes that this process has read from disk so far."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes")
    )


def batches(store: ClipStore, order: np.ndarray, ahead: int) -> Iterator[np.ndarray]:
    """(batch, samples) float32; `ahead` batches after each are prefetched."""
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for part in parts[:ahead]:
        store.prefetch(part)
    for number, part in enumerate(parts):
        if ahead and number + ahead < len(parts):
            store.prefetch(parts[number + ahead])
        yield np.stack([store.window(int(clip), 0, RATE) for clip in part])


def measure(path: Path, clips: int, streamed: bool, ahead: int) -> dict[str, float]:
    """Read random clips from a cold cache."""
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
    """Time all ways of reading."""
    parser = argparse.ArgumentParser(description="Time reading random clips of a large store.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the store")
    parser.add_argument("--clips", type=int, default=20000, help="clips read in each way")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; a disk, not memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "store"
        make(path, int(arguments.gib * KIB**3 / (2 * RATE)))
        ways = {"faults": (False, 0), "told": (True, 0), "ahead": (True, AHEAD)}
        rows = {name: measure(path, arguments.clips, *way) for name, way in ways.items()}
    keys = ("clips_per_s", "ms_per_batch", "kib_per_clip")
    cells = [[name, *(str(row[key]) for key in keys)] for name, row in rows.items()]
    print("\n".join(columns(["", "clips/s", "ms a batch", "KiB read a clip"], cells)))
    print(
        json.dumps(
            {
                "machine": cores(),
                "gib": arguments.gib,
                "clips": arguments.clips,
                "work_ms": 1e3 * WORK_S,
                "turns": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
