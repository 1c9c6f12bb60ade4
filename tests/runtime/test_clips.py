"""Clips of uncertain windows: which are kept, what they hold, and how the folder stays small."""

import errno
import os
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from runtime.toy_listener import thread_ended

from edgekd.data.audio.waveform import to_pcm
from edgekd.data.sets import folder as folder_data
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.runtime import clip_file
from edgekd.runtime.config_tables import ClipsTable
from edgekd.runtime.decision import UNKNOWN, Decision
from edgekd.runtime.outputs import clips as clips_module
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.outputs.clips import Clips, WaveformBuffer, folder_name, open_clips
from edgekd.runtime.source.health import StatusLine
from edgekd.runtime.stream import WindowStream

RATE = 16000
NOISE = (np.random.default_rng(0).standard_normal(40 * RATE) * 0.1).astype(np.float32)
FEATURES = np.zeros((1, 1), np.float32)


def manifest(rate: int = RATE) -> SimpleNamespace:
    return SimpleNamespace(frontend=SimpleNamespace(sample_rate=rate))


def publish(
    clips: Clips,
    t: float,
    sound: np.ndarray = NOISE,
    *,
    label: str = "rain",
    probability: float = 0.3,
    gated: bool = False,
    state: str = "HEALTHY",
    top: tuple = (("wind", 0.3),),
    start: float = 0.0,
    breaks: int = 0,
) -> None:
    """Publish the decision on the second before `t`. start: time at the start of the waveform, seconds."""
    end = round((t - start) * RATE)
    window = sound[end - RATE : end]
    clips.publish(
        Decision(round(t, 3), label, probability, top, state, 0.1, 0),
        Observation(manifest(), window, None if gated else FEATURES, 0.0, 0.0, None, breaks),
    )


class AtOnce:
    """Replaces the worker: no thread."""

    error, dropped = None, 0

    def __init__(self, _name: str, work: Callable, _limit: int) -> None:
        self.put = work


def opened(table: ClipsTable) -> Clips:
    """Clips that are written at once, without a thread."""
    with mock.patch.object(clips_module, "Worker", AtOnce):
        return open_clips(table)


def files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.wav"), key=lambda file: file.name.partition("-p")[2][3:])


def read(file: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(file)) as opened:
        assert (opened.getnchannels(), opened.getsampwidth()) == (1, 2)
        return np.frombuffer(opened.readframes(opened.getnframes()), "<i2"), opened.getframerate()


def table(path: Path, **keys) -> ClipsTable:
    return ClipsTable(str(path), **{"seconds": 3.0, "every": 0.0, **keys})


def test_a_clip_is_the_sound_before_and_in_an_uncertain_window(tmp_path):
    clips = open_clips(table(tmp_path))
    for t in np.arange(1.0, 6.1, 0.5):
        publish(clips, t, probability=0.37 if t == 5.0 else 0.9)
    clips.close()
    assert thread_ended("clips")
    (file,) = files(tmp_path)
    pcm, rate = read(file)
    assert rate == RATE
    assert np.array_equal(pcm, to_pcm(NOISE[2 * RATE : 5 * RATE]))
    assert file.parent.parent.name == "rain"
    assert file.name.startswith("rain-p37-2")
    assert file.name.partition("-p37-")[2].startswith(file.parent.name)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "change", [{"probability": 0.5}, {"gated": True}, {"state": "RECOVERING"}, {"sound": np.zeros(RATE * 9)}]
)
def test_sure_gated_unhealthy_and_silent_windows_are_not_kept(tmp_path, change):
    clips = opened(table(tmp_path / "clips"))
    clips.publish(StatusLine(0.0, "HEALTHY", "listening"), None)
    for t in (1.0, 1.5, 2.0):
        publish(clips, t, **change)
    assert clips.error is None
    assert not (tmp_path / "clips").exists()


def test_gated_windows_are_sound_before_a_clip(tmp_path):
    clips = opened(table(tmp_path))
    for t in (1.0, 2.0, 3.0):
        publish(clips, t, gated=t < 3.0)
    assert np.array_equal(read(files(tmp_path)[0])[0], to_pcm(NOISE[: 3 * RATE]))


@pytest.mark.parametrize(
    ("rate", "window", "hop_s", "hop_length"),
    [
        (44100, 44100, 0.3, 441),
        (22050, 30000, 0.7, 1000),
        (16000, 16000, 1.0, 512),
    ],
)
def test_the_ring_is_exact_though_times_are_rounded(rate, window, hop_s, hop_length):
    sound = NOISE[: 10 * rate]
    stream = WindowStream(FrontEnd(sample_rate=rate, hop_length=hop_length), window, hop_s)
    buffer, end = WaveformBuffer(rate, 4.0), 0
    for made in stream.push(sound):
        buffer.append(round(made.end / rate + 0.0004, 3), made.waveform)
        end = made.end
        length = min(end, 4 * rate)
        assert np.array_equal(buffer.samples, to_pcm(sound[end - length : end]))
    assert end > 8 * rate


@pytest.mark.parametrize("missing_s", [0.02, 0.3, 5.0])
def test_no_clip_reaches_over_missing_sound(tmp_path, missing_s):
    clips = opened(table(tmp_path))
    for t in (1.0, 1.5, 2.0):
        publish(clips, t, probability=0.9)
    behind = NOISE[round((2.0 + missing_s) * RATE) :]
    for t in (3.0, 3.5):
        publish(clips, t + missing_s, behind, probability=0.9 if t == 3.0 else 0.1, start=2.0 + missing_s)
    assert np.array_equal(read(files(tmp_path)[0])[0], to_pcm(behind[: round(1.5 * RATE)]))


def test_no_clip_reaches_over_a_break_of_unknown_length(tmp_path):
    clips = opened(table(tmp_path))
    publish(clips, 1.0, probability=0.9)
    publish(clips, 2.0, breaks=1)
    assert np.array_equal(read(files(tmp_path)[0])[0], to_pcm(NOISE[RATE : 2 * RATE]))


@pytest.mark.parametrize(
    ("keys", "times"),
    [
        ({"every": 5.0}, [1, 6, 11, 3601]),
        ({"per_hour": 2}, [1, 2, 3601]),
        ({}, [1, 2, 3, 6, 11, 3601]),
    ],
)
def test_clips_are_no_more_frequent_than_asked(tmp_path, keys, times):
    clips = opened(table(tmp_path, seconds=1.0, **keys))
    for t in (1, 2, 3, 6, 11, 3601):
        publish(clips, t, start=t - 1.0, label=f"t{t}")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"t{t}" for t in times)


def test_unknown_goes_to_the_most_probable_label(tmp_path):
    clips = opened(table(tmp_path))
    publish(clips, 1.0, label=UNKNOWN, probability=0.3, top=(("wind", 0.3), ("rain", 0.2)))
    assert files(tmp_path)[0].parent.parent.name == "wind"


def test_prepare_reads_the_folder_and_keeps_an_hour_together(tmp_path):
    clips = opened(table(tmp_path, seconds=1.0))
    for t in range(1, 21):
        publish(clips, float(t), label="rain" if t % 2 else "street/tram")
    found = folder_data.read(tmp_path)
    assert {source.clip.label for source in found.sources} == {"rain", "street_tram"}
    assert len(found.sources) == 20
    assert all(source.clip.group.startswith(source.clip.label + "/2") for source in found.sources)


def write_file(path: Path, name: str, size: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(bytes(size))
    return path / name


def test_the_oldest_clips_go_and_nothing_else(tmp_path):
    old = [
        write_file(tmp_path / "rain" / f"2025010{day}T00", f"rain-p10-2025010{day}T000000Z-0001.wav", 30_000)
        for day in range(1, 4)
    ]
    mine = [
        write_file(tmp_path / "rain", "rain-p10-20240101T000000Z-0001.wav", 9),
        write_file(tmp_path / "rain" / "x", "mine.wav", 90_000),
        write_file(tmp_path / "wind" / "20240101T00", "rain-p10-20240101T000000Z-0001.wav", 90_000),
    ]  # moved by a person
    part = write_file(tmp_path / "rain" / "x", ".rain-p10-20240101T000000Z-0001.wav.part", 9)
    os.utime(part, (0, 0))
    clips = opened(table(tmp_path, seconds=1.0, max_mb=0.1))
    publish(clips, 1.0)
    assert [file.exists() for file in old] == [False, True, True]
    assert not old[0].parent.exists()
    assert not part.exists()
    assert all(file.exists() for file in mine)


def test_the_folder_stays_below_its_limit(tmp_path, monkeypatch):
    searched = []
    monkeypatch.setattr(
        clips_module, "own_clips", lambda path, search=clips_module.own_clips: searched.append(path) or search(path)
    )
    clips = opened(table(tmp_path, seconds=1.0, max_mb=1.0))
    for number in range(1, 101):
        t = float(1 + number % 30)
        publish(clips, number * 10.0, start=number * 10.0 - t, probability=0.1)
        assert sum(file.stat().st_size for file in files(tmp_path)) <= 1_000_000
    assert len(files(tmp_path)) >= 28
    assert len(searched) < 60


def test_a_clip_larger_than_the_limit_is_an_error(tmp_path):
    clips = opened(table(tmp_path, max_mb=0.01))
    publish(clips, 1.0)
    assert "larger than max_mb, 0.01" in clips.error
    assert files(tmp_path) == []


def test_a_full_disk_is_an_error_and_the_clip_is_written_when_there_is_space(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(clip_file.os, "fsync", full)
        patch.setattr(clips_module, "RETRY_S", 0.0)
        clips = opened(table(tmp_path, every=60.0))
        publish(clips, 1.0)
        publish(clips, 1.5, probability=0.9)
        assert clips.error.endswith("cannot be written (No space left on device); free space or choose another folder")
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    publish(clips, 2.0, probability=0.9)
    assert clips.error is None
    assert np.array_equal(read(files(tmp_path)[0])[0], to_pcm(NOISE[:RATE]))


def test_a_disk_that_stays_full_is_one_error_and_not_one_for_each_clip(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clip_file.os, "fsync", full)
    monkeypatch.setattr(clips_module, "RETRY_S", 0.0)
    clips, errors = opened(table(tmp_path)), set()
    for t, label in ((1.0, "rain"), (2.0, "wind"), (3.0, "rain")):
        publish(clips, t, label=label)
        errors.add(clips.error)
    assert len(errors) == 1


def test_a_path_that_cannot_be_read_is_an_error(tmp_path):
    clips = opened(table(tmp_path / ("x" * 300)))
    publish(clips, 1.0)
    assert "cannot be written (File name too long)" in clips.error


def test_a_path_that_cannot_be_a_folder_is_an_error(tmp_path):
    (tmp_path / "rain").write_text("")
    clips = opened(table(tmp_path))
    publish(clips, 1.0)
    assert "cannot be written" in clips.error


def test_a_file_is_refused_as_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        open_clips(ClipsTable(str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("car horn", "car horn"),
        ("a/b\\c", "a_b_c"),
        ("..", "_"),
        (".x", "_.x"),
        ("", "_"),
        ("é" * 150, "é" * 100),
        ("a\n ", "a_"),
        ("__MACOSX", "___MACOSX"),
    ],
)
def test_any_label_is_a_folder(label, name):
    assert folder_name(label) == name
