"""Temperature scaling: one divisor of the logits that calibrates probabilities (Guo et al. 2017, "On calibration of
modern neural networks")."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.metrics.scores import Floats, Integers, expected_calibration_error, log_loss, softmax
from edgekd.text import counted

COLDEST, HOTTEST = 0.02, 50.0
"""Temperatures between which the best one is sought."""
HALVINGS = 50
FOLDS = 5
"""Parts of the cross-fit: each is scored at a temperature that was fitted on the others."""
SEED = 0


@dataclass(frozen=True)
class Fit:
    """A temperature, and scores on recordings that it was not fitted on.

    Attributes:
        temperature: fitted on everything; 1 when that does not lower the log loss of other recordings.
        error_before, error_after: expected calibration error at temperature 1, and cross-fitted: each recording is
            scored at a temperature that was fitted on the recordings of the other folds.
        loss_before, loss_after: log loss in nats, likewise.
    """

    temperature: float
    error_before: float
    error_after: float
    loss_before: float
    loss_after: float


def calibrate(logits: NDArray[np.floating], truth: Integers, group_of: Integers) -> Fit:
    """A temperature fitted on all windows, with its cross-fitted scores.

    Args:
        logits: (windows, labels), finite, none of a silent window.
        truth: (windows,) index of the label.
        group_of: (windows,) an id; windows of one group (clip, recording, location) are never on both sides of a fold.

    Raises:
        InputError: fewer than two groups.
    """
    before, after = softmax(logits), cross_fitted(logits, truth, group_of)
    losses = [log_loss(probabilities, truth) for probabilities in (before, after)]
    errors = [expected_calibration_error(probabilities, truth) for probabilities in (before, after)]
    return Fit(fit_temperature(logits, truth) if losses[1] < losses[0] else 1.0, *errors, *losses)


def cross_fitted(logits: NDArray[np.floating], truth: Integers, group_of: Integers) -> Floats:
    """(windows, labels) probabilities, each window's at a temperature fitted on other groups; arguments and errors as
    `calibrate`."""
    groups, group = np.unique(group_of, return_inverse=True)
    if len(groups) < 2:
        raise InputError(f"{counted(len(groups), 'recording')} with sound to fit a temperature on; give at least 2")
    fold = (np.random.default_rng(SEED).permutation(len(groups)) % FOLDS)[group]  # (windows,)
    probabilities = np.zeros(logits.shape)
    for each in np.unique(fold):
        inside = fold == each
        probabilities[inside] = softmax(logits[inside], fit_temperature(logits[~inside], truth[~inside]))
    return probabilities


def fit_temperature(logits: NDArray[np.floating], truth: Integers) -> float:
    """The temperature of least log loss, `COLDEST` to `HOTTEST`.

    The log loss is convex in 1 / temperature. Its slope is the mean of (expected logit - logit of the truth), and
    bisection finds where the slope is zero.

    Args:
        logits: (windows, labels), at least one window.
        truth: (windows,) index of the label.
    """
    z = np.asarray(logits, np.float64)
    of_truth = float(z[np.arange(len(z)), truth].mean())

    def slope(inverse: float) -> float:
        probabilities: Floats = softmax(z, 1 / inverse)
        return float((probabilities * z).sum(axis=1).mean() - of_truth)

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)
