"""Golden vectors: the same samples on every machine, and a replay that reports each kind of difference."""

import hashlib
import zlib

import msgspec
import numpy as np
import pytest
from qgraph import toy

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, filterbank, window_array
from edgekd.modelfile import golden, manifest
from edgekd.modelfile.golden import make, replay, waveform
from edgekd.modelfile.manifest import TensorQuant

FRONTEND = FrontEnd(mean=-1.0, std=3.5)
SOURCE, STEP = TensorQuant("int8", 0.03, -5), 0.1


def word(seed, stream, position):
    """A word of `random_words`, in Python's integers."""

    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    return mix((position + mix((seed * 0x9E3779B9 + stream * 0x85EBCA6B) % 2**32)) % 2**32)


def naive_waveform(seed, samples):
    p = [word(seed, 0, i) for i in range(32)]
    white = [(word(seed, 1, i) >> 16) - 32768 for i in range(samples + 64)]
    width = 1 << p[0] % 6
    pcm = []
    for t in range(samples):
        mix = sum(white[t + 65 - width : t + 65]) // width + (white[t] >> 3)
        for tone in range(3):
            step = (2**24 + p[1 + tone] % 2**24) << p[4 + tone] % 6
            mix += (abs(step * t % 2**32 - 2**31) // 2**15 - 32768) >> 3 + p[7 + tone] % 4
        mix = mix * (4 + p[10 + t * 8 // samples] % 13) >> 4 + p[18] % 4
        pcm.append(max(-32768, min(32767, mix)))
    return pcm


@pytest.mark.parametrize("seed", [0, 1, 11, 2**32 - 1])
def test_waveforms_are_integer_arithmetic(seed):
    wave = waveform(seed, 300)
    assert wave.dtype == np.float32
    assert (wave * 32768).tolist() == naive_waveform(seed, 300)


def test_waveforms_never_change():
    """Every exported file contains results of exactly these samples."""
    pcm = b"".join((waveform(seed, 16000) * 32768).astype("<i2").tobytes() for seed in range(golden.CANDIDATES))
    assert hashlib.sha256(pcm).hexdigest() == "970da8f6d01742994bd6cbf780282800569eabd833e329df62e48d11ccf3db43"


def test_the_features_do_not_depend_on_the_precision_of_the_fft():
    """Every band is loud enough for that, so machines may compute the FFT differently."""
    for seed in range(golden.CANDIDATES):
        wave = waveform(seed, 16000)
        frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), FRONTEND.n_fft)[
            :: FRONTEND.hop_length
        ]
        power = np.abs(np.fft.rfft(frames * window_array(FRONTEND).astype(np.float64))) ** 2
        exact = np.log(power @ filterbank(FRONTEND).T.astype(np.float64)).T
        assert np.abs(golden.log_mel(msgspec.structs.replace(FRONTEND, mean=0.0, std=1.0), wave) - exact).max() < 4e-6
        assert 0.01 < wave.std() < 0.6


def band_means(features):
    """Logits (batch, 8) of features (batch, mel, frame): means of eight bands, as multiples of `STEP`."""
    return np.rint(features.reshape(len(features), 8, -1).mean(axis=2) / STEP).astype(np.float32) * np.float32(STEP)


@pytest.fixture(scope="module")
def kept():
    made = make(FRONTEND, 16000, SOURCE, STEP, band_means)
    return toy.manifest(toy.every_op(labels=8), "tflite", frontend=FRONTEND, window=16000, golden=made)


def with_vector(kept, **changes):
    """The manifest with its first vector changed."""
    vectors = kept.golden.vectors
    changed = msgspec.structs.replace(vectors[0], **changes)
    return msgspec.structs.replace(kept, golden=msgspec.structs.replace(kept.golden, vectors=(changed, *vectors[1:])))


def test_a_replay_without_differences_reports_none(kept):
    found = replay(manifest.decode(manifest.encode(kept), "m"), band_means, "m")
    assert found.features_max_error < 1e-6
    assert found.input_agreement == 1.0
    assert found.logits.tolist() == found.expected.tolist()
    assert found.logits.shape == (golden.VECTORS, 8)


def test_the_manifest_stays_small(kept):
    assert len(manifest.encode(kept)) < 40_000


def test_vectors_have_different_labels_and_wide_margins_where_there_are_any(kept):
    logits = np.sort([vector.logits for vector in kept.golden.vectors], axis=1)
    chosen = {int(np.argmax(vector.logits)) for vector in kept.golden.vectors}
    scaled = make(FRONTEND, 16000, SOURCE, STEP, lambda features: 20 * band_means(features)).vectors
    assert len(chosen) > 1
    assert len({vector.seed for vector in kept.golden.vectors}) == golden.VECTORS
    assert all(np.sort(vector.logits)[-1] - np.sort(vector.logits)[-2] > golden.SAFE_MARGIN for vector in scaled)
    assert logits.shape == (golden.VECTORS, 8)


@pytest.mark.parametrize(
    ("changes", "least"), [({"mean": -1.001}, 0.9e-3), ({"pre_emphasis": 0.1}, 0.01), ({"mel_scale": "htk"}, 0.1)]
)
@pytest.mark.parametrize("way", ["log_mel", "LogMelStream"])
def test_other_features_are_reported_in_clips_and_in_streams(kept, monkeypatch, way, changes, least):
    other = msgspec.structs.replace(FRONTEND, **changes)
    true = getattr(golden, way)
    monkeypatch.setattr(golden, way, lambda _, *wave: true(other, *wave))
    assert replay(kept, band_means, "m").features_max_error >= least


def test_one_wrong_element_is_reported_even_if_it_is_no_probe(kept, monkeypatch):
    true_log_mel = golden.log_mel
    position = next(
        i
        for i in range(256 * 28)
        if all(i not in golden.probe_positions(vector.seed, 256 * 28, golden.PROBES) for vector in kept.golden.vectors)
    )

    def wrong(fe, wave):
        features = true_log_mel(fe, wave).copy()
        features.reshape(-1)[position] += 0.1
        return features

    monkeypatch.setattr(golden, "log_mel", wrong)
    found = replay(kept, band_means, "m")
    assert 0.06 * 3.5 < found.features_max_error < 0.11 * 3.5
    assert found.input_agreement < 1.0


def test_other_logits_are_reported(kept):
    found = replay(kept, lambda features: band_means(features) + np.float32(3 * STEP), "m")
    assert (found.logits - found.expected == 3).all()


def test_a_file_without_golden_vectors_is_refused(kept):
    with pytest.raises(InputError, match=r"a\.onnx: carries no golden vectors"):
        replay(msgspec.structs.replace(kept, golden=None), band_means, "a.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": b"junk"}, "golden vector 0 is damaged"),
        ({"input": zlib.compress(b"")}, r"golden vector 0 .*\(256, 28\)"),
        ({"input": zlib.compress(bytes(10**7))}, "golden vector 0 does not fit"),
        ({"probes": b""}, "golden vector 0 does not fit"),
        ({"probes": b"abc"}, "golden vector 0 does not fit"),
        ({"logits": (1.0,)}, "not one logit per label"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(kept, changes, message):
    with pytest.raises(InputError, match=message):
        replay(with_vector(kept, **changes), band_means, "m")


@pytest.mark.parametrize(
    "changes", [{"window": 2**40}, {"window": 2**25, "frontend": FrontEnd(n_mels=1, n_fft=32768, hop_length=2048)}]
)
def test_a_window_that_is_too_large_is_refused_before_memory_is_allocated(kept, changes):
    with pytest.raises(InputError, match="too large for golden vectors"):
        replay(msgspec.structs.replace(kept, **changes), band_means, "m")
