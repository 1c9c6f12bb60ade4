"""What a listener does, as numbers in Prometheus' text format (version 0.0.4)."""

import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.config_tables import OUTPUT_TABLES
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import WORKS_AGAIN, Moment
from edgekd.runtime.source.capture import Counts
from edgekd.runtime.source.health import Change, State

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
FACTOR_S = 60.0
"""Of sound over which the real-time factor is taken."""
FRESH_S = 3.0
"""Beyond twice the time between the last two decisions, after which the next one is missing."""

Value = tuple[Mapping[str, str], float]


class Histogram:
    """How often a time in seconds was at most each of `BUCKETS_S`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum = 0.0

    def take(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Its samples."""
        total = 0
        for bound, count in zip((*map(_number, BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {_number(self._sum)}"
        yield f"{name}_count {total}"


class Metrics:
    """Counts what it is told."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        """clock: seconds that do not jump. cpu: processor seconds of this process."""
        self._clock, self._cpu, self._started = clock, cpu, time.time()
        self._decisions: Counter[str] = Counter()
        self._gated = 0
        self._features, self._inference = Histogram(), Histogram()
        self._points: deque[tuple[float, float]] = deque()  # seconds of sound, of the processor
        self._at: float | None = None  # clock at the last decision
        self.last: Decision | None = None
        self.manifest: Manifest | None = None
        self.counts: Counts | None = None
        self.state: State = "HEALTHY"
        self.reason = ""
        self.troubles: dict[str, str] = {}
        """Output -> what is wrong with it, "" where it was and is not."""

    def take(self, event: Decision | Change, moment: Moment | None) -> None:
        """Count a line."""
        self.state = event.state
        if isinstance(event, Change):
            output, colon, trouble = event.reason.partition(": ")
            if colon and output in OUTPUT_TABLES:
                self.troubles[output] = "" if trouble == WORKS_AGAIN else trouble
            else:
                self.reason = event.reason
            return
        self._decisions[event.label] += 1
        self._gated += event.gated is True
        self._points.append((event.t, self._cpu()))
        while len(self._points) > 2 and event.t - self._points[1][0] >= FACTOR_S:
            self._points.popleft()
        self.last, self._at = event, self._clock()
        if moment is not None:
            self.manifest, self.counts = moment.manifest, moment.counts
            self._features.take(moment.features_s)
            if moment.features is not None:
                self._inference.take(moment.inference_s)

    @property
    def factor(self) -> float | None:
        """Processor seconds for a second of sound, of the last `FACTOR_S`; None before it is known."""
        if len(self._points) < 2 or self._points[-1][0] <= self._points[0][0]:
            return None
        (t, cpu), (last_t, last_cpu) = self._points[0], self._points[-1]
        return (last_cpu - cpu) / (last_t - t)

    @property
    def age(self) -> float | None:
        """Clock seconds since the last decision; None before the first."""
        return None if self._at is None else self._clock() - self._at

    @property
    def is_fresh(self) -> bool:
        """Whether the last decision is as new as it should be."""
        hop_s = self._points[-1][0] - self._points[-2][0] if len(self._points) > 1 else 0.0
        return self.age is not None and self.age <= FRESH_S + 2.0 * hop_s

    def text(self, web: Mapping[str, tuple[str, str, float]]) -> bytes:
        """All of it. web: further metrics without labels: name -> type, help, value."""
        return "".join(f"{line}\n" for line in self._lines(web)).encode()

    def _lines(self, web: Mapping[str, tuple[str, str, float]]) -> Iterator[str]:
        plain: list[Value]
        if self.manifest is not None:
            names = {
                "model": self.manifest.name,
                "student": self.manifest.student,
                "precision": self.manifest.precision,
                "recipe_hash": self.manifest.provenance.recipe_hash,
            }
            yield from _metric("edgekd_model_info", "gauge", "The model that is running; always 1.", [(names, 1)])
        yield from _metric(
            "edgekd_decisions_total",
            "counter",
            "Decisions, by the label shown.",
            [({"label": label}, count) for label, count in sorted(self._decisions.items())],
        )
        yield from _metric(
            "edgekd_gated_decisions_total",
            "counter",
            "Decisions on windows below the gate, which were not judged.",
            [({}, self._gated)],
        )
        yield from _metric(
            "edgekd_state",
            "gauge",
            "State of the source: 1 for the one it is in.",
            [({"state": state}, state == self.state) for state in get_args(State)],
        )
        yield from _metric(
            "edgekd_fresh", "gauge", "Whether the last decision is as new as it should be.", [({}, self.is_fresh)]
        )
        yield from _metric(
            "edgekd_output_trouble",
            "gauge",
            "Whether an output is in trouble; outputs that never were are absent.",
            [({"output": name}, bool(trouble)) for name, trouble in sorted(self.troubles.items())],
        )
        last = self.last
        if last is not None and self.age is not None:
            plain = [({}, last.t)]
            yield from _metric(
                "edgekd_audio_seconds_total", "counter", "Time of the sound at the last decision.", plain
            )
            yield from _metric(
                "edgekd_last_decision_timestamp_seconds",
                "gauge",
                "When the last decision was made, Unix time.",
                [({}, time.time() - self.age)],
            )
            yield from _metric(
                "edgekd_label_probability_ratio", "gauge", "Probability of the label shown.", [({}, last.probability)]
            )
            yield from _metric(
                "edgekd_sound_rms_ratio",
                "gauge",
                "Root mean square of the last window; 1 is full scale.",
                [({}, last.rms)],
            )
            yield from _metric(
                "edgekd_dropped_samples_total",
                "counter",
                "Samples that were lost because decisions were late.",
                [({}, last.drops)],
            )
        if self.factor is not None:
            yield from _metric(
                "edgekd_real_time_factor",
                "gauge",
                "Processor seconds for a second of sound, over the last minute.",
                [({}, self.factor)],
            )
        counts = self.counts
        if counts is not None:
            for name, kind, words, value in (
                ("queue_samples", "gauge", "Samples that wait to be judged, at the source's rate.", counts.waiting),
                ("source_samples_total", "counter", "Samples that came from the source, at its rate.", counts.received),
                ("source_bad_samples_total", "counter", "Samples that were no numbers.", counts.bad),
                ("source_overflows_total", "counter", "Places where the source lost samples unseen.", counts.overflows),
                (
                    "source_restarts_total",
                    "counter",
                    "Reconnections: attempts to hear after the first.",
                    counts.restarts,
                ),
                ("source_lag_seconds", "gauge", "Clock minus samples since the source's last start.", counts.lag_s),
            ):
                yield from _metric(f"edgekd_{name}", kind, words, [({}, value)])
        for name, words, histogram in (
            ("features", "log-mel features of a window", self._features),
            ("inference", "network for a window", self._inference),
        ):
            yield from _head(f"edgekd_{name}_seconds", "histogram", f"Clock time of the {words}.")
            yield from histogram.lines(f"edgekd_{name}_seconds")
        for name, (kind, words, value) in web.items():
            yield from _metric(name, kind, words, [({}, value)])
        resident = resident_bytes()
        if resident is not None:
            yield from _metric("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, resident)])
        yield from _metric("process_cpu_seconds_total", "counter", "Processor time.", [({}, self._cpu())])
        yield from _metric(
            "process_start_time_seconds", "gauge", "When the listener began, Unix time.", [({}, self._started)]
        )


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _metric(name: str, kind: str, words: str, values: list[Value]) -> Iterator[str]:
    """A metric with its values; nothing where it has none."""
    if values:
        yield from _head(name, kind, words)
    for labels, value in values:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
