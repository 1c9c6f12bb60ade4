"""Compares the decisions of `edgekd listen` on one recording on other machines with those on this machine.

    python tools/emulated_listen.py RESULTS MODEL...

RESULTS/SUITE/CPU/MODEL.listen is the output of `listen --json`; SUITE "host" is this machine. A probability may differ
by one step: the change that one int8 step of one logit makes, and the rounding of a line. Prints a table, then one
JSON line; exit status 1 where a label or time differs, or a probability by more than that. `emulated_pi.sh` calls it.
"""

import math
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from toolbox import run_tool

from edgekd.errors import GateError, InputError
from edgekd.modelfile import container
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision
from edgekd.text import columns

LISTEN, HOST = ".listen", "host"
ROUNDING = 1e-4
"""Of a probability in a line: two nearly equal ones may be rounded to different numbers."""


class Row(msgspec.Struct, frozen=True):
    """The comparison of one model on one release and processor.

    Attributes:
        lines: decisions on that machine.
        differing: lines that are not identical.
        labels: lines with another label or time, or on one machine alone.
        max_apart: largest difference of a probability.
        beyond: probabilities that differ by more than a step.
    """

    suite: str
    cpu: str
    model: str
    lines: int
    differing: int
    labels: int
    max_apart: float
    beyond: int

    @property
    def ok(self) -> bool:
        """Whether the machines agree."""
        return self.lines > 0 and not self.labels and not self.beyond


def compare(there: list[Decision], here: list[Decision], manifest: Manifest, board: tuple[str, str]) -> Row:
    """Compare decisions line by line. board: suite and processor."""
    step = manifest.output.scale / manifest.temperature
    apart = [
        (abs(p - q), tolerance(q, step)) for one, other in zip(there, here, strict=False) for p, q in pairs(one, other)
    ]
    both = list(zip_longest(there, here))
    return Row(
        *board,
        manifest.name,
        len(there),
        sum(one != other for one, other in both),
        sum(one is None or other is None or (one.t, one.label) != (other.t, other.label) for one, other in both),
        round(max((distance for distance, _ in apart), default=0.0), 6),
        sum(distance > limit for distance, limit in apart),
    )


def pairs(one: Decision, other: Decision) -> list[tuple[float, float]]:
    """Probabilities of the labels in either decision; a label that one leaves out is at most its smallest one."""
    left, right = dict(one.top), dict(other.top)
    return [(left.get(label, min(left.values())), right.get(label, min(right.values()))) for label in {**left, **right}]


def tolerance(probability: float, step: float) -> float:
    """Largest allowed difference of a probability: one step of one logit moves its log-odds by `step` at most.

    Args:
        probability: on this machine.
        step: of the logits, divided by the temperature.
    """
    if not 0.0 < probability < 1.0:
        return ROUNDING
    odds = math.exp(step) * probability / (1.0 - probability)
    down = math.exp(-step) * probability / (1.0 - probability)
    return max(odds / (1.0 + odds) - probability, probability - down / (1.0 + down)) + ROUNDING


def read(path: Path) -> list[Decision]:
    """The decisions in a result file; empty where the process crashed."""
    try:
        return [msgspec.json.decode(line, type=Decision) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError):
        return []


def main(
    results: Annotated[Path, typer.Argument(help="Folder of results.")],
    models: Annotated[list[Path], typer.Argument(help="The model files that were used.")],
) -> None:
    """Compare the decisions of emulated boards with those of this machine."""
    rows = []
    for model in models:
        manifest, (mine, *_) = container.read(model).manifest, [*results.glob(f"{HOST}/*/{model.name}{LISTEN}"), None]
        here = read(mine) if mine else []
        if not here:
            raise InputError(
                f"{results}/{HOST}: holds no decisions of this machine with {model.name}; see the .log file there"
            )
        rows += [
            compare(read(path), here, manifest, (path.parent.parent.name, path.parent.name))
            for path in sorted(results.glob(f"*/*/{model.name}{LISTEN}"))
            if path != mine
        ]
    if not rows:
        raise InputError(f"{results}: holds no SUITE/CPU/MODEL{LISTEN}; run emulated_pi.sh with --recording")
    header = ["suite", "cpu", "model", "lines", "differing", "other labels", "max apart", "beyond a step"]
    print("\n".join(columns(header, (list(map(str, msgspec.structs.astuple(row))) for row in rows), left=3)))
    ok = all(row.ok for row in rows)
    print(msgspec.json.encode({"ok": ok, "rows": rows}).decode())
    if not ok:
        raise GateError(
            "other decisions: " + "; ".join(f"{row.model} on {row.suite}, {row.cpu}" for row in rows if not row.ok)
        )


if __name__ == "__main__":
    run_tool(main)
