"""Splits for data that has none: the same data gives the same split on every machine."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edgekd.data.sets.source import Source
from edgekd.errors import InputError
from edgekd.text import counted

TRAIN, TEST = "train", "test"
TEST_FRACTION = 0.2
"""Share of each label's clips for test unless told otherwise."""


def check_fraction(test_fraction: float) -> None:
    """Refuse a share for test that leaves a side empty.

    Raises:
        InputError: as said.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"--test-fraction {test_fraction}: wanted more than 0 and less than 1")


def deal(sources: Sequence[Source], test_fraction: float) -> tuple[list[Source], str]:
    """Give whole groups (a clip without one is its own) to test, in the order of a hash, until each label has its
    share.

    Returns:
        the sources with splits, and a note for the user.
    """

    def origin(source: Source) -> str:
        return source.clip.group or source.clip.parent or source.clip.path

    side: dict[str, str] = {}
    for label in sorted({source.clip.label for source in sources}):
        counts = Counter(origin(source) for source in sources if source.clip.label == label)
        wanted = max(1, round(test_fraction * counts.total())) if len(counts) > 1 else 0
        free = sorted((name for name in counts if name not in side), key=_chance)
        dealt = sum(count for name, count in counts.items() if side.get(name) == TEST)
        has_train = any(side.get(name) == TRAIN for name in counts)
        for name in free[: None if has_train else -1]:
            if dealt >= wanted:
                break
            side[name] = TEST
            dealt += counts[name]
        side.update({name: TRAIN for name in free if name not in side})
    dealt_sources = [replace(source, clip=replace(source.clip, split=side[origin(source)])) for source in sources]
    tests = sum(source.clip.split == TEST for source in dealt_sources)
    note = (
        f"no splits given: {tests} of {counted(len(sources), 'clip')} dealt to '{TEST}', the rest to '{TRAIN}', whole"
        " groups by a hash of their name (--test-fraction, or a CSV with a split column, changes this)"
    )
    return dealt_sources, note


def _chance(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
