"""Scales with which a mean over axes is the same integer on every processor that XNNPACK runs on.

XNNPACK computes `sum * multiplier + offset` in float32: with two roundings on x86, as in the reference, and with one on
Arm, whose instruction is fused. A mean has few possible sums, so all of them can be checked: training chooses an output
scale with which both ways agree for every sum. Before that, SERFR-CNN-24 had one sum of 149,941 in its first
squeeze-excitation for which they differed: 0.031 % of its logits were wrong by up to 3 steps on an emulated Cortex-A53
and A72, and none on x86.
"""

import numpy as np

from edgekd import rounding
from edgekd.qgraph.graph import INT8_MAX, INT8_MIN, Edge
from edgekd.qgraph.reference import mean_numbers


def disagreements(source: Edge, output: Edge, elements: int) -> int:
    """Number of the possible sums of `elements` int8 values whose mean changes when product and offset are rounded in
    one step."""
    multiplier, offset = mean_numbers(source, output, elements)
    sums = np.arange(INT8_MIN * elements, INT8_MAX * elements + 1)
    apart = sums.astype(np.float32) * multiplier + offset
    fused = (sums * np.float64(multiplier) + np.float64(offset)).astype(np.float32)  # the product is exact in float64
    return int(np.count_nonzero(rounding.saturate(apart, 0, np.int8) != rounding.saturate(fused, 0, np.int8)))
