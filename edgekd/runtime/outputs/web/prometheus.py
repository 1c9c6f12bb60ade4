"""The listener's metrics in Prometheus' text format, version 0.0.4, which prometheus-client writes."""

import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import get_args

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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


def gauge(name: str, what: str, value: float) -> Metric:
    """A metric whose value goes up and down."""
    return GaugeMetricFamily(name, what, value)


def counter(name: str, what: str, value: float) -> Metric:
    """A metric that only grows; "_total" is appended to its name."""
    return CounterMetricFamily(name, what, value)


def _by_label(metric: GaugeMetricFamily | CounterMetricFamily, values: Iterable[tuple[str, float]]) -> Metric:
    """A metric of one label with its values."""
    for label, value in values:
        metric.add_metric([label], value)
    return metric


class LatencyHistogram:
    """Counts of times in seconds, by the smallest bound of `BUCKETS_S` that is not below them."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum += seconds

    def metric(self, name: str, what: str) -> Metric:
        """The histogram as a metric."""
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return HistogramMetricFamily(
            name, what, buckets=list(zip(bounds, accumulate(self._counts), strict=True)), sum_value=self._sum
        )


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
        families = [*self._families(), *web, *self._process_metrics()]
        return generate_latest(_Collected([family for family in families if family.samples]))

    def _families(self) -> Iterator[Metric]:
        if self.manifest is not None:
            names = {
                "model": self.manifest.name,
                "student": self.manifest.student,
                "precision": self.manifest.precision,
                "recipe_hash": self.manifest.provenance.recipe_hash,
            }
            info = GaugeMetricFamily("edgekd_model_info", "The model that is running; always 1.", labels=list(names))
            info.add_metric(list(names.values()), 1)
            yield info
        yield from self._decision_metrics()
        yield from self._source_metrics()
        yield self._features.metric("edgekd_features_seconds", "Clock time of the log-mel features of a window.")
        yield self._inference.metric("edgekd_inference_seconds", "Clock time of the network for a window.")

    def _decision_metrics(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily("edgekd_decisions", "Decisions, by the label shown.", labels=["label"])
        yield _by_label(decisions, sorted(self._decisions.items()))
        yield counter(
            "edgekd_gated_decisions", "Decisions on windows below the gate, which were not scored.", self._gated
        )
        state = GaugeMetricFamily("edgekd_state", "State of the source: 1 for the one it is in.", labels=["state"])
        yield _by_label(state, ((name, name == self.state) for name in get_args(State)))
        yield gauge("edgekd_fresh", "Whether the last decision is as new as it should be.", self.is_fresh)
        errors = GaugeMetricFamily(
            "edgekd_output_trouble",
            "Whether an output reports an error; outputs that never did are absent.",
            labels=["output"],
        )
        yield _by_label(errors, ((name, bool(error)) for name, error in sorted(self.errors.items())))
        last = self.last
        if last is not None and self.age is not None:
            decided_at = time.time() - self.age
            yield counter("edgekd_audio_seconds", "Audio time of the last decision.", last.t)
            yield gauge(
                "edgekd_last_decision_timestamp_seconds", "When the last decision was made, Unix time.", decided_at
            )
            yield gauge("edgekd_label_probability_ratio", "Probability of the label shown.", last.probability)
            yield gauge("edgekd_sound_rms_ratio", "Root mean square of the last window; 1 is full scale.", last.rms)
            yield counter(
                "edgekd_dropped_samples", "Samples that were dropped because decisions were late.", last.drops
            )
        if self.factor is not None:
            what = "Processor seconds per second of audio, over the last minute."
            yield gauge("edgekd_real_time_factor", what, self.factor)

    def _source_metrics(self) -> Iterator[Metric]:
        counts = self.counts
        if counts is None:
            return
        yield gauge("edgekd_queue_samples", "Samples that wait, at the source's rate.", counts.waiting)
        yield counter("edgekd_source_samples", "Samples that came from the source, at its rate.", counts.received)
        yield counter("edgekd_source_bad_samples", "Samples that were NaN or infinite.", counts.bad)
        yield counter(
            "edgekd_source_overflows", "Places where the source lost an unknown number of samples.", counts.overflows
        )
        yield counter("edgekd_source_restarts", "Attempts to open the source after the first.", counts.restarts)
        yield gauge("edgekd_source_lag_seconds", "Clock minus samples since the source's last start.", counts.lag_s)

    def _process_metrics(self) -> list[Metric]:
        resident = resident_bytes()
        memory = [] if resident is None else [gauge("process_resident_memory_bytes", "Resident memory.", resident)]
        return [
            *memory,
            counter("process_cpu_seconds", "Processor time.", self._cpu()),
            gauge("process_start_time_seconds", "When the listener began, Unix time.", self._started),
        ]


class _Collected(Collector):
    """Metrics for prometheus-client, without its global registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
