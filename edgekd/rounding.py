"""Quantisation: real values to integers and back. Nothing else in edgekd rounds, clips and casts."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgekd.errors import InputError


def quantize(values: NDArray[np.floating[Any]], scale: float, zero_point: int, dtype: DTypeLike) -> NDArray[Any]:
    """Real values as integers: divided by the scale in float32, then `saturate`.

    Args:
        values: float array of any shape.
        scale: real value of one step.
        zero_point: the integer of the real value 0.
        dtype: integer type of the result.

    Raises:
        InputError: a value is NaN.
    """
    steps = np.asarray(values, np.float32) / np.float32(scale)
    if steps.size and math.isnan(steps.max()):
        raise InputError("cannot quantise NaN; check the audio and the front end")
    return saturate(steps, zero_point, dtype)


def saturate(steps: NDArray[np.floating[Any]], zero_point: int, dtype: DTypeLike) -> NDArray[Any]:
    """Steps as integers: rounded half to even, with the zero point added, clipped to the range of the type and cast."""
    rounded: NDArray[Any] = np.asarray(np.rint(steps))
    rounded += zero_point
    return rounded.clip(*_bounds(np.dtype(dtype)), out=rounded).astype(dtype)


def dequantize(q: NDArray[np.integer[Any]], scale: float, zero_point: int) -> NDArray[np.float32]:
    """The real values of integers, float32."""
    return (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


@lru_cache
def _bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest integer of a type."""
    info = np.iinfo(dtype)
    return info.min, info.max
