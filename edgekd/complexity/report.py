"""Writes a ledger and its verdict for people and for programs; a further format is a further function in `FORMATS`."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from edgekd.complexity.gate import Budget, Verdict
from edgekd.complexity.ledger import Count, Layer, Ledger


class Document(msgspec.Struct, frozen=True):
    """`check --format json`: fields may be added, never renamed."""

    model: str
    target: str
    ok: bool
    conventions: dict[str, Count | None]
    frontend_macs: int | None
    peak_activation_bytes: int
    file_bytes: int
    budgets: tuple[Budget, ...]
    layers: tuple[Layer, ...]


def json(ledger: Ledger, verdict: Verdict) -> str:
    """One JSON document."""
    document = Document(
        model=ledger.model, target=verdict.target, ok=verdict.ok, conventions=ledger.conventions, frontend_macs=ledger.frontend_macs,
        peak_activation_bytes=ledger.peak_activation_bytes, file_bytes=ledger.file_bytes, budgets=verdict.budgets, layers=ledger.layers,
    )
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def table(ledger: Ledger, verdict: Verdict) -> str:
    """Plain text: layers, totals by convention, budgets, verdict."""
    layers = [[_shorten(layer.name), layer.op, _shape(layer.input), _shape(layer.output), _shape(layer.weight), f"{layer.macs:,}",
               f"{layer.param_bytes:,}"] for layer in ledger.layers]
    counts = [[name, f"{count.macs:,}", f"{count.params:,}", f"{count.param_bytes:,}"]
              for name, count in ledger.conventions.items() if count is not None]
    budgets = [[budget.name, f"{budget.value:,}", f"{budget.limit:,}", f"{100 * budget.value / budget.limit:.1f} %",
                budget.convention or "", "ok" if budget.ok else "OVER"] for budget in verdict.budgets]
    frontend = "unknown (the file has no manifest)" if ledger.frontend_macs is None else f"about {ledger.frontend_macs:,} (in no budget)"
    return "\n".join([
        f"{ledger.model}: {ledger.file_bytes:,} bytes, at most {ledger.peak_activation_bytes:,} bytes of activations alive at once",
        "", *_columns(["layer", "op", "input", "output", "kernel", "macs", "param bytes"], layers, left=5),
        "", *_columns(["convention", "macs", "params", "param bytes"], counts, left=1), f"front end macs: {frontend}",
        "", *_columns(["budget", "value", "limit", "used", "by", ""], budgets, left=1),
        f"{verdict.target}: {'ok' if verdict.ok else 'over budget'}",
    ])


FORMATS: dict[str, Callable[[Ledger, Verdict], str]] = {"table": table, "json": json}

NAME_WIDTH = 32


def _shorten(name: str) -> str:
    """The end of a long name tells layers apart better than its beginning."""
    return name if len(name) <= NAME_WIDTH else "..." + name[3 - NAME_WIDTH:]


def _shape(shape: Iterable[int] | None) -> str:
    return "" if shape is None else "x".join(str(size) for size in shape)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of an aligned table: the first `left` columns to the left, numbers to the right."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]
    return ["  ".join(cell.ljust(width) if index < left else cell.rjust(width)
                      for index, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in [header, *rows]]
