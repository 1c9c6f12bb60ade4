"""Odd audio files, as any reader of edgekd takes them: streams, files that are cut off, rare codings, impossible rates,
float samples above full scale."""

import numpy as np
import pytest
import soundfile
from helpers.odd_audio import encoded, streams, wav_sizes

from edgekd.data.audio.decode import decode
from edgekd.data.audio.read import AudioFile
from edgekd.data.audio.waveform import stream_windows, window_starts
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError

RATE = 8000
NOISE = np.random.default_rng(0).integers(-9000, 9000, 3 * RATE).astype(np.int16)
STREAMS = streams(NOISE, RATE)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_whose_size_is_not_known_is_read_to_its_end(tmp_path, name):
    (tmp_path / name).write_bytes(STREAMS[name])
    np.testing.assert_array_equal(decode(tmp_path / name, RATE, 1)[:, 0], NOISE)


def test_an_empty_wav_with_chunks_behind_its_samples_has_no_samples(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(wav_sizes(encoded(NOISE[:0], RATE, "wav") + b"LIST\x04\0\0\0INFO", 48, 0))
    with pytest.raises(InputError, match=r"x\.wav: holds no samples"):
        decode(path, RATE, 1)


CUT = ("wav", "aiff", "au", "caf", "w64", "rf64", "mp3", "ogg", "opus", "flac")


def test_a_file_of_any_format_that_is_cut_off_is_refused(edgekd, tmp_path):
    for suffix in CUT:
        raw = encoded(NOISE, RATE, suffix)
        for label, share in (("whole", 1.0), ("most", 0.9), ("half", 0.5)):
            file = tmp_path / "audio" / label / f"{suffix}.{'wav' if suffix == 'rf64' else suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw[: int(len(raw) * share)])
    status, _, err = edgekd("data", "prepare", "folder", tmp_path / "audio", "--out", tmp_path / "store")
    reasons = dict(line.split(": ")[1:3] for line in err.splitlines() if line.startswith("bad clip"))
    assert status == 2
    assert set(reasons) == {str(file) for label in ("most", "half") for file in (tmp_path / "audio" / label).iterdir()}
    for file, reason in reasons.items():
        assert "is cut off" in reason or file.endswith(".flac")  # its decoder notices the damage first


def test_a_flac_that_ends_between_two_frames_is_cut_off(tmp_path):
    raw = encoded(NOISE, RATE, "flac")
    longer = int.from_bytes(raw[18:26], "big") + len(NOISE)
    (tmp_path / "x.flac").write_bytes(raw[:18] + longer.to_bytes(8, "big") + raw[26:])
    with pytest.raises(InputError, match=r"x\.flac: is cut off, 24,000 of 48,000 samples"):
        decode(tmp_path / "x.flac", RATE, 1)


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_32"])
def test_codings_without_a_way_back_are_read(tmp_path, subtype):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    soundfile.write(tmp_path / "x.wav", tone, RATE, subtype=subtype)
    pcm = decode(tmp_path / "x.wav", RATE, 1)
    assert len(pcm) >= 2 * RATE
    assert np.corrcoef(pcm[RATE // 2 : RATE, 0], tone[RATE // 2 : RATE])[0, 1] > 0.9
    part = decode(tmp_path / "x.wav", RATE, 1, (0.5, 0.25))
    np.testing.assert_array_equal(part, pcm[RATE // 2 : 3 * RATE // 4])


@pytest.mark.parametrize("rate", [1, 9, 999, 768_001])
def test_a_file_of_an_impossible_rate_is_refused(tmp_path, rate):
    (tmp_path / "x.wav").write_bytes(encoded(NOISE[:100], rate, "wav"))
    with pytest.raises(InputError, match=rf"x\.wav: .* {rate} Hz"):
        decode(tmp_path / "x.wav", 16000, 1)


@pytest.mark.parametrize("rate", [1000, 768_000])
def test_a_file_of_a_rate_at_the_limit_is_read(tmp_path, rate):
    (tmp_path / "x.wav").write_bytes(encoded(NOISE[:4000], rate, "wav"))
    assert len(decode(tmp_path / "x.wav", 16000, 1)) == 4000 * 16000 // rate


def test_the_rate_of_a_store_has_the_limits_of_files(edgekd, tmp_path):
    for rate in (999, 768_001):
        status, _, err = edgekd("data", "synth", "--out", tmp_path / "store", "--sample-rate", rate)
        assert (status, f"--sample-rate {rate} Hz" in err) == (2, True)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_samples_above_full_scale_are_scaled_down_and_named(edgekd, tmp_path, subtype):
    waveform = NOISE / np.abs(NOISE).max()
    for label, gain in (("fair", 1.0), ("loud", 4.0)):
        (tmp_path / "audio" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / label / "x.wav", gain * waveform, RATE, subtype=subtype)
    prepare = ("data", "prepare", "folder", tmp_path / "audio", "--sample-rate", RATE, "--out", tmp_path / "store")
    status, _, err = edgekd(*prepare)
    assert status == 0
    (note,) = [line for line in err.splitlines() if "above full scale" in line]
    assert "loud/x.wav (peak 4)" in note
    assert "fair" not in note
    store = ClipStore.open(tmp_path / "store")
    fair, loud = (store.waveform(index) for index in range(2))
    np.testing.assert_allclose(loud, fair, atol=1 / 32768)


def test_float_samples_on_another_scale_are_refused_with_their_peak(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.array([0.0, -20000.0, 3.0]), RATE, subtype="FLOAT")
    with pytest.raises(InputError, match=r"x\.wav: .* 20000"):
        decode(tmp_path / "x.wav", RATE, 1)


def test_a_loud_clip_is_named_also_where_another_clip_is_bad(edgekd, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "audio" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / label / "x.wav", 3.0 * np.ones(RATE), RATE, subtype="FLOAT")
    (tmp_path / "audio" / "b" / "bad.wav").touch()
    status, _, err = edgekd("data", "prepare", "folder", tmp_path / "audio", "--out", tmp_path / "store")
    assert status == 2
    assert "a/x.wav (peak 3)" in err


@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_of_any_size_are_the_samples_of_the_whole(tmp_path, rate, channels):
    stereo = np.stack([NOISE, NOISE[::-1]], axis=1)
    (tmp_path / "x.wav").write_bytes(encoded(stereo, rate, "wav"))
    whole = decode(tmp_path / "x.wav", RATE, channels)
    for frames in (100, 4096, 10**6):
        with AudioFile(tmp_path / "x.wav") as file:
            np.testing.assert_array_equal(np.concatenate(list(file.blocks(RATE, channels, frames=frames))), whole)


@pytest.mark.parametrize("length", [0, 5, 10, 11, 57, 100])
@pytest.mark.parametrize("hop", [3, 10, 25])
def test_windows_of_a_stream_are_those_of_the_whole(length, hop):
    whole = np.arange(1, length + 1, dtype=np.float32)
    padded = np.pad(whole, (0, max(0, 10 - length)))
    wanted = [padded[start : start + 10] for start in window_starts(len(padded), 10, hop)]
    for chunk in (1, 7, 200):
        found = list(stream_windows((whole[i : i + chunk] for i in range(0, length, chunk)), 10, hop))
        np.testing.assert_array_equal(found, wanted)
