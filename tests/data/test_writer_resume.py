"""A writer with a request resumes what an earlier one left, and checks all of it."""

import os
from contextlib import closing

import numpy as np
import pytest

from edgekd.data.store.clips import Clip
from edgekd.data.store.journal import Journal, JournalEntry
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.files import held, in_use

SAMPLES = (1500, 700, 2300, 40)
KEYS = [f"{n:032x}" for n in range(4)]
CLIPS = [Clip(f"{n}.wav", "cat", "train") for n in range(4)]


def pcm(n):
    return np.random.default_rng(n).integers(-32768, 32768, (SAMPLES[n], 2)).astype(np.int16)


def writer(path, request="one", **options):
    return StoreWriter(path, name="toy", licence="none", sample_rate=1000, channels=2, request=request, **options)


def stop_after(path, count, request="one"):
    """Write some clips and leave without `finish`; returns the hidden folder."""
    with writer(path, request) as stopped:
        for n in range(count):
            stopped.add(CLIPS[n], pcm(n), KEYS[n])
    (folder,) = path.parent.glob(f".{path.name}.partial-*")
    return folder


def resume(path, keys=KEYS):
    """Finish the store; returns the numbers of the clips that were not reused."""
    added = []
    with writer(path) as second:
        for n, key in enumerate(keys):
            reused = second.reuse(CLIPS[n], key) if second.left else None
            if reused is None:
                second.add(CLIPS[n], pcm(n), key)
                added.append(n)
            else:
                np.testing.assert_array_equal(reused, pcm(n))
        second.finish()
    return added


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def expected(tmp_path):
    """The files of the store that a single writer makes."""
    assert resume(tmp_path / "expected") == [0, 1, 2, 3]
    return files(tmp_path / "expected")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_store_is_that_of_a_single_writer(tmp_path, expected, count):
    path = tmp_path / "store"
    stop_after(path, count)
    assert not path.exists()
    assert resume(path) == [0, 1, 2, 3][count:]
    assert files(path) == expected
    assert sorted(tmp_path.iterdir()) == [tmp_path / "expected", path]


def tear_journal(folder):
    journal = folder / "journal"
    journal.write_bytes(journal.read_bytes()[:-1])


def tear_audio(folder):
    audio = folder / "store" / "audio.i16"
    audio.write_bytes(audio.read_bytes()[:-1])


def lose_audio(folder):
    (folder / "store" / "audio.i16").unlink()


def flip_a_bit(folder):
    audio = folder / "store" / "audio.i16"
    raw = bytearray(audio.read_bytes())
    raw[4 * 1500 + 9] ^= 1  # in the second clip
    audio.write_bytes(raw)


def append_audio_without_a_line(folder):
    with (folder / "store" / "audio.i16").open("ab") as file:
        file.write(b"x" * 1001)


def damage_a_line(folder):
    first, *rest = (folder / "journal").read_bytes().splitlines(keepends=True)
    (folder / "journal").write_bytes(b"".join([first.replace(b" ", b"  "), *rest]))


@pytest.mark.parametrize(
    ("damage", "added"),
    [
        (tear_journal, [2, 3]),
        (tear_audio, [2, 3]),
        (lose_audio, [0, 1, 2, 3]),
        (flip_a_bit, [1, 2, 3]),
        (append_audio_without_a_line, [3]),
        (damage_a_line, [0, 1, 2, 3]),
    ],
)
def test_damaged_clips_and_all_after_them_are_written_again(tmp_path, expected, damage, added):
    path = tmp_path / "store"
    damage(stop_after(path, 3))
    assert resume(path) == added
    assert files(path) == expected


def test_a_changed_source_ends_the_reuse(tmp_path):
    path = tmp_path / "store"
    stop_after(path, 4)
    assert resume(path, [KEYS[0], "f" * 32, *KEYS[2:]]) == [1, 2, 3]


def test_clips_left_of_removed_sources_are_not_in_the_store(tmp_path):
    path = tmp_path / "store"
    stop_after(path, 4)
    assert resume(path, KEYS[:2]) == []
    store = ClipStore.open(path)
    store.verify()
    assert [clip.path for clip in store.clips] == ["0.wav", "1.wav"]


def test_it_can_be_stopped_again_and_again(tmp_path, expected):
    path = tmp_path / "store"
    for count in (1, 2, 3):
        with writer(path) as stopped:
            for n in range(count):
                if stopped.left:
                    assert stopped.reuse(CLIPS[n], KEYS[n]) is not None
                else:
                    stopped.add(CLIPS[n], pcm(n), KEYS[n])
    assert resume(path) == [3]
    assert files(path) == expected


def test_another_request_and_a_stop_before_the_first_clip_leave_nothing(tmp_path):
    stop_after(tmp_path / "store", 2)
    with writer(tmp_path / "store", "two") as other:
        assert other.left == 0
    assert list(tmp_path.iterdir()) == []


def test_the_hint_names_what_is_kept(tmp_path):
    with writer(tmp_path / "store") as stopped:
        assert stopped.hint == ""
        stopped.add(CLIPS[0], pcm(0), KEYS[0])
        assert "; 1 clip is kept in .store.partial-" in stopped.hint
        stopped.finish()
        assert stopped.hint == ""


def test_the_folder_of_another_process_is_neither_reused_nor_removed(tmp_path):
    folder = stop_after(tmp_path / "store", 2)
    with held(folder), pytest.raises(InputError, match="being written by another process"):
        writer(tmp_path / "store")
    assert resume(tmp_path / "store") == [2, 3]


def test_a_held_folder_is_not_held_twice(tmp_path):
    with held(tmp_path):
        with pytest.raises(BlockingIOError), held(tmp_path):
            pass
        assert in_use(tmp_path, unknown=False)
    assert not in_use(tmp_path, unknown=True)
    assert not in_use(tmp_path / "gone", unknown=True)


def test_a_disk_that_holds_something_else_than_was_written_makes_no_store(tmp_path, monkeypatch):
    path = tmp_path / "store"
    with writer(path) as first:
        for n in range(4):
            first.add(CLIPS[n], pcm(n), KEYS[n])
        (folder,) = tmp_path.iterdir()  # that becomes the store
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: sync(file) or flip_a_bit(folder))
        with pytest.raises(InputError, match="the disk does not hold what was written"):
            first.finish()
    assert not path.exists()
    monkeypatch.undo()
    assert resume(path) == [1, 2, 3]


def test_a_journal_reads_back_its_entries(tmp_path):
    entries = [
        JournalEntry(key, samples, bytes(range(n, n + 16)))
        for n, (key, samples) in enumerate(zip(KEYS, SAMPLES, strict=True))
    ]
    with closing(Journal(tmp_path / "journal")) as journal:
        for entry in entries:
            journal.add(entry)
        journal.truncate(1)
        journal.add(entries[3])
    with closing(Journal(tmp_path / "journal")) as journal:
        assert journal.entries == [entries[0], entries[3]]
