"""Divides clips into parts that are alike and share no recording: what held-out parts and cross-fitting are made of."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray


def recordings(origins: Sequence[Collection[str]]) -> NDArray[np.int64]:
    """What each clip was cut from: clips that are tied to each other, directly or through others, have one number.

    Args:
        origins: names of what a clip shares with others, of each clip; a clip without any stands alone.

    Returns:
        (clips,) int64, 0 for the first recording met, then 1, ...
    """
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    for names in origins:
        first, *others = sorted(names) or [""]
        for other in others:
            above[root(other)] = root(first)
    ids: dict[str | int, int] = {}
    keys = [root(min(names)) if names else index for index, names in enumerate(origins)]
    return np.array([ids.setdefault(key, len(ids)) for key in keys], np.int64)


def divide(
    recording: NDArray[np.int64], labels: NDArray[np.int64], names: Sequence[str], parts: int
) -> NDArray[np.int64]:
    """The part of each clip; the same for the same table.

    Recordings go one by one, the longest lists first, to the part that has least of their labels, then least clips.

    Args:
        recording: (clips,) id of the recording; never cut.
        labels: (clips,) index of the label.
        names: (clips,) a name of each clip; their hashes order recordings of one size, so that the order of the table
            does not matter.
        parts: how many, at most the number of recordings.

    Returns:
        (clips,) int64, 0 to parts - 1, none of them empty.
    """
    members: dict[int, list[int]] = {}
    for index, each in enumerate(recording.tolist()):
        members.setdefault(each, []).append(index)
    ranked = sorted(members.values(), key=lambda clips: (-len(clips), min(_shuffled(names[index]) for index in clips)))
    has = [Counter[int]() for _ in range(parts)]
    sizes = [0] * parts
    part_of = np.zeros(len(recording), np.int64)
    for clips in ranked:
        brought = Counter(labels[clips].tolist())
        chosen = min(
            range(parts),
            key=lambda part: (sum(count * has[part][label] for label, count in brought.items()), sizes[part]),
        )
        has[chosen].update(brought)
        sizes[chosen] += len(clips)
        part_of[clips] = chosen
    return part_of


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
