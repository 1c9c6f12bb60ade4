"""The report for a terminal: layers, totals by convention, budgets, rules, what changed, verdict."""

import re
from collections import defaultdict
from collections.abc import Sequence

from edgekd.complexity.baseline import Comparison, percent
from edgekd.complexity.counts import Layer, Ledger
from edgekd.complexity.differences import Difference
from edgekd.complexity.gate import Budget, Rule, listed
from edgekd.complexity.reports.document import Checked
from edgekd.complexity.reports.names import number, plain, shape, shorten, used
from edgekd.text import columns, counted


def table(checked: Sequence[Checked]) -> str:
    """Plain text; several models are followed by one line each."""
    parts = [_one(each) for each in checked]
    if len(checked) > 1:
        parts.append("\n".join(f"{'ok  ' if each.ok else 'FAIL'}  {plain(each.ledger.model)}" for each in checked))
    return "\n\n".join(parts)


NUMBER = re.compile(r"(?<!\w)[+-]?\d[\d,]*")
"""A number that is not part of a word such as int8."""


def verdict_line(checked: Checked) -> str:
    """`dcase2023: ok`, or what kind of failure."""
    verdict, comparison = checked.verdict, checked.comparison
    wrong = [
        *(["over budget"] if any(not budget.ok for budget in verdict.budgets) else []),
        *(["against the rules"] if any(not rule.ok for rule in verdict.rules) else []),
        *(["grown"] if comparison is not None and not comparison.ok else []),
    ]
    return f"{verdict.target}: {' and '.join(wrong) or 'ok'}"


def differences(ledger: Ledger) -> list[str]:
    """Why the conventions differ from `exact`, a line for each reason: `nessi_tflite: macs +34,560 in 2 layers, NeSsi
    counts ...`.

    Reasons that differ only in numbers are one, with an `n` in the place of each such number.
    """
    reasons: defaultdict[tuple[str, str, str], list[Difference]] = defaultdict(list)
    for each in ledger.differences:
        reasons[each.convention, each.quantity, NUMBER.sub("n", each.why)].append(each)
    lines = []
    for (convention, quantity, _), found in reasons.items():
        words = zip(*(each.why.split(" ") for each in found), strict=True)
        why = " ".join(same[0] if len(set(same)) == 1 else NUMBER.sub("n", same[0]) for same in words)
        where = shorten(found[0].layer) if len(found) == 1 else f"{len(found):,} layers"
        lines.append(f"{convention}: {quantity} {sum(each.theirs - each.exact for each in found):+,} in {where}, {why}")
    return lines


def _one(checked: Checked) -> str:
    ledger, verdict = checked.ledger, checked.verdict
    return "\n".join(
        map(
            plain,
            [
                (
                    f"{ledger.model}: {ledger.file_bytes:,} bytes, at most {ledger.peak_activation_bytes:,} bytes of"
                    " activations alive at once"
                ),
                "",
                *_layers(ledger),
                "",
                *_totals(ledger),
                *(["", *_budgets(verdict.budgets)] if verdict.budgets else []),
                *_notes(verdict.budgets),
                *_rules(verdict.rules),
                *(["", *_changes(checked.comparison)] if checked.comparison else []),
                verdict_line(checked),
            ],
        )
    )


def _layers(ledger: Ledger) -> list[str]:
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
        for layer in ledger.layers
    ]
    return columns(["layer", "op", "input", "output", "kernel", "macs", "param bytes"], rows, left=5)


def op(layer: Layer) -> str:
    """What a layer is called, and what it is in fact where that is something else."""
    return shorten(layer.op) + (f" ({layer.emulates})" if layer.emulates else "")


def _totals(ledger: Ledger) -> list[str]:
    counts = [
        [name, f"{count.macs:,}", f"{count.params:,}", f"{count.param_bytes:,}"]
        for name, count in ledger.conventions.items()
        if count is not None
    ]
    frontend = (
        "unknown (the file has no manifest)"
        if ledger.frontend_macs is None
        else f"about {ledger.frontend_macs:,} (in no budget)"
    )
    stored = ", ".join(f"{dtype} {size:,}" for dtype, size in ledger.bytes_by_dtype.items())
    return [
        *columns(["convention", "macs", "params", "param bytes"], counts, left=1),
        *differences(ledger),
        *(
            [f"convolutions that are pools or copies in fact: {ledger.emulated.macs:,} macs, which exact leaves out"]
            if ledger.emulated.macs
            else []
        ),
        f"parameters that are not zero: {ledger.nonzero_params:,}; bytes by type: {stored or 'none'}",
        *(
            f"no counting rule: {shorten(each.op)} x {each.count:,} ({counted(each.params, 'parameter')}): {each.note}"
            for each in ledger.unknown
        ),
        f"front end macs: {frontend}",
    ]


def _budgets(budgets: Sequence[Budget]) -> list[str]:
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


def _notes(budgets: Sequence[Budget]) -> list[str]:
    return [f"{budget.name}: {budget.note}" for budget in budgets if budget.note]


def _rules(rules: Sequence[Rule]) -> list[str]:
    return [
        f"{rule.name}: " + ("ok" if rule.ok else f"AGAINST THE RULES: {listed(rule.found)} ({rule.allowed})")
        for rule in rules
    ]


def _changes(comparison: Comparison) -> list[str]:
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
            else ["every layer costs what it did"]
        ),
    ]
