"""Random numbers that depend only on what they are drawn for: (seed, stream, epoch, clip, purpose, number). No torch
here.

A counter-based generator: the finaliser of SplitMix64 (Steele et al. 2014) mixes the parts of the key one after the
other, so any number can be had without those before it, in any process and order. It is for augmentation, not for
cryptography.
"""

from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

STEP = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: the increment of SplitMix64."""
FIRST_FACTOR, SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MANTISSA_BITS = 53
PURPOSE_BITS = 32
"""Each purpose has 2^32 numbers of a clip."""

Words = NDArray[np.uint64]
Uniform = NDArray[np.float64]


class Purpose(IntEnum):
    """What a number decides. The values are part of every run's meaning: new ones go to the end."""

    ORDER = auto()
    CROP = auto()
    ROLL = auto()
    GAIN = auto()
    STRETCH = auto()
    RESPONSE_USED = auto()
    RESPONSE = auto()
    MIX_USED = auto()
    MIX_PARTNER = auto()
    MIX_SHARE = auto()
    STYLE_USED = auto()
    STYLE_PARTNER = auto()
    STYLE_SHARE = auto()
    MEL_WIDTH = auto()
    MEL_START = auto()
    FRAME_WIDTH = auto()
    FRAME_START = auto()
    PAIR_OTHERS = auto()
    JOINED = auto()
    SPEED = auto()
    FILTER_USED = auto()
    FILTER_BANDS = auto()
    FILTER_CORNER = auto()
    FILTER_DB = auto()


class Draws:
    """The numbers of one epoch of one stream (a phase of a run)."""

    def __init__(self, seed: int, stream: int, epoch: int) -> None:
        key = np.zeros(1, np.uint64)
        for part in (seed, stream, epoch):
            key = _following(key, np.array([part], np.uint64))
        self._key = key

    def uniform(self, purpose: Purpose, clips: NDArray[np.int64], numbers: int = 1) -> Uniform:
        """float64 (clips, numbers) in [0, 1), for clips given as indices into the store."""
        counter = (np.uint64(purpose) << np.uint64(PURPOSE_BITS)) + np.arange(numbers, dtype=np.uint64)
        words = _following(_following(self._key, clips.astype(np.uint64))[:, None], counter)
        return (words >> np.uint64(64 - MANTISSA_BITS)) * 2.0**-MANTISSA_BITS

    def one(self, purpose: Purpose, clips: NDArray[np.int64]) -> Uniform:
        """float64 (clips,) in [0, 1)."""
        return self.uniform(purpose, clips)[:, 0]

    def beta(self, purpose: Purpose, clips: NDArray[np.int64], alpha: float) -> Uniform:
        """float64 (clips,) from the beta distribution with both parameters `alpha`."""
        return np.asarray(betaincinv(alpha, alpha, self.one(purpose, clips)), np.float64)

    def shuffled(self, clips: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clips (clips,) in the epoch's order: every order equally likely."""
        return clips[np.argsort(self.one(Purpose.ORDER, clips), kind="stable")]


def _following(key: Words, counter: Words) -> Words:
    """The outputs numbered `counter` of the SplitMix64 generators with the states `key`."""
    word = key + (counter + np.uint64(1)) * STEP  # unsigned arrays wrap around without a warning
    word = (word ^ (word >> np.uint64(30))) * FIRST_FACTOR
    word = (word ^ (word >> np.uint64(27))) * SECOND_FACTOR
    return word ^ (word >> np.uint64(31))
