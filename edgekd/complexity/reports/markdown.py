"""The report in GitHub's Markdown, for a job summary or a comment. Names from files are in code spans, so they cannot
act as markup."""

import re
from collections.abc import Iterable, Sequence

from edgekd.complexity.baseline import BaselineComparison, percent
from edgekd.complexity.counts import ModelCounts
from edgekd.complexity.gate import BudgetResult, RuleResult, listed
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import number, used
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
from edgekd.text import counted, markdown_table, printable

OK, FAILED, OPEN = "✅", "❌", "➖"


def markdown(checked: Sequence[CheckResult]) -> str:
    """The report: for several models a summary table, then a section for each model, with its layers folded."""
    parts = [_one(each) for each in checked]
    if len(checked) > 1:
        rows = [
            [_mark(each.ok), code(each.counts.model), _short_count(each.counts), code("; ".join(each.failures()))]
            for each in checked
        ]
        parts.insert(0, markdown_table(["", "model", "macs / parameter bytes", "failures"], rows, left=4))
    return "\n\n".join(parts) + "\n"


def code(text: str) -> str:
    """Any text as code spans, in which nothing is markup, a link or a mention, and nothing ends the cell of a table."""
    return "&#124;".join(_span(part) if part else "" for part in printable(text).split("|"))


def _span(text: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if "`" in {text[0], text[-1]} or (text[0] == text[-1] == " " and text.strip()) else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _one(checked: CheckResult) -> str:
    counts, verdict = checked.counts, checked.verdict
    parts = [f"### {_mark(checked.ok)} {code(counts.model)}", f"**{code(verdict_line(checked))}**"]
    if counts.external:
        parts.append("\n".join(f"- {code(line)}" for line in external_lines(counts)))
    if verdict.budgets:
        parts.append(
            markdown_table(
                ["", "budget", "value", "limit", "used", "by", "source of the limit"],
                [_budget(budget) for budget in verdict.budgets],
                left=7,
            )
        )
    notes = [f"- {code(budget.name)}: {code(budget.note)}" for budget in verdict.budgets if budget.note]
    parts += ["\n".join([*notes, *(_rule(rule) for rule in verdict.rules)])] if notes or verdict.rules else []
    parts.append(_totals(counts))
    if checked.comparison:
        parts.append(_changes(checked.comparison))
    rows = _with_code(layer_rows(counts))
    parts.append(_folded(counted(len(rows), "layer"), markdown_table(LAYERS, rows, left=5)))
    return "\n\n".join(parts)


def _budget(budget: BudgetResult) -> list[str]:
    mark = OPEN if budget.status == "not measured" and budget.ok else _mark(budget.ok)
    return [
        mark,
        budget.name,
        number(budget.value),
        number(budget.limit),
        used(budget.value, budget.limit),
        budget.convention or "",
        code(budget.source) if budget.source else "",
    ]


def _rule(rule: RuleResult) -> str:
    return f"- {_mark(rule.ok)} {code(rule.name)}" + (
        "" if rule.ok else f": {code(listed(rule.found))} ({code(rule.allowed)})"
    )


def _totals(counts: ModelCounts) -> str:
    frontend = "unknown" if counts.frontend_macs is None else f"about {counts.frontend_macs:,}"
    stored = ", ".join(f"{code(dtype)} {size:,}" for dtype, size in counts.bytes_by_dtype.items())
    lines = [
        markdown_table(TOTALS, totals_rows(counts)),
        "",
        (
            f"File {counts.file_bytes:,} bytes; activations alive at once at most {counts.peak_activation_bytes:,}"
            f" bytes; parameters that are not zero {counts.nonzero_params:,}; bytes by type: {stored or 'none'}; front"
            f" end {frontend} MACs, in no budget."
        ),
        *(
            f"\n- no counting rule: {code(each.op)} x {each.count:,}, {counted(each.params, 'parameter')}:"
            f" {code(each.note)}"
            for each in counts.unknown
        ),
    ]
    if counts.differences:
        lines += [
            "",
            _folded(
                "why the conventions differ",
                "\n".join(f"- {code(line)}" for line in difference_lines(counts.differences)),
            ),
        ]
    return "\n".join(lines)


def _changes(comparison: BaselineComparison) -> str:
    totals = [
        [_mark(change.ok), change.name, f"{change.before:,}", f"{change.after:,}", percent(change)]
        for change in comparison.changes
    ]
    lines = [
        f"Compared with {code(comparison.baseline)}, {100 * comparison.tolerance:g} % tolerated:",
        "",
        markdown_table(["", "total", "before", "now", "change"], totals, left=2),
    ]
    if comparison.layers:
        rows = _with_code(changed_layer_rows(comparison))
        lines += ["", _folded(f"{counted(len(rows), 'layer')} changed", markdown_table(CHANGED_LAYERS, rows, left=3))]
    return "\n".join(lines)


def _with_code(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Rows with the first two cells, which are names from the file, as code."""
    return [[code(row[0]), code(row[1]), *row[2:]] for row in rows]


def _short_count(counts: ModelCounts) -> str:
    exact = counts.conventions["exact"]
    return "" if exact is None else f"{exact.macs:,} / {exact.param_bytes:,}"


def _mark(ok: bool) -> str:
    return OK if ok else FAILED


def _folded(summary: str, text: str) -> str:
    return "\n".join(["<details>", f"<summary>{summary}</summary>", "", text, "", "</details>"])
