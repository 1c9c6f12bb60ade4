"""Checks the counts of a file against a target: each budget by the strictest convention that applies, and each rule on
what the file consists of."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from edgekd.complexity.counts import ModelCounts
from edgekd.complexity.latency import NOT_MEASURED, MeasuredLatency, conditions
from edgekd.complexity.reports.formatting import number
from edgekd.complexity.target import ENGINE_FORMATS, Target
from edgekd.text import counted

Status = Literal["ok", "over", "unknown", "not measured"]


class BudgetResult(msgspec.Struct, frozen=True):
    """A budget and the value of the file; a latency is in milliseconds.

    value: null where the file has no such count or nothing was measured. convention: the one with the largest count;
    null for a value that does not depend on the convention. status: "unknown" where a count is missing or a lower
    bound, which fails. note: the reason, or the conditions of a latency. source: where the limit comes from.
    """

    name: str
    value: int | float | None
    limit: int | float
    ok: bool
    convention: str | None = None
    status: Status = "ok"
    note: str | None = None
    source: str | None = None


class RuleResult(msgspec.Struct, frozen=True):
    """A rule and what breaks it. found: names of what breaks it. allowed: what the target allows, in words."""

    name: str
    ok: bool
    found: tuple[str, ...]
    allowed: str
    source: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """Result of checking a file against a target. ok: no budget is exceeded and no rule is broken. A value equal to its
    limit is within it."""

    target: str
    ok: bool
    budgets: tuple[BudgetResult, ...]
    rules: tuple[RuleResult, ...] = ()

    def failures(self) -> list[str]:
        """A short text for each exceeded budget and each broken rule."""
        return [
            *(explained(budget) for budget in self.budgets if not budget.ok),
            *(f"{rule.name} {listed(rule.found)}: {rule.allowed}" for rule in self.rules if not rule.ok),
        ]


COUNTED = frozenset({"param_bytes", "params", "macs"})
"""Budgets on which the conventions disagree."""
SHARED: dict[str, Callable[[ModelCounts], int]] = {
    "peak_activation_bytes": lambda counts: counts.peak_activation_bytes,
    "file_bytes": lambda counts: counts.file_bytes,
}
"""Budgets whose value does not depend on the convention."""
MULTIPLIERS = ("attention", "matmul", "gemm", "einsum", "dot", "conv", "fft", "dft", "stft", "lstm", "gru", "rnn")
"""Words in the names of operators that multiply much, also without weights: products of activations and transforms."""
SHOWN = 6
"""How many names of what breaks a rule are listed."""


def check_counts(
    counts: ModelCounts, target: Target, latency: MeasuredLatency = NOT_MEASURED, *, require_latency: bool = False
) -> Verdict:
    """Check the counts of a file against every budget and every rule of a target.

    Args:
        counts: of the file.
        target: budgets and rules.
        latency: the measured latency, if there is one.
        require_latency: fail a latency budget without a measurement.
    """
    limits: dict[str, int | None] = {name: getattr(target.budgets, name) for name in target.budgets.__struct_fields__}
    budgets = [_budget(counts, target, name, limit) for name, limit in limits.items() if limit is not None]
    if target.latency is not None:
        budgets.append(_latency_budget(target, latency, require_latency))
    rules = tuple(_rule_results(counts, target))
    return Verdict(
        target.name, all(budget.ok for budget in budgets) and all(rule.ok for rule in rules), tuple(budgets), rules
    )


def explained(budget: BudgetResult) -> str:
    """A budget and its value in words: `macs 31,000,000 > 30,000,000`."""
    value, limit = number(budget.value), number(budget.limit)
    if budget.status == "ok":
        return f"{budget.name} {value} of {limit}"
    return (
        f"{budget.name} {value} > {limit}"
        if budget.status == "over"
        else f"{budget.name}: {budget.note or budget.status}"
    )


def _budget(counts: ModelCounts, target: Target, name: str, limit: int) -> BudgetResult:
    """Result of one budget on counts."""
    source, convention, uncertain = target.source_of(name), None, None
    if name in COUNTED:
        values = {key: count for key, count in counts.by_convention(name).items() if target.convention in (None, key)}
        if not values:
            note = f"this file has no count by {target.convention}, which {target.name} judges by"
            return BudgetResult(name, None, limit, False, target.convention, "unknown", note, source)
        convention = max(values, key=lambda key: values[key])
        value = values[convention]
        uncertain = _uncounted(counts) if name == "macs" else None
    else:
        value = SHARED[name](counts)
        uncertain = _unsized(counts) if name == "peak_activation_bytes" else None
    if value > limit:
        return BudgetResult(name, value, limit, False, convention, "over", uncertain, source)
    if uncertain:
        return BudgetResult(name, value, limit, False, convention, "unknown", uncertain, source)
    return BudgetResult(
        name, value, limit, True, convention, "ok", _weightless(counts) if name == "macs" else None, source
    )


def _latency_budget(target: Target, measured: MeasuredLatency, required: bool) -> BudgetResult:
    assert target.latency is not None
    limit, what, source = target.latency.limit_ms, conditions(target.latency), target.source_of("latency")
    if measured.ms is None:
        return BudgetResult(
            "latency_ms", None, limit, not required, None, "not measured", f"{measured.why} ({what})", source
        )
    ok = measured.ms <= limit
    return BudgetResult("latency_ms", measured.ms, limit, ok, None, "ok" if ok else "over", what, source)


def _uncounted(counts: ModelCounts) -> str | None:
    """Why the MACs are only a lower bound: ops without a counting rule that have weights, or whose name tells that they
    multiply. None if there are none."""
    ops = [
        f"{unknown.op} ({counted(unknown.params, 'parameter')})"
        for unknown in counts.unknown
        if unknown.params or any(word in unknown.op.casefold() for word in MULTIPLIERS)
    ]
    return f"no rule counts the MACs of {listed(ops)}, so the count is only a lower bound" if ops else None


def _weightless(counts: ModelCounts) -> str | None:
    """A note on ops without weights and without a counting rule. None if there are none."""
    ops = [unknown.op for unknown in counts.unknown]
    return f"without {listed(ops)}, which hold no weights and have no counting rule" if ops else None


def _unsized(counts: ModelCounts) -> str | None:
    """Why the activations are only a lower bound: outputs of unknown size. None if there are none."""
    ops = listed(counts.unsized)
    return f"the sizes of what {ops} writes are unknown, so the count is only a lower bound" if ops else None


def _rule_results(counts: ModelCounts, target: Target) -> Iterable[RuleResult]:
    rules, file_format = target.rules, counts.engine_format

    def rule(name: str, found: Iterable[str], allowed: str) -> RuleResult:
        names = tuple(found)
        return RuleResult(name, not names, names, allowed, target.source_of(name))

    if rules.formats is not None:
        yield rule("formats", () if file_format in rules.formats else (file_format,), f"only {listed(rules.formats)}")
    if rules.engines is not None:
        opens = [engine for engine in rules.engines if ENGINE_FORMATS[engine] == file_format]
        yield rule("engines", () if opens else (file_format,), f"only what {listed(rules.engines)} opens")
    if rules.dtypes is not None:
        found = sorted(dtype for dtype in counts.bytes_by_dtype if dtype not in rules.dtypes)
        yield rule("dtypes", found, f"only {listed(rules.dtypes)}")
    if rules.operators is not None:
        yield rule(
            "operators",
            sorted(op for op in counts.operators if not _matches(op, rules.operators)),
            f"not among the {counted(len(rules.operators), 'operator')} of {target.name}",
        )
    if rules.forbidden_operators is not None:
        found = sorted(op for op in counts.operators if _matches(op, rules.forbidden_operators))
        yield rule("forbidden_operators", found, f"none of {listed(rules.forbidden_operators)}")


def _matches(op: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(op, pattern) for pattern in patterns)


def listed(names: Iterable[str]) -> str:
    """The first `SHOWN` names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
