"""Random numbers are uniform, independent between keys, and do not depend on other numbers drawn."""

import itertools

import numpy as np
import pytest

from edgekd.train.batches.random_streams import Purpose, RandomNumbers, RandomStream, splitmix64

CLIPS = np.arange(20_000)


def test_the_generator_is_splitmix64():
    words = splitmix64(np.array([1234567], np.uint64), np.arange(3, dtype=np.uint64))
    assert words.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]  # of the published C code


def test_the_numbers_of_a_clip_do_not_depend_on_other_clips_nor_on_how_many_are_drawn():
    rng, some = RandomNumbers(1, 2, 3), np.array([7, 19_999, 0])
    assert np.array_equal(rng.uniform(Purpose.CROP, some, 8), rng.uniform(Purpose.CROP, CLIPS, 8)[some])
    assert np.array_equal(rng.uniform(Purpose.CROP, some, 2), rng.uniform(Purpose.CROP, some, 8)[:, :2])
    assert np.array_equal(rng.beta(Purpose.MIX_SHARE, some, 0.3), rng.beta(Purpose.MIX_SHARE, CLIPS, 0.3)[some])


def neighbours():
    """Numbers of keys that differ by one in one part."""
    rng = RandomNumbers(0, 0, 0)
    rows = {
        "clip": rng.per_clip(Purpose.CROP, CLIPS + 1),
        "purpose": rng.per_clip(Purpose.ROLL, CLIPS),
        "number": rng.uniform(Purpose.CROP, CLIPS, 2)[:, 1],
    }
    keys = {
        "plain": (0, 0, 0),
        "seed": (1, 0, 0),
        "stream": (0, 1, 0),
        "epoch": (0, 0, 1),
        "large seed": (2**63 - 1, 0, 0),
    }
    return rows | {name: RandomNumbers(*key).per_clip(Purpose.CROP, CLIPS) for name, key in keys.items()}


def test_numbers_are_uniform():
    for numbers in neighbours().values():
        assert 0 <= numbers.min() < numbers.max() < 1
        observed = np.bincount((numbers * 100).astype(int), minlength=100)
        chi_square = ((observed - 200) ** 2 / 200).sum()
        assert 40 < chi_square < 180  # 99 degrees of freedom: a chance of 1e-6 outside


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(neighbours(), 2)))
def test_neighbouring_keys_are_independent(first, second):
    numbers = neighbours()
    a, b = numbers[first], numbers[second]
    assert not np.isin(a, b).all()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.035  # five standard deviations
    joint = np.histogram2d(a, b, bins=10, range=[[0, 1], [0, 1]])[0]
    assert ((joint - 200) ** 2 / 200).sum() < 180


def test_beta_numbers_have_the_moments_of_their_distribution():
    for alpha in (0.2, 1.0, 5.0):
        shares = RandomNumbers(0, 0, 0).beta(Purpose.MIX_SHARE, CLIPS, alpha)
        assert shares.mean() == pytest.approx(0.5, abs=0.02)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_streams_keep_the_numbers_that_finished_runs_were_trained_with():
    assert [stream.value for stream in RandomStream] == [0, 1, 2, 3, 4]
    assert [stream.name for stream in RandomStream] == ["FLOAT", "QAT", "STATISTICS", "CALIBRATION", "TEACHER"]
    assert RandomNumbers(7, RandomStream.TEACHER + 2, 3).uniform(Purpose.CROP, CLIPS[:9]).tolist() == (
        RandomNumbers(7, 6, 3).uniform(Purpose.CROP, CLIPS[:9]).tolist()
    )


def test_orders_are_permutations_and_any_clip_may_be_first():
    clips = np.array([3, 10, 11, 40])
    orders = [RandomNumbers(0, 0, epoch).shuffled(clips) for epoch in range(400)]
    assert all(sorted(order) == clips.tolist() for order in orders)
    first = [np.mean([order[0] == clip for order in orders]) for clip in clips]
    assert first == pytest.approx([0.25] * 4, abs=0.1)
