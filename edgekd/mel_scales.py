"""Scales of pitch: from Hz to mel and back, in float64."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SLANEY_BREAK_HZ, SLANEY_HZ_PER_MEL, SLANEY_LOG_STEP = 1000.0, 200.0 / 3.0, np.log(6.4) / 27.0

MelScale = Literal["fant", "htk", "slaney", "kaldi"]
Array64 = NDArray[np.float64]


def _slaney_to_mel(hz: Array64) -> Array64:
    log_part = (
        SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
        + np.log(np.maximum(hz, SLANEY_BREAK_HZ) / SLANEY_BREAK_HZ) / SLANEY_LOG_STEP
    )
    return np.where(hz < SLANEY_BREAK_HZ, hz / SLANEY_HZ_PER_MEL, log_part)


def _slaney_to_hz(mel: Array64) -> Array64:
    at_break = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL
    log_part = SLANEY_BREAK_HZ * np.exp(SLANEY_LOG_STEP * np.maximum(mel - at_break, 0.0))
    return np.where(mel < at_break, mel * SLANEY_HZ_PER_MEL, log_part)


def kaldi_to_mel(hz: Array64) -> Array64:
    mel: Array64 = 1127.0 * np.log1p(hz / 700.0)
    return mel


HZ_TO_MEL: dict[str, Callable[[Array64], Array64]] = {
    "fant": lambda hz: 1000.0 / np.log(2.0) * np.log1p(hz / 1000.0),
    "htk": lambda hz: 2595.0 * np.log10(1.0 + hz / 700.0),
    "slaney": _slaney_to_mel,
    "kaldi": kaldi_to_mel,
}
MEL_TO_HZ: dict[str, Callable[[Array64], Array64]] = {
    "fant": lambda mel: 1000.0 * np.expm1(mel * np.log(2.0) / 1000.0),
    "htk": lambda mel: 700.0 * (10.0 ** (mel / 2595.0) - 1.0),
    "slaney": _slaney_to_hz,
    "kaldi": lambda mel: 700.0 * np.expm1(mel / 1127.0),
}
