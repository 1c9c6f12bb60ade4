"""What is found below a folder and what is left out, by `data prepare folder`, `predict` and submissions."""

import csv
import os
import shutil

import numpy as np
import pytest
import soundfile

from edgekd.data.store.store import ClipStore
from edgekd.dcase.outputs import open_evaluation
from edgekd.errors import InputError

RATE = 8000


def sounds(path, *names):
    """A folder with a short audio file of each name."""
    for number, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path / name, np.random.default_rng(number).uniform(-0.5, 0.5, RATE // 4), RATE)
    return path


def others(path, *names):
    """A folder with a file of each name that is not read."""
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"\0\0\0 ftypM4A ")
    return path


@pytest.fixture
def tree(tmp_path):
    """Two labels of two clips."""
    return sounds(tmp_path / "sounds", *(f"{label}/{i}.wav" for label in ("day", "night") for i in range(2)))


@pytest.fixture
def prepare(edgekd, tmp_path):
    """Runs `data prepare folder` and gives its exit status, its standard error, and (path, label) of each clip."""

    def run(path, *options):
        out = tmp_path / "store"
        status, _, err = edgekd(
            "data", "prepare", "folder", path, "--out", out, "--sample-rate", RATE, "--force", *options
        )
        return status, err, [(clip.path, clip.label) for clip in ClipStore.open(out).clips] if status == 0 else []

    return run


@pytest.fixture
def predicted(edgekd, tone_model, tmp_path):
    """Runs `predict` and gives its exit status, its output, and the names of the files in the table."""

    def run(path):
        table = tmp_path / "table.csv"
        status, out, err = edgekd("predict", tone_model, path, "--csv", table, "--force")
        rows = csv.DictReader(table.read_text().splitlines()) if status == 0 else []
        return status, out + err, [row["filename"] for row in rows]

    return run


def test_links_to_label_and_group_folders_are_followed(tree, tmp_path, prepare, predicted):
    disk = sounds(tmp_path / "disk", "rain/0.wav", "rain/1.wav", "roof/2.wav", "roof/3.wav")
    (tree / "rain").symlink_to(disk / "rain")
    (tree / "rain" / "roof").symlink_to("../roof")
    wanted = ["rain/0.wav", "rain/1.wav", "rain/roof/2.wav", "rain/roof/3.wav"]
    status, _, clips = prepare(tree)
    assert status == 0
    assert [clip for clip in clips if clip[1] == "rain"] == [(name, "rain") for name in wanted]
    assert predicted(tree)[2][-4:] == wanted


def test_loops_and_meshes_of_links_end_and_each_folder_is_read_once(tree, tmp_path, prepare, predicted):
    plain = prepare(tree)[2]
    (tree / "day" / "loop").symlink_to("..")
    (tree / "night" / "all").symlink_to(tmp_path)
    (tree / "another").symlink_to("day")
    mesh = tmp_path / "mesh"
    for level in range(30):  # 2^30 ways through
        (mesh / str(level)).mkdir(parents=True)
        for name in ("a", "b"):
            (mesh / str(level) / name).symlink_to(f"../{level + 1}")
    sounds(mesh, "30/x.wav")
    (tree / "night" / "mesh").symlink_to(mesh / "0")
    status, err, clips = prepare(tree)
    assert status == 0
    assert [clip for clip in clips if not clip[0].endswith("x.wav")] == plain
    assert len(clips) == len(plain) + 1
    for name in ("day/loop", "night/all", "another"):
        assert f"note: {tree / name}: " in err
    status, told, files = predicted(tree)
    assert (status, len(files)) == (0, len(clips))
    assert f"{tree / 'another'}: " in told


def test_links_that_lead_nowhere_and_folders_that_cannot_be_read_are_no_silence(tree, tmp_path, prepare, predicted):
    (tree / "rain").symlink_to(tmp_path / "unmounted")
    status, err, _ = prepare(tree)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{tree / 'rain'}: is a link to {tmp_path / 'unmounted'}" in err
    status, err, clips = prepare(tree, "--skip-bad")
    assert (status, len(clips)) == (0, 4)
    assert f"note: {tree / 'rain'}: " in err
    status, told, files = predicted(tree)
    assert (status, len(files)) == (0, 4)
    assert f"{tree / 'rain'}: is a link to {tmp_path / 'unmounted'}" in told
    with pytest.raises(InputError, match="unmounted"):
        open_evaluation(tree)


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_may_not_be_read_is_named(tree, prepare, mode):
    rain = sounds(tree, "rain/0.wav") / "rain"
    rain.chmod(mode)
    try:
        if os.access(rain, os.X_OK):
            pytest.skip("this user may read everything")
        status, err, _ = prepare(tree)
    finally:
        rain.chmod(0o755)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{rain}: cannot be read (Permission denied)" in err


def test_a_label_with_nothing_that_can_be_read_is_refused_with_counts(tree, prepare, predicted):
    others(tree, *(f"rain/{i}.m4a" for i in range(30)), "rain/old/x.WMA", "hail/1.mp4", "day/2.m4a", "day/notes.txt")
    status, err, _ = prepare(tree)
    assert (status, err.count("\n")) == (2, 1)
    assert "hail (1 .mp4), rain (30 .m4a, 1 .wma)" in err
    assert "ffmpeg -i clip.m4a" in err
    status, told, files = predicted(tree)
    assert (status, len(files)) == (0, 4)
    assert "31 .m4a, 1 .mp4, 1 .wma, not read" in told
    with pytest.raises(InputError, match=r"31 \.m4a"):
        open_evaluation(tree)


def test_files_that_are_not_read_are_counted_by_label_and_suffix(tree, prepare):
    others(tree, "day/2.m4a", "day/3.m4a", "night/far/2.wma", "day/notes.txt", "loose.mp4", "plots/1.png")
    status, err, clips = prepare(tree)
    assert (status, len(clips)) == (0, 4)
    assert "outside any label (1 .mp4), day (2 .m4a), night (1 .wma)" in err
    assert "without audio are no labels: plots" in err


def test_a_label_that_is_left_without_audio_in_one_split_is_refused(tmp_path, prepare):
    path = sounds(tmp_path / "sounds", *(f"train/{label}/{i}.wav" for label in ("day", "rain") for i in range(2)))
    sounds(path, "test/day/0.flac")
    others(path, "test/rain/0.m4a")
    (path / "val").mkdir()
    status, err, _ = prepare(path)
    assert status == 2
    assert "test/rain (1 .m4a)" in err
    shutil.rmtree(path / "test" / "rain")
    status, err, _ = prepare(path)
    assert status == 0
    assert "without audio are no labels: val" in err


@pytest.mark.parametrize("names", [("1.m4a", "2.m4a"), ("day/1.m4a", "night/1.m4a")])
def test_a_folder_of_nothing_that_is_read_is_one_line(tmp_path, prepare, predicted, names):
    path = others(tmp_path / "sounds", *names)
    for status, err, _ in (prepare(path), predicted(path)):
        assert (status, err.count("\n")) == (2, 1)
        assert ".m4a" in err
        assert "ffmpeg" in err


def test_other_names_of_wav_and_au_are_read(tree, prepare):
    for name, container in (("a.wave", "WAV"), ("b.BWF", "WAV"), ("c.rf64", "RF64"), ("d.snd", "AU")):
        soundfile.write(tree / "day" / name, np.full(RATE // 4, 0.1), RATE, format=container)
    status, _, clips = prepare(tree)
    assert (status, len(clips)) == (0, 8)


def test_hidden_and_system_folders_are_read_by_no_command(tree, tmp_path, prepare, predicted):
    sounds(tree, ".Trashes/0.wav", "__MACOSX/0.wav", "day/.git/0.wav", "day/@eaDir/0.wav", "night/._0.wav")
    wanted = ["day/0.wav", "day/1.wav", "night/0.wav", "night/1.wav"]
    assert [path for path, _ in prepare(tree)[2]] == wanted
    assert predicted(tree)[2] == wanted
    assert [
        name.rpartition("/")[2] for name in open_evaluation(sounds(tmp_path / "set", "a.wav", ".b/c.wav")).names
    ] == ["a.wav"]


def table(tree, *rows, header="filename,label"):
    path = tree / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("day\\0.wav", "night\\0.wav"), r"row 2: .*'day\0.wav'; did you mean 'day/0.wav'"),
        (("day/0", "night/0"), "row 2: .*'day/0'; did you mean 'day/0.wav'"),
        (("day/0.wav", "night\\1"), r"row 3: .*'night\1'; did you mean 'night/1.wav'"),
        (("C:\\day\\0.wav", "night/0.wav"), r"row 2: .*'C:\day\0.wav'; write names relative"),
    ],
)
def test_a_table_with_backslashes_or_without_suffixes_gets_a_hint(tree, prepare, names, wanted):
    row, hint = wanted.split(".*")
    status, err, _ = prepare(tree, "--csv", table(tree, f"{names[0]},day", f"{names[1]},night"))
    assert (status, err.count("\n")) == (2, 1)
    assert row in err
    assert hint in err


def test_a_file_whose_name_has_a_backslash_is_read(tree, prepare):
    (tree / "day" / "0.wav").rename(tree / "day\\0.wav")
    status, _, clips = prepare(tree, "--csv", table(tree, "day\\0.wav,day", "night/0.wav,night"))
    assert (status, len(clips)) == (0, 2)


def test_splits_that_differ_in_case_only_are_refused(tree, tmp_path, prepare):
    rows = ("day/0.wav,day,train", "day/1.wav,day,Test", "night/0.wav,night,Train", "night/1.wav,night,Test")
    status, err, _ = prepare(tree, "--csv", table(tree, *rows, header="filename,label,split"))
    assert (status, err.count("\n")) == (2, 1)
    assert "Train, train" in err
    path = sounds(tmp_path / "set", "Test/day/0.wav", "test/night/0.wav", "train/day/0.wav", "train/night/0.wav")
    status, err, _ = prepare(path)
    assert status == 2
    assert "Test, test" in err


def test_labels_that_differ_in_case_or_in_the_form_of_an_accent_are_told(tree, edgekd, tmp_path, prepare):
    sounds(tree, "Day/0.wav", "caf\u00e9/0.wav", "cafe\u0301/0.wav")
    assert prepare(tree)[0] == 0
    _, out, _ = edgekd("data", "info", tmp_path / "store")
    assert "Day, day" in out
    assert "cafe\u0301, caf\u00e9" in out
