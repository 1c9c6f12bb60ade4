"""The data commands, from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekd.data import prepare as data
from edgekd.data.audio import decode
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data" / "esc50"


@pytest.fixture
def audio(tmp_path):
    """Ten clips of two labels, of all formats."""
    path = tmp_path / "audio"
    for label in ("cat", "dog"):
        (path / label).mkdir(parents=True)
        for i in range(5):
            waveform = np.random.default_rng([ord(label[0]), i]).uniform(-0.5, 0.5, (24000, 1 + i % 2))
            soundfile.write(path / label / f"{i}{('.wav', '.flac', '.ogg', '.mp3')[i % 4]}", waveform, 16000)
    return path


def test_prepare_then_info(edgekd, audio, tmp_path):
    soundfile.write(audio / "cat" / "silence.wav", np.zeros(32000), 16000)
    soundfile.write(audio / "cat" / "short.wav", np.full(4000, 0.1), 8000)
    status, out, err = edgekd(
        "data", "prepare", "folder", audio, "--out", tmp_path / "store", "--licence", "CC0-1.0", "--sample-rate", 8000
    )
    assert status == 0
    assert "12 clips, 2 labels" in out
    assert "silent clips: 1 (cat/silence.wav)" in out
    assert "shorter than 1 s: 1 (cat/short.wav)" in out
    assert "note: no splits given" in err
    status, out, _ = edgekd("data", "info", tmp_path / "store", "--json")
    report = json.loads(out)
    assert status == 0
    assert (report["clips"], report["sample_rate"], report["licence"], report["synthetic"]) == (
        12,
        8000,
        "CC0-1.0",
        False,
    )
    assert report["hash"] == ClipStore.open(tmp_path / "store").hash
    assert report["labels"] == {"cat": {"test": 1, "train": 6}, "dog": {"test": 1, "train": 4}}
    assert report["silent"] == ["cat/silence.wav"]


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files decoded so far."""
    names = []
    decode_file = decode.decode

    def counting(path, *arguments):
        names.append(path.name)
        return decode_file(path, *arguments)

    monkeypatch.setattr(decode, "decode", counting)
    return names


def files(store):
    return {file.name: file.read_bytes() for file in store.iterdir()}


def test_bad_clips_are_all_named_and_the_good_ones_are_kept(edgekd, audio, tmp_path, decoded):
    (audio / "dog" / "empty.wav").touch()
    (audio / "dog" / "junk.mp3").write_bytes(b"junk" * 100)
    soundfile.write(audio / "cat" / "nan.wav", np.array([np.nan] * 20000), 16000, subtype="FLOAT")
    status, out, err = edgekd("data", "prepare", "folder", audio, "--out", tmp_path / "store")
    assert status == 2
    assert out == ""
    for name in ("empty.wav: the file is empty", "junk.mp3: is not readable", "nan.wav: holds NaN"):
        assert name in err
    (kept,) = tmp_path.glob(".store.*")
    assert (
        err.splitlines()[-1]
        == "edgekd: 3 of 13 clips cannot be used (named above); no store was made; repair them or leave them out "
        f"with --skip-bad; 10 clips are kept in {kept.name}, and the same command resumes"
    )
    decoded.clear()
    status, out, err = edgekd("data", "prepare", "folder", audio, "--out", tmp_path / "store", "--skip-bad")
    assert status == 0
    assert "10 clips, 2 labels" in out
    assert "3 of 13 clips left out: cat/nan.wav, dog/empty.wav, dog/junk.mp3" in err
    assert "resuming with 10 clips" in err
    assert sorted(decoded) == ["empty.wav", "junk.mp3", "nan.wav"]
    assert not list(tmp_path.glob(".store.*"))


def test_a_repaired_clip_is_added_in_its_position(edgekd, audio, tmp_path, decoded):
    good, bad = (audio / "dog" / "1.flac").read_bytes(), audio / "dog" / "1a.wav"
    bad.write_bytes(good[:100])
    prepare = ("data", "prepare", "folder", audio, "--test-fraction", "0.4", "--out")
    assert edgekd(*prepare, tmp_path / "store")[0] == 2
    bad.write_bytes(good)
    decoded.clear()
    assert edgekd(*prepare, tmp_path / "store")[0] == 0
    assert sorted(decoded) == ["1a.wav", "2.ogg", "3.mp3", "4.wav"]
    assert edgekd(*prepare, tmp_path / "expected")[0] == 0
    assert files(tmp_path / "store") == files(tmp_path / "expected")


def test_rows_may_change_while_the_audio_is_kept(edgekd, audio, tmp_path, decoded):
    bad = audio / "dog" / "z.wav"
    bad.touch()
    assert edgekd("data", "prepare", "folder", audio, "--out", tmp_path / "store")[0] == 2
    bad.unlink()
    decoded.clear()
    assert (
        edgekd(
            "data",
            "prepare",
            "folder",
            audio,
            "--out",
            tmp_path / "store",
            "--test-fraction",
            "0.4",
            "--licence",
            "CC0-1.0",
        )[0]
        == 0
    )
    assert decoded == []
    store = ClipStore.open(tmp_path / "store")
    assert (store.licence, len(store.indices(["test"]))) == ("CC0-1.0", 4)


FULL_DISK = """
import resource, sys
from edgekd import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
sys.argv = ["edgekd", *sys.argv[1:]]
cli.main()
"""


def test_a_full_disk_is_one_line_and_the_same_command_resumes(edgekd, audio, tmp_path, decoded):
    prepare = ("data", "prepare", "folder", str(audio), "--out", str(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *prepare], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert (
        "cannot be written (File too large); free space or choose another --out; 4 clips are kept in .store.partial-"
        in done.stderr
    )
    assert edgekd(*prepare)[0] == 0
    assert len(decoded) == 6
    assert edgekd(*prepare[:-1], tmp_path / "expected")[0] == 0
    assert files(tmp_path / "store") == files(tmp_path / "expected")


def test_a_second_prepare_of_the_same_store_is_refused(edgekd, audio, tmp_path, monkeypatch):
    prepare = ("data", "prepare", "folder", audio, "--out", tmp_path / "store")
    decode_all = data.decode_all
    messages = []

    def meanwhile(*arguments):
        for count, item in enumerate(decode_all(*arguments)):
            if count == 5:
                with pytest.raises(InputError) as caught:
                    data.prepare("folder", audio, tmp_path / "store", log=print)
                messages.append(str(caught.value))
            yield item

    monkeypatch.setattr(data, "decode_all", meanwhile)
    assert edgekd(*prepare)[0] == 0
    assert messages == [
        f"{tmp_path / 'store'} is being written by another process; wait for it or choose another --out"
    ]
    ClipStore.open(tmp_path / "store").verify()


def test_a_table_with_missing_and_repeated_files_is_refused(edgekd, audio, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(
        "filename,label,split\ncat/0.wav,cat,train\ncat/0.wav,cat,train\ndog/none.wav,dog,train\ndog/0.wav,dog,test\n"
    )
    status, _, err = edgekd("data", "prepare", "folder", audio, "--csv", table, "--out", tmp_path / "store")
    assert status == 2
    assert "cat/0.wav: is listed more than once" in err
    assert "dog/none.wav: cannot be read (No such file or directory)" in err
    assert not (tmp_path / "store").exists()


def test_problems_of_a_training_are_reported_by_prepare(edgekd, audio, tmp_path):
    shutil.copy(audio / "cat" / "0.wav", audio / "dog" / "same.wav")
    table = tmp_path / "clips.csv"
    table.write_text(
        "filename,label,split,group\ncat/0.wav,cat,train,g\ndog/same.wav,dog,train,\ndog/0.wav,dog,test,g\n"
    )
    status, out, err = edgekd("data", "prepare", "folder", audio, "--csv", table, "--out", tmp_path / "store")
    assert status == 0
    assert "labels in one split only: cat in train" in out
    assert "leaks: 1 in more than one split (group g)" in out
    assert (
        "1 clip repeats the audio of a clip with another label or split: cat/0.wav (cat, train) = dog/same.wav (dog,"
        " train)" in err
    )


def test_an_existing_store_is_kept_without_force(edgekd, audio, tmp_path):
    prepare = ("data", "prepare", "folder", audio, "--out", tmp_path / "store")
    assert edgekd(*prepare)[0] == 0
    before = ClipStore.open(tmp_path / "store").hash
    status, _, err = edgekd(*prepare, "--test-fraction", "0.5")
    assert (status, "replace it with --force" in err) == (2, True)
    assert ClipStore.open(tmp_path / "store").hash == before
    assert edgekd(*prepare, "--test-fraction", "0.5", "--force")[0] == 0
    assert ClipStore.open(tmp_path / "store").hash != before
    status, _, err = edgekd("data", "prepare", "folder", audio, "--out", audio, "--force")
    assert (status, "is not an edgekd store" in err) == (2, True)
    assert len(list(audio.rglob("*.*"))) == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_old_store_and_the_same_command_resumes(
    edgekd, audio, tmp_path, monkeypatch, decoded, number
):
    prepare = ("data", "prepare", "folder", audio, "--out", tmp_path / "store")
    edgekd(*prepare)
    before = files(tmp_path / "store")
    decode_all = data.decode_all

    def killed(*arguments):
        for count, item in enumerate(decode_all(*arguments)):
            if count == 5:
                os.kill(os.getpid(), number)
            yield item

    monkeypatch.setattr(data, "decode_all", killed)
    # in a test run started in the background SIGINT is ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, out, err = edgekd(*prepare, "--licence", "new", "--force")
    finally:
        signal.signal(signal.SIGINT, handler)
    (kept,) = tmp_path.glob(".store.*")
    assert (status, out, err.splitlines()[-1]) == (
        130,
        "",
        f"edgekd: {tmp_path / 'store'}: interrupted; 5 clips are kept in {kept.name}, and the same command resumes",
    )
    assert files(tmp_path / "store") == before
    monkeypatch.setattr(data, "decode_all", decode_all)
    decoded.clear()
    assert edgekd(*prepare, "--licence", "new", "--force")[0] == 0
    assert len(decoded) == 5
    assert sorted(tmp_path.iterdir()) == [audio, tmp_path / "store"]
    store = ClipStore.open(tmp_path / "store")
    store.verify()
    assert store.licence == "new"


def test_synthetic_audio_is_reported_as_such(edgekd, tmp_path):
    status, out, err = edgekd(
        "data", "synth", "--out", tmp_path / "store", "--clips", 40, "--seconds", 1, "--sample-rate", 8000
    )
    assert status == 0
    assert "40 clips of SYNTHETIC audio (made by a program, not recorded), 10 labels" in out
    assert "not recordings" in err
    store = ClipStore.open(tmp_path / "store")
    assert store.synthetic
    assert len(store.partition(["train"], ["test"]).test) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "esc5", "AUDIO", "--out", "OUT"), "no data set 'esc5'; did you mean 'esc50'"),
        (("prepare", "esc50", "AUDIO", "--out", "OUT"), "has no meta/esc50.csv"),
        (
            ("prepare", "esc50", "AUDIO", "--out", "OUT", "--licence", "mine"),
            "--licence belongs to 'data prepare folder'",
        ),
        (("prepare", "folder", "AUDIO", "--out", "OUT", "--sample-rate", "0"), "--sample-rate 0"),
        (("prepare", "folder", "AUDIO", "--out", "OUT", "--channels", "0"), "--channels 0"),
        (("synth", "--out", "OUT", "--clips", "39"), "--clips 39: wanted 40 or more"),
        (("synth", "--out", "OUT", "--seconds", "0"), "--seconds 0"),
        (("synth", "--out", "OUT", "--seed", "-1"), "--seed -1"),
        (("info", "OUT"), "does not exist"),
        (("info", "AUDIO"), "is not an edgekd store"),
    ],
)
def test_bad_usage_is_one_line(edgekd, audio, tmp_path, arguments, message):
    paths = {"AUDIO": audio, "OUT": tmp_path / "out"}
    status, out, err = edgekd("data", *(paths.get(argument, argument) for argument in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("edgekd: ")
    assert message in err
    assert sorted(tmp_path.iterdir()) == [audio]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real ESC-50 is not at ../shared/data/esc50")
def test_part_of_the_real_data_leaks_between_folds_and_is_left_out_of_training(edgekd, tmp_path):
    rows = (REAL / "meta" / "esc50.csv").read_text().splitlines()
    leaking = [row for row in rows[1:] if row.split(",")[5] in {"131943", "134049", "209698", "234879"}]
    labels = {row.split(",")[3] for row in leaking}
    kept = [row for row in rows[1:] if row in leaking or (row.split(",")[3] in labels and "-A-" in row)]
    for folder in ("meta", "audio"):
        (tmp_path / "esc" / folder).mkdir(parents=True)
    (tmp_path / "esc" / "meta" / "esc50.csv").write_text("\n".join([rows[0], *kept]) + "\n")
    for row in kept:
        name = row.split(",")[0]
        (tmp_path / "esc" / "audio" / name).symlink_to(REAL / "audio" / name)
    status, out, _ = edgekd("data", "prepare", "esc50", tmp_path / "esc", "--out", tmp_path / "store")
    assert status == 0
    assert (
        "leaks: 2 in more than one split (group 131943, group 134049): 2 in fold2 and fold3; their clips are left out"
        " of training" in out
    )
    store = ClipStore.open(tmp_path / "store")
    leaks = {clip.split for clip in store.clips if clip.group == "131943"}
    part = store.partition([split for split in store.splits if split != min(leaks)], [min(leaks)])
    assert len(part.left_out) > 0
    assert "group 131943" in part.leaks
    assert not {store.clips[i].group for i in part.train} & {store.clips[i].group for i in part.test}
