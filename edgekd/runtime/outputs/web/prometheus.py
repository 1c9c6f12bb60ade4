"""The listener's metrics in Prometheus' text format, version 0.0.4."""

import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.error_line import output_error
from edgekd.runtime.source.capture import CaptureCounts
from edgekd.runtime.source.health import State, StatusLine

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
FACTOR_S = 60.0
"""Seconds of audio over which the real-time factor is computed."""
FRESH_S = 3.0
"""A decision is late when the last one is older than twice the time between the last two plus this, seconds."""

Value = tuple[Mapping[str, str], float]
"""Labels and a number."""


class Metric(NamedTuple):
    """A metric with its values. kind: "counter" or "gauge"."""

    name: str
    kind: str
    description: str
    values: Sequence[Value]

    def lines(self) -> Iterator[str]:
        """The metric in the text format; nothing where it has no values."""
        if self.values:
            yield from _head(self.name, self.kind, self.description)
        for labels, value in self.values:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{{{inside}}} {_number(value)}" if inside else f"{self.name} {_number(value)}"


def single(name: str, kind: str, description: str, value: float) -> Metric:
    """A metric with one value without labels."""
    return Metric(name, kind, description, [({}, value)])


class LatencyHistogram:
    """Counts of times in seconds, by the smallest bound of `BUCKETS_S` that is not below them."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """The histogram in the text format."""
        total = 0
        for bound, count in zip((*map(_number, BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {_number(self._sum)}"
        yield f"{name}_count {total}"


class Metrics:
    """Counts the lines of the stream."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        """clock: seconds that do not jump. cpu: processor seconds of this process."""
        self._clock, self._cpu, self._started = clock, cpu, time.time()
        self._decisions: Counter[str] = Counter()
        self._gated = 0
        self._features, self._inference = LatencyHistogram(), LatencyHistogram()
        self._points: deque[tuple[float, float]] = deque()  # seconds of audio, of the processor
        self._at: float | None = None  # clock at the last decision
        self.last: Decision | None = None
        self.manifest: Manifest | None = None
        self.counts: CaptureCounts | None = None
        self.state: State = "HEALTHY"
        self.reason = ""
        self.errors: dict[str, str] = {}
        """Output -> its error, "" after the error has ended."""

    def add(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Count a line."""
        self.state = event.state
        if isinstance(event, StatusLine):
            reported = output_error(event)
            if reported is None:
                self.reason = event.reason
            else:
                name, error = reported
                self.errors[name] = error
            return
        self._decisions[event.label] += 1
        self._gated += event.gated is True
        self._points.append((event.t, self._cpu()))
        while len(self._points) > 2 and event.t - self._points[1][0] >= FACTOR_S:
            self._points.popleft()
        self.last, self._at = event, self._clock()
        if observation is not None:
            self.manifest, self.counts = observation.manifest, observation.counts
            self._features.add(observation.features_s)
            if observation.features is not None:
                self._inference.add(observation.inference_s)

    @property
    def factor(self) -> float | None:
        """Processor seconds per second of audio over the last `FACTOR_S`; None before it is known."""
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

    def text(self, web: Sequence[Metric]) -> bytes:
        """All metrics. web: further ones."""
        return "".join(f"{line}\n" for line in self._lines(web)).encode()

    def _lines(self, web: Sequence[Metric]) -> Iterator[str]:
        for metric in (*self._model_metrics(), *self._decision_metrics(), *self._source_metrics()):
            yield from metric.lines()
        for name, what, histogram in (
            ("features", "log-mel features of a window", self._features),
            ("inference", "network for a window", self._inference),
        ):
            yield from _head(f"edgekd_{name}_seconds", "histogram", f"Clock time of the {what}.")
            yield from histogram.lines(f"edgekd_{name}_seconds")
        for metric in (*web, *self._process_metrics()):
            yield from metric.lines()

    def _model_metrics(self) -> list[Metric]:
        if self.manifest is None:
            return []
        names = {
            "model": self.manifest.name,
            "student": self.manifest.student,
            "precision": self.manifest.precision,
            "recipe_hash": self.manifest.provenance.recipe_hash,
        }
        return [Metric("edgekd_model_info", "gauge", "The model that is running; always 1.", [(names, 1)])]

    def _decision_metrics(self) -> list[Metric]:
        by_label = [({"label": label}, count) for label, count in sorted(self._decisions.items())]
        by_state = [({"state": state}, state == self.state) for state in get_args(State)]
        by_output = [({"output": name}, bool(error)) for name, error in sorted(self.errors.items())]
        metrics = [
            Metric("edgekd_decisions_total", "counter", "Decisions, by the label shown.", by_label),
            single(
                "edgekd_gated_decisions_total",
                "counter",
                "Decisions on windows below the gate, which were not scored.",
                self._gated,
            ),
            Metric("edgekd_state", "gauge", "State of the source: 1 for the one it is in.", by_state),
            single("edgekd_fresh", "gauge", "Whether the last decision is as new as it should be.", self.is_fresh),
            Metric(
                "edgekd_output_trouble",
                "gauge",
                "Whether an output reports an error; outputs that never did are absent.",
                by_output,
            ),
        ]
        last = self.last
        if last is not None and self.age is not None:
            decided_at = time.time() - self.age
            metrics += [
                single("edgekd_audio_seconds_total", "counter", "Audio time of the last decision.", last.t),
                single(
                    "edgekd_last_decision_timestamp_seconds",
                    "gauge",
                    "When the last decision was made, Unix time.",
                    decided_at,
                ),
                single("edgekd_label_probability_ratio", "gauge", "Probability of the label shown.", last.probability),
                single(
                    "edgekd_sound_rms_ratio", "gauge", "Root mean square of the last window; 1 is full scale.", last.rms
                ),
                single(
                    "edgekd_dropped_samples_total",
                    "counter",
                    "Samples that were dropped because decisions were late.",
                    last.drops,
                ),
            ]
        if self.factor is not None:
            what = "Processor seconds per second of audio, over the last minute."
            metrics.append(single("edgekd_real_time_factor", "gauge", what, self.factor))
        return metrics

    def _source_metrics(self) -> list[Metric]:
        counts = self.counts
        if counts is None:
            return []
        return [
            single("edgekd_queue_samples", "gauge", "Samples that wait, at the source's rate.", counts.waiting),
            single(
                "edgekd_source_samples_total",
                "counter",
                "Samples that came from the source, at its rate.",
                counts.received,
            ),
            single("edgekd_source_bad_samples_total", "counter", "Samples that were NaN or infinite.", counts.bad),
            single(
                "edgekd_source_overflows_total",
                "counter",
                "Places where the source lost an unknown number of samples.",
                counts.overflows,
            ),
            single(
                "edgekd_source_restarts_total",
                "counter",
                "Attempts to open the source after the first.",
                counts.restarts,
            ),
            single(
                "edgekd_source_lag_seconds",
                "gauge",
                "Clock minus samples since the source's last start.",
                counts.lag_s,
            ),
        ]

    def _process_metrics(self) -> list[Metric]:
        resident = resident_bytes()
        memory = (
            [] if resident is None else [single("process_resident_memory_bytes", "gauge", "Resident memory.", resident)]
        )
        return [
            *memory,
            single("process_cpu_seconds_total", "counter", "Processor time.", self._cpu()),
            single("process_start_time_seconds", "gauge", "When the listener began, Unix time.", self._started),
        ]


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _head(name: str, kind: str, description: str) -> Iterator[str]:
    yield f"# HELP {name} {description}"
    yield f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
