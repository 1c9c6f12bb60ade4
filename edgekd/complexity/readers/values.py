"""Examines the stored values of a constant: how many are zero, and whether a convolution's kernel only averages or
copies."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.readers.network import bits_of

AVERAGE_POOL, COPY = "average pool", "copy"
REAL_KERNELS = {"int8": "<i1", "uint8": "<u1", "float32": "<f4"}
"""Types of kernels that are examined -> numpy's names of them."""
TOLERANCE = 1e-5
"""Largest relative difference of a kernel's real values from 1 or 1 / k, due to scales in float32."""
MAX_KERNEL = 2**18
"""Most elements of a kernel that is examined: pools and copies have few."""
CHUNK = 2**18
"""Elements examined at a time."""
SIGN_SHIFT = 1
"""Shifts the sign bit out of a float, so that -0.0 is zero."""


def count_nonzero(data: Any, dtype: str) -> int:
    """Number of elements that are not zero, in packed little-endian values (bytes or an array of bytes). -0.0 is zero.

    Raises:
        ValueError: the bytes are not a whole number of elements.
    """
    bits = bits_of(dtype)
    raw = np.frombuffer(data, np.uint8)
    if bits < 8:
        if 8 % bits:
            raise ValueError(f"{dtype} does not fill bytes")
        return sum(int(np.count_nonzero(raw >> shift & (1 << bits) - 1)) for shift in range(0, 8, bits))
    values = raw.view(f"<u{min(bits // 8, 8)}")
    if dtype.startswith("complex") and bits == 128:
        values = np.bitwise_or(values[::2], values[1::2])
    if "float" not in dtype:
        return int(np.count_nonzero(values))
    shift = values.dtype.type(SIGN_SHIFT)
    return sum(int(np.count_nonzero(values[start : start + CHUNK] << shift)) for start in range(0, len(values), CHUNK))


def kernel_values(data: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A kernel as stored, in its shape; None for a type or a size that is not examined.

    Raises:
        ValueError: the bytes do not fill the shape.
    """
    if dtype not in REAL_KERNELS or not 0 < prod(shape) <= MAX_KERNEL:
        return None
    return np.frombuffer(data, REAL_KERNELS[dtype]).reshape(shape)


def emulated(kernel: NDArray[Any], scale: NDArray[Any] | float, zero_point: int = 0) -> str:
    """What a convolution without a bias computes, if each output channel reads one input channel.

    Args:
        kernel: (out, values), as stored.
        scale: of each output channel, or of all. Real values are `(kernel - zero_point) * scale`.
        zero_point: of all output channels.

    Returns:
        `AVERAGE_POOL` if every real value is 1 / their number, `COPY` if each output has a single 1 among zeros, else
        "". Also "" for a kernel of one value, which scales.
    """
    with np.errstate(all="ignore"):  # a damaged file may hold any float
        stored = kernel.astype(np.float64) - zero_point
        size = kernel.shape[1]
        if size == 1:
            return ""
        if stored[0, 0] != 0 and np.all(stored == stored[0, 0]):
            return AVERAGE_POOL if np.allclose(stored[0, 0] * scale, 1 / size, rtol=TOLERANCE, atol=0) else ""
        if np.all(np.count_nonzero(stored, axis=1) == 1):
            return COPY if np.allclose(stored.sum(axis=1) * scale, 1, rtol=TOLERANCE, atol=0) else ""
    return ""
