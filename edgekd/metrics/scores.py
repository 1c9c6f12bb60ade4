"""Scores of one-second windows and of whole clips. numpy only, no engine: logits and truth in, numbers out.

A clip's probabilities are the mean of the probabilities of its windows. Windows of digital silence (and clips that hold
nothing else) carry no evidence: they are counted apart and left out of every score.
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
    """What `evaluate` finds.

    Attributes:
        windows, clips: scores.
        per_label: label -> accuracy of its clips, labels present only, in the order of the model's labels.
        per_recorder: recorder -> accuracy of its clips; empty where the data set names no recorders.
        confusion: (labels, labels) int64 clip counts; rows are the truth, columns the model's answer.
    """

    windows: Scores
    clips: Scores
    per_label: dict[str, float]
    per_recorder: dict[str, float]
    confusion: Integers


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """(..., labels) logits -> float64 probabilities of the same shape, of `logits / temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: Floats = exponents / exponents.sum(axis=-1, keepdims=True)
    return probabilities


def log_loss(probabilities: Floats, truth: Integers) -> float:
    """Mean of -log(probability of the truth) in nats, of (items, labels) probabilities and (items,) label indices."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], PROBABILITY_FLOOR)).mean())


def expected_calibration_error(probabilities: Floats, truth: Integers) -> float:
    """Mean over items of |accuracy - mean confidence| of the item's bin, 0..1, in `CALIBRATION_BINS` bins of
    confidence.

    Args:
        probabilities: (items, labels), at least one item.
        truth: (items,) index of the label.
    """
    confidence = probabilities.max(axis=1)
    surplus = confidence - (probabilities.argmax(axis=1) == truth)  # (items,)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=surplus)).sum() / len(truth))


def clip_probabilities(
    windows: Floats, silent: NDArray[np.bool_], clip_of: Integers, clips: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean of the window probabilities of each clip.

    Args:
        windows: (windows, labels) probabilities.
        silent: (windows,) windows of digital silence, left out.
        clip_of: (windows,) each window's clip, 0..clips - 1.
        clips: number of clips.

    Returns:
        (clips, labels) probabilities, zeros for silent clips, and (clips,) which clips have no window with sound.
    """
    heard = ~silent
    totals = np.zeros((clips, windows.shape[1]))
    np.add.at(totals, clip_of[heard], windows[heard])
    counts = np.bincount(clip_of[heard], minlength=clips)
    return totals / np.maximum(counts, 1)[:, None], counts == 0


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
    """Score the windows of a set of clips.

    Args:
        logits: (windows, labels), any value where a window is silent.
        silent: (windows,) windows of digital silence.
        clip_of: (windows,) each window's clip, 0..clips - 1; every clip has a window.
        truth: (clips,) index of each clip's label in `labels`.
        labels: names of the model's labels.
        recorders: (clips,) names; "" is unknown and not listed.
        temperature: divides the logits before the softmax.

    Raises:
        InputError: no clip at all, nothing but silence, or logits that are not finite.
    """
    if len(truth) == 0:
        raise InputError("there is no clip to evaluate; choose another split")
    if silent.all():
        raise InputError(
            f"{counted(len(silent), 'window, and it is', 'windows, and all are')} digital silence; there is nothing to "
            "evaluate"
        )
    if not np.isfinite(logits[~silent]).all():
        raise InputError(
            "the model gives logits that are not finite; its weights are damaged, train or export it again"
        )
    windows = softmax(logits, temperature)
    clips, silent_clips = clip_probabilities(windows, silent, clip_of, len(truth))
    answers = clips.argmax(axis=1)
    heard = ~silent_clips
    right = answers == truth
    recorder_of = np.array(recorders, dtype=object)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth[heard], answers[heard]), 1)
    return Evaluation(
        windows=_scores(windows, silent, truth[clip_of]),
        clips=_scores(clips, silent_clips, truth),
        per_label={labels[index]: float(right[heard & (truth == index)].mean()) for index in np.unique(truth[heard])},
        per_recorder={
            name: float(right[heard & (recorder_of == name)].mean()) for name in sorted(set(recorder_of[heard])) if name
        },
        confusion=confusion,
    )


def _scores(probabilities: Floats, silent: NDArray[np.bool_], truth: Integers) -> Scores:
    """Scores of (items, labels) probabilities against (items,) truth, silent items left out."""
    probabilities, truth = probabilities[~silent], truth[~silent]
    right = probabilities.argmax(axis=1) == truth
    return Scores(
        count=len(truth),
        silent=int(silent.sum()),
        accuracy=float(right.mean()),
        macro_accuracy=float(np.mean([right[truth == label].mean() for label in np.unique(truth)])),
        log_loss=log_loss(probabilities, truth),
        calibration_error=expected_calibration_error(probabilities, truth),
    )
