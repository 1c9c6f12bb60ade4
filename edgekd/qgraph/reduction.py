"""Scales by which a mean over axes is the same integer wherever XNNPACK computes it.

XNNPACK takes `sum * multiplier + offset` in float32: two roundings on x86, as in the reference, and one on Arm, whose
instruction is fused. A mean has few possible sums, so a layer can be looked at as a whole: training settles on an
output scale by which no sum tells the two apart. SERFR-CNN-24 had one such sum of 149,941 in its first
squeeze-excitation, and 0.031 % of its logits were off by up to 3 steps on an emulated Cortex-A53 and A72, those of no
window on x86.
"""

import numpy as np

from edgekd import rounding
from edgekd.qgraph.graph import INT8_MAX, INT8_MIN, Edge
from edgekd.qgraph.reference import mean_numbers


def disagreements(source: Edge, output: Edge, elements: int) -> int:
    """How many of the sums of `elements` int8 values give another integer where product and offset are rounded at
    once."""
    multiplier, offset = mean_numbers(source, output, elements)
    sums = np.arange(INT8_MIN * elements, INT8_MAX * elements + 1)
    apart = sums.astype(np.float32) * multiplier + offset
    fused = (sums * np.float64(multiplier) + np.float64(offset)).astype(np.float32)  # the product is exact in float64
    return int(np.count_nonzero(rounding.saturate(apart, 0, np.int8) != rounding.saturate(fused, 0, np.int8)))
