"""Measures the processor time of a decision of `edgekd listen`, by parts and against another checkout of edgekd.

    OMP_NUM_THREADS=1 python tools/bench_decision.py MODEL [--against CHECKOUT] [--against-model MODEL]

A decision is what `bench_listen.py` counts: windows from chunks of one hop, features of the new frames, the network,
the line of JSON. All figures are processor time of one thread, of turns that alternate. The least is the steadiest on a
busy machine: other programs only add to it.

The parts are differences of streams that leave one part out: without the network; without the quantisation and the
calls around it; without features, because all windows are below the gate. The decision itself is timed alone. What
remains is the level, the cutting into windows and the passing of lines.

With --against, a process with that checkout first on its path makes decisions in turn with one of this checkout, of the
same model or of --against-model. Prints tables, then one JSON line.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import typer
from bench_listen import HOP_S, STEADY, noise
from toolbox import run_tool

import edgekd
from edgekd.errors import InputError
from edgekd.evaluation.bench import machine
from edgekd.modelfile.engine import Model, open_model
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.control import WindowClassifier
from edgekd.runtime.decision import Decider, DecisionSettings, to_json
from edgekd.runtime.listen import decisions
from edgekd.text import columns

WORKER = Path(__file__).with_name("decisions_worker.py")
HERE = Path(edgekd.__file__).parent.parent
NOISE_S, TOP = 8, 3
TURN = 25
"""Decisions of one stream or process before the next one's turn."""
ALL_GATED = DecisionSettings(smooth_s=1.0, margin=0.1, dwell_s=1.0, unknown=0.3, gate_dbfs=-0.001)

Step = Callable[[], object]
Turn = Callable[[], list[float]]
"""Makes `TURN` decisions and returns the microseconds of each."""


class _NoNetwork:
    """A session that returns the same logits at once."""

    def __init__(self, manifest: Manifest) -> None:
        fe = manifest.frontend
        self.input_shape = (fe.n_mels, fe.frames(manifest.window))
        self.input_dtype, self.labels = manifest.input.dtype, len(manifest.labels)
        self._logits = np.zeros((1, self.labels), manifest.output.dtype)

    def run(self, _q: np.ndarray) -> np.ndarray:
        """Logits (1, labels)."""
        return self._logits


class _NoModel:
    """A classifier that returns the same logits at once."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._logits = np.zeros((1, len(manifest.labels)), np.float32)

    def logits(self, _features: np.ndarray) -> np.ndarray:
        """Logits (1, labels)."""
        return self._logits


def stream_of(classifier: WindowClassifier, chunks: list[np.ndarray], settings: DecisionSettings = STEADY) -> Step:
    """A function that makes the next decision of an endless stream and encodes its line."""
    endless = decisions(classifier, itertools.cycle(chunks), "noise", HOP_S, TOP, settings)
    return lambda: to_json(next(endless))


def decider_of(manifest: Manifest) -> Step:
    """A function that makes the next decision on given logits."""
    decider = Decider(manifest.labels, manifest.temperature, TOP, STEADY)
    logits = np.random.default_rng(0).standard_normal((len(manifest.labels),)).astype(np.float32)
    counter = itertools.count(1)
    return lambda: decider.decide(logits, t=HOP_S * next(counter), rms=0.1)


def turn_of(step: Step) -> Turn:
    """A turn of a function of this process."""

    def turn() -> list[float]:
        times = []
        for _ in range(TURN):
            began = time.thread_time()
            step()
            times.append(1e6 * (time.thread_time() - began))
        return times

    return turn


@contextmanager
def worker_turn(checkout: Path, model: Path) -> Iterator[Turn]:
    """A turn of a process with a checkout of edgekd.

    Raises:
        InputError: the process ends; its last line of errors is shown above.
    """
    command = [sys.executable, str(WORKER), str(model.resolve()), str(HOP_S)]
    variables = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=variables
    ) as process:
        sending, receiving = process.stdin, process.stdout
        assert sending is not None
        assert receiving is not None

        def turn() -> list[float]:
            try:
                sending.write(f"{TURN}\n")
                line = receiving.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                raise InputError(f"the edgekd in {checkout} cannot make decisions with {model}")
            times: list[float] = json.loads(line)
            return times

        yield turn


def alternately(turns: dict[str, Turn], rounds: int) -> dict[str, dict[str, float]]:
    """Median and least microseconds of each, after a first round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            found = turn()
            if number:
                times[name] += found
    return {
        name: {"median": round(statistics.median(found), 1), "least": round(min(found), 1)}
        for name, found in times.items()
    }


def parts_of(model: Model, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of each part of a decision and of the whole."""
    manifest = model.manifest
    audio = noise(model, NOISE_S)
    chunks = np.split(audio, round(NOISE_S / HOP_S))
    found = alternately(
        {
            name: turn_of(step)
            for name, step in {
                "whole": stream_of(model, chunks),
                "no network": stream_of(Model(manifest, model.engine, _NoNetwork(manifest)), chunks),
                "no model": stream_of(_NoModel(manifest), chunks),
                "gated": stream_of(_NoModel(manifest), chunks, ALL_GATED),
                "decision": decider_of(manifest),
            }.items()
        },
        rounds,
    )

    def part(kind: str) -> dict[str, float]:
        whole, no_network, no_model, gated, decision = (each[kind] for each in found.values())
        return {
            "features": no_model - gated - decision,
            "network": whole - no_network,
            "quantisation": no_network - no_model,
            "decision": decision,
            "level and lines": gated,
            "whole": whole,
        }

    median, least = part("median"), part("least")
    return {name: {"median": round(median[name], 1), "least": round(least[name], 1)} for name in median}


def table(title: str, rows: dict[str, dict[str, float]], whole: str) -> list[str]:
    """Lines of a table; percentages are of the row `whole`."""
    cells = [
        [
            name,
            f"{each['median']:.0f}",
            f"{each['least']:.0f}",
            f"{100 * each['median'] / rows[whole]['median']:.1f}",
            f"{100 * each['least'] / rows[whole]['least']:.1f}",
        ]
        for name, each in rows.items()
    ]
    return columns([title, "us median", "us least", "% median", "% least"], cells)


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that 'edgekd export' wrote.")],
    against: Annotated[
        Path | None, typer.Option(metavar="CHECKOUT", help="Another checkout of edgekd, measured alternately.")
    ] = None,
    against_model: Annotated[Path | None, typer.Option(metavar="MODEL", help="Its model; the same by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each stream and process.")] = 30,
) -> None:
    """Measure a decision."""
    model = open_model(model_path)
    parts = parts_of(model, rounds)
    print("\n".join(table(f"a decision of {model_path.name}", parts, "whole")))
    compared: dict[str, dict[str, float]] = {}
    if against is not None:
        other = against_model or model_path
        with ExitStack() as stack:
            turns = {
                "here": stack.enter_context(worker_turn(HERE, model_path)),
                "there": stack.enter_context(worker_turn(against, other)),
            }
            compared = alternately(turns, rounds)
        names = {"here": model_path.name, "there": f"{other.name} in {against}"}
        print(
            "\n".join(["", *table("alternately", {names[key]: row for key, row in compared.items()}, names["there"])])
        )
    print(
        json.dumps(
            {
                "model": str(model_path),
                "engine": model.engine,
                "hop_s": HOP_S,
                "machine": machine(),
                "parts_us": parts,
                "against": None if against is None else str(against),
                "compared_us": compared,
            }
        )
    )


if __name__ == "__main__":
    run_tool(main)
