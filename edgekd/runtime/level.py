"""Levels in dBFS: decibels relative to an rms of 1. A full-scale sine has -3."""

import math

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -200.0
"""The level of nothing but zeros."""


def to_dbfs(rms: float) -> float:
    """The level of an rms or an amplitude of 0..1; `SILENCE_DBFS` for 0."""
    return max(SILENCE_DBFS, 20.0 * math.log10(rms)) if rms > 0.0 else SILENCE_DBFS


def level_dbfs(samples: NDArray[np.floating]) -> float:
    """The level of (time,): its rms in dB, where an rms of 1 is 0 and a full-scale sine -3; `SILENCE_DBFS` for
    zeros."""
    return to_dbfs(math.sqrt(float(np.square(samples, dtype=np.float64).mean()))) if len(samples) else SILENCE_DBFS


def longest_zeros(samples: NDArray[np.float32]) -> int:
    """Length of the longest run of exact zeros in (time,)."""
    others = np.flatnonzero(np.concatenate(([True], samples != 0.0, [True])))
    return int(np.diff(others).max()) - 1
