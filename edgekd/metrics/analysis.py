"""Analysis of predictions beyond their scores: intervals, accuracies per label and recorder, reliability of the
confidence, and the clips that were taken for another label."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.metrics.calibration import cross_fitted, fit_temperature
from edgekd.metrics.intervals import UNITS, Interval, intervals, measured, resampled, tallies
from edgekd.metrics.predictions import LabelledPredictions
from edgekd.metrics.scores import (
    CALIBRATION_BINS,
    Evaluation,
    Floats,
    Integers,
    confidence_bins,
    evaluate,
    expected_calibration_error,
    log_loss,
    softmax,
)


@dataclass(frozen=True)
class Share:
    """correct of count clips of a label or a recorder; silent ones are left out."""

    name: str
    correct: int
    count: int


@dataclass(frozen=True)
class Mistake:
    """A clip taken for another label. probability: 0..1 of the predicted label. of_truth: 0..1 of the true one."""

    path: str
    truth: str
    predicted: str
    probability: float
    of_truth: float


@dataclass(frozen=True)
class ConfusedPair:
    """Two labels. clips: of both together. mistakes: clips taken for the other one, the highest probability first."""

    labels: tuple[str, str]
    clips: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Reliability:
    """Accuracy of windows by their confidence.

    Attributes:
        name: the temperature, in words.
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
class Analysis:
    """Result of `analyse`.

    Attributes:
        scores: of `edgekd.metrics.scores.evaluate`.
        intervals: "clips" and "windows" -> figure -> 95 % interval over recordings.
        labels: labels that clips have, in the order of the network's.
        recorders: known recorders, by name.
        reliability: at temperature 1, at the network's own where that differs, and cross-fitted on these recordings
            where there are at least two.
        pairs: all pairs of labels that are ever confused, the most confused first.
    """

    scores: Evaluation
    intervals: dict[str, dict[str, Interval]]
    labels: tuple[Share, ...]
    recorders: tuple[Share, ...]
    reliability: tuple[Reliability, ...]
    pairs: tuple[ConfusedPair, ...]


def analyse(predictions: LabelledPredictions) -> Analysis:
    """The analysis of predictions.

    Raises:
        InputError: see `edgekd.metrics.scores.evaluate`.
    """
    truth, labels = predictions.truth, predictions.labels
    scores = evaluate(
        predictions.logits,
        predictions.silent,
        predictions.clip_of,
        truth,
        labels=labels,
        recorders=predictions.recorders,
        temperature=predictions.temperature,
    )
    clips, silent_clips = predictions.clip_probabilities()
    sounding = np.flatnonzero(~silent_clips)
    correct = clips[sounding].argmax(axis=1) == truth[sounding]
    return Analysis(
        scores=scores,
        intervals=_intervals(predictions),
        labels=_shares(scores.per_label, [labels[truth[clip]] for clip in sounding], correct),
        recorders=_shares(scores.per_recorder, [predictions.recorders[clip] for clip in sounding], correct),
        reliability=_reliability(predictions),
        pairs=_confused_pairs(predictions, clips, sounding),
    )


def _intervals(predictions: LabelledPredictions) -> dict[str, dict[str, Interval]]:
    """Of clips and windows, both resampled with the same draws, as one fold and one seed."""
    recordings = int(predictions.recording.max()) + 1
    fold = tallies(
        predictions.window_probabilities(),
        predictions.silent,
        predictions.clip_of,
        predictions.truth,
        predictions.recording,
        recordings,
    )[:, None]  # (units, 1 seed, recordings, columns)
    values, draws = measured([fold])[0], resampled([fold])  # (units, figures), (resamples, units, figures)
    return {unit: intervals(values[row], draws[:, row]) for row, unit in enumerate(UNITS)}


def _shares(names: Iterable[str], of_clip: Sequence[str], correct: NDArray[np.bool_]) -> tuple[Share, ...]:
    right, total = Counter(name for name, is_right in zip(of_clip, correct, strict=True) if is_right), Counter(of_clip)
    return tuple(Share(name, right[name], total[name]) for name in names)


def _reliability(predictions: LabelledPredictions) -> tuple[Reliability, ...]:
    sounding = ~predictions.silent
    logits, clip_of = predictions.logits[sounding], predictions.clip_of[sounding]
    truth, recording = predictions.truth[clip_of], predictions.recording[clip_of]
    own = predictions.temperature
    curves = [_curve("temperature 1", softmax(logits), truth)]
    if own != 1.0:
        curves.append(_curve(f"the model's temperature, {own:g}", softmax(logits, own), truth))
    if len(np.unique(recording)) > 1:
        name = f"temperature fitted on other recordings here, about {fit_temperature(logits, truth):.3g}"
        curves.append(_curve(name, cross_fitted(logits, truth, recording), truth))
    return tuple(curves)


def _curve(name: str, probabilities: Floats, truth: Integers) -> Reliability:
    confidence = probabilities.max(axis=1)
    bins = confidence_bins(confidence)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    means = [
        np.bincount(bins, weights=each, minlength=CALIBRATION_BINS) / np.maximum(count, 1)
        for each in (confidence, probabilities.argmax(axis=1) == truth)
    ]
    return Reliability(
        name, expected_calibration_error(probabilities, truth), log_loss(probabilities, truth), count, *means
    )


def _confused_pairs(predictions: LabelledPredictions, clips: Floats, sounding: Integers) -> tuple[ConfusedPair, ...]:
    """Pairs among the `sounding` clips, by (clips, labels) probabilities."""
    labels, truth = predictions.labels, predictions.truth
    found: dict[tuple[int, int], list[Mistake]] = {}
    for clip in sounding:
        predicted, true = int(clips[clip].argmax()), int(truth[clip])
        if predicted != true:
            path, probability, of_truth = predictions.paths[clip], clips[clip, predicted], clips[clip, true]
            mistake = Mistake(path, labels[true], labels[predicted], float(probability), float(of_truth))
            found.setdefault((min(predicted, true), max(predicted, true)), []).append(mistake)
    count = np.bincount(truth[sounding], minlength=len(labels))
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        ConfusedPair(
            (labels[first], labels[second]),
            int(count[first] + count[second]),
            tuple(sorted(mistakes, key=lambda each: (-each.probability, each.path))),
        )
        for (first, second), mistakes in ranked
    )
