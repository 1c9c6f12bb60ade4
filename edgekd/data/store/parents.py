"""Longer recordings put together again from the clips that were cut from them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

DIGITS = re.compile(r"(\d+)")
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Parents:
    """The recordings of a store, numbered as they are first met in its table; a clip that names no parent is its own.

    Attributes:
        parent: (clips,) number of each clip's recording.
        before: (clips,) samples of its recording that come before a clip.
        segments: all clips, recording after recording, those of one in the natural order of their file names.
        first: (parents,) place of each recording's first clip in `segments`.
        count: (parents,) clips of each; 0 where `within` has left none.
        length: (parents,) samples of each.
    """

    parent: Index
    before: Index
    segments: Index
    first: Index
    count: Index
    length: Index

    def within(self, clips: Index, lengths: Index) -> "Parents":
        """These recordings as far as some clips go. lengths: (clips of the store,) samples."""
        wanted = np.zeros(len(self.parent), bool)
        wanted[clips] = True
        return _joined(self.parent, self.segments[wanted[self.segments]], len(self.count), lengths)

    def pieces(self, numbers: Index) -> tuple[Index, NDArray[np.bool_]]:
        """Clips (recordings, pieces) of some recordings, and which are there: those of fewer clips have the rest of
        their row free."""
        count = self.count[numbers][:, None]
        place = np.arange(count.max())
        there = place < count
        return self.segments[self.first[numbers][:, None] + np.where(there, place, 0)], there


def find_parents(parents: Sequence[str], paths: Sequence[str], lengths: Index) -> Parents:
    """Put recordings together.

    Args:
        parents: of each clip the recording that it is a segment of, or "".
        paths: of each clip its file.
        lengths: (clips,) samples.
    """
    numbers: dict[str | int, int] = {}
    parent = np.array([numbers.setdefault(name or index, len(numbers)) for index, name in enumerate(parents)], np.int64)
    owner = parent.tolist()
    ranked = sorted(range(len(paths)), key=lambda clip: (owner[clip], _natural(paths[clip])))
    return _joined(parent, np.array(ranked, np.int64), len(numbers), lengths)


def _joined(parent: Index, segments: Index, parents: int, lengths: Index) -> Parents:
    owner = parent[segments]
    count = np.bincount(owner, minlength=parents)
    first = np.cumsum(count) - count
    length = np.zeros(parents, np.int64)
    np.add.at(length, owner, lengths[segments])
    before = np.zeros(len(parent), np.int64)
    before[segments] = np.cumsum(lengths[segments]) - lengths[segments] - (np.cumsum(length) - length)[owner]
    return Parents(parent, before, segments, first, count, length)


def _natural(path: str) -> tuple[list[str | int], str]:
    """By file name, runs of digits as numbers: x-2 before x-10."""
    parts = DIGITS.split(PurePosixPath(path).name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path
