"""The clip store: audio and table are read back, leaks are kept apart, damage is refused, nothing is lost."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.text import listing

RATE = 1000


def noise(samples, seed=0, channels=1):
    return np.random.default_rng(seed).integers(-32768, 32768, (samples, channels)).astype(np.int16)


def build(path, clips, *, force=False, channels=1, official=False, samples=(1500, 700, 2300)):
    with StoreWriter(
        path, name="toy", licence="none", sample_rate=RATE, channels=channels, official_folds=official, force=force
    ) as writer:
        for seed, clip in enumerate(clips):
            writer.add(clip, noise(samples[seed % len(samples)], seed, channels))
        return writer.finish()


def folds(*groups, parents=("", "", "", "")):
    """Two labels in train and in test, with the groups given in that order."""
    rows = [("cat", "train"), ("dog", "train"), ("cat", "test"), ("dog", "test")]
    return [
        Clip(f"{i}.wav", label, split, group=group, parent=parent)
        for i, ((label, split), group, parent) in enumerate(zip(rows, groups, parents, strict=True))
    ]


def test_audio_and_table_are_read_back(tmp_path):
    clips = [
        Clip('b/ü,"1"\n.wav', "dog", "fold1", "g1", "a", "p1"),
        Clip("a.wav", "cat", "fold2"),
        Clip("c.wav", "dog", "fold2"),
    ]
    made = build(tmp_path / "deep" / "store", clips)
    store = ClipStore.open(str(tmp_path / "deep" / "store"))
    assert store.hash == made.hash
    assert (store.name, store.licence, store.sample_rate, store.channels, store.synthetic) == (
        "toy",
        "none",
        RATE,
        1,
        False,
    )
    assert store.labels == ("cat", "dog")
    assert store.splits == ("fold1", "fold2")
    np.testing.assert_array_equal(store.label_index, [1, 0, 1])
    np.testing.assert_array_equal(store.lengths, [1500, 700, 2300])
    np.testing.assert_array_equal(store.offsets, [0, 1500, 2200])
    assert store.clips[0] == Clip('b/ü,"1"\n.wav', "dog", "fold1", "g1", "a", "p1", 1.5)
    for index, samples in enumerate(store.lengths):
        np.testing.assert_array_equal(store.clip_pcm(index), noise(samples, index))
        np.testing.assert_array_equal(store.waveform(index), noise(samples, index)[:, 0] / np.float32(32768))
    assert store.waveform(0).dtype == np.float32
    store.verify()


def test_a_waveform_is_the_mean_of_the_channels(tmp_path):
    store = build(tmp_path / "store", [Clip("a.wav", "cat", "train")], channels=2)
    np.testing.assert_allclose(store.waveform(0), noise(1500, 0, 2).mean(axis=1) / 32768, atol=1e-7)


def test_window_starts_are_those_of_complete_windows_and_short_clips_are_padded(tmp_path):
    assert window_starts(80001, 16000, 16000) == [0, 16000, 32000, 48000, 64000]
    assert window_starts(16000, 16000, 100) == [0]
    assert window_starts(500, 16000, 100) == [0]
    assert window_starts(25, 10, 5) == [0, 5, 10, 15]
    store = build(tmp_path / "store", [Clip("a.wav", "cat", "train")])
    padded = store.window(0, 1000, 800)
    np.testing.assert_array_equal(padded[:500], store.waveform(0)[1000:])
    assert padded.shape == (800,)
    assert not padded[500:].any()


def test_the_hash_depends_on_the_content_only(tmp_path):
    clips = folds("a", "b", "c", "d")
    same, again = build(tmp_path / "one", clips), build(tmp_path / "two", clips)
    other_table = build(tmp_path / "three", folds("a", "b", "c", "e"))
    other_audio = build(tmp_path / "four", clips, samples=(1500, 701, 2300))
    assert same.hash == again.hash
    assert len({same.hash, other_table.hash, other_audio.hash}) == 3


def test_an_unknown_split_is_named_with_its_nearest(tmp_path):
    store = build(tmp_path / "store", folds("", "", "", ""))
    np.testing.assert_array_equal(store.indices(["test"]), [2, 3])
    with pytest.raises(InputError, match="no split 'trian'; did you mean 'train'"):
        store.indices(["trian"])
    with pytest.raises(InputError, match="'test' is named for training"):
        store.partition(["train", "test"], ["test"])
    with pytest.raises(InputError, match="no split named; it has test, train"):
        store.partition([], ["test"])


def test_splits_without_leaks_keep_all_clips(tmp_path):
    part = build(tmp_path / "store", folds("a", "b", "c", "")).partition(["train"], ["test"])
    np.testing.assert_array_equal(part.train, [0, 1])
    np.testing.assert_array_equal(part.test, [2, 3])
    assert part.left_out.size == 0
    assert part.leaks == ()


@pytest.mark.parametrize(
    ("groups", "parents", "leak"),
    [
        (("a", "b", "a", "d"), ("", "", "", ""), "group a"),
        (("", "", "", ""), ("p", "q", "r", "q"), "parent q"),
    ],
)
def test_a_leak_is_refused_unless_allowed(tmp_path, groups, parents, leak):
    store = build(tmp_path / "store", folds(*groups, parents=parents))
    with pytest.raises(InputError, match=leak):
        store.partition(["train"], ["test"])
    part = store.partition(["train"], ["test"], allow_leaks=True)
    assert len(part.train) == 2
    assert part.leaks == (leak,)


def test_leaks_of_official_folds_are_left_out_of_training(tmp_path):
    clips = [*folds("a", "b", "a", "d"), Clip("more.wav", "cat", "train", group="z")]
    part = build(tmp_path / "store", clips, official=True).partition(["train"], ["test"])
    np.testing.assert_array_equal(part.train, [1, 4])
    np.testing.assert_array_equal(part.left_out, [0])
    np.testing.assert_array_equal(part.test, [2, 3])


def test_a_label_on_one_side_only_is_refused(tmp_path):
    clips = [*folds("", "", "", ""), Clip("x.wav", "bird", "train")]
    with pytest.raises(InputError, match="label bird is in training only"):
        build(tmp_path / "store", clips).partition(["train"], ["test"])
    with pytest.raises(InputError, match=r"label dog .*\(1 training .*allow_leaks"):
        build(tmp_path / "other", folds("a", "b", "c", "b"), official=True).partition(["train"], ["test"])


def test_a_long_list_of_names_is_shortened():
    assert listing(list("abcdefg")) == "a, b, c, d, e and 2 more"


def cut_audio(store):
    audio = store / "audio.i16"
    audio.write_bytes(audio.read_bytes()[:-1])


def relabel(store):
    table = store / "clips.csv"
    table.write_text(table.read_text().replace("dog", "cat"))


def edit_info(**changes):
    def edit(store):
        info = store / "store.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_audio, "8999 bytes, clips.csv needs 9000"),
        (relabel, "clips.csv .*recorded hash"),
        (lambda store: (store / "audio.i16").unlink(), "audio.i16 cannot be read"),
        (lambda store: (store / "clips.csv").unlink(), "clips.csv cannot be read"),
        (lambda store: (store / "store.json").unlink(), "not an edgekd store"),
        (lambda store: (store / "store.json").write_bytes(b"\xff{"), "store is damaged"),
        (lambda store: (store / "store.json").write_bytes(b"[1]"), "store is damaged"),
        (edit_info(version=99), "version 99 is unknown"),
        (edit_info(channels=0), "impossible values"),
        (edit_info(colour="red"), "unknown field `colour`"),
    ],
)
def test_a_damaged_store_is_refused_in_one_line(tmp_path, damage, message):
    build(tmp_path / "store", folds("", "", "", "")[:3])
    damage(tmp_path / "store")
    with pytest.raises(InputError, match=message) as caught:
        ClipStore.open(tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_changed_audio_is_found_by_verify(tmp_path):
    build(tmp_path / "store", folds("", "", "", ""))
    audio = tmp_path / "store" / "audio.i16"
    raw = bytearray(audio.read_bytes())
    raw[100] ^= 1
    audio.write_bytes(raw)
    with pytest.raises(InputError, match="does not match its recorded hash"):
        ClipStore.open(tmp_path / "store").verify()


def test_an_error_names_the_store_inside_the_folder(tmp_path):
    build(tmp_path / "store", folds("", "", "", ""))
    with pytest.raises(InputError, match=r"did you mean .*store\?"):
        ClipStore.open(tmp_path)


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        with StoreWriter(tmp_path / "store", name="toy", licence="none", sample_rate=RATE, channels=1) as writer:
            writer.add(Clip("a.wav", "cat", "train"), noise(100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
writer = StoreWriter(Path(sys.argv[1]), name="toy", licence="none", sample_rate=1000, channels=1)
writer.add(Clip("a.wav", "cat", "train"), np.ones((100, 1), np.int16))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".store.partial-")
    build(tmp_path / "other", folds("", "", "", ""))
    assert left.exists()
    build(tmp_path / "store", folds("", "", "", ""))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "other", tmp_path / "store"]


def test_a_second_writer_of_a_store_is_refused_and_foreign_files_are_not_removed(tmp_path):
    mine = tmp_path / ".store.partial-12345678"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with StoreWriter(tmp_path / "store", name="toy", licence="none", sample_rate=RATE, channels=1) as writer:
        with pytest.raises(InputError, match="store is being written"):
            build(tmp_path / "store", folds("", "", "", ""))
        writer.add(Clip("a.wav", "cat", "train"), noise(100))
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "mine.txt").touch()
        with pytest.raises(InputError, match="exists and is not an edgekd store"):
            writer.finish()
    assert sorted(tmp_path.iterdir()) == [mine, tmp_path / "store"]
    assert (mine / "thesis.txt").exists()


def test_a_store_whose_replacement_was_interrupted_is_restored(tmp_path):
    path, aside = tmp_path / "store", tmp_path / ".store.old-abcd1234"
    old = build(path, folds("", "", "", ""))
    path.rename(aside)
    with pytest.raises(InputError, match="exists; replace it with --force"):
        build(path, folds("n", "e", "w", ""))
    assert ClipStore.open(path).hash == old.hash
    path.rename(aside)
    new = build(path, folds("n", "e", "w", ""), force=True)
    assert list(tmp_path.iterdir()) == [path]
    build(aside, folds("", "", "", ""))  # interrupted after the new store was renamed
    assert build(path, folds("n", "e", "w", ""), force=True).hash == new.hash
    assert list(tmp_path.iterdir()) == [path]


def test_a_store_is_replaced_only_with_force_and_only_by_a_complete_one(tmp_path):
    path = tmp_path / "store"
    old = build(path, folds("", "", "", ""))
    with pytest.raises(InputError, match="exists; replace it with --force"):
        build(path, folds("n", "e", "w", ""))
    with pytest.raises(InputError, match="listed twice"):
        build(path, [Clip("a.wav", "cat", "train")] * 2, force=True)
    assert ClipStore.open(path).hash == old.hash
    new = build(path, folds("n", "e", "w", ""), force=True)
    assert ClipStore.open(path).hash == new.hash != old.hash
    assert list(tmp_path.iterdir()) == [path]


def test_force_touches_nothing_but_stores(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an edgekd store"):
        build(own, folds("", "", "", ""), force=True)
    store = tmp_path / "store"
    build(store, folds("", "", "", ""))
    (store / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not part of a store \(notes.txt\)"):
        build(store, folds("", "", "", ""), force=True)
    with pytest.raises(InputError, match="is a file"):
        build(own / "thesis.txt", folds("", "", "", ""), force=True)
    assert (own / "thesis.txt").read_text() == "years of work"
    assert (store / "notes.txt").read_text() == "mine"


def test_a_store_can_be_written_into_an_empty_folder(tmp_path):
    assert len(build(tmp_path, folds("", "", "", "")).clips) == 4


def test_a_store_without_clips_is_not_written(tmp_path):
    with pytest.raises(InputError, match="no clip is left"):
        build(tmp_path / "store", [])
    assert list(tmp_path.iterdir()) == []
