"""Scores of windows and of clips: logits and truth in, numbers out.

A clip's probabilities are the mean of the probabilities of its windows. Windows of digital silence carry no evidence,
nor do clips that hold nothing else: both are counted apart and left out of every score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.text import counted

PROBABILITY_FLOOR = 1e-12
"""Least probability inside a logarithm, so that one hopeless clip doesn't make the log loss infinite."""
CALIBRATION_BINS = 15
"""Equal bins of confidence in the expected calibration error (Guo et al. 2017)."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Scores of windows or of clips. Accuracies in 0..1.

    Attributes:
        count: how many were scored.
        silent: how many were digital silence, not part of `count`.
        accuracy: share of correct ones.
        macro_accuracy: mean over the labels present of each label's accuracy.
        log_loss: mean of -log(probability of the truth), in nats.
        calibration_error: expected calibration error, 0..1.
    """

    count: int
    silent: int
    accuracy: float
    macro_accuracy: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        windows, clips: scores.
        per_label: label -> accuracy of its clips, labels present only, in the order of the model's labels.
        per_recorder: recorder -> accuracy of its clips; empty where the data set names no recorders.
        confusion: (labels, labels) int64 clip counts; rows are the truth, columns the prediction.
    """

    windows: Scores
    clips: Scores
    per_label: dict[str, float]
    per_recorder: dict[str, float]
    confusion: Integers


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """(..., labels) logits -> float64 probabilities of the same shape, of `logits / temperature`."""
    values: Floats = np.divide(logits, temperature, dtype=np.float64)
    values -= np.maximum.reduce(values, axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= np.add.reduce(values, axis=-1, keepdims=True)
    return values


def clip_means(
    values: NDArray[np.floating], silent: NDArray[np.bool_], clip_of: Integers, clips: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Means over the windows of each clip that are not silent.

    Args:
        values: (windows, width) of any kind: probabilities, logits, embeddings.
        silent: (windows,) windows of digital silence, left out.
        clip_of: (windows,) each window's clip, 0..clips - 1, in any order.
        clips: number of clips.

    Returns:
        (clips, width) float64 means, zeros for silent clips, and (clips,) which clips are silent, that is, have no
        window with sound.
    """
    sounding = ~silent
    totals = np.zeros((clips, values.shape[1]))
    np.add.at(totals, clip_of[sounding], values[sounding])
    counts = np.bincount(clip_of[sounding], minlength=clips)
    return totals / np.maximum(counts, 1)[:, None], counts == 0


def log_losses(probabilities: Floats, truth: Integers) -> Floats:
    """(items,) -log(probability of the truth) in nats, of (items, labels) probabilities and (items,) label indices."""
    losses: Floats = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], PROBABILITY_FLOOR))
    return losses


def log_loss(probabilities: Floats, truth: Integers) -> float:
    """Mean of `log_losses`."""
    return float(log_losses(probabilities, truth).mean())


def confidence_bins(confidence: Floats) -> Integers:
    """(items,) the bin of each confidence, 0..`CALIBRATION_BINS` - 1; a confidence of 1 is in the last one."""
    return np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def expected_calibration_error(probabilities: Floats, truth: Integers) -> float:
    """Mean over items of |accuracy - mean confidence| of the item's bin, 0..1 (Guo et al. 2017).

    Args:
        probabilities: (items, labels), at least one item.
        truth: (items,) index of the label.
    """
    confidence = probabilities.max(axis=1)
    surplus = confidence - (probabilities.argmax(axis=1) == truth)  # (items,)
    return float(np.abs(np.bincount(confidence_bins(confidence), weights=surplus)).sum() / len(truth))


def item_scores(probabilities: Floats, silent: NDArray[np.bool_], truth: Integers) -> Scores:
    """Scores of items, which are windows or clips.

    Args:
        probabilities: (items, labels), any value where an item is silent.
        silent: (items,) items to leave out.
        truth: (items,) index of each label.

    Raises:
        InputError: all items are silent.
    """
    _check_sound(silent)
    probabilities, truth = probabilities[~silent], truth[~silent]
    correct = probabilities.argmax(axis=1) == truth
    return Scores(
        count=len(truth),
        silent=int(silent.sum()),
        accuracy=float(correct.mean()),
        macro_accuracy=float(np.mean([correct[truth == label].mean() for label in np.unique(truth)])),
        log_loss=log_loss(probabilities, truth),
        calibration_error=expected_calibration_error(probabilities, truth),
    )


def score(
    logits: NDArray[np.floating],
    silent: NDArray[np.bool_],
    clip_of: Integers,
    truth: Integers,
    temperature: float = 1.0,
) -> tuple[Scores, Scores]:
    """Scores of windows, and of the clips that they are of.

    Args:
        logits: (windows, labels), any value where a window is silent.
        silent: (windows,) windows of digital silence.
        clip_of: (windows,) each window's clip, 0..clips - 1; every clip has a window.
        truth: (clips,) index of each clip's label.
        temperature: divides the logits before the softmax.

    Raises:
        InputError: no clip at all, nothing but silence, or logits that are not finite.
    """
    windows, clips, silent_clips = _probabilities(logits, silent, clip_of, truth, temperature)
    return item_scores(windows, silent, truth[clip_of]), item_scores(clips, silent_clips, truth)


def evaluate(
    logits: NDArray[np.floating],
    silent: NDArray[np.bool_],
    clip_of: Integers,
    truth: Integers,
    *,
    labels: Sequence[str],
    recorders: Sequence[str],
    temperature: float = 1.0,
) -> Evaluation:
    """`score`, and the accuracies of labels and recorders.

    Args:
        logits, silent, clip_of, truth, temperature: see `score`.
        labels: names of the model's labels.
        recorders: (clips,) names; "" is unknown and not listed.

    Raises:
        InputError: see `score`.
    """
    windows, clips, silent_clips = _probabilities(logits, silent, clip_of, truth, temperature)
    predicted = clips.argmax(axis=1)
    sounding = ~silent_clips
    correct = predicted == truth
    recorder_of = np.array(recorders, dtype=object)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth[sounding], predicted[sounding]), 1)
    return Evaluation(
        windows=item_scores(windows, silent, truth[clip_of]),
        clips=item_scores(clips, silent_clips, truth),
        per_label={
            labels[index]: float(correct[sounding & (truth == index)].mean()) for index in np.unique(truth[sounding])
        },
        per_recorder={
            name: float(correct[sounding & (recorder_of == name)].mean())
            for name in sorted(set(recorder_of[sounding]))
            if name
        },
        confusion=confusion,
    )


def _probabilities(
    logits: NDArray[np.floating], silent: NDArray[np.bool_], clip_of: Integers, truth: Integers, temperature: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Probabilities of windows and of clips, and which clips are silent; arguments and errors as `score`."""
    if len(truth) == 0:
        raise InputError("there is no clip to score; choose another split")
    _check_sound(silent)
    if not np.isfinite(logits[~silent]).all():
        raise InputError(
            "the network gives logits that are not finite: its weights are damaged or its training diverged; train it"
            " again with a lower learning rate, or export it again"
        )
    windows = softmax(logits, temperature)
    return windows, *clip_means(windows, silent, clip_of, len(truth))


def _check_sound(silent: NDArray[np.bool_]) -> None:
    if silent.all():
        raise InputError(
            f"{counted(len(silent), 'window or clip', 'windows or clips')}, all digital silence; there is"
            " nothing to score: choose other clips"
        )
