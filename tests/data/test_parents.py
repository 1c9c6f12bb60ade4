"""Recordings put together from the clips that were cut from them."""

import numpy as np

from edgekd.data.store.parents import find_parents

PATHS = [f"x-{number}.wav" for number in (0, 1, 10, 2)] + ["lone.wav", "b/y-1.wav", "a/y-2.wav"]
PARENTS = ["x"] * 4 + ["", "y", "y"]
LENGTHS = np.array([5, 6, 7, 8, 9, 3, 4])


def test_segments_are_in_the_natural_order_of_their_names_and_lone_clips_are_their_own_parents():
    found = find_parents(PARENTS, PATHS, LENGTHS)
    assert found.parent.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert found.segments.tolist() == [0, 1, 3, 2, 4, 5, 6]
    assert found.before.tolist() == [0, 5, 19, 11, 0, 0, 3]
    assert (found.count.tolist(), found.length.tolist()) == ([4, 1, 2], [26, 9, 7])


def test_pieces_of_shorter_recordings_leave_the_rest_free():
    clips, there = find_parents(PARENTS, PATHS, LENGTHS).pieces(np.array([2, 0, 1]))
    assert [row[here].tolist() for row, here in zip(clips, there, strict=True)] == [[5, 6], [0, 1, 3, 2], [4]]


def test_some_clips_alone_make_shorter_recordings():
    found = find_parents(PARENTS, PATHS, LENGTHS).within(np.array([6, 2, 1]), LENGTHS)
    assert (found.count.tolist(), found.length.tolist()) == ([2, 0, 1], [13, 0, 4])
    clips, there = found.pieces(np.array([0, 2]))
    assert [row[here].tolist() for row, here in zip(clips, there, strict=True)] == [[1, 2], [6]]
    assert found.before[[1, 2, 6]].tolist() == [0, 6, 0]
