"""How much of any piece of a clip is not digital silence, without reading the audio again, and which clips are silent
as a whole. No torch here."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore

BLOCK_SECONDS = 0.01
CLIPS_AT_ONCE = 256
"""Clips counted at a time, which bounds the memory that the count takes."""
SCANNED_AT_ONCE = 4096
"""Samples of a clip that are read at a time to find out whether it is silent."""


class Sound:
    """Samples other than zero in a store, counted once on blocks of 10 ms."""

    def __init__(self, store: ClipStore) -> None:
        self._block = max(1, round(BLOCK_SECONDS * store.sample_rate))
        blocks = -(-store.lengths // self._block)
        self._first = np.cumsum(blocks) - blocks  # of each clip's blocks
        self._before = np.zeros(int(blocks.sum()) + 1, np.int64)  # samples with sound before each block
        counts = self._before[1:]
        for start in range(0, len(blocks), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            number = np.arange(blocks[part].sum()) + self._first[start] - np.repeat(self._first[part], blocks[part])
            begins = np.repeat(store.offsets[part] - store.offsets[start], blocks[part]) + number * self._block
            pcm = store.pcm[store.offsets[start] : store.offsets[part][-1] + store.lengths[part][-1]]
            sounding = np.add.reduceat(pcm != 0, begins, axis=0, dtype=np.int32)  # (blocks, channels)
            counts[self._first[start] : self._first[start] + len(begins)] = sounding.sum(axis=1) / store.channels
        np.cumsum(counts, out=counts)

    def samples(
        self, clips: NDArray[np.int64], starts: NDArray[np.int64], span: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """How many samples of pieces sound, to a block's exactness. All arguments broadcast; pieces lie inside their
        clips."""
        first = self._first[clips]
        piece: NDArray[np.int64] = (
            self._before[first + (starts + span) // self._block] - self._before[first + starts // self._block]
        )
        return piece


@lru_cache(maxsize=1)
def sound_of(store: ClipStore) -> Sound:
    """The count of a store, kept for the phases of a run."""
    return Sound(store)


@lru_cache(maxsize=1)
def silent_clips(store: ClipStore) -> NDArray[np.bool_]:
    """(clips of the store,) which clips are digital silence from their first to their last sample, in all channels.

    `Sound` would not do: it counts whole blocks, which leaves out the last samples of a clip."""
    silent = np.zeros(len(store.clips), bool)
    for clip, (start, length) in enumerate(zip(store.offsets.tolist(), store.lengths.tolist(), strict=True)):
        pcm = store.pcm[start : start + length]
        # almost every clip sounds in its first block, so that little is read
        silent[clip] = not any(
            pcm[first : first + SCANNED_AT_ONCE].any() for first in range(0, length, SCANNED_AT_ONCE)
        )
    silent.flags.writeable = False
    return silent
