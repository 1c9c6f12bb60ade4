"""Scores of made-up logits that can be checked on paper."""

import math

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.metrics.scores import clip_means, evaluate, softmax

LABELS = ("bus", "park", "tram")


def logits_for(*probabilities):
    return np.log(np.array(probabilities))


def scores(logits, silent, clip_of, truth, recorders=None, **options):
    truth = np.array(truth)
    return evaluate(
        logits,
        np.array(silent),
        np.array(clip_of),
        truth,
        labels=LABELS,
        recorders=recorders or [""] * len(truth),
        **options,
    )


def test_windows_and_clips_are_scored_on_their_own():
    # clip 0 (bus): one window right, one wrong but unsure: the mean is right. clip 1 (park): wrong.
    logits = logits_for([0.9, 0.05, 0.05], [0.4, 0.5, 0.1], [0.2, 0.2, 0.6])
    result = scores(logits, [False] * 3, [0, 0, 1], [0, 1])
    assert (result.windows.count, result.windows.silent) == (3, 0)
    assert result.windows.accuracy == pytest.approx(1 / 3)
    assert result.windows.macro_accuracy == pytest.approx((1 / 2 + 0) / 2)
    assert result.windows.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.2)) / 3)
    assert result.clips.count == 2
    assert result.clips.accuracy == pytest.approx(0.5)
    assert result.clips.log_loss == pytest.approx(-(math.log(0.65) + math.log(0.2)) / 2)


def test_silent_windows_and_clips_are_counted_apart():
    logits = logits_for([0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.1, 0.8, 0.1])
    result = scores(logits, [False, True, True], [0, 0, 1], [0, 2])
    assert (result.windows.count, result.windows.silent, result.windows.accuracy) == (1, 2, 1.0)
    assert (result.clips.count, result.clips.silent, result.clips.accuracy) == (1, 1, 1.0)
    assert result.per_label == {"bus": 1.0}
    assert result.confusion.sum() == 1


def test_garbage_logits_of_silent_windows_are_ignored():
    logits = logits_for([0.8, 0.1, 0.1], [0.1, 0.1, 0.8])
    logits[1] = np.nan
    with np.errstate(invalid="raise"):
        result = scores(logits, [False, True], [0, 0], [0])
    assert result.clips.log_loss == pytest.approx(-math.log(0.8))


def test_macro_accuracy_weighs_labels_equally():
    right, wrong = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    result = scores(logits_for(right, right, right, wrong), [False] * 4, [0, 1, 2, 3], [0, 0, 0, 1])
    assert result.clips.accuracy == pytest.approx(0.75)
    assert result.clips.macro_accuracy == pytest.approx(0.5)
    assert result.per_label == {"bus": 1.0, "park": 0.0}


def test_recorders_are_scored_apart_and_unknown_ones_not_listed():
    right, wrong = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    result = scores(
        logits_for(right, right, wrong, wrong), [False] * 4, [0, 1, 2, 3], [0, 0, 0, 1], ["s1", "a", "s1", ""]
    )
    assert result.per_recorder == {"a": 1.0, "s1": 0.5}


def test_confusion_has_the_truth_in_rows():
    result = scores(logits_for([0.1, 0.8, 0.1], [0.8, 0.1, 0.1]), [False] * 2, [0, 1], [0, 0])
    assert result.confusion.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_temperature_softens_probabilities():
    logits = np.array([[2.0, 0.0, 0.0]])
    assert softmax(logits, 2.0) == pytest.approx(softmax(logits / 2.0))
    assert (
        scores(logits, [False], [0], [0], temperature=2.0).windows.log_loss
        > scores(logits, [False], [0], [0]).windows.log_loss
    )


def test_softmax_stands_large_logits():
    assert softmax(np.array([[1000.0, -1000.0]])) == pytest.approx(np.array([[1.0, 0.0]]))


def test_a_hopeless_clip_costs_a_finite_log_loss():
    assert np.isfinite(scores(np.array([[1e4, -1e4, 0.0]]), [False], [0], [1]).windows.log_loss)


def test_clip_means_do_not_need_sorted_windows():
    windows = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    clips, silent = clip_means(windows, np.zeros(3, bool), np.array([1, 0, 1]), 3)
    assert clips.tolist() == [[0.0, 1.0], [0.75, 0.25], [0.0, 0.0]]
    assert silent.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("logits", "silent", "clip_of", "truth", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, bool), np.zeros(0, int), np.zeros(0, int), "no clip"),
        (np.zeros((2, 3)), [True, True], [0, 0], [0], "2 windows or clips, all digital silence"),
        (np.full((1, 3), np.nan), [False], [0], [0], "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, silent, clip_of, truth, message):
    with pytest.raises(InputError, match=message):
        scores(logits, silent, clip_of, truth)
