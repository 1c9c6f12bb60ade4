"""Scores a sequence of decisions against a track: a table of the labels of a recording over time."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.sets.tables import read_table
from edgekd.errors import InputError, nearest
from edgekd.runtime.decision import NO_LABELS

COLUMNS = ("start", "end", "label")
SLACK_S = 0.05
"""The last span may end so much after the file: times in tracks are rounded, and resampling shortens a file
slightly."""


class Span(NamedTuple):
    """One label from `start` to `end`, seconds. row: of the table, for errors."""

    start: float
    end: float
    label: str
    row: int


class TrackScore(msgspec.Struct, frozen=True):
    """Agreement of decisions with a track.

    accuracy: share of the track's seconds, from the first decision on, in which the track's label was shown, 0..1;
    "unknown" and "quiet" are right only where the track has them. accuracy_known: the same over the seconds in which a
    label was shown. onsets: spans that do not continue the label before. missed: onsets whose label was not shown
    before the last window that overlaps the span had ended. delay_p50_s, delay_p95_s: seconds from an onset to the end
    of the first window with its label, 0 where it was shown already, over the onsets not missed. A figure without data
    is None.
    """

    accuracy: float | None
    accuracy_known: float | None
    onsets: int
    missed: int
    delay_p50_s: float | None
    delay_p95_s: float | None


def read_track(path: Path, labels: Sequence[str]) -> tuple[Span, ...]:
    """The spans of a table with the columns start, end and label, in the order of time. Times that no span covers are
    not scored.

    Args:
        path: comma, tab or semicolon separated.
        labels: that a model knows; "unknown" and "quiet" are allowed too.

    Raises:
        InputError: no table, a missing column, a malformed time, a span that ends before it starts, an unknown label,
            two spans that overlap.
    """
    columns, rows = read_table(path)
    for name in COLUMNS:
        if name not in columns:
            raise InputError(
                f"{path} has no column '{name}'{nearest(name, columns)}; its first line must name {','.join(COLUMNS)}"
            )
    spans = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        start, end = (_seconds(row[name], f"{where}: {name}") for name in ("start", "end"))
        if end <= start:
            raise InputError(
                f"{where}: it ends at {end:g} s and starts at {start:g} s; a span must end after its start"
            )
        if row["label"] not in {*labels, *NO_LABELS}:
            raise InputError(
                f"{where}: the model knows no label '{row['label']}'{nearest(row['label'], [*labels, *NO_LABELS])}"
            )
        spans.append(Span(start, end, row["label"], number))
    spans.sort()
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise InputError(
                f"{path}: rows {before.row} ({before.start:g} to {before.end:g} s) and {after.row} ({after.start:g} to "
                f"{after.end:g} s) overlap; one label at a time"
            )
    return tuple(spans)


def require_within(spans: Sequence[Span], seconds: float, path: Path) -> None:
    """Refuse a track that continues after a file of `seconds`.

    Raises:
        InputError: a span ends more than `SLACK_S` after it.
    """
    last = max(spans, key=lambda span: span.end)
    if last.end > seconds + SLACK_S:
        raise InputError(
            f"{path}, row {last.row}: it ends at {last.end:g} s, but the audio has {seconds:.2f} s; is it the track of "
            "another file?"
        )


def score(
    spans: Sequence[Span], times: Sequence[float], shown: Sequence[str], seconds: float, window_s: float
) -> TrackScore:
    """Score decisions against a track.

    Args:
        spans: in the order of time, none overlapping.
        times: seconds of each decision, rising. Each holds until the next, the last until `seconds`.
        shown: the label of each decision.
        seconds: of audio.
        window_s: length of a window.
    """
    begins, ends, names = np.asarray(times), np.append(times[1:], seconds), np.asarray(shown)
    covered = right = known = right_known = 0.0
    for span in spans:
        near = _near(begins, span.start, span.end)
        # seconds for which each decision was shown within the span
        held = np.clip(np.minimum(ends[near], span.end) - np.maximum(begins[near], span.start), 0.0, None)
        matches, labelled = names[near] == span.label, ~np.isin(names[near], tuple(NO_LABELS))
        covered += held.sum()
        right += held[matches].sum()
        known += held[labelled].sum()
        right_known += held[matches & labelled].sum()
    delays = []
    onsets = _merged(spans)
    for span in onsets:
        near = _near(begins, span.start, span.end + window_s)
        found = begins[near][names[near] == span.label]
        if len(found):
            delays.append(max(0.0, float(found[0]) - span.start))
    p50, p95 = np.percentile(delays, (50, 95)).tolist() if delays else (None, None)
    return TrackScore(
        accuracy=_share(right, covered),
        accuracy_known=_share(right_known, known),
        onsets=len(onsets),
        missed=len(onsets) - len(delays),
        delay_p50_s=_rounded(p50),
        delay_p95_s=_rounded(p95),
    )


def _near(begins: NDArray[np.float64], start: float, end: float) -> slice:
    """Decisions that are shown at some time from `start` to before `end`. begins: seconds at which each is first shown,
    rising."""
    return slice(max(int(np.searchsorted(begins, start, "right")) - 1, 0), int(np.searchsorted(begins, end)))


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans, where adjacent ones of the same label are merged."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].label == span.label and joined[-1].end == span.start:
            joined[-1] = joined[-1]._replace(end=span.end)
        else:
            joined.append(span)
    return joined


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise InputError(f"{where} is '{text}'; give seconds from the start of the file, 0 or more")
    return value


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 4) if whole else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
