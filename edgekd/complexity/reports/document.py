"""The result of checking a model, and its JSON document, which can later serve as a baseline."""

from collections.abc import Sequence

import msgspec

from edgekd.complexity.baseline import FORMAT_VERSION, BaselineComparison
from edgekd.complexity.counts import ExternalFile, Layer, ModelCounts, Totals, UnknownOp
from edgekd.complexity.differences import Difference
from edgekd.complexity.gate import BudgetResult, RuleResult, Verdict
from edgekd.complexity.reports.formatting import encodable
from edgekd.text import printable_json


class CheckResult(msgspec.Struct, frozen=True):
    """Result of checking one model. comparison: None without a baseline, and for a model that the baseline does not
    have."""

    counts: ModelCounts
    verdict: Verdict
    comparison: BaselineComparison | None = None

    @property
    def ok(self) -> bool:
        """Whether the model is within its budgets, keeps the rules and has not grown too much."""
        return not self.failures()

    def failures(self) -> list[str]:
        """A short text for each failure."""
        return [*self.verdict.failures(), *(self.comparison.failures() if self.comparison else ())]


class CheckDocument(msgspec.Struct, frozen=True):
    """The document of `check --format json`. Fields may be added, but never renamed. baseline: null if nothing was
    compared."""

    model: str
    target: str
    ok: bool
    conventions: dict[str, Totals | None]
    frontend_macs: int | None
    peak_activation_bytes: int
    file_bytes: int
    budgets: tuple[BudgetResult, ...]
    layers: tuple[Layer, ...]
    rules: tuple[RuleResult, ...]
    nonzero_params: int
    bytes_by_dtype: dict[str, int]
    operators: dict[str, int]
    unknown: tuple[UnknownOp, ...]
    differences: tuple[Difference, ...]
    engine_format: str
    emulated: Totals
    baseline: BaselineComparison | None
    external: tuple[ExternalFile, ...]
    format_version: int = FORMAT_VERSION


def json(checked: Sequence[CheckResult]) -> str:
    """One JSON document: an object for one model, a list for several."""
    documents = [_document_of(each) for each in checked]
    encoded = msgspec.json.encode(documents[0] if len(documents) == 1 else documents)
    return printable_json(msgspec.json.format(encoded).decode())


def _document_of(checked: CheckResult) -> CheckDocument:
    counts, verdict = checked.counts, checked.verdict
    return CheckDocument(
        model=encodable(counts.model),
        target=verdict.target,
        ok=checked.ok,
        conventions=counts.conventions,
        frontend_macs=counts.frontend_macs,
        peak_activation_bytes=counts.peak_activation_bytes,
        file_bytes=counts.file_bytes,
        budgets=verdict.budgets,
        layers=counts.layers,
        rules=verdict.rules,
        nonzero_params=counts.nonzero_params,
        bytes_by_dtype=counts.bytes_by_dtype,
        operators=counts.operators,
        unknown=counts.unknown,
        differences=counts.differences,
        engine_format=counts.engine_format,
        emulated=counts.emulated,
        baseline=checked.comparison,
        external=counts.external,
    )
