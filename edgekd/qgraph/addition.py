"""Scales by which a float32 adder gives the integers of the reference's fixed-point one.

ONNX Runtime adds in float32, whose last bit at 128 steps is 1.5e-5 of a step, so a pair of inputs that nearly ties may
fall to the other side, and always does where its window is full of that pair. There are only 65,536 pairs, so an
addition can be looked at as a whole: training settles on an output scale that keeps all pairs away from ties
(`margin`), and an .onnx file moves the input scales, by a few last bits, to where the pair nearest to a tie is as far
from it as can be, on the reference's side (`scales`). Over 150 random additions ONNX Runtime differed in 82 with the
scales as they are, in 5 with the second step alone.
"""

import numpy as np
from numpy.typing import NDArray

from edgekd.qgraph.graph import INT8_MAX, INT8_MIN, Edge
from edgekd.qgraph.reference import add_multipliers

REACH = 24
"""Last bits by which a scale is moved at most: 2e-6 of it."""
NEAR = 1e-3
"""Of a step: pairs this near to a tie are looked at. Moving both scales by `REACH` moves no sum by more than 8e-4."""

Float64 = NDArray[np.float64]


def scales(edges: tuple[Edge, Edge], output: Edge) -> tuple[np.float32, np.float32]:
    """Scales of both inputs of an addition, for float32 arithmetic."""
    multipliers, shift = add_multipliers(list(edges), output)
    (a, b), total, tie, matters = _pairs(edges, output)
    near = matters & (np.abs(total - tie) < NEAR)
    first, second = np.nonzero(near)
    side, ties = np.where(total >= tie, 1.0, -1.0)[near], tie[near]
    candidates = [_around(np.float32(output.scale * multiplier / 2.0**shift)) for multiplier in multipliers]
    if not len(ties):
        return candidates[0][REACH], candidates[1][REACH]
    products = [
        values[taken] * (each / np.float32(output.scale)).astype(np.float64)[:, None]
        for values, taken, each in zip((a, b), (first, second), candidates, strict=True)
    ]  # (candidates, pairs)
    margins: Float64 = ((products[0][:, None] + products[1] - ties) * side).min(axis=2)
    best = np.unravel_index(int(margins.argmax()), margins.shape)
    return candidates[0][best[0]], candidates[1][best[1]]


def margin(edges: tuple[Edge, Edge], output: Edge) -> float:
    """How near to a tie the reference's sum of any pair comes, in steps of the output."""
    _, total, tie, matters = _pairs(edges, output)
    return float(np.abs(total - tie)[matters].min(initial=0.5))


def _pairs(edges: tuple[Edge, Edge], output: Edge) -> tuple[list[Float64], Float64, Float64, NDArray[np.bool_]]:
    """Both inputs without zero points (256,); of each pair (256, 256) the exact sum in output steps, the tie next to
    it, and whether the output does not saturate far beyond it."""
    multipliers, shift = add_multipliers(list(edges), output)
    steps = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.float64)
    inputs = [steps - edge.zero_point for edge in edges]
    total = (inputs[0][:, None] * multipliers[0] + inputs[1] * multipliers[1]) / 2.0**shift
    reached = total + output.zero_point
    return inputs, total, np.floor(total) + 0.5, (reached > INT8_MIN - 1) & (reached < INT8_MAX + 1)


def _around(scale: np.float32) -> NDArray[np.float32]:
    """The float32 numbers from `REACH` below a scale to `REACH` above it."""
    return (scale.view(np.int32) + np.arange(-REACH, REACH + 1, dtype=np.int32)).view(np.float32)
