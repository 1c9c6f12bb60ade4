"""A measured latency for a latency budget: from the command line, or from a document that `edgekd bench --json` printed
on the board."""

from pathlib import Path, PurePath
from typing import Annotated

import msgspec

from edgekd.complexity.reports.stored import read_json
from edgekd.complexity.target import Latency, Target, same_name
from edgekd.errors import InputError
from edgekd.text import counted

Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class StoredTimes(msgspec.Struct, frozen=True):
    """Latency of one stage, in milliseconds."""

    p50: Milliseconds
    p95: Milliseconds


class StoredBench(msgspec.Struct, frozen=True):
    """The fields of a `bench --json` object that are used."""

    model: str
    engine: str
    threads: int
    machine: str
    network_ms: StoredTimes
    frontend_ms: StoredTimes
    pipeline_ms: StoredTimes


class MeasuredLatency(msgspec.Struct, frozen=True):
    """A latency in milliseconds. ms: None where none was measured as the budget asks; why: then the reason."""

    ms: float | None
    why: str = ""


NOT_MEASURED = MeasuredLatency(None, "not measured")


def given(ms: float, board: str | None, target: Target) -> MeasuredLatency:
    """A latency given on the command line. Its stage, percentile, engine and threads are taken to be those of the
    budget.

    Raises:
        InputError: not a positive number, no board or another one, or a target without a latency budget.
    """
    budget = _budget(target, "--latency-ms")
    if not 0 < ms < float("inf"):
        raise InputError(f"--latency-ms is {ms:g}; it must be positive")
    if board is None:
        raise InputError(
            f"--latency-ms needs --board NAME, the board it was measured on; {target.name} is for {budget.board}"
        )
    if not (is_board(board, budget.board) or any(same_name(board, name) for name in (target.name, *target.aliases))):
        raise InputError(
            f"--board is '{board}', but the latency budget of {target.name} is for {budget.board}; "
            "measure there or choose another target"
        )
    return MeasuredLatency(float(ms))


def read_bench(path: Path, target: Target) -> tuple[StoredBench, ...]:
    """Read a `bench --json` document.

    Raises:
        InputError: unreadable, another document, or a target without a latency budget.
    """
    _budget(target, "--bench")
    return read_json(path, StoredBench, "--bench", "what 'edgekd bench --json' printed")


def from_bench(benches: tuple[StoredBench, ...], model: str, target: Target) -> MeasuredLatency:
    """The latency of one model, if the document has one that was measured as the target's budget asks.

    Args:
        benches: as `read_bench` returns them.
        model: path of the file. It may have been measured in another folder, so only the file's name is compared.
        target: its budget names board, engine, threads, stage and percentile.
    """
    budget = _budget(target, "--bench")
    found = [bench for bench in benches if PurePath(bench.model).name == PurePath(model).name]
    if not found:
        return MeasuredLatency(None, f"not measured: the bench document has no {PurePath(model).name}")
    for bench in found:
        if bench.engine in budget.engines and bench.threads == budget.threads and is_board(bench.machine, budget.board):
            times = {"network": bench.network_ms, "frontend": bench.frontend_ms, "pipeline": bench.pipeline_ms}[
                budget.stage
            ]
            return MeasuredLatency(times.p50 if budget.percentile == "p50" else times.p95)
    bench = found[0]
    return MeasuredLatency(
        None, f"not measured as asked, but on {bench.machine}, {bench.engine}, {counted(bench.threads, 'thread')}"
    )


def conditions(budget: Latency) -> str:
    """The conditions of a latency budget, in words."""
    return (
        f"{budget.stage} {budget.percentile}, {' or '.join(budget.engines)}, {counted(budget.threads, 'thread')},"
        f" {budget.board}"
    )


def is_board(machine: str, board: str) -> bool:
    """Whether a machine's name begins with the words of a board's name.

    "Raspberry Pi 4 Model B Rev 1.4 (asimd)" is a "Raspberry Pi 4", but "Raspberry Pi 400" is not.
    """
    words = board.casefold().split()
    return machine.casefold().split()[: len(words)] == words


def _budget(target: Target, option: str) -> Latency:
    """The latency budget of a target.

    Raises:
        InputError: it has none.
    """
    if target.latency is None:
        raise InputError(
            f"{option}: target {target.name} sets no latency budget; choose a target of a board, or leave the"
            " option out"
        )
    return target.latency
