"""Times the front end on one thread: log-mel of a 1 s window in numpy, the windows of a stream per hop, and the torch
version where torch is installed.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tools/bench_frontend.py

Prints a table of medians and minima, then one JSON line. Random noise, the default front end, warm caches.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from toolbox import cores

from edgekd.frontend import FrontEnd, log_mel
from edgekd.runtime.stream import WindowStream
from edgekd.text import columns

REPEATS = 400
BATCH = 64
HOPS_S = (0.25, 0.5)


def microseconds(work: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and minimum of the processor time of one call on this thread, microseconds. On a busy machine it varies
    less than the clock."""
    work()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        times.append(1e6 * (time.thread_time() - start))
    return statistics.median(times), min(times)


def torch_log_mel(fe: FrontEnd, waveforms: np.ndarray) -> tuple[float, float]:
    """Microseconds per clip of the torch version on the CPU, one thread."""
    import torch

    from edgekd.models.logmel import LogMel

    torch.set_num_threads(1)
    module, batch = LogMel(fe), torch.from_numpy(waveforms)
    median, least = microseconds(lambda: module(batch), REPEATS // 20)
    return median / len(waveforms), least / len(waveforms)


def main() -> None:
    """Time all versions."""
    fe = FrontEnd()
    waveforms = (0.1 * np.random.default_rng(0).standard_normal((BATCH, fe.sample_rate))).astype(np.float32)
    rows = {"numpy log-mel, 1 s": microseconds(lambda: log_mel(fe, waveforms[0]))}
    for hop_s in HOPS_S:
        stream, hop = WindowStream(fe, fe.sample_rate, hop_s), waveforms[0, : round(hop_s * fe.sample_rate)]
        list(stream.push(waveforms[0]))
        rows[f"numpy stream, hop of {hop_s:g} s"] = microseconds(lambda stream=stream, hop=hop: list(stream.push(hop)))
    if find_spec("torch") is not None:
        rows["torch mirror, 1 s clip"] = torch_log_mel(fe, waveforms)
    cells = [[name, f"{median:.1f}", f"{least:.1f}", f"{1e6 / median:.0f}"] for name, (median, least) in rows.items()]
    print("\n".join(columns(["", "median us", "least us", "per s"], cells)))
    print(
        json.dumps(
            {
                "machine": cores(),
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
