"""`edgekd predict` on a folder of tones."""

import csv
import os

import numpy as np
import pytest
import soundfile

from edgekd.errors import InputError
from edgekd.evaluation.predict import predict_folder


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


def test_a_name_that_is_not_utf_8_is_kept(tone_model, recordings, tmp_path):
    (recordings / "b_high.wav").rename(recordings / os.fsdecode(b"b\xff.wav"))
    (recordings / os.fsdecode(b"c\xff.wav")).write_bytes(b"RIFF")
    report = predict_folder(tone_model, recordings, tmp_path / "p.csv")
    assert report.rows == 3
    assert b"\nb\xff.wav,high," in (tmp_path / "p.csv").read_bytes()
    assert len(report.unreadable) == 1


def test_names_of_files_are_no_formulas(tone_model, recordings, tmp_path):
    (recordings / "b_high.wav").rename(recordings / "=1+1.wav")
    (recordings / "a_low.flac").rename(recordings / "-2+3.flac")
    predict_folder(tone_model, recordings, tmp_path / "p.csv")
    assert [row["filename"] for row in read(tmp_path / "p.csv")] == ["'-2+3.flac", "'=1+1.wav", "deep/short.ogg"]


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
