"""Confidence intervals of cross-validated figures: a bootstrap over test recordings within folds and over seeds (Efron
and Tibshirani 1993).

Each resample draws from every fold as many test recordings and as many seeds as it has, both with replacement. All
networks of a fold are scored on the same draw, so that the difference of two recipes is a paired one. The interval
holds the middle 95 % of the resampled means over folds.

The interval covers other recordings and other seeds of the same folds. It does not cover other training sets, because
those of the folds overlap. The variance between seeds is not in it with one seed, and only (n - 1) / n of it with n
seeds. Resampling biases a calibration error upwards, so that its interval lies high; differences of two are less
biased.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.scores import CALIBRATION_BINS, Floats, Integers, clip_means, confidence_bins, log_losses

FIGURES = ("accuracy", "log_loss", "calibration_error")
"""Last axis of `figures`; see `edgekd.metrics.scores.Scores`."""
UNITS = ("clips", "windows")
"""First axis of `tallies`."""
COLUMNS = len(FIGURES) + CALIBRATION_BINS
"""Of a tally: items, correct items, sum of log losses, and the surplus of confidence in each bin."""
RESAMPLES = 10_000
SEED = 0
COVERED = 0.95
DECIMALS = 12
"""To which the ends of an interval are rounded, so that rounding errors of sums do not count as a difference."""
DRAWN_AT_ONCE = 1 << 22
"""Counts of recordings held in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """mean: of the measured values of the folds. low, high: 95 % of the resamples lie between them."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference has the same sign in (almost) all resamples."""
        return self.low > 0 or self.high < 0


def tally(probabilities: Floats, truth: Integers, recording: Integers, recordings: int) -> Floats:
    """Sums over the items of each recording; `figures` computes the figures of any set of recordings from them.

    Args:
        probabilities: (items, labels), no silent item.
        truth: (items,) index of the label.
        recording: (items,) 0 to recordings - 1.
        recordings: how many.

    Returns:
        (recordings, `COLUMNS`).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    sums = np.zeros((recordings, COLUMNS))
    np.add.at(sums[:, 0], recording, 1.0)
    np.add.at(sums[:, 1], recording, correct.astype(np.float64))
    np.add.at(sums[:, 2], recording, log_losses(probabilities, truth))
    np.add.at(sums, (recording, len(FIGURES) + confidence_bins(confidence)), confidence - correct)
    return sums


def tallies(
    windows: Floats,
    silent: NDArray[np.bool_],
    clip_of: Integers,
    truth: Integers,
    recording: Integers,
    recordings: int,
) -> Floats:
    """`tally` of clips and of windows, silent ones left out.

    Args:
        windows: (windows, labels) probabilities, any value where a window is silent.
        silent: (windows,) windows of digital silence.
        clip_of: (windows,) each window's clip, 0..clips - 1.
        truth: (clips,) index of the label.
        recording: (clips,) 0 to recordings - 1.
        recordings: how many.

    Returns:
        (2, recordings, `COLUMNS`) in the order of `UNITS`.
    """
    clips, silent_clips = clip_means(windows, silent, clip_of, len(truth))
    sounding, of_window = ~silent_clips, clip_of[~silent]
    return np.stack(
        [
            tally(clips[sounding], truth[sounding], recording[sounding], recordings),
            tally(windows[~silent], truth[of_window], recording[of_window], recordings),
        ]
    )


def figures(sums: Floats) -> Floats:
    """(..., 3) `FIGURES` from (..., `COLUMNS`) sums over recordings; zeros where there is no item."""
    items = np.maximum(sums[..., 0], 1.0)
    values = [sums[..., 1], sums[..., 2], np.abs(sums[..., len(FIGURES) :]).sum(axis=-1)]
    return np.stack([value / items for value in values], axis=-1)


def resampled(folds: Sequence[Floats], resamples: int = RESAMPLES) -> Floats:
    """Means over folds of resampled figures, with the same draws for all networks.

    Args:
        folds: (networks, seeds, recordings, `COLUMNS`) of each fold; recordings differ from fold to fold.
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
    """(folds, networks, 3): measured figures of each fold, means over its seeds; arguments as `resampled`."""
    return np.stack([figures(fold.sum(axis=2)).mean(axis=1) for fold in folds])


def intervals(values: Floats, resamples: NDArray[np.float64]) -> dict[str, Interval]:
    """Figure -> interval, from (3,) measured values and (resamples, 3) resampled ones."""
    # adding 0 turns -0 into 0
    low, high = np.round(np.quantile(resamples, [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0), DECIMALS) + 0.0
    return {
        name: Interval(*(float(each) for each in row))
        for name, row in zip(FIGURES, zip(values, low, high, strict=True), strict=True)
    }
