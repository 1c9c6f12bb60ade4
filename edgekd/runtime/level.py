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
    """The level of a waveform (time,), from its rms; `SILENCE_DBFS` for zeros and for an empty one."""
    return to_dbfs(math.sqrt(float(np.square(samples, dtype=np.float64).mean()))) if len(samples) else SILENCE_DBFS


def longest_zeros(samples: NDArray[np.float32]) -> int:
    """Length of the longest run of exact zeros in (time,), samples."""
    others = np.flatnonzero(np.concatenate(([True], samples != 0.0, [True])))
    return int(np.diff(others).max()) - 1
