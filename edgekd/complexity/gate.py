"""Judges a ledger against a target: each budget by the strictest convention that applies to the file."""

from collections.abc import Callable

import msgspec

from edgekd.complexity.ledger import Count, Ledger
from edgekd.target import Target


class Budget(msgspec.Struct, frozen=True):
    """One judged budget. convention: whose count was the largest; null for what every convention measures alike."""

    name: str
    value: int
    limit: int
    ok: bool
    convention: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """ok: no budget is exceeded; a value equal to its limit is within it."""

    target: str
    ok: bool
    budgets: tuple[Budget, ...]


COUNTED: dict[str, Callable[[Count], int]] = {"param_bytes": lambda count: count.param_bytes, "macs": lambda count: count.macs}
MEASURED: dict[str, Callable[[Ledger], int]] = {
    "peak_activation_bytes": lambda ledger: ledger.peak_activation_bytes, "file_bytes": lambda ledger: ledger.file_bytes,
}


def judge(ledger: Ledger, target: Target) -> Verdict:
    """Judge every budget that the target sets."""
    limits: dict[str, int | None] = msgspec.structs.asdict(target.budgets)
    budgets = []
    for name, limit in limits.items():
        if limit is None:
            continue
        convention: str | None = None
        if name in COUNTED:
            values = ledger.judged(name)
            convention = max(values, key=lambda key: values[key])
            value = values[convention]
        else:
            value = MEASURED[name](ledger)
        budgets.append(Budget(name, value, limit, value <= limit, convention))
    return Verdict(target.name, all(budget.ok for budget in budgets), tuple(budgets))
