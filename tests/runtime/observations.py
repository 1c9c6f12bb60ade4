"""Decisions and their observations, for tests of outputs."""

import numpy as np
from msgspec import UNSET
from runtime.toy_listener import MANIFEST

from edgekd.frontend import log_mel
from edgekd.modelfile.manifest import Manifest
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.source.capture import CaptureCounts

SILENCE = np.zeros(MANIFEST.window, np.float32)
FEATURES = log_mel(MANIFEST.frontend, SILENCE)


def decision(t: float, label: str = "low", *, rms: float = 0.1, gated: bool = False) -> Decision:
    return Decision(
        t, label, 0.75, ((label, 0.75), ("high", 0.25)), "HEALTHY", rms, 0, None if gated else UNSET, gated or UNSET
    )


def observation(
    features: np.ndarray | None = FEATURES,
    *,
    counts: CaptureCounts | None = None,
    inference_s: float = 0.001,
    manifest: Manifest = MANIFEST,
) -> Observation:
    return Observation(manifest, SILENCE, features, 0.002, inference_s, counts)
