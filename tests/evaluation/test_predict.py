"""`edgekd predict` on a folder of tones."""

import csv
import os
import tracemalloc

import numpy as np
import pytest
import soundfile
from helpers.odd_audio import encoded, streams

from edgekd.data.audio.decode import decode
from edgekd.data.audio.waveform import to_waveform, window_starts
from edgekd.errors import InputError
from edgekd.evaluation.inference import window_logits
from edgekd.evaluation.predict import predict_folder
from edgekd.metrics.scores import softmax
from edgekd.modelfile.engine import open_model


@pytest.fixture
def recordings(tmp_path, tone_fixtures):
    folder = tmp_path / "recordings"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "b_high.wav", tone_fixtures.tone("high", 2.0), 8000)
    soundfile.write(folder / "a_low.flac", tone_fixtures.tone("low", 1.5, rate=16000), 16000)
    soundfile.write(folder / "deep" / "short.ogg", tone_fixtures.tone("low", 0.4), 8000)
    (folder / "notes.txt").write_text("not audio")
    return folder


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_gets_a_label_and_a_probability_per_label(tone_model, recordings, tmp_path):
    report = predict_folder(tone_model, recordings, tmp_path / "out" / "p.csv")
    rows = read(tmp_path / "out" / "p.csv")
    assert [(row["filename"], row["label"]) for row in rows] == [
        ("a_low.flac", "low"),
        ("b_high.wav", "high"),
        ("deep/short.ogg", "low"),
    ]
    assert list(rows[0]) == ["filename", "label", "high", "low"]
    for row in rows:
        assert float(row["high"]) + float(row["low"]) == pytest.approx(1.0, abs=1e-5)
        assert (float(row["low"]) > 0.5) == (row["label"] == "low")
    assert report.rows == 3


def test_unreadable_and_silent_files_are_named(tone_model, recordings, tmp_path):
    (recordings / "empty.wav").write_bytes(b"")
    (recordings / "noise.mp3").write_bytes(b"\0" * 500)
    soundfile.write(recordings / "silent.wav", np.zeros(8000, np.int16), 8000)
    report = predict_folder(tone_model, recordings, tmp_path / "p.csv")
    assert report.rows == 4
    assert report.silent == ("silent.wav",)
    text = report.to_text()
    assert "empty.wav" in text
    assert "noise.mp3" in text
    silent = next(row for row in read(tmp_path / "p.csv") if row["filename"] == "silent.wav")
    assert set(silent.values()) == {"silent.wav", ""}


def test_silence_of_channels_that_cancel_is_told_from_digital_silence(tone_model, recordings, tmp_path, edgekd):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(recordings / "opposite.wav", np.stack([sound, -sound], 1), 8000)
    soundfile.write(recordings / "silent.wav", np.zeros((8000, 2), np.int16), 8000)
    _, out, _ = edgekd("predict", tone_model, recordings, "--csv", tmp_path / "p.csv")
    assert "digital silence, without a label (2): opposite.wav, silent.wav" in out
    assert "opposite phase, whose channels cancel (1): opposite.wav" in out


def test_a_name_that_is_not_utf_8_is_kept(tone_model, recordings, tmp_path):
    (recordings / "b_high.wav").rename(recordings / os.fsdecode(b"b\xff.wav"))
    (recordings / os.fsdecode(b"c\xff.wav")).write_bytes(b"RIFF")
    report = predict_folder(tone_model, recordings, tmp_path / "p.csv")
    assert report.rows == 3
    assert b"\nb\xff.wav,high," in (tmp_path / "p.csv").read_bytes()
    assert len(report.unreadable) == 1


def test_a_folder_without_a_readable_file_writes_nothing(tone_model, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="1 audio file, none of them readable"):
        predict_folder(tone_model, folder, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_a_table_is_replaced_only_with_force(tone_model, recordings, tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("mine")
    with pytest.raises(InputError, match="--force"):
        predict_folder(tone_model, recordings, table)
    assert table.read_text() == "mine"
    predict_folder(tone_model, recordings, table, force=True)
    assert len(read(table)) == 3


def test_one_file_may_be_given(tone_model, recordings, tmp_path):
    predict_folder(tone_model, recordings / "b_high.wav", tmp_path / "p.csv")
    assert [row["filename"] for row in read(tmp_path / "p.csv")] == ["b_high.wav"]


@pytest.mark.parametrize(("folder", "message"), [("missing", "does not exist"), ("", "holds no audio file")])
def test_a_path_without_audio_is_refused(tone_model, tmp_path, folder, message):
    with pytest.raises(InputError, match=message):
        predict_folder(tone_model, tmp_path / folder, tmp_path / "p.csv")


def test_a_folder_as_table_is_refused(tone_model, recordings, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        predict_folder(tone_model, recordings, tmp_path)


@pytest.mark.parametrize(("rate", "hop"), [(8000, 0.3), (11025, 1.0), (48000, 2.5)])
def test_a_recording_that_is_streamed_gives_the_windows_of_the_whole(tone_model, tone_fixtures, tmp_path, rate, hop):
    parts = [tone_fixtures.tone("low" if each % 3 else "high", 1.4, each, rate) for each in range(15)]
    stereo = np.concatenate(parts)[:, None] // np.array([1, 2])
    soundfile.write(tmp_path / "x.wav", stereo.astype(np.int16), rate)
    model = open_model(tone_model)
    whole = to_waveform(decode(tmp_path / "x.wav", 8000, 1))
    starts = window_starts(len(whole), 8000, round(hop * 8000))
    logits, _ = window_logits(model, (whole[start : start + 8000] for start in starts))
    wanted = softmax(logits, model.manifest.temperature).mean(axis=0)
    predict_folder(tone_model, tmp_path / "x.wav", tmp_path / "p.csv", hop=hop)
    (row,) = read(tmp_path / "p.csv")
    assert [row["high"], row["low"]] == [format(value, ".6f") for value in wanted]


def test_the_memory_of_a_long_recording_has_a_bound(edgekd, tone_model, tone_fixtures, tmp_path):
    minute = np.repeat(tone_fixtures.tone("low", 60.0)[:, None], 2, axis=1)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 2) as file:
        for _ in range(10):
            file.write(minute)
    tracemalloc.start()
    try:
        assert edgekd("predict", tone_model, tmp_path / "long.wav", "--csv", tmp_path / "p.csv")[0] == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "long.wav").stat().st_size
    assert read(tmp_path / "p.csv")[0]["label"] == "low"


def test_streams_rare_codings_and_other_rates_are_classified(edgekd, tone_model, tone_fixtures, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    tone = tone_fixtures.tone("high", 2.0)
    files = streams(tone, 8000)
    for subtype in ("GSM610", "G721_32"):
        files[f"{subtype}.wav"] = encoded(tone, 8000, "wav", subtype=subtype)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    status, out, _ = edgekd("predict", tone_model, folder, "--csv", tmp_path / "p.csv")
    assert (status, "left out" in out) == (0, False)
    assert {row["filename"]: row["label"] for row in read(tmp_path / "p.csv")} == dict.fromkeys(files, "high")


def test_files_that_cannot_be_right_are_left_out_and_named(edgekd, tone_model, recordings, tone_fixtures, tmp_path):
    tone = tone_fixtures.tone("low", 2.0)
    (recordings / "slow.wav").write_bytes(encoded(tone[:40], 5, "wav"))
    (recordings / "cut.w64").write_bytes(encoded(tone, 8000, "w64")[:20000])
    (recordings / "huge.wav").write_bytes(encoded(tone.astype(np.float32), 8000, "wav", subtype="FLOAT"))
    status, out, _ = edgekd("predict", tone_model, recordings, "--csv", tmp_path / "p.csv")
    assert status == 0
    assert [row["filename"] for row in read(tmp_path / "p.csv")] == ["a_low.flac", "b_high.wav", "deep/short.ogg"]
    for what in ("slow.wav: its sample rate is 5 Hz", "cut.w64: is cut off", "huge.wav: its float samples reach 8"):
        assert what in out


def test_damage_at_the_end_of_a_recording_leaves_it_out(tone_model, recordings, tone_fixtures, tmp_path):
    raw = encoded(tone_fixtures.tone("low", 60.0), 8000, "flac")
    (recordings / "c.flac").write_bytes(raw[:-2000])
    report = predict_folder(tone_model, recordings, tmp_path / "p.csv")
    assert report.rows == 3
    assert len(report.unreadable) == 1
    assert "c.flac" in report.unreadable[0]


def test_a_loud_float_file_is_scaled_down_and_named(edgekd, tone_model, tone_fixtures, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    tone = tone_fixtures.tone("low", 2.0) / 32768
    tone /= np.abs(tone).max()
    for name, gain in (("fair.wav", 1.0), ("loud.wav", 4.0)):
        soundfile.write(folder / name, gain * tone, 8000, subtype="FLOAT")
    status, out, _ = edgekd("predict", tone_model, folder, "--csv", tmp_path / "p.csv")
    fair, loud = read(tmp_path / "p.csv")
    assert status == 0
    assert "loud.wav (peak 4)" in out
    assert fair["low"] == loud["low"]
