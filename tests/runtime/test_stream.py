"""Windows of a stream, cut by counting samples, with features equal to those of a clip to the bit."""

import tracemalloc

import numpy as np
import pytest
from helpers.front_ends import PUBLISHED

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, log_mel
from edgekd.runtime import stream as stream_module
from edgekd.runtime.stream import WindowStream

CONFIGS = [
    FrontEnd(),
    FrontEnd(pre_emphasis=0.97),
    FrontEnd(padding="center", pre_emphasis=0.97, mean=-3.0, std=2.0),
    FrontEnd(padding="end", n_mels=64),
    FrontEnd(n_fft=400, win_length=400, hop_length=160, n_mels=40, padding="center"),
    PUBLISHED,
]


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)


def windows(fe: FrontEnd, waveform: np.ndarray, hop: float, chunk: int) -> list[stream_module.Window]:
    stream = WindowStream(fe, 16000, hop)
    return [window for i in range(0, len(waveform), chunk) for window in stream.push(waveform[i : i + chunk])]


@pytest.mark.parametrize("fe", CONFIGS)
@pytest.mark.parametrize("hop", [0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("chunk", [333, 1600, 60000])
def test_features_equal_those_of_each_window_alone(fe, hop, chunk):
    waveform = noise(50000)
    found = windows(fe, waveform, hop, chunk)
    assert len(found) == 1 + (50000 - 16000) // round(hop * 16000)
    for window in found:
        np.testing.assert_array_equal(window.features, log_mel(fe, waveform[window.start : window.end]))


@pytest.mark.parametrize("padding", ["none", "reflect"])
def test_windows_that_start_at_the_same_sample_have_the_same_features(padding):
    fe, waveform = FrontEnd(n_fft=8192, win_length=8000, hop_length=8000, padding=padding), noise(50000)
    found = windows(fe, waveform, 0.25, 1600)
    assert [window.start for window in found[:4]] == [0, 0, 8000, 8000]
    for window in found:
        np.testing.assert_array_equal(window.features, log_mel(fe, waveform[window.start : window.end]))


@pytest.mark.parametrize("fe", CONFIGS)
@pytest.mark.parametrize("hop", [0.25, 0.5, 1.0])
def test_windows_below_the_gate_have_no_features_and_those_around_them_the_same(fe, hop):
    waveform = noise(160000)
    waveform[30000:60000] *= 1e-4
    waveform[80000:98000] *= 1e-4
    stream = WindowStream(fe, 16000, hop, gate_rms=0.03)
    found = [window for i in range(0, len(waveform), 1600) for window in stream.push(waveform[i : i + 1600])]
    assert [window.start for window in found] == [window.start for window in windows(fe, waveform, hop, 1600)]
    assert 0 < sum(window.features is None for window in found) < len(found) / 2
    for window in found:
        assert (window.features is None) == (window.rms < 0.03)
        if window.features is not None:
            np.testing.assert_array_equal(window.features, log_mel(fe, waveform[window.start : window.end]))


def test_no_frames_are_computed_below_the_gate(monkeypatch):
    monkeypatch.setattr(stream_module, "frames_of", None)
    stream = WindowStream(FrontEnd(), 16000, 0.25, gate_rms=0.5)
    assert [window.features for window in stream.push(noise(32000))] == [None] * 5


def test_start_keeps_to_the_hop_without_drift_and_on_the_grid_of_frames():
    found = windows(FrontEnd(), noise(16000 + 8000 * 40), 0.5, 1600)
    assert len(found) == 41
    for index, window in enumerate(found):
        assert window.start % 512 == 0
        assert 0 <= index * 8000 - window.start < 512


def test_a_hop_as_long_as_the_window_is_exact():
    assert [window.end for window in windows(FrontEnd(), noise(80000), 1.0, 1600)] == [
        16000,
        32000,
        48000,
        64000,
        80000,
    ]


def test_only_new_frames_are_computed(monkeypatch):
    computed = []
    original = stream_module.frames_of
    monkeypatch.setattr(
        stream_module, "frames_of", lambda fe, parts: computed.append(original(fe, parts)) or computed[-1]
    )
    monkeypatch.setattr(stream_module, "log_mel", None)
    windows(FrontEnd(), noise(32000), 0.25, 1600)
    assert [frames.shape[1] for frames in computed] == [28, 7, 8, 8, 8]


@pytest.mark.parametrize("chunk", [333, 1600])
def test_the_samples_that_a_window_lacks_complete_it(chunk):
    stream, waveform = WindowStream(FrontEnd(), 16000, 0.25), noise(40000)
    for start in range(0, len(waveform) - chunk, chunk):
        lacking = stream.lacking
        assert lacking > 0
        assert bool(list(stream.push(waveform[start : start + chunk]))) == (chunk >= lacking)


def test_memory_stays_bounded():
    stream, chunk = WindowStream(FrontEnd(), 16000, 0.5), np.zeros(1600, np.float32)
    tracemalloc.start()
    try:
        for _ in range(3000):
            list(stream.push(chunk))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.received == 4_800_000
    assert peak < 2_000_000  # all samples are 19 MB, all frames 2.4 MB


def test_rms_is_of_the_window():
    first, second = windows(
        FrontEnd(), np.concatenate((np.full(16000, 0.5), np.zeros(16000))).astype(np.float32), 1.0, 1600
    )
    assert first.rms == pytest.approx(0.5)
    assert second.rms == 0.0


@pytest.mark.parametrize("hop", [0.0, -1.0, 0.1, 1.5, float("nan")])
def test_a_hop_out_of_range_is_refused(hop):
    with pytest.raises(InputError, match=r"it must be 0.25 s to 1 s"):
        WindowStream(FrontEnd(), 16000, hop)
