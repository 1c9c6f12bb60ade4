"""Times decisions on request, in a process of its own, with whichever checkout of edgekd is first on the path.

    python tools/decisions_worker.py MODEL HOP_S

For each line on standard input, which is a number, it makes so many decisions of an endless stream of noise and writes
their processor times on this thread: one line of JSON, microseconds. `bench_decision.py` runs one for each checkout.
Only names that early commits have are used here.
"""

import itertools
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.runtime.decision import DecisionSettings, to_json
from edgekd.runtime.listen import decisions

NOISE_S, TOP, WARM_UP = 8, 3, 50


def engine() -> Any:
    """The module that opens model files."""
    try:
        return import_module("edgekd.modelfile.engine")
    except ImportError:  # until November 2026
        return import_module("edgekd.engine")


def main() -> None:
    """Answer requests until standard input ends."""
    model, hop_s = engine().open_model(Path(sys.argv[1])), float(sys.argv[2])
    rate = model.manifest.frontend.sample_rate
    noise = (0.1 * np.random.default_rng(0).standard_normal(round(NOISE_S * rate))).astype(np.float32)
    chunks = [noise[start : start + round(hop_s * rate)] for start in range(0, len(noise), round(hop_s * rate))]
    settings = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=1.0, unknown=0.3)
    endless = decisions(model, itertools.cycle(chunks), "noise", hop_s, TOP, settings)
    for _ in range(WARM_UP):
        to_json(next(endless))
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.thread_time()
            to_json(next(endless))
            times.append(round(1e6 * (time.thread_time() - began), 1))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
