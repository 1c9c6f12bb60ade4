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
    steps = np.asarray(np.asarray(values, np.float32) / np.float32(scale))
    if math.isnan(np.vdot(steps, steps)):  # as soon as one value is; faster than the maximum
        raise InputError("cannot quantise NaN; check the audio and the front end")
    return _saturated(steps, zero_point, np.dtype(dtype))


def saturate(steps: NDArray[np.floating[Any]], zero_point: int, dtype: DTypeLike) -> NDArray[Any]:
    """Steps as integers: rounded half to even, with the zero point added, clipped to the range of the type and cast."""
    return _saturated(np.array(steps), zero_point, np.dtype(dtype))


def _saturated(steps: NDArray[Any], zero_point: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """As `saturate`, in the memory of the steps."""
    np.rint(steps, out=steps)
    if zero_point:
        steps += zero_point
    return steps.clip(*_bounds(dtype), out=steps).astype(dtype)


def dequantize(q: NDArray[np.integer[Any]], scale: float, zero_point: int) -> NDArray[np.float32]:
    """The real values of integers, float32."""
    return (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


@lru_cache
def _bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest integer of a type."""
    info = np.iinfo(dtype)
    return info.min, info.max
