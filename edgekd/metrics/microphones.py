"""What other microphones do to a model: the same clips heard through each, judged in pairs with the clips as they are.

numpy only, no engine: logits and truth in, numbers out. Windows that are digital silence in the clips as they are stay
out of every figure, also where a microphone rings on into them, so that the same windows and clips are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.findings import Answers
from edgekd.metrics.intervals import FIGURES, Interval, intervals, measured, resampled, tally
from edgekd.metrics.scores import Floats, clip_probabilities, softmax


@dataclass(frozen=True)
class Paired:
    """accuracy: 0..1, a mean of accuracies where several microphones are meant. difference: from the clips as they are,
    with its 95 % interval over recordings, which both are resampled with."""

    accuracy: float
    difference: Interval


@dataclass(frozen=True)
class Microphone:
    """clips, windows: heard through it. lost, gained: clips that are only right as they are, and only right through
    it."""

    name: str
    make: str
    clips: Paired
    windows: Paired
    lost: int
    gained: int


@dataclass(frozen=True)
class Group:
    """The mean over microphones. name: of their make."""

    name: str
    count: int
    clips: Paired
    windows: Paired


@dataclass(frozen=True)
class DeviceShift:
    """What is found.

    Attributes:
        clips, windows: accuracy as they are, 0..1.
        microphones: the best first, by clip accuracy, then by window accuracy.
        makes: likewise.
        mean: over all microphones.
    """

    clips: float
    windows: float
    microphones: tuple[Microphone, ...]
    makes: tuple[Group, ...]
    mean: Group

    @property
    def worst(self) -> Microphone:
        """The microphone with the lowest clip accuracy. That it is the lowest of many is in part chance, which its
        interval does not hold."""
        return self.microphones[-1]

    @property
    def worst_make(self) -> Group:
        """The make with the lowest."""
        return self.makes[-1]


def device_shift(answers: Answers, logits: NDArray[np.floating], microphones: Sequence[tuple[str, str]]) -> DeviceShift:
    """Compare what a model says of clips as they are and through microphones.

    Args:
        answers: of the clips as they are.
        logits: (microphones, windows, labels), any value where a window is silent.
        microphones: name and make of each.
    """
    truth, recordings = answers.truth, int(answers.recording.max()) + 1
    heard = ~answers.silent
    clip_of = answers.clip_of[heard]
    right, sums = [], []
    for each in (answers.logits, *logits):
        windows = softmax(each, answers.temperature)
        clips, silent = clip_probabilities(windows, answers.silent, answers.clip_of, len(truth))
        right.append((clips.argmax(axis=1) == truth) & ~silent)
        sums.append(
            [
                tally(clips[~silent], truth[~silent], answers.recording[~silent], recordings),
                tally(windows[heard], truth[clip_of], answers.recording[clip_of], recordings),
            ]
        )
    folds = np.array(sums).swapaxes(0, 1)[:, :, None]  # (units, networks, seeds, recordings, columns)
    of_clips, of_windows = (_Unit(measured([fold])[0], resampled([fold])) for fold in folds)

    def group(name: str, members: Sequence[int]) -> Group:
        return Group(name, len(members), of_clips.paired(members), of_windows.paired(members))

    found, of_make = [], dict[str, list[int]]()
    for place, (name, make) in enumerate(microphones, 1):
        found.append(
            Microphone(
                name,
                make,
                of_clips.paired([place]),
                of_windows.paired([place]),
                int((right[0] & ~right[place]).sum()),
                int((right[place] & ~right[0]).sum()),
            )
        )
        of_make.setdefault(make, []).append(place)
    makes = (group(make, places) for make, places in of_make.items())
    return DeviceShift(
        of_clips.accuracy([0]),
        of_windows.accuracy([0]),
        tuple(sorted(found, key=_rank)),
        tuple(sorted(makes, key=_rank)),
        group("mean", range(1, len(found) + 1)),
    )


@dataclass(frozen=True)
class _Unit:
    """Of clips or of windows: values (networks, figures), draws (resamples, networks, figures); the first network is
    the clips as they are."""

    values: Floats
    draws: Floats

    def accuracy(self, members: Sequence[int]) -> float:
        return float(self.values[members, FIGURES.index("accuracy")].mean())

    def paired(self, members: Sequence[int]) -> Paired:
        values, draws = (
            self.values[members].mean(axis=0) - self.values[0],
            self.draws[:, members].mean(axis=1) - self.draws[:, 0],
        )
        return Paired(self.accuracy(members), intervals(values, draws)["accuracy"])


def _rank(each: Microphone | Group) -> tuple[float, float, str]:
    return -each.clips.accuracy, -each.windows.accuracy, each.name
