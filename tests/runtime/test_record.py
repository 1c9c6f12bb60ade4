"""Labelled clips from a capture process that plays a script: what is kept, what is not, and under which names."""

import errno
import json
import os
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.sets import folder
from edgekd.errors import InputError
from edgekd.runtime import clip_file
from edgekd.runtime import record as module
from edgekd.runtime.record import RecordedClip, RecordSettings, record
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Watch

FAKE = Path(__file__).with_name("fake_child.py")
OPEN = ["open", 16000, 1]
QUICK = Watch(stall_s=1.0, open_s=20.0, zeros_s=30.0, heal_s=0.02, failed_s=60.0, first_wait_s=0.01, last_wait_s=0.05)


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Iterator[RecordedClip | str]]:
    """A recording from a process that plays the given attempts."""

    def make(
        settings: RecordSettings, *attempts: list, request: SourceRequest | None = None
    ) -> Iterator[RecordedClip | str]:
        (tmp_path / "script.json").write_text(json.dumps(attempts))
        return record(settings, request or SourceRequest(), QUICK, [sys.executable, str(FAKE), str(tmp_path)])

    return make


def samples(path: str | Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def test_clips_follow_each_other_whole_and_at_the_rate_of_the_source(fake, tmp_path):
    made = list(fake(RecordSettings("rain", tmp_path / "out", seconds=0.1, clips=3), [OPEN, ["sound", 60], ["stall"]]))
    assert made[0] == "HEALTHY: listening to fake at 16000 Hz, 1 channel"
    clips = made[1:]
    assert all(isinstance(clip, RecordedClip) for clip in clips)
    assert len({clip.file for clip in clips}) == 3
    for clip in clips:
        pcm, rate = samples(clip.file)
        assert (rate, len(pcm), set(pcm)) == (16000, 1600, {4096})
        assert (clip.seconds, clip.sample_rate, clip.level) == (0.1, 16000, pytest.approx(-18.06, abs=0.01))
        assert Path(clip.file).parent == tmp_path / "out" / "rain"


def test_the_folder_is_what_data_prepare_reads(fake, tmp_path):
    out = tmp_path / "out"
    for label, place in (("rain", None), ("dog", "yard")):
        list(fake(RecordSettings(label, out, place, seconds=0.1, clips=2), [OPEN, ["sound", 60], ["stall"]]))
        (tmp_path / "attempts").unlink()
    (out / "dog" / ".left.wav.part").write_bytes(b"x")
    found = folder.read(out).sources
    assert (
        sorted((source.clip.label, source.clip.group) for source in found)
        == [("dog", "dog/yard")] * 2 + [("rain", "")] * 2
    )


def test_a_clip_never_reaches_over_missing_sound(fake, tmp_path):
    script = [OPEN, ["sound", 15], ["overflow"], ["sound", 14], ["skip", 1000], ["sound", 60], ["stall"]]
    made = list(fake(RecordSettings("a", tmp_path, seconds=0.2, clips=1), script))
    assert [line.split(":")[0] for line in made[1:3]] == ["RECOVERING", "HEALTHY"]
    assert made[3] == "samples are missing; the clip begins anew"
    pcm, _ = samples(made[4].file)
    assert set(pcm) == {4096}  # none of the block of 0.5 before the second break


def test_samples_that_were_no_numbers_and_what_comes_before_them_are_left_out(fake, tmp_path):
    made = list(
        fake(
            RecordSettings("a", tmp_path, seconds=0.1, clips=1), [OPEN, ["sound", 8], ["bad"], ["sound", 30], ["stall"]]
        )
    )
    assert [line.split(":")[0] for line in made[:-1]] == ["HEALTHY", "RECOVERING", "HEALTHY"]
    assert set(samples(made[-1].file)[0]) == {4096}


def test_quiet_clips_and_zeros_are_reported_and_not_kept(fake, tmp_path):
    script = [OPEN, ["sound", 4], ["zeros", 118], ["sound", 12], ["overflow"], ["sound", 220], ["stall"]]
    made = list(fake(RecordSettings("a", tmp_path, seconds=1.2, clips=1), script))
    assert made[1] == "a clip is not kept: 1.2 s of it are exact zeros"
    stopped = fake(RecordSettings("b", tmp_path, seconds=0.1, min_level=-10.0), [OPEN, ["sound", 30], ["stall"]])
    (tmp_path / "attempts").unlink()
    assert [next(stopped) for _ in range(2)][1] == "a clip is not kept: -18.1 dBFS is below -10"
    stopped.close()
    assert list((tmp_path / "b").iterdir()) == []


def test_another_rate_is_resampled(fake, tmp_path):
    pytest.importorskip("soxr")
    made = list(
        fake(RecordSettings("a", tmp_path, seconds=0.1, clips=1, sample_rate=8000), [OPEN, ["sound", 60], ["stall"]])
    )
    pcm, rate = samples(made[-1].file)
    assert (rate, len(pcm)) == (8000, 800)
    assert made[-1].sample_rate == 8000


def test_nothing_is_overwritten(tmp_path):
    start = module.datetime(2026, 1, 2, 3, 4, 5, tzinfo=module.UTC)
    (tmp_path / "a-20260102T030405Z-0001.wav").write_bytes(b"mine")
    (tmp_path / ".a-20260102T030405Z-0002.wav.part").write_bytes(b"another's")
    assert clip_file.write_clip(tmp_path, "a", start, b"new").name == "a-20260102T030405Z-0003.wav"
    assert (tmp_path / "a-20260102T030405Z-0001.wav").read_bytes() == b"mine"
    assert min(file.name for file in tmp_path.iterdir()) == ".a-20260102T030405Z-0002.wav.part"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_is_one_error_and_leaves_nothing(fake, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clip_file.os, "fsync", full)
    with pytest.raises(InputError, match=r"\.wav: .*No space left on device"):
        list(fake(RecordSettings("a", tmp_path / "out", seconds=0.1), [OPEN, ["sound", 60], ["stall"]]))
    assert list((tmp_path / "out" / "a").iterdir()) == []


@pytest.mark.parametrize(
    "label", ["", ".", "..", ".hidden", "a/b", "a\\b", " a", "a\n", "a\udcff", "x" * 201, "__MACOSX", "a."]
)
def test_labels_that_are_no_folder_names_are_refused(tmp_path, label):
    with pytest.raises(InputError, match="label"):
        next(record(RecordSettings(label, tmp_path), SourceRequest()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "test"}, "the name of a split"),
        ({"label": "Fold 1"}, "the name of a split"),
        ({"place": "a/b"}, "place 'a/b'"),
        ({"seconds": 0.0}, "a clip of 0 s"),
        ({"seconds": float("nan")}, "a clip of nan s"),
        ({"clips": 0}, "count is 0"),
        ({"sample_rate": 1}, "a sample rate of 1 Hz"),
        ({"min_level": 3.0}, "a least level of 3 dBFS"),
    ],
)
def test_orders_that_make_no_sense_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        next(record(RecordSettings(**{"label": "a", "out": tmp_path / "out", **change}), SourceRequest()))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sound(tmp_path: Path) -> str:
    """A command that writes 2 s of a square wave at 8 kHz, then waits."""
    (tmp_path / "a.raw").write_bytes(np.tile(np.int16([8192, -8192]), 8000).astype("<i2").tobytes())
    return f"cat {tmp_path / 'a.raw'}; exec sleep 60"


def test_command_prints_a_line_per_clip_and_states_on_standard_error(edgekd, tmp_path, sound):
    arguments = (
        "tone",
        "--out",
        str(tmp_path / "out"),
        "--seconds",
        "0.5",
        "--count",
        "2",
        "--command",
        sound,
        "--sample-rate",
        "8000",
    )
    status, out, err = edgekd("record", *arguments, "--json")
    assert status == 0
    assert err == "HEALTHY: listening to cat at 8000 Hz, 1 channel\n"
    lines = [json.loads(line) for line in out.splitlines()]
    assert [list(line) for line in lines] == [["file", "start", "seconds", "sample_rate", "level"]] * 2
    assert {str(file) for file in (tmp_path / "out" / "tone").iterdir()} == {line["file"] for line in lines}
    status, out, _ = edgekd("record", *arguments)
    assert (status, out.splitlines()[0].split()[1:]) == (0, ["0.5", "s", "8000", "Hz", "-12.0", "dBFS"])


def test_recordings_are_for_their_owner_alone(edgekd, tmp_path, sound):
    out = tmp_path / "new" / "out"
    arguments = ("--place", "yard", "--seconds", "0.1", "--count", "1", "--command", sound, "--sample-rate", "8000")
    umask = os.umask(0o022)
    try:
        assert edgekd("record", "tone", "--out", out, *arguments)[0] == 0
    finally:
        os.umask(umask)
    made = [out.parent, *out.parent.rglob("*")]
    assert len(made) == 5
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o600", "0o700"}
    assert all(path.is_dir() == (path.stat().st_mode & 0o777 == 0o700) for path in made)


def test_a_link_in_the_folder_of_the_clips_is_not_followed(edgekd, tmp_path, sound):
    (tmp_path / "out" / "tone").mkdir(parents=True)
    (tmp_path / "out" / "tone" / f".{os.getpid()}.part").symlink_to(tmp_path / "elsewhere")
    arguments = ("--seconds", "0.1", "--count", "1", "--command", sound, "--sample-rate", "8000")
    assert edgekd("record", "tone", "--out", tmp_path / "out", *arguments)[0] == 0
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("more", "status"), [([], 0), (["--count", "9"], 130)])
def test_an_interrupt_is_the_usual_end_without_a_count(edgekd, monkeypatch, tmp_path, sound, more, status):
    def stop(_: RecordedClip) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "to_text", stop)
    found, _, _ = edgekd(
        "record",
        "a",
        "--out",
        str(tmp_path / "out"),
        "--seconds",
        "0.2",
        "--command",
        sound,
        "--rate",
        "8000",
        *more,
    )
    assert found == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--command", "x"], "do not say their rate; give it with --rate"),
        (["--command", "x", "--mic", "y"], "two sources"),
        (["--seconds", "0"], "a clip of 0 s"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(edgekd, tmp_path, arguments, message):
    status, out, err = edgekd("record", "a", "--out", str(tmp_path / "out"), *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_folder_that_cannot_be_made_is_one_line_and_status_2(edgekd, tmp_path, sound):
    (tmp_path / "file").write_bytes(b"")
    status, out, err = edgekd("record", "a", "--out", str(tmp_path / "file"), "--command", sound, "--rate", "8000")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "file/a: cannot be written (Not a directory)" in err
