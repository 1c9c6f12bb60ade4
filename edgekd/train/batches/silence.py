"""Counts the samples of any part of a clip that are not zero, and finds the clips that are silent. No torch here."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore

BLOCK_SECONDS = 0.01
CLIPS_AT_ONCE = 256
"""Clips counted at a time, which bounds the memory of the count."""
SAMPLES_AT_ONCE = 4096
"""Samples of a clip that are read at a time to find out whether it is silent."""


class NonzeroCounts:
    """Samples other than zero in a store, counted once on blocks of 10 ms."""

    def __init__(self, store: ClipStore) -> None:
        self._block = max(1, round(BLOCK_SECONDS * store.sample_rate))
        blocks = -(-store.lengths // self._block)
        self._first = np.cumsum(blocks) - blocks  # index of each clip's first block
        self._before = np.zeros(int(blocks.sum()) + 1, np.int64)  # nonzero samples before each block
        counts = self._before[1:]
        for start in range(0, len(blocks), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            number = np.arange(blocks[part].sum()) + self._first[start] - np.repeat(self._first[part], blocks[part])
            begins = np.repeat(store.offsets[part] - store.offsets[start], blocks[part]) + number * self._block
            pcm = store.pcm[store.offsets[start] : store.offsets[part][-1] + store.lengths[part][-1]]
            nonzero = np.add.reduceat(pcm != 0, begins, axis=0, dtype=np.int32)  # (blocks, channels)
            counts[self._first[start] : self._first[start] + len(begins)] = nonzero.sum(axis=1) / store.channels
        np.cumsum(counts, out=counts)

    def count(self, clips: NDArray[np.int64], starts: NDArray[np.int64], span: NDArray[np.int64]) -> NDArray[np.int64]:
        """Nonzero samples of `span` samples from `starts`, exact to a block at each end.

        All arguments broadcast. Each part must lie inside its clip.
        """
        first = self._first[clips]
        counted: NDArray[np.int64] = (
            self._before[first + (starts + span) // self._block] - self._before[first + starts // self._block]
        )
        return counted


@lru_cache(maxsize=1)
def nonzero_counts(store: ClipStore) -> NonzeroCounts:
    """The counts of a store, kept for all phases of a run."""
    return NonzeroCounts(store)


@lru_cache(maxsize=1)
def silent_clips(store: ClipStore) -> NDArray[np.bool_]:
    """(clips of the store,) which clips are digital silence from the first to the last sample, in all channels.

    `NonzeroCounts` counts whole blocks, which leaves out the last samples of a clip.
    """
    silent = np.zeros(len(store.clips), bool)
    for clip, (start, length) in enumerate(zip(store.offsets.tolist(), store.lengths.tolist(), strict=True)):
        pcm = store.pcm[start : start + length]
        # the first samples of almost every clip hold sound, so that little is read
        silent[clip] = not any(
            pcm[first : first + SAMPLES_AT_ONCE].any() for first in range(0, length, SAMPLES_AT_ONCE)
        )
    silent.flags.writeable = False
    return silent
