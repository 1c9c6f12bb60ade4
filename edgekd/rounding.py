"""Real values to integers and back: the one place that rounds, clips and casts."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgekd.errors import InputError


def quantize(values: NDArray[np.floating[Any]], scale: float, zero_point: int, dtype: DTypeLike) -> NDArray[Any]:
    """Integers that stand for real values: divide in float32, then `saturate`.

    Args:
        values: float array of any shape.
        scale: real value of one step.
        zero_point: the integer that stands for zero.
        dtype: of the result, an integer type.

    Raises:
        InputError: a value is NaN.
    """
    steps = np.asarray(values, np.float32) / np.float32(scale)
    if steps.size and math.isnan(steps.max()):
        raise InputError("cannot quantise NaN; check the audio and the front end")
    return saturate(steps, zero_point, dtype)


def saturate(steps: NDArray[np.floating[Any]], zero_point: int, dtype: DTypeLike) -> NDArray[Any]:
    """Round half to even, add the zero point, clip to the type's range, cast."""
    rounded: NDArray[Any] = np.asarray(np.rint(steps))
    rounded += zero_point
    return rounded.clip(*_bounds(np.dtype(dtype)), out=rounded).astype(dtype)


def dequantize(q: NDArray[np.integer[Any]], scale: float, zero_point: int) -> NDArray[np.float32]:
    """The real values that integers stand for, float32."""
    return (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


@lru_cache
def _bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and greatest integer of a type."""
    info = np.iinfo(dtype)
    return info.min, info.max
