"""Rows of cells that the table and the Markdown report share: layers, totals, changed layers, reasons, the verdict."""

import re
from collections import defaultdict

from edgekd.complexity.baseline import BaselineComparison
from edgekd.complexity.counts import Layer, ModelCounts
from edgekd.complexity.differences import Difference
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import shape, shorten

LAYERS = ("layer", "op", "input", "output", "kernel", "macs", "param bytes")
TOTALS = ("convention", "macs", "params", "param bytes")
CHANGED_LAYERS = ("layer", "op", "", "macs before", "macs now", "bytes before", "bytes now")
"""Headers. The first two cells of a layer are names from the file."""
UNCOUNTED = "not counted"
"""Shown for the macs of a layer without a counting rule."""
NUMBER = re.compile(r"(?<!\w)[+-]?\d[\d,]*")
"""Matches a number that is not part of a word such as int8."""


def layer_rows(counts: ModelCounts) -> list[list[str]]:
    """A row for each layer, under the header `LAYERS`."""
    return [
        [
            shorten(layer.name),
            _op(layer),
            shape(layer.input),
            shape(layer.output),
            shape(layer.weight),
            f"{layer.macs:,}" if layer.counted else UNCOUNTED,
            f"{layer.param_bytes:,}",
        ]
        for layer in counts.layers
    ]


def totals_rows(counts: ModelCounts) -> list[list[str]]:
    """A row for each convention that counts the file, under the header `TOTALS`."""
    return [
        [name, f"{totals.macs:,}", f"{totals.params:,}", f"{totals.param_bytes:,}"]
        for name, totals in counts.conventions.items()
        if totals is not None
    ]


def changed_layer_rows(comparison: BaselineComparison) -> list[list[str]]:
    """A row for each layer that changed, under the header `CHANGED_LAYERS`."""
    return [
        [
            shorten(layer.name),
            shorten(layer.op),
            layer.change,
            f"{layer.macs_before:,}",
            f"{layer.macs:,}",
            f"{layer.param_bytes_before:,}",
            f"{layer.param_bytes:,}",
        ]
        for layer in comparison.layers
    ]


def difference_lines(differences: tuple[Difference, ...]) -> list[str]:
    """Why the conventions differ from `exact`, a line for each reason: `nessi_tflite: macs +34,560 in 2 layers, NeSsi
    counts ...`.

    Reasons that differ only in numbers share a line, with an `n` for each such number.
    """
    reasons: defaultdict[tuple[str, str, str], list[Difference]] = defaultdict(list)
    for each in differences:
        reasons[each.convention, each.quantity, NUMBER.sub("n", each.why)].append(each)
    lines = []
    for (convention, quantity, _), alike in reasons.items():
        words = zip(*(each.why.split(" ") for each in alike), strict=True)
        why = " ".join(same[0] if len(set(same)) == 1 else NUMBER.sub("n", same[0]) for same in words)
        where = shorten(alike[0].layer) if len(alike) == 1 else f"{len(alike):,} layers"
        lines.append(f"{convention}: {quantity} {sum(each.theirs - each.exact for each in alike):+,} in {where}, {why}")
    return lines


def external_lines(counts: ModelCounts) -> list[str]:
    """A line for each other file that holds weights: `weights in m.data: 1,234 bytes, missing`."""
    return [
        f"weights in {shorten(each.file)}: {each.bytes:,} bytes"
        + (", MISSING: no such file in the folder of the model, so no engine can run it" if each.missing else "")
        for each in counts.external
    ]


def verdict_line(checked: CheckResult) -> str:
    """The verdict as `dcase2023: ok`, or with the kinds of failure: `dcase2023: over budget and macs unknown`."""
    verdict, comparison = checked.verdict, checked.comparison
    failed = [budget for budget in verdict.budgets if not budget.ok]
    failures = [
        *(["over budget"] if any(budget.status == "over" for budget in failed) else []),
        *(f"{budget.name} {budget.status}" for budget in failed if budget.status != "over"),
        *(["against the rules"] if any(not rule.ok for rule in verdict.rules) else []),
        *(["grown"] if comparison is not None and not comparison.ok else []),
    ]
    return f"{verdict.target}: {' and '.join(failures) or 'ok'}"


def _op(layer: Layer) -> str:
    """The op of a layer, and what it computes if that is something else."""
    return shorten(layer.op) + (f" ({layer.emulates})" if layer.emulates else "")
