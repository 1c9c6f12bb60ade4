"""Metrics for Prometheus: parsed by the grammar of the text format, and their values for a stream of decisions."""

import re

import numpy as np
import pytest
from runtime.observations import MANIFEST, decision, observation

from edgekd.runtime.outputs.web.prometheus import FRESH_S, Metrics, gauge
from edgekd.runtime.source.capture import CaptureCounts
from edgekd.runtime.source.health import StatusLine

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)")


def read(text: bytes) -> dict[str, float]:
    """Samples of the text format, checked by its rules: types first, one family together, no sample twice."""
    lines = text.decode().split("\n")
    assert lines.pop() == ""
    samples: dict[str, float] = {}
    kinds: dict[str, str] = {}
    family = ""
    for line in lines:
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in kinds
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            kinds[family] = line.split()[3]
        else:
            found = SAMPLE.fullmatch(line)
            assert found is not None, line
            base = re.sub("_(bucket|sum|count)$", "", found[1]) if kinds[family] == "histogram" else found[1]
            assert base == family, line
            assert (kinds[family] == "counter") == found[1].endswith("_total"), line
            key = line.rpartition(" ")[0]
            assert key not in samples, line
            samples[key] = float(found[3])
    for family in [family for family, kind in kinds.items() if kind == "histogram"]:
        buckets = [value for key, value in samples.items() if key.startswith(f"{family}_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == samples[f"{family}_count"]
    return samples


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stream_of_decisions_is_counted():
    clock, cpu = Clock(), Clock()
    metrics = Metrics(clock, cpu)
    counts = CaptureCounts(
        received=48000, given=40000, dropped=0, waiting=8000, bad=3, overflows=1, restarts=2, lag_s=0.25
    )
    for number in range(8):
        clock.now, cpu.now = 0.5 * number, 0.01 * number
        metrics.add(
            decision(1.0 + 0.5 * number, "rain" if number < 6 else 'a "b"\\\nc'),
            observation(counts=counts, inference_s=0.003),
        )
    metrics.add(decision(5.0, "rain", gated=True), observation(features=None, counts=counts))
    samples = read(metrics.text([gauge("edgekd_web_streams", "Streams.", 4)]))
    assert samples['edgekd_decisions_total{label="rain"}'] == 7
    assert samples['edgekd_decisions_total{label="a \\"b\\"\\\\\\nc"}'] == 2
    assert samples["edgekd_gated_decisions_total"] == 1
    assert samples["edgekd_audio_seconds_total"] == 5.0
    assert samples["edgekd_real_time_factor"] == pytest.approx(0.07 / 4.0)
    assert samples['edgekd_inference_seconds_bucket{le="0.0025"}'] == 0
    assert samples['edgekd_inference_seconds_bucket{le="0.005"}'] == samples["edgekd_inference_seconds_count"] == 8
    assert samples["edgekd_inference_seconds_sum"] == pytest.approx(0.024)
    assert samples["edgekd_features_seconds_count"] == 9
    assert samples["edgekd_queue_samples"] == 8000
    assert (samples["edgekd_source_restarts_total"], samples["edgekd_source_overflows_total"]) == (2, 1)
    assert samples["edgekd_web_streams"] == 4
    assert samples["process_resident_memory_bytes"] > 1e6
    assert any(key.startswith("edgekd_model_info{") and f'model="{MANIFEST.name}"' in key for key in samples)


def test_before_the_first_decision_there_is_text_too():
    samples = read(Metrics().text([]))
    assert samples["edgekd_fresh"] == 0
    assert samples["edgekd_inference_seconds_count"] == 0
    assert not any(key.startswith("edgekd_decisions_total") for key in samples)


def test_the_state_is_one_of_three_and_errors_of_outputs_are_apart():
    metrics = Metrics()
    metrics.add(StatusLine(1.0, "RECOVERING", "no sound arrives"), None)
    metrics.add(StatusLine(1.0, "RECOVERING", "mqtt: no broker"), None)
    metrics.add(StatusLine(1.0, "RECOVERING", "history: disk full"), None)
    metrics.add(StatusLine(1.0, "RECOVERING", "history: works again"), None)
    samples = read(metrics.text([]))
    assert [samples[f'edgekd_state{{state="{state}"}}'] for state in ("HEALTHY", "RECOVERING", "FAILED")] == [0, 1, 0]
    assert samples['edgekd_output_trouble{output="mqtt"}'] == 1
    assert samples['edgekd_output_trouble{output="history"}'] == 0
    assert metrics.reason == "no sound arrives"


def test_decisions_are_fresh_for_as_long_as_their_hop_explains():
    clock = Clock()
    metrics = Metrics(clock)
    assert not metrics.is_fresh
    for t in (10.0, 20.0):
        metrics.add(decision(t), observation())
    clock.now = FRESH_S + 19.9
    assert metrics.is_fresh
    clock.now += 0.2
    assert not metrics.is_fresh


def test_the_real_time_factor_is_of_the_last_minute():
    cpu = Clock()
    metrics = Metrics(cpu=cpu)
    for t in range(200):
        cpu.now += 0.5 if t < 100 else 0.1
        metrics.add(decision(float(t)), None)
    assert metrics.factor == pytest.approx(0.1)
    assert np.isfinite(metrics.factor)
