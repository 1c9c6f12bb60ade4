"""Judges a ledger against a target: each budget by the strictest convention that applies, and what the file consists
of."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from edgekd.complexity.counts import Ledger
from edgekd.complexity.latency import NOTHING, Measured, conditions
from edgekd.complexity.reports.names import number
from edgekd.complexity.target import ENGINE_FORMATS, Target
from edgekd.text import counted

Status = Literal["ok", "over", "unknown", "not measured"]


class Budget(msgspec.Struct, frozen=True):
    """One judged budget; a latency is in milliseconds.

    value: null where the file does not tell it or nothing was measured. convention: whose count was the largest; null
    for what every convention measures alike. status: "unknown" where a count is a lower bound or missing, which fails.
    note: why, or what a latency is of. source: where the limit comes from.
    """

    name: str
    value: int | float | None
    limit: int | float
    ok: bool
    convention: str | None = None
    status: Status = "ok"
    note: str | None = None
    source: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """One judged rule. found: what the file holds against it, by name. allowed: what the target allows, in words."""

    name: str
    ok: bool
    found: tuple[str, ...]
    allowed: str
    source: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """ok: no budget is exceeded and no rule broken; a value equal to its limit is within it."""

    target: str
    ok: bool
    budgets: tuple[Budget, ...]
    rules: tuple[Rule, ...] = ()

    def failures(self) -> list[str]:
        """What is wrong, one short text each."""
        return [
            *(explained(budget) for budget in self.budgets if not budget.ok),
            *(f"{rule.name} {listed(rule.found)}: {rule.allowed}" for rule in self.rules if not rule.ok),
        ]


COUNTED = frozenset({"param_bytes", "params", "macs"})
"""Budgets on which the conventions disagree."""
MEASURED: dict[str, Callable[[Ledger], int]] = {
    "peak_activation_bytes": lambda ledger: ledger.peak_activation_bytes,
    "file_bytes": lambda ledger: ledger.file_bytes,
}
SHOWN = 6
"""Names listed of what breaks a rule; beyond it only how many there are."""


def judge(ledger: Ledger, target: Target, latency: Measured = NOTHING, *, require_latency: bool = False) -> Verdict:
    """Judge every budget and every rule that the target sets.

    Args:
        ledger: of the file.
        target: what is allowed.
        latency: the measured figure, if there is one.
        require_latency: a latency budget without a figure fails.
    """
    limits: dict[str, int | None] = {name: getattr(target.budgets, name) for name in target.budgets.__struct_fields__}
    budgets = [_judged(ledger, target, name, limit) for name, limit in limits.items() if limit is not None]
    if target.latency is not None:
        budgets.append(_latency(target, latency, require_latency))
    rules = tuple(_rules(ledger, target))
    return Verdict(
        target.name, all(budget.ok for budget in budgets) and all(rule.ok for rule in rules), tuple(budgets), rules
    )


def explained(budget: Budget) -> str:
    """What a budget says of a file, in words: `macs 31,000,000 > 30,000,000`."""
    value, limit = number(budget.value), number(budget.limit)
    if budget.status == "ok":
        return f"{budget.name} {value} of {limit}"
    return (
        f"{budget.name} {value} > {limit}"
        if budget.status == "over"
        else f"{budget.name}: {budget.note or budget.status}"
    )


def _judged(ledger: Ledger, target: Target, name: str, limit: int) -> Budget:
    """One budget that the ledger tells the value of."""
    source, convention, hidden = target.source_of(name), None, None
    if name in COUNTED:
        counts = {key: count for key, count in ledger.judged(name).items() if target.convention in (None, key)}
        if not counts:
            note = f"this file has no count by {target.convention}, which {target.name} judges by"
            return Budget(name, None, limit, False, target.convention, "unknown", note, source)
        convention = max(counts, key=lambda key: counts[key])
        value = counts[convention]
        hidden = _uncounted(ledger) if name == "macs" else None
    else:
        value = MEASURED[name](ledger)
        hidden = _unsized(ledger) if name == "peak_activation_bytes" else None
    if value > limit:
        return Budget(name, value, limit, False, convention, "over", hidden, source)
    if hidden:
        return Budget(name, value, limit, False, convention, "unknown", hidden, source)
    return Budget(name, value, limit, True, convention, "ok", _weightless(ledger) if name == "macs" else None, source)


def _latency(target: Target, measured: Measured, required: bool) -> Budget:
    assert target.latency is not None
    limit, what, source = target.latency.limit_ms, conditions(target.latency), target.source_of("latency")
    if measured.ms is None:
        return Budget("latency_ms", None, limit, not required, None, "not measured", f"{measured.why} ({what})", source)
    ok = measured.ms <= limit
    return Budget("latency_ms", measured.ms, limit, ok, None, "ok" if ok else "over", what, source)


def _uncounted(ledger: Ledger) -> str | None:
    """Why the MACs are only a lower bound: ops that hold weights and have no counting rule."""
    ops = [f"{unknown.op} ({counted(unknown.params, 'parameter')})" for unknown in ledger.unknown if unknown.params]
    return f"no rule counts the MACs of {listed(ops)}, so the count is only a lower bound" if ops else None


def _weightless(ledger: Ledger) -> str | None:
    ops = [unknown.op for unknown in ledger.unknown]
    return f"without {listed(ops)}, which hold no weights and have no counting rule" if ops else None


def _unsized(ledger: Ledger) -> str | None:
    ops = sorted({layer.op for layer in ledger.layers if layer.output is None})
    return f"the sizes of what {listed(ops)} writes are unknown, so the count is only a lower bound" if ops else None


def _rules(ledger: Ledger, target: Target) -> Iterable[Rule]:
    rules, file_format = target.rules, ledger.engine_format

    def rule(name: str, found: Iterable[str], allowed: str) -> Rule:
        names = tuple(found)
        return Rule(name, not names, names, allowed, target.source_of(name))

    if rules.formats is not None:
        yield rule("formats", () if file_format in rules.formats else (file_format,), f"only {listed(rules.formats)}")
    if rules.engines is not None:
        opens = [engine for engine in rules.engines if ENGINE_FORMATS[engine] == file_format]
        yield rule("engines", () if opens else (file_format,), f"only what {listed(rules.engines)} opens")
    if rules.dtypes is not None:
        found = sorted(dtype for dtype in ledger.bytes_by_dtype if dtype not in rules.dtypes)
        yield rule("dtypes", found, f"only {listed(rules.dtypes)}")
    if rules.operators is not None:
        yield rule(
            "operators",
            sorted(op for op in ledger.operators if not _matches(op, rules.operators)),
            f"not among the {counted(len(rules.operators), 'operator')} of {target.name}",
        )
    if rules.forbidden_operators is not None:
        found = sorted(op for op in ledger.operators if _matches(op, rules.forbidden_operators))
        yield rule("forbidden_operators", found, f"none of {listed(rules.forbidden_operators)}")


def _matches(op: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(op, pattern) for pattern in patterns)


def listed(names: Iterable[str]) -> str:
    """The first names and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
