"""What the networks of finished runs said of their test sides, as tallies that figures and intervals are made of."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.metrics.intervals import FIGURES, Interval, figures, intervals, measured, resampled, tally
from edgekd.metrics.scores import clip_probabilities, softmax
from edgekd.train.run.folder import SVM_SCORES_FILE, TEST_FILES

UNITS = ("clips", "windows")
"""First axis of a run's tallies."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Estimate = dict[str, dict[str, Interval]]
"""Unit -> figure -> interval."""


@dataclass(frozen=True)
class TestSide:
    """clips: (clips,) indices that are tested. recording: (clips,) 0 to recordings - 1."""

    store: ClipStore
    clips: NDArray[np.int64]
    recording: NDArray[np.int64]

    @classmethod
    def of(cls, store: ClipStore, clips: NDArray[np.int64]) -> "TestSide":
        """Clips with their recordings."""
        return cls(store, clips, store.group_ids(clips))

    def tallies(self, run: Path, network: str) -> Floats:
        """(units, recordings, `intervals.COLUMNS`) of one network of a finished run. Silence is left out, as in
        `evaluate`.

        Raises:
            InputError: its answers are missing, damaged, or of other clips.
        """
        windows, silent, place = self._heard(run, network)
        clips, silent_clips = clip_probabilities(windows, silent, place, len(self.clips))
        truth, count = self.truth, self.recordings
        return np.stack(
            [
                tally(clips[~silent_clips], truth[~silent_clips], self.recording[~silent_clips], count),
                tally(windows[~silent], truth[place[~silent]], self.recording[place[~silent]], count),
            ]
        )

    @property
    def truth(self) -> Integers:
        """(clips,) index of each clip's label."""
        return self.store.label_index[self.clips]

    @property
    def recordings(self) -> int:
        """How many there are."""
        return int(self.recording.max()) + 1

    def probabilities(self, run: Path, network: str) -> tuple[Floats, NDArray[np.bool_]]:
        """(clips, labels) of one network of a finished run, and (clips,) which clips are silent.

        Raises:
            InputError: see `tallies`.
        """
        windows, silent, place = self._heard(run, network)
        return clip_probabilities(windows, silent, place, len(self.clips))

    def svm_scores(self, run: Path, system: int) -> Floats:
        """(clips, labels) that a back-end gave, of the run's first, second ... system, or with -1 of all together.

        Raises:
            InputError: see `tallies`.
        """
        scores, clip = self._read(run, SVM_SCORES_FILE, ("scores", "clip"))
        found: Floats = scores[system][np.argsort(clip)]
        return found

    def _heard(self, run: Path, network: str) -> tuple[Floats, NDArray[np.bool_], Integers]:
        """Probabilities of windows, which are silent, and their clips' positions in `clips`, which are in table
        order."""
        logits, silent, clip = self._read(run, TEST_FILES[network], ("logits", "silent", "clip"))
        return softmax(logits), silent, np.searchsorted(self.clips, clip)

    def _read(self, run: Path, file: str, names: Sequence[str]) -> list[NDArray[Any]]:
        """Arrays of a file of a run, the last of them being clips."""
        path = run / file
        try:
            with np.load(path) as kept:
                found = [kept[name] for name in names]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove {run} and run the same command again") from None
        if set(found[-1]) != set(self.clips):
            raise InputError(
                f"{path}: is of other clips than the test side of this run; remove {run} and run the same command again"
            )
        return found


def run_figures(tallies: Floats) -> dict[str, float]:
    """Figures of one run by name, e.g. "clip_accuracy", of (units, recordings, columns)."""
    values = figures(tallies.sum(axis=1))  # (units, figures)
    return {
        f"{unit.removesuffix('s')}_{name}": float(values[row, column])
        for row, unit in enumerate(UNITS)
        for column, name in enumerate(FIGURES)
    }


@dataclass(frozen=True)
class Estimates:
    """Of several networks over the same folds: values (units, folds, networks, figures), draws (units, resamples,
    networks, figures)."""

    values: Floats
    draws: Floats

    @classmethod
    def of(cls, folds: Sequence[Floats]) -> "Estimates":
        """From (networks, seeds, units, recordings, columns) of each fold."""
        units = [[fold[:, :, unit] for fold in folds] for unit in range(len(UNITS))]
        return cls(np.stack([measured(each) for each in units]), np.stack([resampled(each) for each in units]))

    def estimate(self, network: int, minus: int | None = None) -> Estimate:
        """Means over folds with intervals: of a network, or of its difference from another."""
        values, draws = self.values[:, :, network].mean(axis=1), self.draws[:, :, network]
        if minus is not None:
            values, draws = values - self.values[:, :, minus].mean(axis=1), draws - self.draws[:, :, minus]
        return {unit: intervals(values[row], draws[row]) for row, unit in enumerate(UNITS)}

    def of_fold(self, fold: int, network: int) -> dict[str, dict[str, float]]:
        """Unit -> figure -> value in one fold, the mean over seeds."""
        return {
            unit: dict(zip(FIGURES, map(float, self.values[row, fold, network]), strict=True))
            for row, unit in enumerate(UNITS)
        }


def as_json(estimate: Estimate, *, difference: bool = False) -> Mapping[str, Mapping[str, Mapping[str, float | bool]]]:
    """Unit -> figure -> {mean, low, high}, and for a difference excludes_zero."""

    def of(each: Interval) -> dict[str, float | bool]:
        values: dict[str, float | bool] = {"mean": each.mean, "low": each.low, "high": each.high}
        return values | {"excludes_zero": each.excludes_zero} if difference else values

    return {unit: {name: of(each) for name, each in row.items()} for unit, row in estimate.items()}
