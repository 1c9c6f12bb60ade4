"""Train and test splits for data that has none; the same data gets the same split on every machine."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edgekd.data.dataset import ClipSource
from edgekd.errors import InputError
from edgekd.text import counted

TRAIN, TEST = "train", "test"
TEST_FRACTION = 0.2
"""Default share of each label's clips for test."""


def check_test_fraction(test_fraction: float) -> None:
    """Refuse a share for test that leaves a side empty.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"--test-fraction {test_fraction}: wanted more than 0 and less than 1")


def split_by_group(sources: Sequence[ClipSource], test_fraction: float) -> tuple[list[ClipSource], str]:
    """Assign complete groups to test, in the order of a hash of their names, until each label has its share there.

    Args:
        sources: clips; one without group and parent is a group of its own.
        test_fraction: share of each label's clips.

    Returns:
        the sources with splits, and a note for the user.
    """

    def group_of(source: ClipSource) -> str:
        return source.clip.group or source.clip.parent or source.clip.path

    split_of: dict[str, str] = {}
    for label in sorted({source.clip.label for source in sources}):
        counts = Counter(group_of(source) for source in sources if source.clip.label == label)
        wanted = max(1, round(test_fraction * counts.total())) if len(counts) > 1 else 0
        free = sorted((name for name in counts if name not in split_of), key=_hash)
        in_test = sum(count for name, count in counts.items() if split_of.get(name) == TEST)
        has_train = any(split_of.get(name) == TRAIN for name in counts)
        for name in free[: None if has_train else -1]:
            if in_test >= wanted:
                break
            split_of[name] = TEST
            in_test += counts[name]
        split_of.update({name: TRAIN for name in free if name not in split_of})
    split = [replace(source, clip=replace(source.clip, split=split_of[group_of(source)])) for source in sources]
    tests = sum(source.clip.split == TEST for source in split)
    note = (
        f"no splits given: {tests} of {counted(len(sources), 'clip')} assigned to '{TEST}', the others to '{TRAIN}', by"
        " a hash of the group's name, no group in both (change this by --test-fraction or by a CSV with a column"
        " split)"
    )
    return split, note


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
