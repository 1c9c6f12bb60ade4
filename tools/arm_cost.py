"""Compares instruction counts of emulated boards with a baseline; `arm_cost.sh` counts them and calls this.

    python tools/arm_cost.py check [--baseline FILE] [--tolerance 0.01]      checks the options before the long counting
    python tools/arm_cost.py compare RESULTS [--baseline FILE] [--tolerance 0.01]

RESULTS holds SUITE/CPU/MODEL.REPEAT and MODEL.REPEAT.marks, one pair for each process. The cost of a stage is the
difference between its long and its short loop, divided by the difference in iterations, so that start-up and imports
cancel. Only the thread that loops is counted; engines with one thread compute in it. ONNX Runtime's own thread
sometimes works too and would make the counts less repeatable. Prints a table, then one JSON line (`Costs`), which is
the next baseline.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from toolbox import NOTHING, run_tool

from edgekd.errors import GateError, InputError
from edgekd.text import columns

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

MAX_SPREAD = 0.001
"""Largest difference of a count between processes, as a share of the smallest, at which counts are compared."""
MAX_ELSEWHERE = 0.02
"""Largest share of all instructions during the loops that other threads than the counted one may execute."""
TOLERANCE = 0.01
MARKS = ".marks"
STAGE_HEADERS = {"network": "network", "frontend": "front end", "pipeline": "pipeline", "stream": "stream"}
"""Stages as `edgekd bench` names them -> headers of the table."""

Count = Annotated[float, msgspec.Meta(gt=0)]
Baseline = Annotated[Path | None, typer.Option(help="The JSON line of an earlier run.")]
Tolerance = Annotated[float, typer.Option(help="Share by which a stage may grow.")]


class Loops(msgspec.Struct, frozen=True):
    """The output of arm_cost_loops.py."""

    engine: str
    stages: tuple[str, ...]
    few: int
    many: int
    versions: dict[str, str]


class Row(msgspec.Struct, frozen=True):
    """Instructions per iteration of each stage of a model on a release and processor: medians of `repeats` processes.

    Attributes:
        spread: (largest - smallest) / smallest of the processes.
        elsewhere: largest share of the instructions during the loops that other threads executed.
        versions: of the software that influences the counts.
    """

    suite: str
    cpu: str
    model: str
    engine: str
    instructions: Annotated[dict[str, Count], msgspec.Meta(min_length=1)]
    spread: dict[str, float]
    elsewhere: float
    repeats: int
    versions: dict[str, str]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identifies the row of a baseline to compare with."""
        return self.suite, self.cpu, self.model, self.engine

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.model} in {self.engine} on {self.cpu}, {self.suite}"


class Repeat(NamedTuple):
    """The counts of one process: instructions per iteration of each stage, and the share of other threads."""

    loops: Loops
    costs: dict[str, float]
    elsewhere: float


class Costs(msgspec.Struct, frozen=True):
    """The JSON line; fields may be added, never renamed."""

    rows: Annotated[tuple[Row, ...], msgspec.Meta(min_length=1)]
    ok: bool
    failures: tuple[str, ...] = ()


@app.command()
def check(baseline: Baseline = None, tolerance: Tolerance = TOLERANCE) -> None:
    """Refuse a baseline or tolerance that cannot be used."""
    _check_tolerance(tolerance)
    if baseline is not None:
        read_baseline(baseline)


@app.command()
def compare(
    results: Annotated[Path, typer.Argument(help="Folder of counts.")],
    baseline: Baseline = None,
    tolerance: Tolerance = TOLERANCE,
    qemu: Annotated[str, typer.Option(help="Version of the emulator, for the record.")] = "",
) -> None:
    """Collect counts and compare them with a baseline."""
    _check_tolerance(tolerance)
    rows, failures = collect(results, qemu)
    earlier = () if baseline is None else read_baseline(baseline)
    failures += unsteady(rows)
    if baseline is not None:
        known = {row.key for row in earlier}
        if not known & {row.key for row in rows}:
            raise InputError(
                f"{baseline}: holds none of the models counted ({', '.join(row.name for row in rows)}); make it again"
            )
        failures += grown(rows, earlier, tolerance)
    _print_table(rows, earlier)
    print(msgspec.json.encode(Costs(tuple(rows), not failures, tuple(failures))).decode())
    if failures:
        raise GateError("; ".join(failures))


def read_baseline(path: Path) -> tuple[Row, ...]:
    """Rows of an earlier run's JSON line.

    Raises:
        InputError: no such file, or not such a line.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs).rows
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the JSON line of an earlier run") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is no baseline ({error}); make one with: tools/arm_cost.sh MODEL | tail -n 1 > {path.name}"
        ) from None


def collect(results: Path, qemu: str) -> tuple[list[Row], list[str]]:
    """The rows of all counts, and a phrase for each model whose processes crashed.

    Raises:
        InputError: nothing was counted.
    """
    repeats: dict[tuple[str, str, str], list[Path]] = {}
    for path in sorted(results.glob("*/*/*")):
        model, _, repeat = path.name.rpartition(".")
        if repeat.isdigit():
            repeats.setdefault((path.parent.parent.name, path.parent.name, model), []).append(path)
    rows, failures = [], []
    for (suite, cpu, model), paths in repeats.items():
        found = [_read_repeat(path) for path in paths]
        counted = [each for each in found if each is not None]
        if len(counted) < len(paths):
            crashed = len(paths) - len(counted)
            failures.append(f"{model} on {cpu}, {suite}: {crashed} of {len(paths)} processes crashed")
            continue
        loops = counted[0].loops
        of_stage = {stage: [repeat.costs[stage] for repeat in counted] for stage in loops.stages}
        rows.append(
            Row(
                suite,
                cpu,
                model,
                loops.engine,
                {stage: statistics.median(each) for stage, each in of_stage.items()},
                {stage: round(max(each) / min(each) - 1, 6) for stage, each in of_stage.items()},
                round(max(repeat.elsewhere for repeat in counted), 6),
                len(paths),
                {**loops.versions, "qemu": qemu},
            )
        )
    if not rows:
        raise InputError(f"{results}: holds no counts ({'; '.join(failures) or 'nothing was run'}); run arm_cost.sh")
    return rows, failures


def unsteady(rows: Iterable[Row]) -> list[str]:
    """A phrase for each count that does not repeat, or leaves out too many instructions of other threads."""
    found = []
    for row in rows:
        found += [
            f"the {stage} of {row.name} differs by {100 * spread:.2f} % between processes, more than"
            f" {100 * MAX_SPREAD:g} %"
            for stage, spread in row.spread.items()
            if spread > MAX_SPREAD
        ]
        if row.elsewhere > MAX_ELSEWHERE:
            found.append(
                f"{row.name}: {100 * row.elsewhere:.1f} % of the instructions are other threads', more than "
                f"{100 * MAX_ELSEWHERE:g} %, and not counted"
            )
    return found


def grown(rows: Iterable[Row], earlier: Iterable[Row], tolerance: float) -> list[str]:
    """A phrase for each stage that costs more than before. Rows without a counterpart are ignored."""
    before = {row.key: row for row in earlier}
    found = []
    for row in rows:
        old = before.get(row.key)
        for stage, count in row.instructions.items() if old else ():
            was = old.instructions.get(stage)
            if was is not None and count > was * (1 + tolerance):
                found.append(
                    f"the {stage} of {row.name} has grown by {100 * (count / was - 1):.2f} %, from {was:,.0f} to"
                    f" {count:,.0f} instructions{_version_changes(old.versions, row.versions)}"
                )
    return found


def _version_changes(old: dict[str, str], new: dict[str, str]) -> str:
    """The versions that differ, in brackets; "" for none."""
    changes = [
        f"{name} {old.get(name, NOTHING)} to {new.get(name, NOTHING)}" for name in new if old.get(name) != new.get(name)
    ]
    return f" ({', '.join(changes)})" if changes else ""


def _read_repeat(path: Path) -> Repeat | None:
    """The counts in the files of one process; None where it crashed."""
    marks = path.with_name(path.name + MARKS)
    try:
        loops = msgspec.json.decode(path.read_bytes(), type=Loops)
        lines = [line.split() for line in marks.read_text().splitlines()]  # mark, own, all
        own, every = ([int(line[column]) for line in lines] for column in (1, 2))
        costs = {
            stage: ((end - middle) - (middle - start)) / (loops.many - loops.few)
            for stage, start, middle, end in zip(loops.stages, own[::3], own[1::3], own[2::3], strict=True)
        }
        return Repeat(loops, costs, 1 - (own[-1] - own[0]) / (every[-1] - every[0]))
    except (OSError, ValueError, IndexError, ZeroDivisionError, msgspec.DecodeError):
        return None


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < 1:
        raise InputError(
            f"--tolerance is {tolerance}; give a share of at least 0 and below 1, for instance {TOLERANCE}"
        )


def _print_table(rows: Sequence[Row], earlier: Iterable[Row]) -> None:
    """Print instructions per inference, and the stage that has changed most since the baseline."""
    before = {row.key: row for row in earlier}
    header = ["suite", "cpu", "engine", "model", *STAGE_HEADERS.values(), "spread", "since the baseline"]
    lines = []
    for row in rows:
        old, since = before.get(row.key), NOTHING
        if old:
            change = {
                stage: count / old.instructions[stage] - 1
                for stage, count in row.instructions.items()
                if stage in old.instructions
            }
            stage = max(change, key=lambda name: abs(change[name]), default="")
            since = f"{100 * change[stage]:+.2f} % {stage}" if stage else NOTHING
        counts = [
            f"{row.instructions[stage]:,.0f}" if stage in row.instructions else NOTHING for stage in STAGE_HEADERS
        ]
        lines.append(
            [row.suite, row.cpu, row.engine, row.model, *counts, f"{100 * max(row.spread.values()):.3f} %", since]
        )
    print("\n".join(columns(header, lines, left=4)))


if __name__ == "__main__":
    run_tool(app)
