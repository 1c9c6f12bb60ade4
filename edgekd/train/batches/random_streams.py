"""Random numbers that depend only on their key: (seed, stream, epoch, clip, purpose, number). No torch here.

The generator is counter-based: the finaliser of SplitMix64 (Steele et al. 2014) mixes the parts of the key one after
the other. Any number can therefore be computed without those before it, in any process and in any order. It serves
augmentation, not cryptography.
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


class RandomStream(IntEnum):
    """Which part of a run the random numbers are for. The values are part of every run's meaning and never change."""

    FLOAT = 0
    """Batches of the float phase."""
    QAT = 1
    """Batches of the quantization-aware phase."""
    STATISTICS = 2
    """Clips that give the mean and standard deviation of the front end."""
    CALIBRATION = 3
    """Clips that set the first quantisation scales."""
    TEACHER = 4
    """Views of the first teacher; teacher n has TEACHER + n, so a new stream would need a number far above."""


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


class RandomNumbers:
    """The numbers of one epoch of one stream.

    Args:
        seed: of the recipe.
        stream: a `RandomStream`, or the number of a further teacher.
        epoch: from 0.
    """

    def __init__(self, seed: int, stream: int, epoch: int) -> None:
        key = np.zeros(1, np.uint64)
        for part in (seed, stream, epoch):
            key = splitmix64(key, np.array([part], np.uint64))
        self._key = key

    def uniform(self, purpose: Purpose, clips: NDArray[np.int64], numbers: int = 1) -> Uniform:
        """float64 (clips, numbers) in [0, 1), for clips given as indices into the store."""
        counter = (np.uint64(purpose) << np.uint64(PURPOSE_BITS)) + np.arange(numbers, dtype=np.uint64)
        words = splitmix64(splitmix64(self._key, clips.astype(np.uint64))[:, None], counter)
        return (words >> np.uint64(64 - MANTISSA_BITS)).astype(np.float64) * 2.0**-MANTISSA_BITS

    def per_clip(self, purpose: Purpose, clips: NDArray[np.int64]) -> Uniform:
        """float64 (clips,) in [0, 1)."""
        return self.uniform(purpose, clips)[:, 0]

    def beta(self, purpose: Purpose, clips: NDArray[np.int64], alpha: float) -> Uniform:
        """float64 (clips,) from the beta distribution with both parameters `alpha`."""
        return np.asarray(betaincinv(alpha, alpha, self.per_clip(purpose, clips)), np.float64)

    def shuffled(self, clips: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clips (clips,) in the epoch's order: every order is equally likely."""
        return clips[np.argsort(self.per_clip(Purpose.ORDER, clips), kind="stable")]


def splitmix64(key: Words, counter: Words) -> Words:
    """The outputs numbered `counter` of the SplitMix64 generators with the states `key`."""
    word: Words = key + (counter + np.uint64(1)) * STEP  # unsigned arrays wrap around without a warning
    word = (word ^ (word >> np.uint64(30))) * FIRST_FACTOR
    word = (word ^ (word >> np.uint64(27))) * SECOND_FACTOR
    mixed: Words = word ^ (word >> np.uint64(31))
    return mixed
