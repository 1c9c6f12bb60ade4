"""Folds: no recording is divided, labels are balanced, and the same table gives the same folds."""

import numpy as np
import pytest

from edgekd.data.store.clips import Clip
from edgekd.data.store.folds import connected_groups, grouped_folds
from edgekd.errors import InputError
from tests.data.test_store import build


def clips_of(count, split="train", labels=("cat", "dog"), group=""):
    return [
        Clip(f"{split}-{label}{number}.wav", label, split, group=f"{group}{label}{number}" if group else "")
        for label in labels
        for number in range(count)
    ]


def test_clips_are_connected_through_other_clips():
    origins = [{"group a"}, set(), {"group b", "parent p"}, {"parent p"}, {"group a", "parent q"}, set(), {"parent q"}]
    np.testing.assert_array_equal(connected_groups(origins), [0, 1, 2, 2, 0, 3, 0])


def test_folds_have_balanced_labels_and_keep_recordings_together():
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(90), rng.integers(1, 5, 90))
    labels = (recording % 3).astype(np.int64)
    fold = grouped_folds(recording, labels, [str(index) for index in range(len(recording))], 4)
    assert all(len(set(fold[recording == each])) == 1 for each in range(90))
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 2


def test_folds_do_not_depend_on_the_order_of_the_table():
    names = [f"{index}.wav" for index in range(40)]
    labels = np.arange(40) % 2
    order = np.random.default_rng(1).permutation(40)
    straight = grouped_folds(np.arange(40), labels, names, 5)
    shuffled = grouped_folds(np.arange(40), labels[order], [names[index] for index in order], 5)
    np.testing.assert_array_equal(straight[order], shuffled)
    assert not np.array_equal(straight, np.arange(40) % 5)  # nor simply alternate


def test_held_out_folds_cover_the_training_side_once_and_no_side_has_clips_of_the_test_splits(tmp_path):
    store = build(tmp_path / "store", [*clips_of(6), *clips_of(2, "test")])
    sides = [store.partition(["train"], ["test"], held_out=[fold, 3]) for fold in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate([side.test for side in sides])), store.indices(["train"]))
    for side in sides:
        np.testing.assert_array_equal(np.sort(np.concatenate([side.train, side.test])), store.indices(["train"]))
        assert [sum(store.clips[i].label == label for i in side.test) for label in ("cat", "dog")] == [2, 2]
    np.testing.assert_array_equal(store.partition(["train"], [], held_out=[0, 3]).test, sides[0].test)


def test_recordings_of_the_test_splits_are_in_no_fold(tmp_path):
    clips = [
        *clips_of(4, group="g"),
        Clip("more.wav", "cat", "train", group="leak"),
        Clip("t.wav", "cat", "test", group="leak"),
    ]
    side = build(tmp_path / "store", clips, official=True).partition(["train"], ["test"], held_out=[0, 2])
    np.testing.assert_array_equal(side.left_out, [8])
    assert 8 not in np.concatenate([side.train, side.test])


def test_further_pairs_divide_what_remains(tmp_path):
    store = build(tmp_path / "store", clips_of(8))
    outer = store.partition(["train"], [], held_out=[1, 4])
    inner = [store.partition(["train"], [], held_out=[1, 4, fold, 2]) for fold in range(2)]
    np.testing.assert_array_equal(np.sort(np.concatenate([side.test for side in inner])), outer.train)


def test_too_few_recordings_are_refused(tmp_path):
    store = build(tmp_path / "store", [*clips_of(3), Clip("bird.wav", "bird", "train")])
    with pytest.raises(InputError, match=r"7 recordings .* 8 parts"):
        store.partition(["train"], [], held_out=[0, 8])
    refused = []
    for fold in range(2):
        try:
            store.partition(["train"], [], held_out=[fold, 2])
        except InputError as error:
            refused.append(str(error))
    assert len(refused) == 1
    assert "label bird is left with no clip to train on" in refused[0]
