"""Longer recordings joined again from the clips that were cut from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgekd.text import natural_order

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Recordings:
    """The recordings of a store, numbered in the order of its table. A clip without a parent is a recording.

    Attributes:
        recording: (clips,) number of each clip's recording.
        offset: (clips,) first sample of each clip in its recording.
        segments: (clips,) indices of all clips, ordered by recording and, in one recording, by the numbers in their
            file names.
        first: (recordings,) position in `segments` of each recording's first clip.
        count: (recordings,) number of clips; 0 where `subset` left none.
        length: (recordings,) samples.
    """

    recording: Index
    offset: Index
    segments: Index
    first: Index
    count: Index
    length: Index

    def subset(self, clips: Index, lengths: Index) -> "Recordings":
        """The same recordings made of some clips only.

        Args:
            clips: indices of the clips to keep.
            lengths: (clips of the store,) samples.
        """
        wanted = np.zeros(len(self.recording), bool)
        wanted[clips] = True
        return _joined(self.recording, self.segments[wanted[self.segments]], len(self.count), lengths)

    def clips_of(self, numbers: Index) -> tuple[Index, NDArray[np.bool_]]:
        """The clips of some recordings, and which of them are valid.

        Returns:
            (recordings, most clips of one) clip indices, and a mask of that shape: False after a recording's last clip.
        """
        count = self.count[numbers][:, None]
        position = np.arange(count.max())
        valid = position < count
        return self.segments[self.first[numbers][:, None] + np.where(valid, position, 0)], valid


def find_recordings(parents: Sequence[str], paths: Sequence[str], lengths: Index) -> Recordings:
    """Group clips into recordings.

    Args:
        parents: for each clip the recording that it is a part of, or "".
        paths: for each clip its file.
        lengths: (clips,) samples.
    """
    numbers: dict[str | int, int] = {}
    recording = np.array(
        [numbers.setdefault(name or index, len(numbers)) for index, name in enumerate(parents)], np.int64
    )
    owner = recording.tolist()
    ranked = sorted(
        range(len(paths)), key=lambda clip: (owner[clip], natural_order(PurePosixPath(paths[clip]).name), paths[clip])
    )
    return _joined(recording, np.array(ranked, np.int64), len(numbers), lengths)


def _joined(recording: Index, segments: Index, recordings: int, lengths: Index) -> Recordings:
    owner = recording[segments]
    count = np.bincount(owner, minlength=recordings)
    first = np.cumsum(count) - count
    length = np.zeros(recordings, np.int64)
    np.add.at(length, owner, lengths[segments])
    offset = np.zeros(len(recording), np.int64)
    offset[segments] = np.cumsum(lengths[segments]) - lengths[segments] - (np.cumsum(length) - length)[owner]
    return Recordings(recording, offset, segments, first, count, length)
