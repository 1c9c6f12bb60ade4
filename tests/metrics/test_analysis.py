"""The analysis of predictions whose figures can be checked on paper."""

import numpy as np
import pytest

from edgekd.metrics.analysis import analyse
from edgekd.metrics.predictions import LabelledPredictions

LABELS = ("cat", "cow", "dog")


def predictions(predicted, truth, confidence=0.8, *, silent=(), recording=None, recorders=None, temperature=1.0):
    """One window a clip, with the given label's probability at `confidence` (a number, or one a clip) and temperature
    1."""
    count = len(predicted)
    probabilities = np.repeat(((1 - np.broadcast_to(confidence, count)) / 2)[:, None], 3, axis=1)
    probabilities[np.arange(count), predicted] = confidence
    return LabelledPredictions(
        np.log(probabilities),
        np.isin(np.arange(count), silent),
        np.arange(count),
        np.array(truth),
        np.arange(count) if recording is None else np.array(recording),
        LABELS,
        tuple(f"{i}.wav" for i in range(count)),
        ("",) * count if recorders is None else recorders,
        temperature,
    )


def test_clips_are_counted_per_label_and_recorder_without_silence():
    found = analyse(predictions([0, 1, 2, 0, 0], [0, 1, 1, 1, 0], silent=[4], recorders=("r1", "r0", "r1", "", "r0")))
    assert [(each.name, each.correct, each.count) for each in found.labels] == [("cat", 1, 1), ("cow", 1, 3)]
    assert [(each.name, each.correct, each.count) for each in found.recorders] == [("r0", 1, 1), ("r1", 1, 2)]
    assert found.scores.clips.silent == 1


def test_intervals_are_around_the_scores_and_of_recordings():
    predicted = [0] * 30 + [1] * 10
    apart, together = (
        analyse(predictions(predicted, [0] * 40, recording=recording)) for recording in (None, np.arange(40) // 5)
    )
    for unit, scores in (("clips", apart.scores.clips), ("windows", apart.scores.windows)):
        found = apart.intervals[unit]["accuracy"]
        assert found.mean == scores.accuracy == 0.75
        assert found.low == pytest.approx(0.75 - 1.96 * np.sqrt(0.75 * 0.25 / 40), abs=0.03)
        assert apart.intervals[unit]["log_loss"].mean == pytest.approx(scores.log_loss)
    assert together.intervals["clips"]["accuracy"].low < apart.intervals["clips"]["accuracy"].low


def test_pairs_are_of_both_directions_the_most_confused_first_and_the_surest_mistake_first():
    found = analyse(predictions([1, 0, 0, 2, 2], [0, 1, 1, 0, 2], confidence=np.array([0.5, 0.6, 0.9, 0.7, 0.8])))
    assert [(pair.labels, pair.clips, len(pair.mistakes)) for pair in found.pairs] == [
        (("cat", "cow"), 4, 3),
        (("cat", "dog"), 3, 1),
    ]
    first = found.pairs[0].mistakes
    assert [each.path for each in first] == ["2.wav", "1.wav", "0.wav"]
    assert (first[0].truth, first[0].predicted) == ("cow", "cat")
    assert (first[0].probability, first[0].of_truth) == pytest.approx((0.9, 0.05))


def test_reliability_has_what_each_bin_is_worth():
    found = analyse(predictions([0, 0, 0, 0, 0], [0, 0, 0, 1, 0], confidence=np.array([0.9, 0.9, 0.9, 0.9, 0.5])))
    plain, crossed = found.reliability
    filled = np.flatnonzero(plain.count)
    assert plain.count[filled].tolist() == [1, 4]
    np.testing.assert_allclose(plain.confidence[filled], [0.5, 0.9])
    np.testing.assert_allclose(plain.accuracy[filled], [1.0, 0.75])
    assert plain.error == pytest.approx((0.5 + 4 * 0.15) / 5)
    assert "other recordings" in crossed.name


def test_the_network_s_own_temperature_has_a_curve_and_one_recording_fits_none():
    found = analyse(predictions([0, 0], [0, 1], temperature=2.0, recording=[0, 0]))
    assert [each.name for each in found.reliability] == ["temperature 1", "the model's temperature, 2"]
    assert found.reliability[1].error == pytest.approx(found.scores.windows.calibration_error)
    assert found.reliability[1].error < found.reliability[0].error
