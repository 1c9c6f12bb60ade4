"""What the answers of a network say beyond its scores: how sure the scores are, what its confidence is worth, which
clips it gets wrong.

numpy only, no engine: logits and truth in, numbers out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.calibration import cross_fitted, fit_temperature
from edgekd.metrics.intervals import Interval, intervals, measured, resampled, tally
from edgekd.metrics.scores import (
    CALIBRATION_BINS,
    Evaluation,
    Floats,
    Integers,
    clip_probabilities,
    evaluate,
    expected_calibration_error,
    log_loss,
    softmax,
)


@dataclass(frozen=True)
class Answers:
    """What a network said of windows, and what is true of their clips.

    Attributes:
        logits: (windows, labels), any value where a window is silent.
        silent: (windows,) windows of digital silence.
        clip_of: (windows,) each window's clip, 0..clips - 1; every clip has a window.
        truth: (clips,) index of each clip's label.
        recording: (clips,) 0..recordings - 1; clips of one recording are no independent evidence.
        labels: names, in the order of the logits.
        paths, recorders: (clips,) names; a recorder of "" is unknown.
        temperature: divides the logits before the softmax.
    """

    logits: NDArray[np.floating]
    silent: NDArray[np.bool_]
    clip_of: Integers
    truth: Integers
    recording: Integers
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    recorders: tuple[str, ...]
    temperature: float = 1.0


@dataclass(frozen=True)
class Share:
    """right of count clips of a label or a recorder, silent ones left out."""

    name: str
    right: int
    count: int


@dataclass(frozen=True)
class Mistake:
    """A clip taken for another label. probability: of the answer; of_truth: of the true label; 0..1."""

    path: str
    truth: str
    answer: str
    probability: float
    of_truth: float


@dataclass(frozen=True)
class Confused:
    """Two labels. clips: of both together. mistakes: those of one taken for the other, the surest first."""

    labels: tuple[str, str]
    clips: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Reliability:
    """What the confidence of windows is worth.

    Attributes:
        name: of the temperature, in words.
        error: expected calibration error, 0..1.
        loss: log loss in nats.
        count: (`CALIBRATION_BINS`,) windows in each bin of confidence.
        confidence, accuracy: (`CALIBRATION_BINS`,) mean of each bin, 0 where it is empty.
    """

    name: str
    error: float
    loss: float
    count: Integers
    confidence: Floats
    accuracy: Floats


@dataclass(frozen=True)
class Findings:
    """All that is found.

    Attributes:
        scores: as `edgekd.metrics.scores.evaluate` gives them.
        intervals: "windows" and "clips" -> figure -> 95 % interval over recordings.
        labels: those present, in the order of the network's.
        recorders: those named, by name.
        reliability: at temperature 1, at the network's own where that is another, and cross-fitted on these recordings
            where there are two.
        pairs: all that are ever confused, the most confused first.
    """

    scores: Evaluation
    intervals: dict[str, dict[str, Interval]]
    labels: tuple[Share, ...]
    recorders: tuple[Share, ...]
    reliability: tuple[Reliability, ...]
    pairs: tuple[Confused, ...]


def find(answers: Answers) -> Findings:
    """Look into answers.

    Raises:
        InputError: see `edgekd.metrics.scores.evaluate`.
    """
    silent, clip_of, truth = answers.silent, answers.clip_of, answers.truth
    scores = evaluate(
        answers.logits,
        silent,
        clip_of,
        truth,
        labels=answers.labels,
        recorders=answers.recorders,
        temperature=answers.temperature,
    )
    windows = softmax(answers.logits, answers.temperature)
    clips, silent_clips = clip_probabilities(windows, silent, clip_of, len(truth))
    heard = np.flatnonzero(~silent_clips)
    right = clips[heard].argmax(axis=1) == truth[heard]
    of_label, of_recorder = (
        [names[clip] for clip in heard] for names in ([answers.labels[label] for label in truth], answers.recorders)
    )
    return Findings(
        scores=scores,
        intervals=_intervals(answers, windows, clips, heard),
        labels=_shares(scores.per_label, of_label, right),
        recorders=_shares(scores.per_recorder, of_recorder, right),
        reliability=_reliability(answers),
        pairs=_confused(answers, clips, heard),
    )


def _intervals(answers: Answers, windows: Floats, clips: Floats, heard: Integers) -> dict[str, dict[str, Interval]]:
    """Of (windows, labels) and (clips, labels) probabilities, both judged on the same draws of one fold and one
    seed."""
    count, sound = int(answers.recording.max()) + 1, ~answers.silent
    clip_of = answers.clip_of[sound]
    fold = np.stack(
        [
            tally(windows[sound], answers.truth[clip_of], answers.recording[clip_of], count),
            tally(clips[heard], answers.truth[heard], answers.recording[heard], count),
        ]
    )[:, None]
    values, draws = measured([fold])[0], resampled([fold])  # (units, figures), (resamples, units, figures)
    return {unit: intervals(values[row], draws[:, row]) for row, unit in enumerate(("windows", "clips"))}


def _shares(names: Iterable[str], of_clip: Sequence[str], right: NDArray[np.bool_]) -> tuple[Share, ...]:
    told, all_of = Counter(name for name, is_right in zip(of_clip, right, strict=True) if is_right), Counter(of_clip)
    return tuple(Share(name, told[name], all_of[name]) for name in names)


def _reliability(answers: Answers) -> tuple[Reliability, ...]:
    heard = ~answers.silent
    logits, clip_of = answers.logits[heard], answers.clip_of[heard]
    truth, recording = answers.truth[clip_of], answers.recording[clip_of]
    found = [_judged("temperature 1", softmax(logits), truth)]
    if answers.temperature != 1.0:
        found.append(
            _judged(f"the model's temperature, {answers.temperature:g}", softmax(logits, answers.temperature), truth)
        )
    if len(np.unique(recording)) > 1:
        name = f"temperature fitted on other recordings here, about {fit_temperature(logits, truth):.3g}"
        found.append(_judged(name, cross_fitted(logits, truth, recording), truth))
    return tuple(found)


def _judged(name: str, probabilities: Floats, truth: Integers) -> Reliability:
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    means = [
        np.bincount(bins, weights=each, minlength=CALIBRATION_BINS) / np.maximum(count, 1)
        for each in (confidence, probabilities.argmax(axis=1) == truth)
    ]
    return Reliability(
        name, expected_calibration_error(probabilities, truth), log_loss(probabilities, truth), count, *means
    )


def _confused(answers: Answers, clips: Floats, heard: Integers) -> tuple[Confused, ...]:
    """Of (clips, labels) probabilities, at the clips with sound."""
    labels, truth = answers.labels, answers.truth
    found: dict[tuple[int, int], list[Mistake]] = {}
    for clip in heard:
        said, true = int(clips[clip].argmax()), int(truth[clip])
        if said != true:
            mistake = Mistake(
                answers.paths[clip], labels[true], labels[said], float(clips[clip, said]), float(clips[clip, true])
            )
            found.setdefault((min(said, true), max(said, true)), []).append(mistake)
    count = np.bincount(truth[heard], minlength=len(labels))
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        Confused(
            (labels[first], labels[second]),
            int(count[first] + count[second]),
            tuple(sorted(mistakes, key=lambda each: (-each.probability, each.path))),
        )
        for (first, second), mistakes in ranked
    )
