"""Measured milliseconds for a latency budget: one figure from the command line, or what `edgekd bench --json` wrote on
the board."""

from pathlib import Path, PurePath
from typing import Annotated

import msgspec

from edgekd.complexity.reports.stored import read_json
from edgekd.complexity.target import Latency, Target, same_name
from edgekd.errors import InputError
from edgekd.text import counted

Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Times(msgspec.Struct, frozen=True):
    """Of one stage, in milliseconds."""

    p50: Milliseconds
    p95: Milliseconds


class Bench(msgspec.Struct, frozen=True):
    """What is read of one `bench --json` object."""

    model: str
    engine: str
    threads: int
    machine: str
    network_ms: Times
    frontend_ms: Times
    pipeline_ms: Times


class Measured(msgspec.Struct, frozen=True):
    """A figure that can be judged, or why there is none. ms: None where nothing fits; why: then the reason."""

    ms: float | None
    why: str = ""


NOTHING = Measured(None, "not measured")


def given(ms: float, board: str | None, target: Target) -> Measured:
    """A figure that the user vouches for: the stage, percentile, engine and threads are those of the target's budget.

    Raises:
        InputError: no positive number, no board or another one, or a target without a latency budget.
    """
    budget = _budget(target, "--latency-ms")
    if not 0 < ms < float("inf"):
        raise InputError(f"--latency-ms is {ms:g}; it must be positive")
    if board is None:
        raise InputError(
            f"--latency-ms needs --board NAME, the board it was measured on; {target.name} judges {budget.board}"
        )
    if not (is_board(board, budget.board) or any(same_name(board, name) for name in (target.name, *target.aliases))):
        raise InputError(
            f"--board is '{board}', but the latency budget of {target.name} is for {budget.board}; "
            "measure there or choose another target"
        )
    return Measured(float(ms))


def read_bench(path: Path, target: Target) -> tuple[Bench, ...]:
    """Read a `bench --json` document.

    Raises:
        InputError: unreadable, another document, or a target without a latency budget.
    """
    _budget(target, "--bench")
    return read_json(path, Bench, "--bench", "what 'edgekd bench --json' printed")


def from_bench(benches: tuple[Bench, ...], model: str, target: Target) -> Measured:
    """The figure of one model, where the document measured it as the target's budget asks.

    Args:
        benches: as `read_bench` gives them.
        model: path of the judged file; the document may have found it elsewhere, so only the file's name counts.
        target: its budget names board, engine, threads, stage and percentile.
    """
    budget = _budget(target, "--bench")
    found = [bench for bench in benches if PurePath(bench.model).name == PurePath(model).name]
    if not found:
        return Measured(None, f"not measured: the bench document has no {PurePath(model).name}")
    for bench in found:
        if bench.engine in budget.engines and bench.threads == budget.threads and is_board(bench.machine, budget.board):
            times = {"network": bench.network_ms, "frontend": bench.frontend_ms, "pipeline": bench.pipeline_ms}[
                budget.stage
            ]
            return Measured(times.p50 if budget.percentile == "p50" else times.p95)
    bench = found[0]
    return Measured(
        None, f"not measured as asked, but on {bench.machine}, {bench.engine}, {counted(bench.threads, 'thread')}"
    )


def conditions(budget: Latency) -> str:
    """What a latency budget is for, in words."""
    return (
        f"{budget.stage} {budget.percentile}, {' or '.join(budget.engines)}, {counted(budget.threads, 'thread')},"
        f" {budget.board}"
    )


def is_board(machine: str, board: str) -> bool:
    """Whether a machine's name begins with the words of a board's: "Raspberry Pi 4 Model B Rev 1.4 (asimd)" is a
    "Raspberry Pi 4", a "Raspberry Pi 400" is none."""
    words = board.casefold().split()
    return machine.casefold().split()[: len(words)] == words


def _budget(target: Target, option: str) -> Latency:
    if target.latency is None:
        raise InputError(
            f"{option}: target {target.name} sets no latency budget; choose a target of a board, or leave the"
            " option out"
        )
    return target.latency
