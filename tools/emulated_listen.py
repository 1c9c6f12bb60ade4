"""Does `edgekd listen` say the same on another machine? Compares its lines on one recording with those of this machine.

    python tools/emulated_listen.py RESULTS MODEL...    RESULTS/SUITE/CPU/MODEL.listen: from `listen --json`; SUITE host
    is this machine

A probability may differ by one step: by as much as one int8 step of one logit can change it, and by what the rounding
of a line hides. Prints a table, then one JSON line; exit status 1 when a line says another label or time, or a
probability is further away. `emulated_pi.sh` calls it.
"""

import math
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.modelfile import container
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision

LISTEN, HOST = ".listen", "host"
ROUNDING = 1e-4
"""Of a probability in a line: two that are as good as equal may be rounded apart."""


class Row(msgspec.Struct, frozen=True):
    """A recording on a release and processor. lines: decisions there. differing: lines that are not the same to the
    letter. labels: lines with another label or time, or on one side alone. max_apart: most by which a probability
    differs. beyond: how many differ by more than a step."""

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


def compare(there: list[Decision], here: list[Decision], manifest: Manifest, place: tuple[str, str]) -> Row:
    """Line by line. place: suite and processor."""
    step = manifest.output.scale / manifest.temperature
    apart = [
        (abs(p - q), reach(q, step)) for one, other in zip(there, here, strict=False) for p, q in pairs(one, other)
    ]
    both = list(zip_longest(there, here))
    return Row(
        *place,
        manifest.name,
        len(there),
        sum(one != other for one, other in both),
        sum(one is None or other is None or (one.t, one.label) != (other.t, other.label) for one, other in both),
        round(max((distance for distance, _ in apart), default=0.0), 6),
        sum(distance > limit for distance, limit in apart),
    )


def pairs(one: Decision, other: Decision) -> list[tuple[float, float]]:
    """Probabilities of the labels that either shows; one that shows less than all has nothing above its last."""
    left, right = dict(one.top), dict(other.top)
    return [(left.get(label, min(left.values())), right.get(label, min(right.values()))) for label in {**left, **right}]


def reach(probability: float, step: float) -> float:
    """By how much a probability may differ: its log-odds move by `step` at most where one logit does. step: over the
    temperature."""
    if not 0.0 < probability < 1.0:
        return ROUNDING
    odds = math.exp(step) * probability / (1.0 - probability)
    down = math.exp(-step) * probability / (1.0 - probability)
    return max(odds / (1.0 + odds) - probability, probability - down / (1.0 + down)) + ROUNDING


def read(path: Path) -> list[Decision]:
    """Decisions of a result; none of a process that crashed."""
    try:
        return [msgspec.json.decode(line, type=Decision) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError):
        return []


def main(
    results: Annotated[Path, typer.Argument(help="Folder of results.")],
    models: Annotated[list[Path], typer.Argument(help="The model files that were listened with.")],
) -> None:
    """Compare what emulated boards said of a recording with what this machine says."""
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
    form = "{:<10}{:<13}{:<32}{:>7}{:>11}{:>14}{:>11}{:>15}"
    print(form.format("suite", "cpu", "model", "lines", "differing", "other labels", "max apart", "beyond a step"))
    for row in rows:
        print(form.format(*msgspec.structs.astuple(row)))
    ok = all(row.ok for row in rows)
    print(msgspec.json.encode({"ok": ok, "rows": rows}).decode())
    if not ok:
        raise GateError(
            "heard otherwise: " + "; ".join(f"{row.model} on {row.suite}, {row.cpu}" for row in rows if not row.ok)
        )


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgekdError as error:
        print(f"emulated_listen: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
