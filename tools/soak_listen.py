"""Runs the decisions of `edgekd listen` on hours of synthetic audio, faster than real time: memory must not grow after
the first hour of audio, and no sample may be lost.

    python tools/soak_listen.py MODEL --hours 24

Seeded noise with tones and, for a tenth of the time, digital silence goes through `decisions` in chunks of varying
length, with all rules on. Each decision must be that of the next window, at its time, and the last one must end with
the last sample; a lost sample would prevent that. Prints a row for each hour of audio, then one JSON line; exit status
1 where something is wrong.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `edgekd listen` does

import numpy as np
import typer
from toolbox import private_mb, run_tool

from edgekd.errors import GateError
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import open_model
from edgekd.runtime.decision import UNKNOWN, DecisionSettings, to_json
from edgekd.runtime.listen import WindowClassifier, decisions

SETTINGS = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=2.0, unknown=0.3, gate_dbfs=-90.0)
HOUR_S = 3600
SCENE_S = 3
"""Seconds of each scene, which has its own tone and level of noise."""
SILENT_SHARE = 0.1
LONGEST_CHUNK_S = 0.3
ROUNDING_S = 0.001
"""Of the times in decisions."""


class Feed:
    """Iterates over chunks of synthetic audio, float32 (time,), and counts their samples."""

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
    """Megabytes (10^6 bytes) that this process shares with no other.

    Raises:
        GateError: the system does not report it.
    """
    try:
        return private_mb("self")
    except OSError as error:
        raise GateError(
            f"/proc/self/smaps_rollup cannot be read ({error.strerror}); memory can be measured on Linux only"
        ) from None


def soak(model: WindowClassifier, hours: int, hop_s: float, seed: int) -> tuple[Counter[str], list[float], list[str]]:
    """Decide on `hours` of audio.

    Returns:
        counts of decisions, samples and bytes of lines; megabytes after each hour of audio; a phrase for each error.
    """
    frontend, window = model.manifest.frontend, model.manifest.window
    rate, hop = frontend.sample_rate, round(hop_s * frontend.sample_rate)
    # after this many hops a window starts exactly on the grid of frames
    period = frontend.hop_length // math.gcd(frontend.hop_length, hop)
    last = period * math.ceil(hours * HOUR_S / hop_s / period)
    samples = last * hop + window
    feed, counts, memory, wrong = Feed(rate, samples, seed), Counter[str](), [], []
    number, end_s = 0, 0.0
    for number, decision in enumerate(decisions(model, feed, "the soak", hop_s, 3, SETTINGS), start=1):
        early_s = (number - 1) * hop / rate + window / rate - decision.t  # windows start on the grid of frames
        if not -ROUNDING_S <= early_s <= frontend.hop_length / rate + ROUNDING_S:
            wrong.append(f"decision {number} is that of {decision.t} s, {early_s:.3f} s early")
            break
        counts["gated" if decision.gated else "unknown" if decision.label == UNKNOWN else "known"] += 1
        counts["bytes"] += len(to_json(decision)) + 1
        end_s = decision.t
        if decision.t >= HOUR_S * (len(memory) + 1):
            memory.append(resident_mb())
            print(
                f"{len(memory):>5}{number:>12,}{counts['unknown']:>10,}{counts['gated']:>10,}{memory[-1]:>11.2f}",
                flush=True,
            )
    counts["samples"], counts["decisions"] = feed.samples, number
    if feed.samples != samples or number != last + 1 or abs(end_s - samples / rate) > ROUNDING_S:
        wrong.append(
            f"{feed.samples:,} of {samples:,} samples were read, and of {last + 1:,} decisions the last was number"
            f" {number:,}, {samples / rate - end_s:.3f} s before the end"
        )
    if counts["known"] + counts["unknown"] + counts["gated"] != number:
        wrong.append(
            f"{number:,} decisions are not {counts['known']:,} known, {counts['unknown']:,} unknown and"
            f" {counts['gated']:,} gated"
        )
    return counts, memory, wrong


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    hours: Annotated[int, typer.Option(min=2, help="Of audio; memory is compared with that after the first.")] = 24,
    hop: Annotated[float, typer.Option(help="Seconds from decision to decision.")] = 0.5,
    growth_mb: Annotated[float, typer.Option(help="Megabytes by which memory may grow.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed is other audio.")] = 0,
) -> None:
    """Decide on hours of audio and watch memory and samples."""
    print(f"{'hour':>5}{'decisions':>12}{'unknown':>10}{'gated':>10}{'own MB':>11}")
    began = time.perf_counter()
    counts, memory, wrong = soak(open_model(model_path), hours, hop, seed)
    wall_s = time.perf_counter() - began
    growth = max(memory) - memory[0] if memory else 0.0
    if growth > growth_mb:
        wrong.append(f"memory grew by {growth:.2f} MB after the first hour")
    print(
        json.dumps(
            {
                "model": str(model_path),
                "hours": hours,
                "hop_s": hop,
                **counts,
                "memory_mb": [round(each, 2) for each in memory],
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
    run_tool(main)
