"""Files and pipes as sources of samples."""

import io
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.audio.decode import decode
from edgekd.data.audio.waveform import to_waveform
from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source.files import read_file, read_raw


def tone(samples: int, rate: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 200.0 * np.arange(samples) / rate)).astype(np.float32)


def write_wav(path: Path, pcm: np.ndarray, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return path


def test_plain_wav_gives_its_samples(tmp_path):
    pcm = np.arange(-5000, 5001, dtype=np.int16)
    np.testing.assert_array_equal(
        np.concatenate(list(read_file(write_wav(tmp_path / "a.wav", pcm), 16000))), pcm / np.float32(32768)
    )


def test_plain_wav_needs_neither_soundfile_nor_soxr(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert sum(map(len, read_file(write_wav(tmp_path / "a.wav", np.zeros(4000)), 16000))) == 4000
    with pytest.raises(MissingExtraError, match=r"\.wav at 8000 Hz .*'edgekd\[mic\]'"):
        list(read_file(tmp_path / "a.wav", 8000))


def test_channels_are_averaged(tmp_path):
    pcm = np.stack((np.full(3000, 1000), np.full(3000, 3000)), axis=1)
    chunks = np.concatenate(list(read_file(write_wav(tmp_path / "a.wav", pcm), 16000)))
    np.testing.assert_array_equal(chunks, np.full(3000, 2000 / 32768, np.float32))


def test_other_rates_and_formats_are_resampled_as_a_stream(tmp_path):
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    stereo = np.stack((tone(44100, 44100), tone(44100, 44100)), axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 44100)
    got = np.concatenate(list(read_file(tmp_path / "a.flac", 16000)))
    assert len(got) == 16000
    np.testing.assert_allclose(got, soxr.resample(tone(44100, 44100), 44100, 16000), atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused_with_their_place(tmp_path, bad):
    soundfile = pytest.importorskip("soundfile")
    waveform = tone(32000)
    waveform[24000] = bad
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"NaN or infinite samples at 1\.5 s"):
        list(read_file(tmp_path / "a.wav", 16000))


@pytest.mark.parametrize(
    ("channels", "rate", "name", "subtype"),
    [
        (1, 16000, "a.wav", "PCM_24"),
        (1, 16000, "a.wav", "FLOAT"),
        (2, 16000, "a.wav", "PCM_16"),
        (3, 16000, "a.flac", "PCM_16"),
        (1, 44100, "a.wav", "PCM_16"),
    ],
)
def test_a_recording_gives_the_samples_that_a_clip_store_holds(tmp_path, channels, rate, name, subtype):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    noise = 0.3 * np.random.default_rng(0).standard_normal((2 * rate, channels))
    soundfile.write(tmp_path / name, noise, rate, subtype=subtype)
    stored = decode(tmp_path / name, 16000, 1)  # (time, 1) int16
    np.testing.assert_array_equal(np.concatenate(list(read_file(tmp_path / name, 16000))), to_waveform(stored))


def test_what_is_not_audio_is_named(tmp_path):
    pytest.importorskip("soundfile")
    (tmp_path / "text.wav").write_text("this is not audio")
    (tmp_path / "empty.flac").write_bytes(b"")
    for name, why in (("text.wav", "is not readable audio"), ("empty.flac", "the file is empty")):
        with pytest.raises(InputError, match=rf"{name}: {why}"):
            list(read_file(tmp_path / name, 16000))
    with pytest.raises(InputError, match="no such file"):
        list(read_file(tmp_path / "none.wav", 16000))
    with pytest.raises(InputError, match="is a folder"):
        list(read_file(tmp_path, 16000))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file; give one audio file"):
        list(read_file(tmp_path / "pipe", 16000))


def test_native_decoders_do_not_add_to_the_error(tmp_path, capfd):
    pytest.importorskip("soundfile")
    (tmp_path / "text.mp3").write_text("this is not audio" * 100)
    with pytest.raises(InputError, match=r"text\.mp3: is not readable"):
        list(read_file(tmp_path / "text.mp3", 16000))
    assert capfd.readouterr().err == ""


def test_a_name_that_is_not_utf_8_is_opened(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", tone(4000), 16000)
    path = (tmp_path / "a.flac").rename(tmp_path / os.fsdecode(b"a\xff.flac"))
    assert sum(map(len, read_file(path, 16000))) == 4000


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.delitem(sys.modules, "soundfile", raising=False)
    (tmp_path / "soundfile.py").write_text("raise OSError('sndfile library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="apt install libsndfile1"):
        list(read_file(tmp_path / "a.flac", 16000))


def test_a_wav_cut_off_inside_a_sample_gives_what_is_whole(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.full((2000, 2), 100))
    path.write_bytes(path.read_bytes()[:-3])
    assert sum(map(len, read_file(path, 16000))) == 1999


def test_raw_pcm_survives_odd_lengths():
    values = [0, 1, -1, 32767, -32768] * 1000
    chunks = list(read_raw(io.BytesIO(struct.pack(f"<{len(values)}h", *values) + b"\x07"), 16000))
    np.testing.assert_array_equal(np.concatenate(chunks), np.array(values, np.float32) / 32768)


def test_raw_pcm_arrives_before_the_pipe_closes():
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        process.stdin.write(bytes(2 * 1600))
        process.stdin.flush()
        chunks = read_raw(process.stdout, 16000)
        assert len(next(chunks)) == 1600
        process.stdin.close()
        assert list(chunks) == []


@pytest.mark.parametrize(
    ("start", "kind"), [(b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3\x04", ".mp3")]
)
def test_a_file_of_another_format_on_the_pipe_is_distinguished_from_raw(start, kind):
    with pytest.raises(InputError, match=rf"holds a \{kind} file, not raw samples"):
        list(read_raw(io.BytesIO(start + bytes(4000)), 16000))
