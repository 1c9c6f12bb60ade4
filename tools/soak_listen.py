"""Listens to hours of synthetic audio faster than real time: memory must not grow after the first hour's worth, and no
sample be lost.

    python tools/soak_listen.py MODEL --hours 24

Seeded noise with tones and, for a tenth of the time, digital silence goes through `decisions` in chunks of varying
length, with all rules on. Each decision must be that of the next window, at its time, and the last one ends with the
last sample: one that is lost leaves it out. Prints a table, one row per hour's worth, then one JSON line; ends with
status 1 where something is wrong.
"""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `edgekd listen` does

import numpy as np
import typer

from edgekd.errors import EdgekdError, GateError
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import open_model
from edgekd.runtime.decision import UNKNOWN, DecisionSettings, to_json
from edgekd.runtime.listen import WindowClassifier, decisions

SETTINGS = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=2.0, unknown=0.3, gate_dbfs=-90.0)
HOUR_S = 3600
SCENE_S = 3
"""Each has a tone of its own over noise of its own level."""
SILENT_SHARE = 0.1
LONGEST_CHUNK_S = 0.3
ROUNDING_S = 0.001
"""Of the times in decisions."""
MEGABYTE = 1e6


class Feed:
    """Chunks of made-up audio, float32 (time,), and how many samples they were."""

    def __init__(self, sample_rate: int, samples: int, seed: int) -> None:
        self._rate, self._left, self._rng = sample_rate, samples, np.random.default_rng(seed)
        self.samples = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        longest = round(LONGEST_CHUNK_S * self._rate)
        while self._left:
            scene, position = self._scene(min(SCENE_S * self._rate, self._left)), 0
            self._left -= len(scene)
            while position < len(scene):
                chunk = scene[position : position + int(self._rng.integers(1, longest))]
                position += len(chunk)
                self.samples += len(chunk)
                yield chunk

    def _scene(self, samples: int) -> np.ndarray:
        """Noise and a tone, or digital silence, float32 (samples,)."""
        if self._rng.random() < SILENT_SHARE:
            return np.zeros(samples, np.float32)
        noise = self._rng.uniform(0.001, 0.1) * self._rng.standard_normal(samples, np.float32)
        tone = np.sin(2.0 * np.pi * self._rng.uniform(50.0, 0.45 * self._rate) / self._rate * np.arange(samples))
        return (noise + self._rng.uniform(0.0, 0.3) * tone).astype(np.float32)


def resident_mb() -> float:
    """Megabytes (10^6 bytes) of this process: what is its own alone.

    Raises:
        GateError: the system does not tell.
    """
    try:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if ":" in line
        )
    except OSError as error:
        raise GateError(
            f"/proc/self/smaps_rollup cannot be read ({error.strerror}); memory can be watched on Linux only"
        ) from None
    return 1024 * sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / MEGABYTE


def soak(model: WindowClassifier, hours: int, hop_s: float, seed: int) -> tuple[Counter[str], list[float], list[str]]:
    """Listen for `hours` of audio: counts of decisions and samples, megabytes after each hour's worth, what went
    wrong."""
    frontend, window = model.manifest.frontend, model.manifest.window
    rate, hop = frontend.sample_rate, round(hop_s * frontend.sample_rate)
    # after so many hops a window starts on the grid and at its time
    turn = frontend.hop_length // math.gcd(frontend.hop_length, hop)
    last = turn * math.ceil(hours * HOUR_S / hop_s / turn)
    samples = last * hop + window
    feed, counts, held, wrong = Feed(rate, samples, seed), Counter[str](), [], []
    number, end_s = 0, 0.0
    for number, decision in enumerate(decisions(model, feed, "the soak", hop_s, 3, SETTINGS), start=1):
        early_s = (number - 1) * hop / rate + window / rate - decision.t  # windows start on the grid of frames
        if not -ROUNDING_S <= early_s <= frontend.hop_length / rate + ROUNDING_S:
            wrong.append(f"decision {number} is that of {decision.t} s, {early_s:.3f} s early")
            break
        counts["gated" if decision.gated else "unknown" if decision.label == UNKNOWN else "known"] += 1
        counts["bytes"] += len(to_json(decision)) + 1
        end_s = decision.t
        if decision.t >= HOUR_S * (len(held) + 1):
            held.append(resident_mb())
            print(
                f"{len(held):>5}{number:>12,}{counts['unknown']:>10,}{counts['gated']:>10,}{held[-1]:>11.2f}",
                flush=True,
            )
    counts["samples"], counts["decisions"] = feed.samples, number
    if feed.samples != samples or number != last + 1 or abs(end_s - samples / rate) > ROUNDING_S:
        wrong.append(
            f"{feed.samples:,} of {samples:,} samples were taken, and of {last + 1:,} decisions the last was number"
            f" {number:,}, {samples / rate - end_s:.3f} s before the end"
        )
    if counts["known"] + counts["unknown"] + counts["gated"] != number:
        wrong.append(
            f"{number:,} decisions are not {counts['known']:,} known, {counts['unknown']:,} unknown and"
            f" {counts['gated']:,} gated"
        )
    return counts, held, wrong


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    hours: Annotated[int, typer.Option(min=2, help="Of audio; memory is compared with that after the first.")] = 24,
    hop: Annotated[float, typer.Option(help="Seconds from decision to decision.")] = 0.5,
    growth_mb: Annotated[float, typer.Option(help="Megabytes by which memory may differ.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed is other audio.")] = 0,
) -> None:
    """Listen to hours of audio and watch."""
    print(f"{'hour':>5}{'decisions':>12}{'unknown':>10}{'gated':>10}{'own MB':>11}")
    began = time.perf_counter()
    counts, held, wrong = soak(open_model(model_path), hours, hop, seed)
    wall_s = time.perf_counter() - began
    growth = max(held) - held[0] if held else 0.0
    if growth > growth_mb:
        wrong.append(f"memory grew by {growth:.2f} MB after the first hour")
    print(
        json.dumps(
            {
                "model": str(model_path),
                "hours": hours,
                "hop_s": hop,
                **counts,
                "memory_mb": [round(each, 2) for each in held],
                "growth_mb": round(growth, 3),
                "times_real_time": round(hours * HOUR_S / wall_s, 1),
                "ok": not wrong,
                "machine": machine(),
            }
        )
    )
    if wrong:
        raise GateError("; ".join(wrong))


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"soak_listen: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
