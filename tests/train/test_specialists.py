"""Which pairs are confused most, and the report on what specialists changed."""

import logging

import msgspec
import numpy as np
import pytest

from edgekd.train.stages.confusions import (
    SILENT,
    Pair,
    confusing_pairs,
    confusion,
    pair_errors,
    pair_report,
    predicted,
)

LABELS = ("airport", "bus", "metro", "park|street")


def symmetric(*errors):
    """A matrix with a full diagonal and the errors of (first, second, M_ij, M_ji)."""
    matrix = np.diag(np.full(4, 99))
    for first, second, forth, back in errors:
        matrix[first, second], matrix[second, first] = forth, back
    return matrix


def test_rows_are_the_truth_and_silence_is_no_confusion():
    truth = np.array([0, 0, 1, 2, 2])
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0, 1, 0], [0, 0, 0], [0.6, 0.2, 0.2]])
    said = predicted(probabilities, np.array([False, False, False, True, False]))
    assert said.tolist() == [0, 1, 1, SILENT, 0]
    assert confusion(said, truth, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_pairs_are_ordered_by_confusions_both_ways():
    matrix = symmetric((0, 1, 3, 3), (2, 1, 0, 5), (0, 3, 1, 0))
    assert confusing_pairs(matrix, 1) == [Pair(0, 1, 6)]
    assert confusing_pairs(matrix, 2) == [Pair(0, 1, 6), Pair(1, 2, 5)]
    assert confusing_pairs(matrix, 1)[0].of(LABELS) == ("airport", "bus")


def test_pairs_as_often_confused_as_the_last_are_taken_too():
    matrix = symmetric((0, 1, 4, 0), (1, 2, 1, 1), (2, 3, 0, 2), (0, 3, 1, 0))
    assert confusing_pairs(matrix, 2) == [Pair(0, 1, 4), Pair(1, 2, 2), Pair(2, 3, 2)]
    assert confusing_pairs(matrix, 3) == confusing_pairs(matrix, 2)
    assert len(confusing_pairs(matrix, 1)) == 1


def test_pairs_that_are_never_confused_are_not_taken_and_that_is_said(caplog):
    caplog.set_level(logging.INFO, "edgekd")
    assert confusing_pairs(symmetric((1, 3, 0, 2)), 3) == [Pair(1, 3, 2)]
    assert "3 pairs of labels were asked for, but only 1 are ever confused" in caplog.text
    assert confusing_pairs(symmetric(), 2) == []


def test_errors_of_a_pair_are_counted_both_ways():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 4, 500), rng.integers(-1, 4, 500)
    matrix = confusion(said, truth, 4)
    assert pair_errors(said, truth, (1, 2)) == matrix[1, 2] + matrix[2, 1] > 0


@pytest.fixture
def report():
    truth = np.array([0, 0, 1, 1, 2, 3])
    before, after = np.array([1, 1, 0, 1, 3, 3]), np.array([0, 1, 1, 1, 3, 3])
    said = {"generalist": before, "teachers": after, "student": truth}
    return pair_report([Pair(0, 1, 7), Pair(2, 3, 4)], LABELS, truth, said, [after, truth], "qat")


def test_the_report_counts_what_each_made_of_each_pair(report):
    first, second = report.pairs
    assert (first.labels, first.chosen, first.clips) == (("airport", "bus"), 7, 4)
    assert (first.generalist, first.specialist, first.teachers, first.student) == (3, 1, 1, 0)
    assert (second.clips, second.generalist, second.specialist, second.teachers, second.student) == (2, 1, 0, 1, 0)
    assert report.test_clips == 6


def test_the_report_is_json_a_table_and_markdown(report):
    raw = msgspec.json.decode(report.to_json())
    assert raw["network"] == "qat"
    assert raw["pairs"][1] == {
        "labels": ["metro", "park|street"],
        "chosen": 4,
        "clips": 2,
        "generalist": 1,
        "specialist": 0,
        "teachers": 1,
        "student": 0,
    }
    lines = report.to_text().splitlines()
    assert [line.split()[-4:] for line in lines[1:]] == [
        ["3", "1", "1", "0"],
        ["1", "0", "1", "0"],
        ["4", "1", "2", "0"],
    ]
    assert len(set(map(len, lines))) == 1
    assert "| metro / park\\|street | 2 | 1 | 0 | 1 | 0 |" in report.markdown().splitlines()
