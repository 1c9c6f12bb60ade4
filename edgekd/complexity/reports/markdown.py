"""The report for a job summary or a comment: GitHub's Markdown, in which no name from a file can be more than a
name."""

import re
from collections.abc import Sequence

from edgekd.complexity.baseline import Comparison, percent
from edgekd.complexity.counts import Ledger
from edgekd.complexity.gate import Budget, Rule, listed
from edgekd.complexity.reports.document import Checked
from edgekd.complexity.reports.names import number, plain, shape, shorten, used
from edgekd.complexity.reports.table import differences, op, verdict_line
from edgekd.text import counted

OK, FAILED, OPEN = "✅", "❌", "➖"


def markdown(checked: Sequence[Checked]) -> str:
    """A summary table where there are several models, then a section each; layers are folded away."""
    parts = [_one(each) for each in checked]
    if len(checked) > 1:
        rows = [
            [_mark(each.ok), code(each.ledger.model), _short_count(each.ledger), code("; ".join(each.failures()))]
            for each in checked
        ]
        parts.insert(0, "\n".join(_table(["", "model", "macs / parameter bytes", "failures"], rows)))
    return "\n\n".join(parts) + "\n"


def code(text: str) -> str:
    """Code spans that hold any text as it is: nothing in it is markup, a link or a mention, nor ends the cell of a
    table."""
    return "&#124;".join(_span(part) if part else "" for part in plain(text).split("|"))


def _span(text: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if "`" in {text[0], text[-1]} or (text[0] == text[-1] == " " and text.strip()) else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _one(checked: Checked) -> str:
    ledger, verdict = checked.ledger, checked.verdict
    parts = [f"### {_mark(checked.ok)} {code(ledger.model)}", f"**{code(verdict_line(checked))}**"]
    if verdict.budgets:
        parts.append(
            "\n".join(
                _table(
                    ["", "budget", "value", "limit", "used", "by", "source of the limit"],
                    [_budget(budget) for budget in verdict.budgets],
                )
            )
        )
    notes = [f"- {code(budget.name)}: {code(budget.note)}" for budget in verdict.budgets if budget.note]
    parts += ["\n".join([*notes, *(_rule(rule) for rule in verdict.rules)])] if notes or verdict.rules else []
    parts.append(_totals(ledger))
    if checked.comparison:
        parts.append(_changes(checked.comparison))
    layers = [
        [
            code(shorten(layer.name)),
            code(op(layer)),
            shape(layer.input),
            shape(layer.output),
            shape(layer.weight),
            f"{layer.macs:,}",
            f"{layer.param_bytes:,}",
        ]
        for layer in ledger.layers
    ]
    header = ["layer", "op", "input", "output", "kernel", "macs", "param bytes"]
    parts.append(_folded(counted(len(layers), "layer"), _table(header, layers)))
    return "\n\n".join(parts)


def _budget(budget: Budget) -> list[str]:
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


def _rule(rule: Rule) -> str:
    return f"- {_mark(rule.ok)} {code(rule.name)}" + (
        "" if rule.ok else f": {code(listed(rule.found))} ({code(rule.allowed)})"
    )


def _totals(ledger: Ledger) -> str:
    rows = [
        [name, f"{count.macs:,}", f"{count.params:,}", f"{count.param_bytes:,}"]
        for name, count in ledger.conventions.items()
        if count is not None
    ]
    frontend = "unknown" if ledger.frontend_macs is None else f"about {ledger.frontend_macs:,}"
    stored = ", ".join(f"{code(dtype)} {size:,}" for dtype, size in ledger.bytes_by_dtype.items())
    lines = [
        *_table(["convention", "macs", "params", "param bytes"], rows),
        "",
        (
            f"File {ledger.file_bytes:,} bytes; activations alive at once at most {ledger.peak_activation_bytes:,}"
            f" bytes; parameters that are not zero {ledger.nonzero_params:,}; bytes by type: {stored or 'none'}; front"
            f" end {frontend} MACs, in no budget."
        ),
        *(
            f"\n- no counting rule: {code(each.op)} x {each.count:,}, {counted(each.params, 'parameter')}:"
            f" {code(each.note)}"
            for each in ledger.unknown
        ),
    ]
    if ledger.differences:
        lines += ["", _folded("why the conventions differ", [f"- {code(line)}" for line in differences(ledger)])]
    return "\n".join(lines)


def _changes(comparison: Comparison) -> str:
    totals = [
        [_mark(change.ok), change.name, f"{change.before:,}", f"{change.after:,}", percent(change)]
        for change in comparison.changes
    ]
    layers = [
        [
            code(shorten(layer.name)),
            code(shorten(layer.op)),
            layer.change,
            f"{layer.macs_before:,}",
            f"{layer.macs:,}",
            f"{layer.param_bytes_before:,}",
            f"{layer.param_bytes:,}",
        ]
        for layer in comparison.layers
    ]
    lines = [
        f"Compared with {code(comparison.baseline)}, {100 * comparison.tolerance:g} % tolerated:",
        "",
        *_table(["", "total", "before", "now", "change"], totals),
    ]
    if layers:
        header = ["layer", "op", "", "macs before", "macs now", "bytes before", "bytes now"]
        lines += ["", _folded(f"{counted(len(layers), 'layer')} changed", _table(header, layers))]
    return "\n".join(lines)


def _short_count(ledger: Ledger) -> str:
    exact = ledger.conventions["exact"]
    return "" if exact is None else f"{exact.macs:,} / {exact.param_bytes:,}"


def _mark(ok: bool) -> str:
    return OK if ok else FAILED


def _folded(summary: str, lines: Sequence[str]) -> str:
    return "\n".join(["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>"])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
