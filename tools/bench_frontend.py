"""Times the front end on one thread: numpy log-mel of a 1 s window, streaming per hop, and the torch mirror where torch
is installed.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tools/bench_frontend.py

Prints a table of medians and least times, then one JSON line. Random noise at the default front end; warm caches.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from edgekd.frontend import FrontEnd, LogMelStream, log_mel

REPEATS = 400
BATCH = 64
HOPS = (8, 16)
"""Frames of a streaming hop: 0.256 s and 0.512 s."""


def microseconds(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and least processor time of one call on this thread, microseconds: steadier than the clock on a busy
    machine."""
    work()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(1e6 * (time.thread_time() - start))
    return statistics.median(times), min(times)


def torch_mirror(fe: FrontEnd, waveforms: np.ndarray) -> tuple[float, float]:
    """Microseconds per clip of the torch mirror on the CPU, one thread."""
    import torch

    from edgekd.models.logmel import LogMel

    torch.set_num_threads(1)
    mirror, batch = LogMel(fe), torch.from_numpy(waveforms)
    median, least = microseconds(lambda: mirror(batch), REPEATS // 20)
    return median / len(waveforms), least / len(waveforms)


def main() -> None:
    fe = FrontEnd()
    waveforms = (0.1 * np.random.default_rng(0).standard_normal((BATCH, fe.sample_rate))).astype(np.float32)
    rows = {"numpy log-mel, 1 s": microseconds(lambda: log_mel(fe, waveforms[0]))}
    for frames in HOPS:
        stream, hop = LogMelStream(fe), waveforms[0, : frames * fe.hop_length]
        stream.push(waveforms[0])
        rows[f"numpy stream, hop of {frames} frames"] = microseconds(lambda stream=stream, hop=hop: stream.push(hop))
    if find_spec("torch") is not None:
        rows["torch mirror, 1 s clip"] = torch_mirror(fe, waveforms)
    print(f"{'':<34}{'median us':>10}{'least us':>10}{'per s':>10}")
    for name, (median, least) in rows.items():
        print(f"{name:<34}{median:>10.1f}{least:>10.1f}{1e6 / median:>10.0f}")
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "numpy": np.__version__,
                "threads": 1,
                "us": {
                    name: {"median": round(median, 1), "least": round(least, 1)}
                    for name, (median, least) in rows.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
