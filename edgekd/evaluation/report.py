"""`edgekd evaluate --report`: the content of the page of an evaluated model file, and its writing. `edgekd.report.page`
lays it out."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekd.complexity import gate
from edgekd.complexity.check import DEFAULT_TARGET
from edgekd.complexity.counts import ModelCounts, count_model
from edgekd.complexity.gate import listed
from edgekd.complexity.latency import NOT_MEASURED, StoredBench, from_bench
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import brief, number, used
from edgekd.complexity.reports.rows import verdict_line
from edgekd.complexity.target import Target, load_target
from edgekd.data.store.store import AUDIO_FILE, INFO_FILE, TABLE_FILE
from edgekd.errors import EdgekdError, InputError, MissingExtraError
from edgekd.evaluation.bench import Benchmark, bench
from edgekd.evaluation.evaluate import EvaluationReport
from edgekd.evaluation.microphones import HEADER, NOTE, ShiftReport
from edgekd.files import check_output, output_file, unwritable
from edgekd.metrics.analysis import analyse
from edgekd.modelfile.container import read_manifest
from edgekd.report.model_info import rows
from edgekd.report.page import (
    INTERVAL_NOTE,
    SCORE_HEADER,
    SYNTHETIC_NOTE,
    Page,
    Tile,
    finding_sections,
    render,
    score_rows,
    score_tiles,
    sentence,
)
from edgekd.report.sections import Section, TableSection
from edgekd.text import counted

BENCH_REPEATS = 50
"""Turns of the short benchmark for a page."""
STAGES = {
    "front end": "frontend_ms",
    "network": "network_ms",
    "network, back to back": "network_warm_ms",
    "whole pipeline": "pipeline_ms",
}
"""Stage in words -> field of `Benchmark`."""
TILES = {"param_bytes": ("parameters", "B"), "macs": ("MACs a window", "")}
"""Budgets with a tile at the head of the page -> its name and unit."""


@dataclass(frozen=True)
class ReportPlan:
    """A page that can be written.

    Attributes:
        out: the file.
        model: the evaluated model file.
        target: whose budgets the counts are compared with.
        counts: cost of the model; None where it cannot be counted.
        why: reason why `counts` is None.
    """

    out: Path
    model: Path
    target: Target
    counts: ModelCounts | None
    why: str = ""

    def write(self, report: EvaluationReport, threads: int = 1) -> None:
        """Time the model and write the page of its evaluation.

        Raises:
            InputError: the file cannot be written.
        """
        page = render(page_of(self, report, _timed(self.model, report.engine, threads)))
        with output_file(self.out, "--report") as unfinished:
            unfinished.write_bytes(page)


def plan_report(out: Path | None, model: Path, data: Path, target: str | None, *, force: bool) -> ReportPlan | None:
    """Check that a page can be written, before anything slow begins; None without `out`.

    Args:
        out: the file.
        model, data: the evaluated model and the store, which the page must not replace.
        target: name or path of the target whose budgets are used; None takes `DEFAULT_TARGET`.
        force: replace a file that exists.

    Raises:
        InputError: an unknown target, a model that cannot be counted, a path that exists or cannot be written; options
            that mean nothing without a page.
    """
    if out is None:
        if target is not None or force:
            option = "--force" if force else f"--target {target}"
            raise InputError(f"{option} without --report FILE, which it needs; name the page to write")
        return None
    check_report_path(out, model, data, force=force)
    chosen = load_target(target or DEFAULT_TARGET)
    try:
        counts = count_model(model)
    except MissingExtraError as error:
        return ReportPlan(out, model, chosen, None, str(error))
    return ReportPlan(out, model, chosen, counts)


def check_report_path(out: Path, model: Path, data: Path, *, force: bool) -> None:
    """Check that a page can be written to a path.

    Raises:
        InputError: it is a folder, part of what is evaluated, exists without `force`, or cannot be written.
    """
    taken = {model.resolve(), *((data / name).resolve() for name in (AUDIO_FILE, TABLE_FILE, INFO_FILE))}
    if out.resolve() in taken:
        raise InputError(f"--report {out}: is part of what is evaluated; give the page a file of its own")
    check_output(out, "--report", force=force)
    if out.exists() and not out.is_file():  # a pipe or a device: nothing is made beside it
        return
    if not out.parent.is_dir():
        raise InputError(f"--report {out}: there is no folder {out.parent}; make it")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise unwritable(out, error, "--report") from None


def page_of(plan: ReportPlan, report: EvaluationReport, timed: Benchmark | str) -> Page:
    """The page of a model file; timed: its benchmark, or why there is none."""
    manifest = read_manifest(plan.model)
    found = analyse(report.predictions)
    checked = _checked(plan, timed)
    described = (
        {"name": manifest.name}
        | rows(plan.model, plan.model.stat().st_size, manifest)
        | {"labels": ", ".join(manifest.labels)}
    )
    where = f"Paths as in the store, {report.data}."
    sections: list[Section] = [
        TableSection("Scores", score_rows(found), SCORE_HEADER, note=INTERVAL_NOTE),
        *_shifted(report.shift),
        *finding_sections(found, manifest.labels, where, sentence(report.fit_note())),
        *_complexity(checked, plan.why),
        _latency(timed),
        TableSection("The model", list(described.items())),
    ]
    tiles = [*score_tiles(found), *_cost_tiles(checked), *_time_tiles(timed)]
    lead = f"{manifest.student}, {manifest.precision}, in {report.where()}"
    notes = [note for note in (sentence(report.trained_note()), SYNTHETIC_NOTE if report.synthetic else "") if note]
    return Page(
        "edgekd evaluation",
        plan.model.name,
        lead,
        tiles,
        sections,
        notes,
        f"Model made by edgekd {manifest.provenance.edgekd_version} at {manifest.provenance.created}.",
    )


def _shifted(shift: ShiftReport | None) -> list[Section]:
    if shift is None:
        return []
    return [
        TableSection(
            "Through other microphones", shift.rows(), HEADER, left=2, note=f"{sentence(shift.where())} {NOTE}"
        )
    ]


def _checked(plan: ReportPlan, timed: Benchmark | str) -> CheckResult | None:
    """The verdict of `edgekd check`; on a latency budget only where this machine is the board that it is for."""
    if plan.counts is None:
        return None
    measured = NOT_MEASURED
    if plan.target.latency is not None and not isinstance(timed, str):
        measured = from_bench((msgspec.convert(msgspec.to_builtins(timed), StoredBench),), str(plan.model), plan.target)
    return CheckResult(plan.counts, gate.check_counts(plan.counts, plan.target, measured))


def _complexity(checked: CheckResult | None, why: str) -> list[Section]:
    title = "What it costs"
    if checked is None:
        return [TableSection(title, [], note=f"Not counted: {why}")]
    counts, verdict = checked.counts, checked.verdict
    budgets = [
        [
            each.name,
            each.convention or "",
            each.status,
            number(each.value),
            number(each.limit),
            used(each.value, each.limit),
        ]
        for each in verdict.budgets
    ]
    rules = [
        [each.name, each.allowed, "ok" if each.ok else f"broken: {listed(each.found)}", "", "", ""]
        for each in verdict.rules
    ]
    notes = [sentence(f"{each.name}: {each.note}") for each in verdict.budgets if each.note]
    verdicts = TableSection(
        title,
        [*budgets, *rules],
        ("", "by", "verdict", "value", "limit", "used"),
        left=3,
        verdict=verdict_line(checked),
        ok=checked.ok,
        note=" ".join(["As by 'edgekd check', by the strictest convention that applies.", *notes]),
    )
    frontend = (
        ""
        if counts.frontend_macs is None
        else f" The front end takes about {counts.frontend_macs:,} MACs, which are in no budget."
    )
    besides = (
        f"The file has {counts.file_bytes:,} bytes. At most {counts.peak_activation_bytes:,} bytes of activations are"
        f" alive at once.{frontend}"
    )
    conventions = [
        [name, f"{count.macs:,}", f"{count.params:,}", f"{count.param_bytes:,}"]
        for name, count in counts.conventions.items()
        if count is not None
    ]
    return [
        verdicts,
        TableSection("Counts by convention", conventions, ("", "macs", "params", "param_bytes"), note=besides),
    ]


def _cost_tiles(checked: CheckResult | None) -> list[Tile]:
    if checked is None:
        return []
    return [
        Tile(
            TILES[each.name][0],
            brief(int(each.value), TILES[each.name][1]),
            f"{used(each.value, each.limit)} of {checked.verdict.target}",
            each.ok,
        )
        for each in checked.verdict.budgets
        if each.name in TILES and each.value is not None
    ]


def _latency(timed: Benchmark | str) -> TableSection:
    title = "How long it takes on this machine"
    if isinstance(timed, str):
        return TableSection(title, [], note=f"Not measured: {timed}")
    times = [
        [name, *(f"{getattr(getattr(timed, field), key):.3f}" for key in ("p50", "p95", "cpu_p50"))]
        for name, field in STAGES.items()
    ]
    resident = "" if timed.rss_mb is None else f", {timed.rss_mb:.0f} MB resident"
    note = (
        f"Of the machine that made this page, and no other: {timed.machine}, {timed.engine},"
        f" {counted(timed.threads, 'thread')}, {timed.repeats} windows one by one; 'edgekd bench' times more. A fresh"
        f" process gives its first logits after {timed.start_s:.2f} s{resident}."
    )
    return TableSection(title, times, ("milliseconds", "median", "p95", "processor time, median"), note=note)


def _time_tiles(timed: Benchmark | str) -> list[Tile]:
    return (
        []
        if isinstance(timed, str)
        else [Tile("a decision takes", f"{timed.pipeline_ms.p50:.1f} ms", "median, on this machine")]
    )


def _timed(model: Path, engine: str, threads: int) -> Benchmark | str:
    """The benchmark, or the reason why it failed: a failure must not lose the scores."""
    try:
        return bench([model], engine=engine, threads=threads, repeats=BENCH_REPEATS)[0]
    except EdgekdError as error:
        return str(error)
