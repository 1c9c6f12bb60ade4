"""Temperatures of logits whose true probabilities are known."""

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.metrics.calibration import COLDEST, HOTTEST, calibrate, fit_temperature
from edgekd.metrics.scores import expected_calibration_error, softmax


def drawn(windows=4000, labels=6, seed=0):
    """Calibrated logits, and labels drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (windows, labels))
    cumulative = softmax(logits).cumsum(axis=1)
    return logits, (rng.random((windows, 1)) > cumulative).sum(axis=1)


def test_calibration_error_on_paper():
    # bin of 0.6: one of two right; bin of 0.95: both right
    probabilities = np.array([[0.61, 0.39], [0.65, 0.35], [0.95, 0.05], [0.05, 0.95]])
    truth = np.array([0, 1, 0, 1])
    assert expected_calibration_error(probabilities, truth) == pytest.approx((2 * (0.63 - 0.5) + 2 * 0.05) / 4)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_fit_undoes_over_and_under_confidence(factor):
    logits, truth = drawn()
    fit = calibrate(factor * logits, truth, np.arange(len(truth)) // 4)
    assert fit.temperature == pytest.approx(factor, rel=0.06)
    assert fit.error_after < 0.02
    assert factor == 1.0 or (fit.error_before > 0.1 and fit.loss_after < fit.loss_before - 0.1)


def test_a_temperature_is_not_scored_on_the_group_that_it_was_fitted_on():
    """Four recordings of different accuracy, predicted with the same confidence: fitted on all, they look better
    calibrated than cross-fitted."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    group_of = np.repeat(np.arange(4), 100)
    right = rng.random(400) < np.array([0.5, 0.6, 0.9, 1.0])[group_of]
    predicted = np.where(right, truth, 1 - truth)
    logits = 2.0 * np.eye(2)[predicted]
    everything = softmax(logits, fit_temperature(logits, truth))
    fit = calibrate(logits, truth, group_of)
    assert fit.error_after > expected_calibration_error(everything, truth) + 0.03


def test_a_temperature_that_does_not_pay_on_other_recordings_is_not_used():
    """Two recordings, one always right and one always wrong: what suits the one makes the other worse."""
    logits = np.tile([[1.0, 0.0]], (100, 1))
    truth = group_of = np.repeat([0, 1], 50)
    fit = calibrate(logits, truth, group_of)
    assert fit.loss_after > fit.loss_before
    assert fit.temperature == 1.0


def test_predictions_without_a_best_temperature_stay_within_bounds():
    logits, truth = np.array([[1.0, 0.0]] * 3), np.zeros(3, np.int64)
    assert fit_temperature(logits, truth) == pytest.approx(COLDEST)
    assert fit_temperature(logits, 1 - truth) == pytest.approx(HOTTEST)
    assert fit_temperature(1e4 * logits, truth) == pytest.approx(COLDEST, rel=1.0)


def test_one_recording_is_not_enough():
    with pytest.raises(InputError, match=r"1 recording with sound .* at least 2"):
        calibrate(np.eye(3), np.arange(3), np.zeros(3, np.int64))
