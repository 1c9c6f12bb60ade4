"""Learning rate schedules of both phases."""

import math
from collections.abc import Callable

from edgekd.train.recipe.schema import Qat, Train

LEAST_RISE = 1e-4
"""Start of an exponential rise whose schedule ends at zero."""


def learning_rate_factor(phase: Train | Qat, steps: int) -> Callable[[int], float]:
    """A function from step to factor of the learning rate; in the quantization-aware phase a cosine down to zero.

    Args:
        phase: gives the schedule.
        steps: optimiser steps of an epoch.
    """
    if isinstance(phase, Qat):
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / (phase.epochs * steps))))
    rise = min(phase.warmup_epochs * steps, phase.epochs * steps)
    fall = max(1.0, phase.epochs * steps - rise)
    least = phase.min_lr_ratio

    def factor(step: int) -> float:
        if phase.schedule == "steps":
            risen = min(1.0, (step + 1) / rise) if rise else 1.0
            return float(risen * phase.gamma ** sum(step >= milestone * steps for milestone in phase.milestones))
        if step < rise:
            risen = (step + 1) / rise
            return max(least, LEAST_RISE) ** (1 - risen) if phase.schedule == "vivo" else risen
        done = min(1.0, (step - rise) / fall)
        shape = 1 - done if phase.schedule == "vivo" else 0.5 * (1 + math.cos(math.pi * done))
        return least + (1 - least) * shape

    return factor
