"""Batches of a specialist (Jung et al. 2020): one half are clips of its two labels, the other half clips of all other
labels. No torch here."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError, nearest
from edgekd.train.batches.crops import Index
from edgekd.train.batches.random_streams import Purpose, RandomNumbers

Mask = NDArray[np.bool_]


def pair_mask(store: ClipStore, clips: Index, pair: Sequence[str]) -> Mask:
    """(clips,) bool: which clips have one of the two labels of a pair.

    Raises:
        InputError: the pair is not two labels, the store lacks one of them, or either half would have no clip.
    """
    if len(set(pair)) != 2 or len(pair) != 2:
        raise InputError(f"data.pair = {list(pair)}: name two labels, e.g. {list(store.labels[:2])}")
    for label in pair:
        if label not in store.labels:
            raise InputError(f"{store.path}: no label '{label}' of data.pair{nearest(label, store.labels)}")
    in_pair = np.isin(store.label_index[clips], [store.labels.index(label) for label in pair])
    if in_pair.all() or not in_pair.any():
        raise InputError(
            f"{store.path}: {int(in_pair.sum())} of {len(clips)} training clips have a label of data.pair ="
            f" {list(pair)}; half of each batch is of the pair and half of other labels, so give clips of both"
        )
    return in_pair


def steps(in_pair: Mask, batch_size: int) -> int:
    """Batches of an epoch of `half_pair_batches`.

    Raises:
        InputError: the batch size is below 2.
    """
    half = batch_size // 2
    if not half:
        raise InputError(
            f"batch_size {batch_size} with data.pair: half of a batch is of the pair and half of other labels; set at"
            " least 2"
        )
    return -(-int(in_pair.sum()) // half)


def half_pair_batches(rng: RandomNumbers, clips: Index, in_pair: Mask, batch_size: int) -> list[Index]:
    """The batches of an epoch: each clip of the pair once, and as many others, drawn from all of them each epoch.

    Clips of the pair and others alternate within a batch, so that each process's share of a batch is about half of
    either too. No other clip comes twice while there are enough. Where there are too few, they repeat in the same
    order, so that a batch has one twice only where it must.

    Args:
        rng: of the epoch.
        clips: (clips,) indices into the store.
        in_pair: (clips,) which are of the pair (`pair_mask`); both kinds occur.
        batch_size: most clips of a batch; an odd size counts as one less. Batches of an epoch differ by two clips at
            most.

    Raises:
        InputError: see `steps`.
    """
    pair, others = rng.shuffled(clips[in_pair]), clips[~in_pair]
    others = np.resize(others[np.argsort(rng.per_clip(Purpose.PAIR_OTHERS, others), kind="stable")], len(pair))
    both = np.stack([pair, others], axis=1)  # (clips of the pair, 2)
    return [part.ravel() for part in np.array_split(both, steps(in_pair, batch_size))]
