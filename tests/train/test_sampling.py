"""Batches of a specialist: half are clips of its pair, each once an epoch; the others are drawn in each epoch."""

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.train.batches.pair_batches import half_pair_batches, pair_mask, steps
from edgekd.train.batches.random_streams import RandomNumbers

CLIPS = np.arange(100, 200)
IN_PAIR = CLIPS % 5 == 0  # 20 of 100


def epoch(number, batch_size=8, seed=0, stream=0, in_pair=IN_PAIR):
    return half_pair_batches(RandomNumbers(seed, stream, number), CLIPS, in_pair, batch_size)


@pytest.mark.parametrize("batch_size", [2, 3, 8, 9, 64])
def test_every_batch_is_half_pair_and_half_others_and_an_epoch_has_the_pair_once(batch_size):
    batches = epoch(0, batch_size)
    assert len(batches) == steps(IN_PAIR, batch_size)
    for batch in batches:
        assert 2 * IN_PAIR[batch - 100].sum() == len(batch) <= batch_size
        assert IN_PAIR[batch[::2] - 100].all()  # alternating: a process's part is half of either
    every = np.concatenate(batches)
    assert sorted(every[IN_PAIR[every - 100]]) == CLIPS[IN_PAIR].tolist()
    assert len(np.unique(every)) == len(every) == 40


def test_others_are_drawn_anew_each_epoch_from_all_of_them():
    others = [
        frozenset(clip for batch in epoch(number) for clip in batch if not IN_PAIR[clip - 100]) for number in range(40)
    ]
    assert len(set(others)) == 40
    counts = np.bincount([clip - 100 for each in others for clip in each], minlength=100)
    assert counts[~IN_PAIR].min() > 0  # each is taken with a chance of a quarter in each of 40 epochs
    assert counts[~IN_PAIR].mean() == 10


def test_an_epoch_depends_on_seed_stream_and_epoch_alone():
    first = np.concatenate(epoch(3))
    assert np.array_equal(first, np.concatenate(epoch(3)))
    for other in (epoch(4), epoch(3, seed=1), epoch(3, stream=1)):
        assert not np.array_equal(first, np.concatenate(other))


def test_too_few_others_come_again_but_not_twice_in_a_batch_that_they_fill():
    batches = epoch(0, 8, in_pair=CLIPS < 194)  # 6 others beside 94
    for batch in batches:
        others = batch[1::2]
        assert len(others) == len(batch) / 2 == len(set(others))
    counts = np.bincount(np.concatenate(batches)[1::2] - 194, minlength=6)
    assert counts.max() - counts.min() <= 1


def test_a_pair_is_two_labels_of_the_store_beside_others(store):
    clips = store.indices(["a"])
    mask = pair_mask(store, clips, ("high", "mid"))
    assert {store.clips[clip].label for clip in clips[mask]} == {"high", "mid"}
    assert {store.clips[clip].label for clip in clips[~mask]} == {"low"}
    with pytest.raises(InputError, match="did you mean 'high'"):
        pair_mask(store, clips, ("hig", "mid"))
    for pair in (("high",), ("high", "high"), ("high", "low", "mid")):
        with pytest.raises(InputError, match="name two labels"):
            pair_mask(store, clips, pair)
    with pytest.raises(InputError, match="10 of 10 training clips"):
        pair_mask(store, clips[mask], ("high", "mid"))
    with pytest.raises(InputError, match="batch_size 1 "):
        steps(mask, 1)
