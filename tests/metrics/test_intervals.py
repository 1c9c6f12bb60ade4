"""Bootstrap intervals of made-up predictions: as wide as in theory, narrower for pairs, zero without a difference."""

import numpy as np
import pytest

from edgekd.metrics.intervals import DRAWN_AT_ONCE, FIGURES, intervals, measured, resampled, tally
from edgekd.metrics.scores import expected_calibration_error, log_loss


def probabilities_of(right, confidence=0.8):
    """(items, 2) probabilities of truth 0 from (items,) bool."""
    sure = np.full(len(right), confidence)
    return np.where(np.asarray(right)[:, None], np.stack([sure, 1 - sure], 1), np.stack([1 - sure, sure], 1))


def fold_of(*networks, recording=None):
    """(networks, seeds, recordings, columns) of lists of (items,) bool, one a seed."""
    items = len(networks[0][0])
    recording = np.arange(items) if recording is None else recording
    truth = np.zeros(items, np.int64)
    return np.stack(
        [
            np.stack([tally(probabilities_of(seed), truth, recording, recording.max() + 1) for seed in seeds])
            for seeds in networks
        ]
    )


def accuracy(folds, network=0):
    return intervals(measured(folds).mean(axis=0)[network], resampled(folds)[:, network])["accuracy"]


def test_figures_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 200)
    truth, recording = rng.integers(0, 4, 200), rng.integers(0, 30, 200)
    values = measured([tally(probabilities, truth, recording, 30)[None, None]])[0, 0]
    right = (probabilities.argmax(axis=1) == truth).mean()
    np.testing.assert_allclose(
        values, [right, log_loss(probabilities, truth), expected_calibration_error(probabilities, truth)]
    )


def test_the_interval_of_independent_clips_is_the_binomial_one():
    right = np.arange(400) < 300
    found = accuracy([fold_of([right])])
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.mean == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=0.004)
    assert found.high == pytest.approx(0.75 + half, abs=0.004)


def test_clips_of_one_recording_count_as_one():
    right = np.arange(400) < 300
    whole = accuracy([fold_of([right], recording=np.arange(400) // 4)])
    half = 1.96 * np.sqrt(0.75 * 0.25 / 100)
    assert whole.high - whole.low == pytest.approx(2 * half, rel=0.1)


def test_folds_weigh_the_same_and_narrow_the_interval():
    right = np.arange(200) < 150
    one, four = accuracy([fold_of([right])]), accuracy([fold_of([right])] * 4)
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.1)
    assert accuracy([fold_of([np.ones(10, bool)]), fold_of([np.zeros(90, bool)])]).mean == 0.5


def test_seeds_that_differ_widen_the_interval():
    same, less, more = np.arange(1000) < 750, np.arange(1000) < 600, np.arange(1000) < 900
    steady, moved = accuracy([fold_of([same, same])]), accuracy([fold_of([less, more])])
    assert steady.mean == moved.mean
    assert moved.high - moved.low > 3 * (steady.high - steady.low)


def test_pairing_narrows_a_difference_and_none_is_none():
    rng = np.random.default_rng(1)
    first = rng.random(400) < 0.7
    second = first | (rng.random(400) < 0.05)
    folds = [fold_of([first], [second])]
    draws, values = resampled(folds), measured(folds).mean(axis=0)
    paired = intervals(values[1] - values[0], draws[:, 1] - draws[:, 0])["accuracy"]
    apart = np.sqrt(sum(draws[:, network, 0].var() for network in (0, 1)))
    assert paired.high - paired.low < 0.5 * 3.92 * apart
    assert paired.excludes_zero
    same = resampled([fold_of([first], [first])])
    nothing = intervals(np.zeros(len(FIGURES)), same[:, 1] - same[:, 0])
    assert all((each.low, each.high, each.excludes_zero) == (0.0, 0.0, False) for each in nothing.values())


def test_draws_are_the_same_again_and_in_blocks(monkeypatch):
    folds = [fold_of([np.arange(50) < 30, np.arange(50) < 20])]
    first = resampled(folds, 500)
    np.testing.assert_array_equal(resampled(folds, 500), first)
    monkeypatch.setattr("edgekd.metrics.intervals.DRAWN_AT_ONCE", 50 * 7)
    np.testing.assert_allclose(resampled(folds, 500), first)
    assert DRAWN_AT_ONCE > 50 * 500
