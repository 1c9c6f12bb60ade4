"""Batches of a specialist (Jung et al. 2020): half of each are clips of its two labels, half of all others. No torch
here."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError, nearest
from edgekd.train.batches.random_streams import Draws, Purpose

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def pair_mask(store: ClipStore, clips: Index, pair: Sequence[str]) -> Mask:
    """(clips,) bool: which clips are of the two labels of a pair.

    Raises:
        InputError: not two labels, one that the store does not have, or one side without a clip.
    """
    if len(set(pair)) != 2 or len(pair) != 2:
        raise InputError(f"data.pair = {list(pair)}: name two labels, e.g. {list(store.labels[:2])}")
    for label in pair:
        if label not in store.labels:
            raise InputError(f"{store.path}: no label '{label}' of data.pair{nearest(label, store.labels)}")
    of_pair = np.isin(store.label_index[clips], [store.labels.index(label) for label in pair])
    if of_pair.all() or not of_pair.any():
        raise InputError(
            f"{store.path}: {int(of_pair.sum())} of {len(clips)} training clips are of data.pair = {list(pair)}; half"
            " of each batch are clips of the pair and half are others, so that both must be there"
        )
    return of_pair


def steps(in_pair: Mask, batch_size: int) -> int:
    """Batches of an epoch of `half_pair_batches`.

    Raises:
        InputError: a batch that has no half.
    """
    half = batch_size // 2
    if not half:
        raise InputError(
            f"batch_size {batch_size} with data.pair: a batch has as many clips of the pair as others; give at least 2"
        )
    return -(-int(in_pair.sum()) // half)


def half_pair_batches(draws: Draws, clips: Index, in_pair: Mask, batch_size: int) -> list[Index]:
    """The batches of an epoch: all clips of the pair once, and as many others, drawn anew from all of them.

    Within a batch they alternate, so that the part of each process is about half of either too. No other clip comes
    twice while there are enough; where there are not, they are gone through again in the same order, so that a batch
    has none twice unless it must.

    Args:
        draws: of the epoch.
        clips: (clips,) indices into the store.
        in_pair: (clips,) which are of the pair; both kinds are there (`pair_mask`).
        batch_size: clips of a batch at most; of an odd size one less. Batches of an epoch differ by two clips at most.

    Raises:
        InputError: see `steps`.
    """
    pair, others = draws.shuffled(clips[in_pair]), clips[~in_pair]
    others = np.resize(others[np.argsort(draws.one(Purpose.PAIR_OTHERS, others), kind="stable")], len(pair))
    both = np.stack([pair, others], axis=1)  # (clips of the pair, 2)
    return [part.ravel() for part in np.array_split(both, steps(in_pair, batch_size))]
