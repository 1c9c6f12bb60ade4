"""Scores through other microphones, in pairs with those of the same clips without one.

Windows that are digital silence in the clips as they are stay out of every figure, also where the impulse response of a
microphone rings on into them, so that the same windows and clips are compared.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.intervals import FIGURES, Interval, intervals, measured, resampled, tallies
from edgekd.metrics.predictions import LabelledPredictions
from edgekd.metrics.scores import Floats


@dataclass(frozen=True)
class PairedAccuracy:
    """An accuracy through one or several microphones.

    Attributes:
        accuracy: 0..1, the mean over microphones.
        difference: from the accuracy on the clips as they are, with its 95 % interval over recordings; both are
            resampled with the same draws.
    """

    accuracy: float
    difference: Interval


@dataclass(frozen=True)
class MicrophoneShift:
    """One microphone. clips, windows: accuracies through it. lost, gained: clips that are correct only without it, and
    only through it."""

    name: str
    make: str
    clips: PairedAccuracy
    windows: PairedAccuracy
    lost: int
    gained: int


@dataclass(frozen=True)
class MakeShift:
    """The mean over `count` microphones of a make. name: of the make."""

    name: str
    count: int
    clips: PairedAccuracy
    windows: PairedAccuracy


@dataclass(frozen=True)
class DeviceShift:
    """Result of `device_shift`.

    Attributes:
        clips, windows: accuracy without a microphone, 0..1.
        microphones: the best first, by clip accuracy, then by window accuracy.
        makes: in the same order.
        mean: over all microphones.
    """

    clips: float
    windows: float
    microphones: tuple[MicrophoneShift, ...]
    makes: tuple[MakeShift, ...]
    mean: MakeShift

    @property
    def worst(self) -> MicrophoneShift:
        """The microphone with the lowest clip accuracy. The lowest of many is so in part by chance, which its interval
        does not cover."""
        return self.microphones[-1]

    @property
    def worst_make(self) -> MakeShift:
        """The make with the lowest clip accuracy."""
        return self.makes[-1]


def device_shift(
    predictions: LabelledPredictions, logits: NDArray[np.floating], microphones: Sequence[tuple[str, str]]
) -> DeviceShift:
    """The accuracies of a model through microphones, against those on the same clips without one.

    Args:
        predictions: of the clips as they are.
        logits: (microphones, windows, labels), any value where a window is silent.
        microphones: name and make of each.
    """
    truth, recordings = predictions.truth, int(predictions.recording.max()) + 1
    correct, sums = [], []
    for each in (predictions, *(dataclasses.replace(predictions, logits=rows) for rows in logits)):
        clips, silent_clips = each.clip_probabilities()
        correct.append((clips.argmax(axis=1) == truth) & ~silent_clips)
        windows = each.window_probabilities()
        sums.append(tallies(windows, each.silent, each.clip_of, truth, each.recording, recordings))
    folds = np.array(sums).swapaxes(0, 1)[:, :, None]  # (units, networks, 1 seed, recordings, columns)
    of_clips, of_windows = (_Figures(measured([fold])[0], resampled([fold])) for fold in folds)

    def group(name: str, members: Sequence[int]) -> MakeShift:
        return MakeShift(name, len(members), of_clips.paired(members), of_windows.paired(members))

    found, of_make = [], dict[str, list[int]]()
    for number, (name, make) in enumerate(microphones, 1):
        found.append(
            MicrophoneShift(
                name,
                make,
                of_clips.paired([number]),
                of_windows.paired([number]),
                int((correct[0] & ~correct[number]).sum()),
                int((correct[number] & ~correct[0]).sum()),
            )
        )
        of_make.setdefault(make, []).append(number)
    makes = (group(make, numbers) for make, numbers in of_make.items())
    return DeviceShift(
        of_clips.accuracy([0]),
        of_windows.accuracy([0]),
        tuple(sorted(found, key=_rank)),
        tuple(sorted(makes, key=_rank)),
        group("mean", range(1, len(found) + 1)),
    )


@dataclass(frozen=True)
class _Figures:
    """Figures of clips or of windows: values (networks, figures), draws (resamples, networks, figures). The first
    network is without a microphone, each other one through one."""

    values: Floats
    draws: Floats

    def accuracy(self, members: Sequence[int]) -> float:
        return float(self.values[members, FIGURES.index("accuracy")].mean())

    def paired(self, members: Sequence[int]) -> PairedAccuracy:
        values, draws = (
            self.values[members].mean(axis=0) - self.values[0],
            self.draws[:, members].mean(axis=1) - self.draws[:, 0],
        )
        return PairedAccuracy(self.accuracy(members), intervals(values, draws)["accuracy"])


def _rank(each: MicrophoneShift | MakeShift) -> tuple[float, float, str]:
    return -each.clips.accuracy, -each.windows.accuracy, each.name
