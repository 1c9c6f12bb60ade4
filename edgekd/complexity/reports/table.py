"""The report for a terminal: verdict, budgets, rules, changes, totals by convention, layers."""

from collections.abc import Sequence

from edgekd.complexity.baseline import BaselineComparison, percent
from edgekd.complexity.counts import ModelCounts
from edgekd.complexity.gate import BudgetResult, RuleResult, listed
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import number, shorten, used
from edgekd.complexity.reports.rows import (
    CHANGED_LAYERS,
    LAYERS,
    TOTALS,
    changed_layer_rows,
    difference_lines,
    external_lines,
    layer_rows,
    totals_rows,
    verdict_line,
)
from edgekd.text import columns, counted, printable


def table(checked: Sequence[CheckResult]) -> str:
    """The report as plain text. Before the reports of several models comes one line for each."""
    parts = [_one(each) for each in checked]
    if len(checked) > 1:
        lines = [f"{'ok  ' if each.ok else 'FAIL'}  {printable(each.counts.model)}" for each in checked]
        parts.insert(0, "\n".join(lines))
    return "\n\n".join(parts)


def _one(checked: CheckResult) -> str:
    counts, verdict = checked.counts, checked.verdict
    return "\n".join(
        map(
            printable,
            [
                verdict_line(checked),
                (
                    f"{counts.model}: {counts.file_bytes:,} bytes, at most {counts.peak_activation_bytes:,} bytes of"
                    " activations alive at once"
                ),
                *external_lines(counts),
                *(["", *_budgets(verdict.budgets)] if verdict.budgets else []),
                *_notes(verdict.budgets),
                *_rules(verdict.rules),
                *(["", *_changes(checked.comparison)] if checked.comparison else []),
                "",
                *_totals(counts),
                "",
                *columns(LAYERS, layer_rows(counts), left=5),
            ],
        )
    )


def _totals(counts: ModelCounts) -> list[str]:
    frontend = (
        "unknown (the file has no manifest)"
        if counts.frontend_macs is None
        else f"about {counts.frontend_macs:,} (in no budget)"
    )
    stored = ", ".join(f"{dtype} {size:,}" for dtype, size in counts.bytes_by_dtype.items())
    return [
        *columns(TOTALS, totals_rows(counts)),
        *difference_lines(counts.differences),
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
    return columns(["budget", "value", "limit", "used", "by", ""], rows)


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
    return [
        f"compared with {comparison.baseline}, {100 * comparison.tolerance:g} % tolerated",
        *columns(["total", "before", "now", "change", ""], totals),
        *(
            columns(CHANGED_LAYERS, changed_layer_rows(comparison), left=3)
            if comparison.layers
            else ["no layer changed"]
        ),
    ]
