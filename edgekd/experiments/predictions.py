"""Predictions of finished runs on their test sides, as tallies from which figures and intervals are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.metrics.intervals import FIGURES, UNITS, Interval, figures, intervals, measured, resampled, tallies
from edgekd.metrics.predictions import read_predictions
from edgekd.metrics.scores import Floats, Integers, clip_means, softmax
from edgekd.train.run.folder import SVM_SCORES_FILE, TEST_FILES
from edgekd.train.stages.svm import SvmScores, read_svm_scores

Estimate = dict[str, dict[str, Interval]]
"""Unit -> figure -> interval."""


@dataclass(frozen=True)
class TestSide:
    """The test side of runs. clips: (clips,) indices in the store, in table order. recording: (clips,) 0 to
    recordings - 1."""

    store: ClipStore
    clips: NDArray[np.int64]
    recording: NDArray[np.int64]

    @classmethod
    def of(cls, store: ClipStore, clips: NDArray[np.int64]) -> "TestSide":
        """The test side of some clips of a store."""
        return cls(store, clips, store.group_ids(clips))

    def tallies(self, run: Path, network: str) -> Floats:
        """(units, recordings, `intervals.COLUMNS`) of one network of a finished run, see `intervals.tallies`.

        Raises:
            InputError: its predictions are missing, damaged, or of other clips.
        """
        windows, silent, clip_of = self._windows(run, network)
        return tallies(windows, silent, clip_of, self.truth, self.recording, self.recordings)

    @property
    def truth(self) -> Integers:
        """(clips,) index of each clip's label."""
        return self.store.label_index[self.clips]

    @property
    def recordings(self) -> int:
        """Number of recordings."""
        return int(self.recording.max()) + 1

    def probabilities(self, run: Path, network: str) -> tuple[Floats, NDArray[np.bool_]]:
        """(clips, labels) probabilities of one network of a finished run, and (clips,) which clips are silent.

        Raises:
            InputError: see `tallies`.
        """
        return clip_means(*self._windows(run, network), len(self.clips))

    def svm_scores(self, run: Path) -> SvmScores:
        """Scores of the support vector machines of a finished run.

        Raises:
            InputError: see `tallies`.
        """
        return read_svm_scores(run / SVM_SCORES_FILE, self.clips)

    def _windows(self, run: Path, network: str) -> tuple[Floats, NDArray[np.bool_], Integers]:
        """Probabilities of windows, which windows are silent, and the positions of their clips in `clips`."""
        kept = read_predictions(run / TEST_FILES[network], self.clips)
        return softmax(kept.logits), kept.silent, np.searchsorted(self.clips, kept.clip)


def run_figures(tallies: Floats) -> dict[str, float]:
    """Figures of one run by name, e.g. "clip_accuracy", from its (units, recordings, columns) tallies."""
    values = figures(tallies.sum(axis=1))  # (units, figures)
    return {
        f"{unit.removesuffix('s')}_{name}": float(values[row, column])
        for row, unit in enumerate(UNITS)
        for column, name in enumerate(FIGURES)
    }


@dataclass(frozen=True)
class Estimates:
    """Figures of several networks on the same folds.

    Attributes:
        values: (units, folds, networks, figures) as measured, means over seeds.
        draws: (units, resamples, networks, figures), means over folds.
    """

    values: Floats
    draws: Floats

    @classmethod
    def of(cls, folds: Sequence[Floats]) -> "Estimates":
        """The figures of (networks, seeds, units, recordings, columns) tallies of each fold."""
        units = [[fold[:, :, unit] for fold in folds] for unit in range(len(UNITS))]
        return cls(np.stack([measured(each) for each in units]), np.stack([resampled(each) for each in units]))

    def estimate(self, network: int, minus: int | None = None) -> Estimate:
        """Means over folds with intervals, of a network or of its difference from another one."""
        values, draws = self.values[:, :, network].mean(axis=1), self.draws[:, :, network]
        if minus is not None:
            values, draws = values - self.values[:, :, minus].mean(axis=1), draws - self.draws[:, :, minus]
        return {unit: intervals(values[row], draws[row]) for row, unit in enumerate(UNITS)}

    def of_fold(self, fold: int, network: int) -> dict[str, dict[str, float]]:
        """Unit -> figure -> mean over seeds in one fold."""
        return {
            unit: dict(zip(FIGURES, map(float, self.values[row, fold, network]), strict=True))
            for row, unit in enumerate(UNITS)
        }


def as_json(estimate: Estimate, *, difference: bool = False) -> Mapping[str, Mapping[str, Mapping[str, float | bool]]]:
    """Unit -> figure -> {mean, low, high}, and excludes_zero for a difference."""

    def of(each: Interval) -> dict[str, float | bool]:
        values: dict[str, float | bool] = {"mean": each.mean, "low": each.low, "high": each.high}
        return values | {"excludes_zero": each.excludes_zero} if difference else values

    return {unit: {name: of(each) for name, each in row.items()} for unit, row in estimate.items()}
