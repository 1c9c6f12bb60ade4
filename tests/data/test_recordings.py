"""Recordings joined from the clips that were cut from them."""

import numpy as np

from edgekd.data.store.recordings import find_recordings

PATHS = [f"x-{number}.wav" for number in (0, 1, 10, 2)] + ["lone.wav", "b/y-1.wav", "a/y-2.wav"]
PARENTS = ["x"] * 4 + ["", "y", "y"]
LENGTHS = np.array([5, 6, 7, 8, 9, 3, 4])


def test_clips_are_in_the_natural_order_of_their_names_and_a_clip_without_parent_is_a_recording():
    found = find_recordings(PARENTS, PATHS, LENGTHS)
    assert found.recording.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert found.segments.tolist() == [0, 1, 3, 2, 4, 5, 6]
    assert found.offset.tolist() == [0, 5, 19, 11, 0, 0, 3]
    assert (found.count.tolist(), found.length.tolist()) == ([4, 1, 2], [26, 9, 7])


def test_the_rows_of_shorter_recordings_are_masked_after_their_last_clip():
    clips, valid = find_recordings(PARENTS, PATHS, LENGTHS).clips_of(np.array([2, 0, 1]))
    assert [row[mask].tolist() for row, mask in zip(clips, valid, strict=True)] == [[5, 6], [0, 1, 3, 2], [4]]


def test_some_clips_alone_make_shorter_recordings():
    found = find_recordings(PARENTS, PATHS, LENGTHS).subset(np.array([6, 2, 1]), LENGTHS)
    assert (found.count.tolist(), found.length.tolist()) == ([2, 0, 1], [13, 0, 4])
    clips, valid = found.clips_of(np.array([0, 2]))
    assert [row[mask].tolist() for row, mask in zip(clips, valid, strict=True)] == [[1, 2], [6]]
    assert found.offset[[1, 2, 6]].tolist() == [0, 6, 0]
