"""Decoding: formats, rates, channels, and files that cannot be used."""

import numpy as np
import pytest
import soundfile
import soxr

from edgekd.data.audio.decode import decode
from edgekd.data.audio.parallel import map_in_order
from edgekd.errors import InputError


def sine(rate, hertz=440.0, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("name", "rate", "tolerance"),
    [("x.wav", 44100, 0.002), ("x.flac", 8000, 0.002), ("x.ogg", 48000, 0.05), ("x.mp3", 22050, 0.05)],
)
def test_any_format_and_rate_becomes_the_same_tone(tmp_path, name, rate, tolerance):
    soundfile.write(tmp_path / name, sine(rate), rate)
    pcm = decode(tmp_path / name, 16000, 1)
    assert pcm.dtype == np.int16
    assert pcm.shape[1] == 1
    assert len(pcm) == pytest.approx(16000, abs=0.1 * 16000 if name == "x.mp3" else 2)
    middle = slice(4000, 12000)
    lag = (
        0
        if name != "x.mp3"
        else np.argmax([np.dot(pcm[4000 + k : 12000 + k, 0].astype(float), sine(16000)[middle]) for k in range(100)])
    )
    np.testing.assert_allclose(pcm[4000 + lag : 12000 + lag, 0] / 32768, sine(16000)[middle], atol=tolerance)


def test_16_bit_audio_at_the_right_rate_is_copied_exactly(tmp_path):
    pcm = np.random.default_rng(0).integers(-32768, 32768, (1000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", pcm, 16000)
    np.testing.assert_array_equal(decode(tmp_path / "x.wav", 16000, 2), pcm)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_samples_of_any_width_equal_those_of_the_library(tmp_path, subtype):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).uniform(-1, 1, (3000, 2)), 44100, subtype=subtype)
    waveform, _ = soundfile.read(tmp_path / "x.wav", dtype="float32")
    wanted = soxr.resample(waveform.mean(axis=1), 44100, 16000)
    np.testing.assert_array_equal(
        decode(tmp_path / "x.wav", 16000, 1)[:, 0], np.clip(np.rint(wanted * 32768), -32768, 32767)
    )


def test_channels_are_averaged_or_repeated(tmp_path):
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16000)
    soundfile.write(tmp_path / "mono.wav", stereo[:, 0], 16000)
    assert (decode(tmp_path / "stereo.wav", 16000, 1) == 4096).all()
    assert (decode(tmp_path / "mono.wav", 16000, 2) == 16384).all()
    assert decode(tmp_path / "mono.wav", 16000, 2).shape == (100, 2)
    with pytest.raises(InputError, match="has 2 channels, wanted 4"):
        decode(tmp_path / "stereo.wav", 16000, 4)


def test_float_audio_beyond_full_scale_is_scaled_to_it(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.array([2.0, -2.0, 1.0]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "x.wav", 16000, 1)[:, 0], [32767, -32768, 16384])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.unlink(missing_ok=True), "cannot be read"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"not audio at all" * 50), "not readable audio"),
        (lambda path: path.mkdir(), "(cannot be read|not readable audio)"),
        (lambda path: soundfile.write(path, np.zeros(0), 16000), "holds no samples"),
        (lambda path: soundfile.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.array([0.0, np.inf]), 16000, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.zeros(1), 384000), "no samples at 16000 Hz"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, make, message):
    path = tmp_path / "x.wav"
    make(path)
    with pytest.raises(InputError, match=rf"x\.wav: .*{message}"):
        decode(path, 16000, 1)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
def test_a_file_that_is_cut_off_is_named_and_one_of_unknown_size_is_read(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, np.zeros(8000), 8000)
    raw = path.read_bytes()
    path.write_bytes(raw[:9000])
    with pytest.raises(InputError, match=f"{name}: .*9,000 of 16,0.."):
        decode(path, 8000, 1)
    for head in (raw[:4] + b"\xff\xff\xff\xff" + raw[8:], raw[:-20]):
        path.write_bytes(head)
        assert len(decode(path, 8000, 1)) > 7980


def test_an_impossible_file_name_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read .*null byte"):
        decode(tmp_path / "a\0.wav", 16000, 1)


def test_threads_keep_the_order_and_run_only_a_little_ahead():
    started = []

    def work(number):
        started.append(number)
        return number * number

    results = map_in_order(work, iter(range(1000)), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) < 50
    assert list(results) == [number * number for number in range(3, 1000)]
