"""The front end: shapes, scales, paddings, pre-emphasis, validation, and streams that equal clips to the bit."""

import pickle

import msgspec
import numpy as np
import pytest
from helpers.front_ends import PUBLISHED

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, filterbank, log_mel, window_array
from edgekd.log_mel_stream import LogMelStream

CONFIGS = [
    FrontEnd(),
    FrontEnd(padding="center", pre_emphasis=0.97),
    FrontEnd(padding="end", mel_scale="htk", win_length=1500),
    FrontEnd(
        n_fft=512,
        win_length=400,
        hop_length=160,
        n_mels=40,
        mel_scale="slaney",
        f_min=50.0,
        f_max=7000.0,
        pre_emphasis=0.5,
    ),
    FrontEnd(n_fft=4801, win_length=4801, hop_length=1920, padding="end", mean=-3.0, std=4.0),
    FrontEnd(padding="reflect"),
    FrontEnd(padding="reflect", hop_length=2000, pre_emphasis=0.9),
    FrontEnd(padding="end", pre_emphasis=0.97, ahead=True, hop_length=700),
    PUBLISHED,
]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def slow_log_mel(fe: FrontEnd, waveform: np.ndarray) -> np.ndarray:
    """The log-mel by its definition, frame by frame in float64."""
    x = waveform.astype(np.float64)
    y = x[1:] - fe.pre_emphasis * x[:-1] if fe.ahead else x - fe.pre_emphasis * np.concatenate(([0.0], x[:-1]))
    if fe.padding in ("center", "reflect"):
        y = np.pad(y, fe.n_fft // 2, "reflect" if fe.padding == "reflect" else "constant")
    columns, start = [], 0
    while start + fe.n_fft <= len(y) or (
        fe.padding == "end" and (start == 0 or start - fe.hop_length + fe.n_fft < len(y))
    ):
        frame = np.pad(y[start : start + fe.n_fft], (0, max(0, start + fe.n_fft - len(y))))
        power = np.abs(np.fft.rfft(frame * window_array(fe))) ** 2
        mel = np.maximum(filterbank(fe) @ power, fe.log_floor) + (fe.log_offset or 0.0)
        columns.append((np.log(mel) - fe.mean) / fe.std)
        start += fe.hop_length
    return np.stack(columns, axis=1)


def test_default_gives_256_by_28_for_one_second():
    features = log_mel(FrontEnd(), noise(16000))
    assert features.shape == (256, 28)
    assert features.dtype == np.float32


@pytest.mark.parametrize("fe", CONFIGS)
def test_log_mel_follows_its_definition(fe):
    waveform = noise(16000)
    expected = slow_log_mel(fe, waveform)
    got = log_mel(fe, waveform)
    assert got.shape == expected.shape == (fe.n_mels, fe.frames(16000))
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("fe", CONFIGS)
@pytest.mark.parametrize("chunk", [97, 512, 1600, 30000])
def test_stream_equals_clip_to_the_bit_for_any_chunking(fe, chunk):
    waveform = noise(20011)
    stream = LogMelStream(fe)
    parts = [stream.push(waveform[i : i + chunk]) for i in range(0, len(waveform), chunk)] + [stream.flush()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), log_mel(fe, waveform))


@pytest.mark.parametrize("fe", CONFIGS)
@pytest.mark.parametrize("samples", [1, 300, 2047, 2048, 2049, 4801, 16000])
def test_the_number_of_frames_is_that_of_a_clip_and_of_a_stream(fe, samples):
    stream = LogMelStream(fe)
    streamed = stream.push(noise(samples)).shape[1] + stream.flush().shape[1]
    assert streamed == fe.frames(samples)
    if fe.frames(samples):
        assert log_mel(fe, noise(samples)).shape[1] == fe.frames(samples)
    else:
        with pytest.raises(InputError, match="does not fill one frame"):
            log_mel(fe, noise(samples))


def test_a_stream_keeps_less_than_a_frame():
    stream = LogMelStream(FrontEnd())
    for _ in range(50):
        stream.push(noise(1600))
        assert len(pickle.dumps(stream)) < 2048 * 4 + 1000  # float32 samples and a few settings


def test_a_batch_gives_the_features_of_each_clip():
    clips = noise(3 * 2 * 4000).reshape(3, 2, 4000)
    features = log_mel(FrontEnd(), clips)
    assert features.shape == (3, 2, 256, 4)
    np.testing.assert_array_equal(features[2, 1], log_mel(FrontEnd(), clips[2, 1]))


def test_silence_is_the_floor_everywhere():
    features = log_mel(FrontEnd(mean=-2.0, std=3.0), np.zeros(16000, np.float32))
    np.testing.assert_allclose(features, (np.log(1e-5) + 2.0) / 3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "top_mel"),
    [
        ("fant", 1000 * np.log2(9.0)),
        ("htk", 2595 * np.log10(1 + 8000 / 700)),
        ("slaney", 15 + 27 * np.log(8.0) / np.log(6.4)),
    ],
)
def test_filters_have_their_peaks_at_the_mels_of_their_scale(scale, top_mel):
    bank = filterbank(FrontEnd(mel_scale=scale, n_mels=32))
    mel = np.arange(1, 33) * top_mel / 33
    hz = {
        "fant": lambda m: 1000 * (2 ** (m / 1000) - 1),
        "htk": lambda m: 700 * (10 ** (m / 2595) - 1),
        "slaney": lambda m: np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27)),
    }[scale](mel)
    assert np.all(np.abs(bank.argmax(axis=1) - hz / 7.8125) <= 1.0)
    assert 0.9 < bank.max() <= 1.0


@pytest.mark.parametrize("scale", ["fant", "htk", "slaney"])
def test_every_filter_has_weights_even_if_narrower_than_a_bin(scale):
    bank = filterbank(FrontEnd(mel_scale=scale, n_fft=256, win_length=256, hop_length=128))
    assert np.all(bank.sum(axis=1) > 0.0)
    assert np.all(np.diff([weights @ np.arange(129) / weights.sum() for weights in bank]) > -0.5), "centres rise"


def test_filters_of_kaldi_are_triangles_over_mel_and_may_be_empty():
    fe = FrontEnd(mel_scale="kaldi", sample_rate=32000, n_fft=1024, win_length=800, n_mels=128, f_max=15000.0)
    mel = 1127 * np.log1p(np.arange(513) * 31.25 / 700)
    corners = np.linspace(0.0, 1127 * np.log1p(15000 / 700), 130)
    expected = np.stack([np.interp(mel, corners[i : i + 3], [0.0, 1.0, 0.0]) for i in range(128)])
    np.testing.assert_allclose(filterbank(fe), expected, atol=1e-6)
    narrow = filterbank(msgspec.structs.replace(fe, n_mels=256))
    assert not np.all(narrow.any(axis=1))


def test_fields_of_published_networks_are_in_no_file_unless_they_are_set():
    encoded = msgspec.json.encode(FrontEnd())
    assert not any(name in encoded for name in (b"symmetric", b"ahead", b"log_offset"))
    assert FrontEnd(symmetric=False, ahead=False, log_offset=0.0) == FrontEnd()
    assert hash(FrontEnd(symmetric=False)) == hash(FrontEnd())
    fe = CONFIGS[-1]
    assert msgspec.json.decode(msgspec.json.encode(fe), type=FrontEnd) == fe


def test_a_symmetric_window_ends_as_it_begins():
    window = window_array(FrontEnd(n_fft=16, win_length=9, hop_length=4, symmetric=True))
    np.testing.assert_allclose(window[3:12], window[3:12][::-1], atol=1e-7)
    assert window[7] == 1.0


def test_wide_filters_are_triangles():
    fe = FrontEnd(mel_scale="htk", n_mels=10)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 12) / 2595) - 1)
    bins = np.arange(1025) * 16000 / 2048
    expected = np.stack([np.interp(bins, corners[i : i + 3], [0.0, 1.0, 0.0]) for i in range(10)])
    np.testing.assert_allclose(filterbank(fe), expected, atol=1e-6)


def test_window_is_periodic_hann_in_the_middle_of_the_frame():
    window = window_array(FrontEnd(n_fft=16, win_length=8, hop_length=4))
    assert window.dtype == np.float32
    np.testing.assert_allclose(window[4:12], np.hanning(9)[:8], atol=1e-7)
    assert not window[:4].any()
    assert not window[12:].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"win_length": 4096}, "win_length 4096 .*n_fft 2048"),
        ({"hop_length": 3000}, "hop_length 3000 .*win_length 2048"),
        ({"f_max": 9000.0}, "f_max 9000.0 Hz .*sample_rate 16000"),
        ({"f_min": 4000.0, "f_max": 3000.0}, "f_min 4000.0 Hz .*f_max 3000.0"),
        ({"n_mels": 0}, "n_mels is 0; it must be 1 to 1024"),
        ({"n_mels": 10**9}, "n_mels is 1000000000; .*1 to 1024"),
        ({"n_fft": 2**31, "win_length": 2**31}, "n_fft is 2147483648; .*2 to 32768"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"sample_rate": 999}, "sample_rate is 999"),
        ({"sample_rate": 768_001}, "sample_rate is 768001"),
        ({"padding": "same"}, "padding is 'same'; .*none, center, reflect, end"),
        ({"mel_scale": "bark"}, "'bark'; .*fant, htk, slaney"),
        ({"pre_emphasis": 1.0}, "pre_emphasis is 1.0"),
        ({"log_floor": 0.0}, "log_floor is 0.0"),
        ({"log_offset": -1.0}, "log_offset is -1.0"),
        ({"ahead": True}, "ahead"),
        ({"std": 0.0}, "std 0.0"),
        ({"mean": float("nan")}, "mean is nan"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        FrontEnd(**settings)


def test_settings_are_the_same_after_json_and_unknown_fields_are_refused():
    fe = FrontEnd(padding="end", f_max=7000.0)
    assert msgspec.json.decode(msgspec.json.encode(fe), type=FrontEnd) == fe
    with pytest.raises(msgspec.ValidationError, match="n_mel"):
        msgspec.json.decode(b'{"n_mel": 40}', type=FrontEnd)
