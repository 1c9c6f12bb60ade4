"""Scales with which a float32 adder computes the same integers as the reference's fixed-point adder.

ONNX Runtime adds in float32, where the last bit at 128 steps is 1.5e-5 of a step. So a pair of inputs whose sum is
nearly a tie may be rounded the other way; in a window full of that pair every value is then wrong. There are only
65,536 pairs, so all of them can be checked. Training chooses an output scale that keeps all pairs away from ties
(`margin`). An .onnx file moves the input scales by a few last bits, until the pair nearest to a tie is as far from it
as possible, on the reference's side (`scales`). Over 150 random additions ONNX Runtime differed in 82 with unchanged
scales, in 5 with the second step alone.
"""

import numpy as np
from numpy.typing import NDArray

from edgekd.qgraph.graph import INT8_MAX, INT8_MIN, Edge
from edgekd.qgraph.reference import add_multipliers

REACH = 24
"""Most last bits by which a scale is moved: 2e-6 of it."""
NEAR = 1e-3
"""Pairs whose sum is this near to a tie, in steps, are checked. Moving both scales by `REACH` moves no sum by more than
8e-4."""

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
    """Smallest distance of the reference's sum of any pair from a tie, in steps of the output."""
    _, total, tie, matters = _pairs(edges, output)
    return float(np.abs(total - tie)[matters].min(initial=0.5))


def _pairs(edges: tuple[Edge, Edge], output: Edge) -> tuple[list[Float64], Float64, Float64, NDArray[np.bool_]]:
    """Both inputs without zero points, each (256,). Then for each pair, (256, 256): the exact sum in output steps, the
    tie nearest to it, and whether the pair matters, that is, whether the sum does not saturate."""
    multipliers, shift = add_multipliers(list(edges), output)
    steps = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.float64)
    inputs = [steps - edge.zero_point for edge in edges]
    total = (inputs[0][:, None] * multipliers[0] + inputs[1] * multipliers[1]) / 2.0**shift
    reached = total + output.zero_point
    return inputs, total, np.floor(total) + 0.5, (reached > INT8_MIN - 1) & (reached < INT8_MAX + 1)


def _around(scale: np.float32) -> NDArray[np.float32]:
    """The float32 numbers from `REACH` below a scale to `REACH` above it."""
    return (scale.view(np.int32) + np.arange(-REACH, REACH + 1, dtype=np.int32)).view(np.float32)
