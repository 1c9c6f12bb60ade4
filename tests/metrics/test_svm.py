"""Support vector machines on embeddings: what they choose from, and the mean of their scores."""

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.metrics import svm

LABELS = ("a", "b", "c")


def clouds(seed, spread=0.3, per_label=20):
    """(60, 5) around one corner for each label, on very different scales."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), per_label)
    return (np.eye(5)[truth] + rng.normal(0, spread, (len(truth), 5))) * [1, 1e3, 1e-3, 1, 1], truth


def rings(seed):
    """Two labels that only a curved border separates."""
    rng = np.random.default_rng(seed)
    truth = np.arange(80) % 2
    angle = rng.uniform(0, 2 * np.pi, 80)
    return (1 + 2 * truth)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(
        0, 0.1, (80, 2)
    ), truth


def test_labels_are_learned_at_any_scale_of_the_embedding():
    x, truth = clouds(0)
    machine = svm.fit(x, truth, np.arange(60), LABELS)
    other, other_truth = clouds(1)
    scores = machine.scores(other)
    assert scores.shape == (60, 3)
    assert (scores.argmax(1) == other_truth).mean() > 0.9
    assert machine.inner_accuracy > 0.8
    assert (svm.fit(x, truth, np.arange(60), LABELS).scores(other) == scores).all()


def test_the_kernel_is_chosen_on_training_clips():
    x, truth = rings(0)
    machine = svm.fit(x, truth, np.arange(80), ("a", "b"), ("linear", "rbf"))
    assert machine.kernel == "rbf"
    other, other_truth = rings(1)
    assert machine.scores(other).shape == (80, 2)
    assert (machine.scores(other).argmax(1) == other_truth).mean() > 0.95
    linear = svm.fit(x, truth, np.arange(80), ("a", "b"), ("linear",))
    assert (linear.scores(other).argmax(1) == other_truth).mean() < 0.8


def test_no_recording_is_on_both_sides_of_the_choice():
    """The items of a recording are alike and its label is chance: only its other items predict it."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(24), 10)
    centre, label = rng.normal(size=(24, 30)), np.arange(24) % 3
    x = centre[recording] + rng.normal(0, 0.01, (240, 30))
    assert svm.fit(x, label[recording], np.arange(240), LABELS).inner_accuracy == 1
    assert svm.fit(x, label[recording], recording, LABELS).inner_accuracy < 0.75


def test_the_score_sum_is_the_mean_of_the_systems():
    (x, truth), (y, _) = clouds(0), clouds(7, spread=0.8)
    recording = np.arange(60)
    first, second = (svm.fit(each, truth, recording, LABELS).scores(each) for each in (x, y))
    np.testing.assert_array_equal(svm.score_sum([first, second]), (first + second) / 2)


def test_one_recording_leaves_no_choice():
    x, truth = clouds(0)
    machine = svm.fit(x, truth, np.zeros(60, int), LABELS, ("rbf", "linear"))
    assert (machine.kernel, machine.inner_accuracy) == ("rbf", 0)


@pytest.mark.parametrize("counts", [(3, 3, 3), (20, 20, 1)])
def test_a_choice_is_made_of_few_clips_and_with_rare_labels(counts):
    x, truth = clouds(0)
    few = np.concatenate([np.flatnonzero(truth == label)[:count] for label, count in enumerate(counts)])
    assert svm.fit(x[few], truth[few], few, LABELS).inner_accuracy > 0.5


def test_what_cannot_be_learned_is_refused():
    x, truth = clouds(0)
    for arguments, message in (
        ((x, truth, truth, LABELS, ("linaer",)), "unknown kernel 'linaer'; did you mean 'linear'"),
        ((x, truth, truth, LABELS, ()), "no kernel to choose from"),
        ((x, truth * 0, truth, ("a",)), "at least two labels, there is 1"),
        ((x, truth, truth, (*LABELS, "d")), "label 'd' has no training clip"),
        ((x * np.nan, truth, truth, LABELS), "embeddings are not finite"),
    ):
        with pytest.raises(InputError, match=message):
            svm.fit(*arguments)
