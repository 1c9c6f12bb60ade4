"""What `edgekd check` does: count exported files, judge them against a target and an earlier version, write the
reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.complexity import counts as ledger
from edgekd.complexity import gate, latency
from edgekd.complexity.baseline import TOLERANCE, Baseline, parse_tolerance
from edgekd.complexity.latency import NOTHING, Measured
from edgekd.complexity.reports import formats
from edgekd.complexity.reports.document import Checked
from edgekd.complexity.reports.names import plain
from edgekd.complexity.target import Target, load_target
from edgekd.errors import GateError, InputError, nearest

__all__ = [
    "CheckOptions",
    "check",
    "known_format",
    "parse_reports",
    "parse_tolerance",
    "render",
    "require_ok",
    "write_reports",
]
DEFAULT_TARGET = "dcase2023"


@dataclass(frozen=True)
class CheckOptions:
    """What is judged, and by what.

    target: name of a shipped target, or a path. baseline: a model file, a stored report or a folder of earlier
    versions. tolerance: the fraction by which a total may have grown. latency_ms, board: a measured figure and where it
    was measured. bench: a document of `bench --json`. require_latency: a latency budget without a measurement fails.
    """

    target: str | Path = DEFAULT_TARGET
    baseline: Path | None = None
    tolerance: float = TOLERANCE
    latency_ms: float | None = None
    board: str | None = None
    bench: Path | None = None
    require_latency: bool = False


def check(models: Sequence[str | Path], options: CheckOptions) -> list[Checked]:
    """Judge .tflite and .onnx files, edgekd's or anybody's.

    Raises:
        InputError: an unknown target, a file that cannot be counted, options that contradict each other.
    """
    target = load_target(options.target)
    measured = _measured(models, target, options)
    baseline = None if options.baseline is None else Baseline(options.baseline, [str(model) for model in models])
    checked = []
    for model, figure in zip(models, measured, strict=True):
        counts = ledger.count(model)
        verdict = gate.judge(counts, target, figure, require_latency=options.require_latency)
        checked.append(
            Checked(counts, verdict, None if baseline is None else baseline.compare(counts, options.tolerance))
        )
    return checked


def render(checked: Sequence[Checked], report_format: str) -> str:
    """The report in one format, a key of `report.FORMATS`."""
    return formats.FORMATS[report_format](checked).rstrip("\n")


def known_format(name: str, option: str) -> str:
    """The name again.

    Raises:
        InputError: no format is called so.
    """
    if name not in formats.FORMATS:
        raise InputError(f"{option}: '{name}' is unknown{nearest(name, formats.FORMATS)}")
    return name


def parse_reports(texts: Sequence[str], badge: Path | None, models: Sequence[Path], *, force: bool) -> dict[Path, str]:
    """Where to write which format, checked before anything is counted.

    Args:
        texts: `FORMAT=FILE` each.
        badge: a file that gets the badge.
        models: files that no report may replace.
        force: other files that exist are replaced.

    Raises:
        InputError: no `FORMAT=FILE`, an unknown format, a file named twice, one that exists, or whose folder does not.
    """
    asked: list[tuple[str, str, Path]] = [] if badge is None else [("--badge", "badge", badge)]
    for text in texts:
        name, _, place = text.partition("=")
        if not place:
            raise InputError(f"--report is '{text}'; give FORMAT=FILE, like markdown=summary.md")
        asked.append(("--report", known_format(name, "--report"), Path(place)))
    places: dict[Path, str] = {}
    taken = {model.resolve() for model in models}
    for option, name, path in asked:
        if path.resolve() in taken:
            raise InputError(f"{option} {path}: named twice, or a model; give every report a file of its own")
        if not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}; make it")
        if path.exists() and not (force and path.is_file()):
            raise InputError(f"{option} {path}: exists; replace it with --force, or choose another place")
        taken.add(path.resolve())
        places[path] = name
    return places


def write_reports(checked: Sequence[Checked], places: dict[Path, str]) -> None:
    """Write each report, UTF-8.

    Raises:
        InputError: a file cannot be written.
    """
    for path, name in places.items():
        try:
            path.write_text(render(checked, name) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def require_ok(checked: Sequence[Checked]) -> None:
    """Raise when a model fails.

    Raises:
        GateError: naming each budget exceeded with value and limit, each rule broken, each total that grew too much.
    """
    failed = [each for each in checked if not each.ok]
    if not failed:
        return
    target = failed[0].verdict.target
    if len(checked) > 1:
        each = "; ".join(f"{one.ledger.model} ({', '.join(one.failures())})" for one in failed)
        raise GateError(plain(f"{len(failed)} of {len(checked)} models fail {target}: {each}"))
    verdict, what = failed[0].verdict, ", ".join(failed[0].failures())
    only_over = sum(budget.status == "over" for budget in verdict.budgets) == len(failed[0].failures())
    raise GateError(
        plain(
            f"{failed[0].ledger.model}: {'over the budgets of' if only_over else 'fails'} {target}: {what}"
            f"{'; export a smaller student' if only_over else ''}"
        )
    )


def _measured(models: Sequence[str | Path], target: Target, options: CheckOptions) -> list[Measured]:
    """The latency of each model, where it is known.

    Raises:
        InputError: see `latency`; also two sources, a board without a figure, or one figure for several models.
    """
    if options.bench is not None:
        if options.latency_ms is not None or options.board is not None:
            raise InputError("--bench already tells the latency and the board; leave --latency-ms and --board out")
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
            "--board without --latency-ms: there is nothing to judge; give the milliseconds measured there"
        )
    if options.require_latency and target.latency is None:
        raise InputError(f"--require-latency: target {target.name} sets no latency budget; choose a target of a board")
    return [NOTHING] * len(models)
