"""Accuracies through microphones: pairs, means over makes, and silence that is left out."""

import numpy as np

from edgekd.metrics.intervals import Interval
from edgekd.metrics.microphones import device_shift
from edgekd.metrics.predictions import LabelledPredictions

CLIPS, LABELS = 40, ("a", "b")


def logits_of(correct):
    """(2 windows a clip, labels) logits of label 0 where correct."""
    return np.repeat(np.where(np.asarray(correct)[:, None], [3.0, 0.0], [0.0, 3.0]), 2, axis=0)


def predictions(logits, silent=None):
    names = tuple(str(clip) for clip in range(CLIPS))
    return LabelledPredictions(
        logits,
        np.zeros(2 * CLIPS, bool) if silent is None else silent,
        np.repeat(np.arange(CLIPS), 2),
        np.zeros(CLIPS, np.int64),
        np.arange(CLIPS),
        LABELS,
        names,
        ("",) * CLIPS,
    )


def test_microphones_are_compared_clip_by_clip_and_makes_by_their_means():
    clip = np.arange(CLIPS)
    clean, same, other, deaf = clip < 30, clip < 30, (clip >= 5) & (clip < 32), np.zeros(CLIPS, bool)
    found = device_shift(
        predictions(logits_of(clean)),
        np.stack([logits_of(deaf), logits_of(same), logits_of(other)]),
        [("x", "X"), ("y", "Y"), ("z", "X")],
    )
    assert (found.clips, found.windows) == (0.75, 0.75)
    assert [each.name for each in found.microphones] == ["y", "z", "x"]
    assert [(each.lost, each.gained) for each in found.microphones] == [(0, 0), (5, 2), (30, 0)]
    assert found.microphones[0].clips.difference == Interval(0.0, 0.0, 0.0)
    assert (found.worst.name, found.worst.clips.accuracy) == ("x", 0.0)
    assert [(each.name, each.count) for each in found.makes] == [("Y", 1), ("X", 2)]
    assert found.worst_make.clips.accuracy == np.mean([27, 0]) / CLIPS
    assert np.isclose(found.mean.clips.difference.mean, (30 + 27 + 0) / 3 / CLIPS - 0.75)


def test_the_interval_is_of_pairs_and_narrower_than_that_of_either():
    rng = np.random.default_rng(0)
    clean = rng.random(CLIPS) < 0.5
    found = device_shift(predictions(logits_of(clean)), logits_of(clean & (np.arange(CLIPS) > 1))[None], [("x", "X")])
    difference = found.worst.clips.difference
    assert difference.low <= difference.mean <= difference.high <= 0
    # two clips of forty at most; the accuracies themselves are uncertain by 0.3
    assert difference.high - difference.low < 0.15


def test_what_is_silent_as_it_is_counts_through_no_microphone():
    silent = np.zeros(2 * CLIPS, bool)
    silent[:2] = True  # all of the first clip
    silent[3] = True
    wrong_in_silence = logits_of(np.ones(CLIPS, bool))
    wrong_in_silence[silent] = [0.0, 9.0]
    found = device_shift(predictions(logits_of(np.ones(CLIPS, bool)), silent), wrong_in_silence[None], [("x", "X")])
    assert (found.worst.clips.accuracy, found.worst.windows.accuracy, found.worst.lost) == (1.0, 1.0, 0)
