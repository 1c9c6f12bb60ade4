"""Agreement of two executions of the same integer graph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_STEPS = {"litert": 1, "onnxruntime": 2}
"""Engine -> largest difference of an int8 logit from the integer reference, in steps of the output's scale."""


@dataclass(frozen=True)
class Agreement:
    """Differences of quantised logits, in steps of the output's scale.

    Attributes:
        max_steps: largest difference.
        differing: share 0..1 of logits that differ at all.
        label_agreement: share 0..1 of windows with the same label (the first of the largest logits).
    """

    max_steps: float
    differing: float
    label_agreement: float


def agreement(expected: NDArray[np.number], got: NDArray[np.number]) -> Agreement:
    """The agreement of two (windows, labels) arrays of quantised logits with at least one window."""
    steps = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    same = expected.argmax(axis=1) == got.argmax(axis=1)
    return Agreement(float(steps.max()), float((steps > 0).mean()), float(same.mean()))
