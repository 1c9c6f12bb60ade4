"""Decisions over a recording, faster than real time, and their statistics: to choose `DecisionSettings` offline."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from edgekd.errors import InputError
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import with_equaliser
from edgekd.runtime.config import Config
from edgekd.runtime.config_tables import OUTPUT_TABLES
from edgekd.runtime.control import WindowClassifier
from edgekd.runtime.decision import PLAIN, UNKNOWN, Decision, DecisionSettings
from edgekd.runtime.listen import STANDARD_INPUT, Array, decisions
from edgekd.runtime.source.files import read_file
from edgekd.runtime.track import Span, TrackScore, read_track, require_within, score
from edgekd.text import counted

HOUR_S = 3600.0


class ReplayReport(msgspec.Struct, frozen=True):
    """The report of `listen --replay --json`. Fields may be added, never renamed.

    seconds: of audio. decisions: all of them, the sum of `known` (a label was shown), `unknown` and `gated` (not
    scored). flips: changes of the label shown, and per hour of audio. unknown_share, gated_share: of all decisions,
    0..1. real_time_factor: clock seconds per second of audio, reading included; below 1 is faster than real time.
    cpu_us: processor time of the listening thread per decision, microseconds, without reading and resampling the file
    (with several threads of the engine only a part). settings: of the decisions. score: where a track was given.
    """

    source: str
    seconds: float
    hop_s: float
    decisions: int
    known: int
    unknown: int
    gated: int
    flips: int
    flips_per_hour: float
    unknown_share: float
    gated_share: float
    real_time_factor: float
    cpu_us: float
    settings: DecisionSettings
    score: TrackScore | None = None


class _Meter:
    """Passes chunks on, and counts their samples and the processor time of reading them."""

    def __init__(self, chunks: Iterator[Array]) -> None:
        self._chunks = chunks
        self.samples = 0
        self.cpu_s = 0.0

    def __iter__(self) -> Iterator[Array]:
        while True:
            began = time.thread_time()
            chunk = next(self._chunks, None)
            self.cpu_s += time.thread_time() - began
            if chunk is None:
                return
            self.samples += len(chunk)
            yield chunk


def replay(
    source: str | None,
    model: Path,
    *,
    engine: str | None = None,
    threads: int = 1,
    hop_s: float = 0.5,
    settings: DecisionSettings = PLAIN,
    track: Path | None = None,
    equaliser: str | Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> ReplayReport:
    """Decide over an audio file as fast as possible and evaluate the decisions.

    Args:
        source: path of the file.
        model, engine, threads, hop_s, settings: as of `listen`.
        equaliser: a file of `edgekd equalise` for the microphone of the recording.
        track: a table start,end,label in seconds with the labels over time; None for no score.
        warn: takes a line for people where samples are scaled down.

    Raises:
        InputError: as of `listen`; a source that is not a file; a track that does not fit the model or the file.
        MissingExtraError: an engine, or a package for the file's format or rate, is not installed.
    """
    if source is None or source == STANDARD_INPUT:
        raise InputError("a replay needs an audio file; give one instead of the microphone or standard input")
    classifier = with_equaliser(open_model(model, engine, threads), equaliser)
    spans = None if track is None else read_track(track, classifier.manifest.labels)
    chunks = read_file(Path(source), classifier.manifest.frontend.sample_rate, warn)
    return evaluate(classifier, chunks, source, hop_s, settings, spans, track)


def evaluate(
    classifier: WindowClassifier,
    chunks: Iterator[Array],
    source: str,
    hop_s: float,
    settings: DecisionSettings,
    spans: tuple[Span, ...] | None = None,
    track: Path | None = None,
) -> ReplayReport:
    """Evaluate the decisions over chunks of samples, float32 (time,) at the model's rate. `source` and `track` are for
    errors."""
    rate = classifier.manifest.frontend.sample_rate
    meter = _Meter(chunks)
    times, shown, unknown, gated = [], [], 0, 0
    began, cpu_began = time.perf_counter(), time.thread_time()
    for decision in decisions(classifier, meter, source, hop_s, 1, settings):
        if not isinstance(decision, Decision):  # a recording has no changes of state
            continue
        times.append(decision.t)
        shown.append(decision.label)
        gated += decision.gated is True
        unknown += decision.gated is not True and decision.label == UNKNOWN
    cpu_s, wall_s = time.thread_time() - cpu_began - meter.cpu_s, time.perf_counter() - began
    count, seconds = len(times), meter.samples / rate
    if spans is not None:
        require_within(spans, seconds, track or Path(source))
    flips = sum(after != before for before, after in pairwise(shown))
    return ReplayReport(
        source=source,
        seconds=round(seconds, 3),
        hop_s=hop_s,
        decisions=count,
        known=count - unknown - gated,
        unknown=unknown,
        gated=gated,
        flips=flips,
        flips_per_hour=round(HOUR_S * flips / seconds, 2),
        unknown_share=round(unknown / count, 4),
        gated_share=round(gated / count, 4),
        real_time_factor=round(wall_s / seconds, 6),
        cpu_us=round(1e6 * cpu_s / count, 1),
        settings=settings,
        score=None if spans is None else score(spans, times, shown, seconds, classifier.manifest.window / rate),
    )


def ignored_outputs(config: Config) -> str | None:
    """A line that names the configured outputs, which a replay does not use; None where there are none."""
    names = [f"[{name}]" for name in OUTPUT_TABLES if getattr(config, name) is not None]
    return (
        f"a replay only evaluates: {' and '.join(names)} received nothing; leave out --replay and --track to use them"
        if names
        else None
    )


def to_json(result: ReplayReport) -> str:
    """The report as one line of JSON."""
    return msgspec.json.encode(result).decode()


def to_text(result: ReplayReport) -> str:
    """The report as lines for people."""
    lines = [
        (
            f"{result.source}: {result.seconds:,.1f} s of audio, {counted(result.decisions, 'decision')}, one each"
            f" {result.hop_s:g} s"
        ),
        f"  flips        {result.flips:,} ({result.flips_per_hour:g} an hour)",
        f"  unknown      {result.unknown:,} ({result.unknown_share:.1%})",
        f"  gated        {result.gated:,} ({result.gated_share:.1%})",
        f"  speed        {1.0 / max(result.real_time_factor, 1e-6):,.0f} times real time",
        f"  processor    {result.cpu_us:,.0f} us a decision",
    ]
    scored = result.score
    if scored is not None:
        lines += [
            (
                f"  accuracy     {_percent(scored.accuracy)} of the track's time, {_percent(scored.accuracy_known)}"
                " where a label is shown"
            ),
            f"  onsets       {scored.onsets:,}, {scored.missed:,} missed",
            f"  delay        median {_delay(scored.delay_p50_s)}, p95 {_delay(scored.delay_p95_s)}",
        ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _delay(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:.2f} s"
