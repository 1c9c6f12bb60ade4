"""`edgekd check`: counts model files, checks them against a target and an earlier version, and writes reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.complexity import gate, latency
from edgekd.complexity.baseline import TOLERANCE, Baseline, parse_tolerance
from edgekd.complexity.counts import count_model
from edgekd.complexity.latency import NOT_MEASURED, MeasuredLatency
from edgekd.complexity.reports import formats
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.target import Target, load_target
from edgekd.errors import GateError, InputError, nearest
from edgekd.files import output_file
from edgekd.text import printable

__all__ = [
    "CheckOptions",
    "check",
    "known_format",
    "parse_reports",
    "parse_shapes",
    "parse_tolerance",
    "render",
    "require_ok",
    "write_reports",
]
DEFAULT_TARGET = "dcase2023"
MAX_SIZE = 2**31 - 1
"""Largest size of a dimension."""


@dataclass(frozen=True)
class CheckOptions:
    """What files are checked against.

    target: name of a shipped target, or a path. baseline: a model file, a stored document or a folder of earlier
    versions. tolerance: the fraction by which a total may have grown. latency_ms, board: a measured latency and the
    board it was measured on. bench: a document of `bench --json`. require_latency: fail a latency budget without a
    measurement. shapes: name of an input -> its shape, for free dimensions of .onnx files.
    """

    target: str | Path = DEFAULT_TARGET
    baseline: Path | None = None
    tolerance: float = TOLERANCE
    latency_ms: float | None = None
    board: str | None = None
    bench: Path | None = None
    require_latency: bool = False
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)


def check(models: Sequence[str | Path], options: CheckOptions) -> list[CheckResult]:
    """Check .tflite and .onnx files, of edgekd or of any other tool.

    Raises:
        InputError: an unknown target, a file that cannot be counted, options that contradict each other.
    """
    target = load_target(options.target)
    measured = _measured(models, target, options)
    baseline = (
        None
        if options.baseline is None
        else Baseline(options.baseline, [str(model) for model in models], options.shapes)
    )
    checked = []
    for model, latency_of in zip(models, measured, strict=True):
        counts = count_model(model, options.shapes)
        verdict = gate.check_counts(counts, target, latency_of, require_latency=options.require_latency)
        checked.append(
            CheckResult(counts, verdict, None if baseline is None else baseline.compare(counts, options.tolerance))
        )
    return checked


def render(checked: Sequence[CheckResult], report_format: str) -> str:
    """The report in one format, a key of `formats.FORMATS`."""
    return formats.FORMATS[report_format](checked).rstrip("\n")


def known_format(name: str, option: str) -> str:
    """`name`, if it is a format.

    Raises:
        InputError: unknown format.
    """
    if name not in formats.FORMATS:
        raise InputError(f"{option}: '{name}' is unknown{nearest(name, formats.FORMATS)}")
    return name


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Name of an input -> its shape, from texts like `waveform=1,1,16000`.

    Raises:
        InputError: another form, a size below 1 or above `MAX_SIZE`, or a name that is given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")  # a name may hold an equals sign
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or not all(0 < size <= MAX_SIZE for size in shape):
            raise InputError(f"--shape is '{text}'; give NAME=SIZES, like waveform=1,1,16000")
        if name in shapes:
            raise InputError(f"--shape: '{name}' is given twice; give each input once")
        shapes[name] = shape
    return shapes


def parse_reports(texts: Sequence[str], badge: Path | None, models: Sequence[Path], *, force: bool) -> dict[Path, str]:
    """The reports to write, checked before anything is counted.

    Args:
        texts: each `FORMAT=FILE`.
        badge: file of the badge.
        models: files that no report may replace.
        force: replace other existing files.

    Returns:
        File -> format.

    Raises:
        InputError: not `FORMAT=FILE`, an unknown format, a file that is named twice or exists, or a folder that does
            not exist.
    """
    requested: list[tuple[str, str, Path]] = [] if badge is None else [("--badge", "badge", badge)]
    for text in texts:
        name, _, file = text.partition("=")
        if not file:
            raise InputError(f"--report is '{text}'; give FORMAT=FILE, like markdown=summary.md")
        requested.append(("--report", known_format(name, "--report"), Path(file)))
    reports: dict[Path, str] = {}
    taken = {model.resolve() for model in models}
    for option, name, path in requested:
        if path.resolve() in taken:
            raise InputError(f"{option} {path}: named twice, or a model; give every report a file of its own")
        if not path.parent.is_dir():
            raise InputError(f"{option} {path}: the folder {path.parent} does not exist; make it")
        if path.exists() and not (force and path.is_file()):
            raise InputError(f"{option} {path}: exists; replace it with --force, or choose another file")
        taken.add(path.resolve())
        reports[path] = name
    return reports


def write_reports(checked: Sequence[CheckResult], reports: dict[Path, str]) -> None:
    """Write each report in UTF-8. reports: file -> format, as `parse_reports` returns them.

    Raises:
        InputError: a file cannot be written.
    """
    for path, name in reports.items():
        with output_file(path, f"file for {name}") as part:
            part.write_text(render(checked, name) + "\n", encoding="utf-8")


def require_ok(checked: Sequence[CheckResult]) -> None:
    """Raise if a model fails.

    Raises:
        GateError: naming each exceeded budget with value and limit, each broken rule, each total that grew too much.
    """
    failed = [each for each in checked if not each.ok]
    if not failed:
        return
    target = failed[0].verdict.target
    if len(checked) > 1:
        each = "; ".join(f"{one.counts.model} ({', '.join(one.failures())})" for one in failed)
        raise GateError(printable(f"{len(failed)} of {len(checked)} models fail {target}: {each}"))
    verdict, what = failed[0].verdict, ", ".join(failed[0].failures())
    only_over = sum(budget.status == "over" for budget in verdict.budgets) == len(failed[0].failures())
    raise GateError(
        printable(
            f"{failed[0].counts.model}: {'over the budgets of' if only_over else 'fails'} {target}: {what}"
            f"{'; export a smaller student' if only_over else ''}"
        )
    )


def _measured(models: Sequence[str | Path], target: Target, options: CheckOptions) -> list[MeasuredLatency]:
    """The measured latency of each model, as far as there is one.

    Raises:
        InputError: see `latency`; also two sources, a board without a latency, or one latency for several models.
    """
    if options.bench is not None:
        if options.latency_ms is not None or options.board is not None:
            raise InputError("--bench already contains the latency and the board; leave --latency-ms and --board out")
        benches = latency.read_bench(options.bench, target)
        return [latency.from_bench(benches, str(model), target) for model in models]
    if options.latency_ms is not None:
        if len(models) > 1:
            raise InputError(
                f"--latency-ms is one figure for {len(models)} models; check one model, or give --bench FILE"
            )
        return [latency.given(options.latency_ms, options.board, target)]
    if options.board is not None:
        raise InputError(
            "--board without --latency-ms: there is no latency to check; give the milliseconds measured there"
        )
    if options.require_latency and target.latency is None:
        raise InputError(f"--require-latency: target {target.name} sets no latency budget; choose a target of a board")
    return [NOT_MEASURED] * len(models)
