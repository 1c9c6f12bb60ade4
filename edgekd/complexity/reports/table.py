"""The report for a terminal: layers, totals by convention, budgets, rules, changes, verdict."""

import re
from collections import defaultdict
from collections.abc import Sequence

from edgekd.complexity.baseline import BaselineComparison, percent
from edgekd.complexity.counts import Layer, ModelCounts
from edgekd.complexity.differences import Difference
from edgekd.complexity.gate import BudgetResult, RuleResult, listed
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import number, plain, shape, shorten, used
from edgekd.text import columns, counted


def table(checked: Sequence[CheckResult]) -> str:
    """The report as plain text. After the reports of several models comes one line for each."""
    parts = [_one(each) for each in checked]
    if len(checked) > 1:
        parts.append("\n".join(f"{'ok  ' if each.ok else 'FAIL'}  {plain(each.counts.model)}" for each in checked))
    return "\n\n".join(parts)


NUMBER = re.compile(r"(?<!\w)[+-]?\d[\d,]*")
"""Matches a number that is not part of a word such as int8."""


def verdict_line(checked: CheckResult) -> str:
    """The verdict as `dcase2023: ok`, or with the kinds of failure."""
    verdict, comparison = checked.verdict, checked.comparison
    failures = [
        *(["over budget"] if any(not budget.ok for budget in verdict.budgets) else []),
        *(["against the rules"] if any(not rule.ok for rule in verdict.rules) else []),
        *(["grown"] if comparison is not None and not comparison.ok else []),
    ]
    return f"{verdict.target}: {' and '.join(failures) or 'ok'}"


def differences(counts: ModelCounts) -> list[str]:
    """Why the conventions differ from `exact`, a line for each reason: `nessi_tflite: macs +34,560 in 2 layers, NeSsi
    counts ...`.

    Reasons that differ only in numbers share a line, with an `n` for each such number.
    """
    reasons: defaultdict[tuple[str, str, str], list[Difference]] = defaultdict(list)
    for each in counts.differences:
        reasons[each.convention, each.quantity, NUMBER.sub("n", each.why)].append(each)
    lines = []
    for (convention, quantity, _), found in reasons.items():
        words = zip(*(each.why.split(" ") for each in found), strict=True)
        why = " ".join(same[0] if len(set(same)) == 1 else NUMBER.sub("n", same[0]) for same in words)
        where = shorten(found[0].layer) if len(found) == 1 else f"{len(found):,} layers"
        lines.append(f"{convention}: {quantity} {sum(each.theirs - each.exact for each in found):+,} in {where}, {why}")
    return lines


def _one(checked: CheckResult) -> str:
    counts, verdict = checked.counts, checked.verdict
    return "\n".join(
        map(
            plain,
            [
                (
                    f"{counts.model}: {counts.file_bytes:,} bytes, at most {counts.peak_activation_bytes:,} bytes of"
                    " activations alive at once"
                ),
                "",
                *_layers(counts),
                "",
                *_totals(counts),
                *(["", *_budgets(verdict.budgets)] if verdict.budgets else []),
                *_notes(verdict.budgets),
                *_rules(verdict.rules),
                *(["", *_changes(checked.comparison)] if checked.comparison else []),
                verdict_line(checked),
            ],
        )
    )


def _layers(counts: ModelCounts) -> list[str]:
    rows = [
        [
            shorten(layer.name),
            op(layer),
            shape(layer.input),
            shape(layer.output),
            shape(layer.weight),
            f"{layer.macs:,}",
            f"{layer.param_bytes:,}",
        ]
        for layer in counts.layers
    ]
    return columns(["layer", "op", "input", "output", "kernel", "macs", "param bytes"], rows, left=5)


def op(layer: Layer) -> str:
    """The op of a layer, and what it computes if that is something else."""
    return shorten(layer.op) + (f" ({layer.emulates})" if layer.emulates else "")


def _totals(counts: ModelCounts) -> list[str]:
    totals = [
        [name, f"{count.macs:,}", f"{count.params:,}", f"{count.param_bytes:,}"]
        for name, count in counts.conventions.items()
        if count is not None
    ]
    frontend = (
        "unknown (the file has no manifest)"
        if counts.frontend_macs is None
        else f"about {counts.frontend_macs:,} (in no budget)"
    )
    stored = ", ".join(f"{dtype} {size:,}" for dtype, size in counts.bytes_by_dtype.items())
    return [
        *columns(["convention", "macs", "params", "param bytes"], totals, left=1),
        *differences(counts),
        *(
            [f"convolutions that compute pools or copies: {counts.emulated.macs:,} macs, which exact leaves out"]
            if counts.emulated.macs
            else []
        ),
        f"parameters that are not zero: {counts.nonzero_params:,}; bytes by type: {stored or 'none'}",
        *(
            f"no counting rule: {shorten(each.op)} x {each.count:,} ({counted(each.params, 'parameter')}): {each.note}"
            for each in counts.unknown
        ),
        f"front end macs: {frontend}",
    ]


def _budgets(budgets: Sequence[BudgetResult]) -> list[str]:
    rows = [
        [
            budget.name,
            number(budget.value),
            number(budget.limit),
            used(budget.value, budget.limit),
            budget.convention or "",
            budget.status if budget.status in {"ok", "not measured"} else budget.status.upper(),
        ]
        for budget in budgets
    ]
    return columns(["budget", "value", "limit", "used", "by", ""], rows, left=1)


def _notes(budgets: Sequence[BudgetResult]) -> list[str]:
    return [f"{budget.name}: {budget.note}" for budget in budgets if budget.note]


def _rules(rules: Sequence[RuleResult]) -> list[str]:
    return [
        f"{rule.name}: " + ("ok" if rule.ok else f"AGAINST THE RULES: {listed(rule.found)} ({rule.allowed})")
        for rule in rules
    ]


def _changes(comparison: BaselineComparison) -> list[str]:
    totals = [
        [change.name, f"{change.before:,}", f"{change.after:,}", percent(change), "ok" if change.ok else "GROWN"]
        for change in comparison.changes
    ]
    layers = [
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
    return [
        f"compared with {comparison.baseline}, {100 * comparison.tolerance:g} % tolerated",
        *columns(["total", "before", "now", "change", ""], totals, left=1),
        *(
            columns(["layer", "op", "", "macs before", "now", "bytes before", "now"], layers, left=3)
            if layers
            else ["no layer changed"]
        ),
    ]
