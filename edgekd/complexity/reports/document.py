"""One judged model, and the JSON document of it; a stored document serves as a baseline later."""

from collections.abc import Sequence

import msgspec

from edgekd.complexity.baseline import FORMAT_VERSION, Comparison
from edgekd.complexity.counts import Count, Layer, Ledger, UnknownOp
from edgekd.complexity.differences import Difference
from edgekd.complexity.gate import Budget, Rule, Verdict
from edgekd.complexity.reports.names import encodable


class Checked(msgspec.Struct, frozen=True):
    """What `edgekd check` found of one model. comparison: null without a baseline, or where that does not know the
    model."""

    ledger: Ledger
    verdict: Verdict
    comparison: Comparison | None = None

    @property
    def ok(self) -> bool:
        """Whether it is within its budgets, keeps the rules and has not grown too much."""
        return not self.failures()

    def failures(self) -> list[str]:
        """What is wrong, one short text each."""
        return [*self.verdict.failures(), *(self.comparison.failures() if self.comparison else ())]


class Document(msgspec.Struct, frozen=True):
    """`check --format json`: fields may be added, never renamed. baseline: null where nothing was compared."""

    model: str
    target: str
    ok: bool
    conventions: dict[str, Count | None]
    frontend_macs: int | None
    peak_activation_bytes: int
    file_bytes: int
    budgets: tuple[Budget, ...]
    layers: tuple[Layer, ...]
    rules: tuple[Rule, ...]
    nonzero_params: int
    bytes_by_dtype: dict[str, int]
    operators: dict[str, int]
    unknown: tuple[UnknownOp, ...]
    differences: tuple[Difference, ...]
    engine_format: str
    emulated: Count
    baseline: Comparison | None
    format_version: int = FORMAT_VERSION


def json(checked: Sequence[Checked]) -> str:
    """One JSON document: an object for one model, a list for several."""
    documents = [_document(each) for each in checked]
    return msgspec.json.format(msgspec.json.encode(documents[0] if len(documents) == 1 else documents)).decode()


def _document(checked: Checked) -> Document:
    ledger, verdict = checked.ledger, checked.verdict
    return Document(
        model=encodable(ledger.model),
        target=verdict.target,
        ok=checked.ok,
        conventions=ledger.conventions,
        frontend_macs=ledger.frontend_macs,
        peak_activation_bytes=ledger.peak_activation_bytes,
        file_bytes=ledger.file_bytes,
        budgets=verdict.budgets,
        layers=ledger.layers,
        rules=verdict.rules,
        nonzero_params=ledger.nonzero_params,
        bytes_by_dtype=ledger.bytes_by_dtype,
        operators=ledger.operators,
        unknown=ledger.unknown,
        differences=ledger.differences,
        engine_format=ledger.engine_format,
        emulated=ledger.emulated,
        baseline=checked.comparison,
    )
