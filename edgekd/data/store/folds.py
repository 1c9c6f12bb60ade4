"""Folds that keep recordings together and labels balanced, for held-out parts and cross-fitting."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray


def connected_groups(origins: Sequence[Collection[str]]) -> NDArray[np.int64]:
    """A group number for each clip: clips that share an origin, directly or through other clips, have the same number.

    Args:
        origins: for each clip, the names of its group and parent; a clip without any is a group of its own.

    Returns:
        (clips,) int64, 0 for the group of the first clip, then 1, ...
    """
    above: dict[str, str] = {}  # union-find: a name -> another name of its group, nearer to the root

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


def grouped_folds(
    groups: NDArray[np.int64], labels: NDArray[np.int64], names: Sequence[str], folds: int
) -> NDArray[np.int64]:
    """The fold of each clip; independent of the order of the clips.

    Groups are assigned one by one, the largest first, to the fold that has the fewest clips of their labels; ties go
    to the smallest fold.

    Args:
        groups: (clips,) number of the group, which stays in one fold.
        labels: (clips,) index of the label.
        names: (clips,) a name of each clip; groups of one size are ordered by the hashes of these names.
        folds: how many, at most the number of groups.

    Returns:
        (clips,) int64, 0 to folds - 1; no fold is empty.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(index)
    ranked = sorted(members.values(), key=lambda clips: (-len(clips), min(_hash(names[index]) for index in clips)))
    fold_labels = [Counter[int]() for _ in range(folds)]
    sizes = [0] * folds
    fold_of = np.zeros(len(groups), np.int64)
    for clips in ranked:
        group_labels = Counter(labels[clips].tolist())
        chosen = min(
            range(folds),
            key=lambda fold: (
                sum(count * fold_labels[fold][label] for label, count in group_labels.items()),
                sizes[fold],
            ),
        )
        fold_labels[chosen].update(group_labels)
        sizes[chosen] += len(clips)
        fold_of[clips] = chosen
    return fold_of


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
