"""What `edgekd check` does: count an exported file, judge it against a target, write the report."""

from pathlib import Path

from edgekd.complexity import gate, ledger, report
from edgekd.complexity.gate import Verdict
from edgekd.errors import GateError, InputError, nearest
from edgekd.target import load_target


def check(model: str | Path, target: str, report_format: str) -> tuple[str, Verdict]:
    """Judge a .tflite or .onnx file.

    Args:
        model: the exported file; a manifest is not needed.
        target: name of a shipped target, or a path.
        report_format: a key of `report.FORMATS`.

    Returns:
        The report and the verdict.

    Raises:
        InputError: an unknown format or target, or a file that cannot be counted.
    """
    if report_format not in report.FORMATS:
        raise InputError(f"--format: '{report_format}' is unknown{nearest(report_format, report.FORMATS)}")
    limits = load_target(target)
    counts = ledger.count(model)
    verdict = gate.judge(counts, limits)
    return report.FORMATS[report_format](counts, verdict), verdict


def require_ok(model: str | Path, verdict: Verdict) -> None:
    """Raise when a budget is exceeded.

    Raises:
        GateError: naming each exceeded budget, its value and its limit.
    """
    over = [f"{budget.name} {budget.value:,} > {budget.limit:,}" for budget in verdict.budgets if not budget.ok]
    if over:
        raise GateError(f"{model}: over the budgets of {verdict.target}: {', '.join(over)}; export a smaller student")
