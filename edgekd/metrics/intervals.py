"""How sure a cross-validated figure is: a bootstrap over test recordings within folds and over seeds (Efron and
Tibshirani 1993).

Each resample draws, in every fold, as many of its test recordings as there are and as many of its seeds as there are,
both with replacement; all networks of a fold are judged on the same draw, so that the difference of two recipes is a
paired one. The interval holds the middle 95 % of the resampled means over folds. It speaks of other recordings and
other seeds of the same folds: the folds' training sets overlap, which no resample can show, and with a single seed the
luck of the seed is not in it, with few (n - 1) / n of its variance. A calibration error is biased upwards by
resampling, so that its interval lies high; differences of two are less so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.scores import CALIBRATION_BINS, PROBABILITY_FLOOR, Floats, Integers

FIGURES = ("accuracy", "log_loss", "calibration_error")
"""Last axis of `figures`; see `edgekd.metrics.scores.Scores`."""
COLUMNS = len(FIGURES) + CALIBRATION_BINS
"""Of a tally: items, right ones, their loss, and the surplus of confidence in each bin."""
RESAMPLES = 10_000
SEED = 0
COVERED = 0.95
DECIMALS = 12
"""Of the ends of an interval: what sums lose is no difference."""
DRAWN_AT_ONCE = 1 << 22
"""Counts of recordings held in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """mean: of the folds, as measured. low, high: between them lie 95 % of the resamples."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it has the same sign in (almost) all resamples."""
        return self.low > 0 or self.high < 0


def tally(probabilities: Floats, truth: Integers, recording: Integers, recordings: int) -> Floats:
    """Sums over the items of each recording, of which all figures of any set of recordings are made.

    Args:
        probabilities: (items, labels), no silent item.
        truth: (items,) index of the label.
        recording: (items,) 0 to recordings - 1.
        recordings: how many.

    Returns:
        (recordings, `COLUMNS`).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = np.zeros((recordings, COLUMNS))
    np.add.at(sums[:, 0], recording, 1.0)
    np.add.at(sums[:, 1], recording, right.astype(np.float64))
    np.add.at(
        sums[:, 2], recording, -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], PROBABILITY_FLOOR))
    )
    np.add.at(sums, (recording, len(FIGURES) + bins), confidence - right)
    return sums


def figures(sums: Floats) -> Floats:
    """(..., `COLUMNS`) sums over recordings -> (..., 3) `FIGURES`; zeros where there is no item."""
    items = np.maximum(sums[..., 0], 1.0)
    values = [sums[..., 1], sums[..., 2], np.abs(sums[..., len(FIGURES) :]).sum(axis=-1)]
    return np.stack([value / items for value in values], axis=-1)


def resampled(folds: Sequence[Floats], resamples: int = RESAMPLES) -> Floats:
    """Means over folds of resampled figures, the same draws for all networks.

    Args:
        folds: (networks, seeds, recordings, `COLUMNS`) each; recordings differ from fold to fold.
        resamples: how many.

    Returns:
        (resamples, networks, 3).
    """
    rng = np.random.default_rng(SEED)
    mean = np.zeros((resamples, len(folds[0]), len(FIGURES)))
    for fold in folds:
        seeds, recordings = fold.shape[1:3]
        seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds  # (resamples, seeds)
        block = max(1, DRAWN_AT_ONCE // recordings)
        for start in range(0, resamples, block):
            part = slice(start, min(start + block, resamples))
            counts = rng.multinomial(recordings, np.full(recordings, 1 / recordings), part.stop - start).astype(
                np.float64
            )
            drawn = figures(np.tensordot(counts, fold, axes=(1, 2)))  # (block, networks, seeds, 3)
            mean[part] += np.einsum("bnsf,bs->bnf", drawn, seed_counts[part]) / len(folds)
    return mean


def measured(folds: Sequence[Floats]) -> Floats:
    """(folds, networks, 3): figures of each fold as measured, the mean over its seeds; arguments as `resampled`."""
    return np.stack([figures(fold.sum(axis=2)).mean(axis=1) for fold in folds])


def intervals(values: Floats, resamples: NDArray[np.float64]) -> dict[str, Interval]:
    """Figure -> interval, of (3,) measured values and (resamples, 3)."""
    # no -0
    low, high = np.round(np.quantile(resamples, [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0), DECIMALS) + 0.0
    return {
        name: Interval(*(float(each) for each in row))
        for name, row in zip(FIGURES, zip(values, low, high, strict=True), strict=True)
    }
