"""Runs a model file over windows of audio: numpy front end, engine, logits. What the device does, in batches."""

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.frontend import log_mel
from edgekd.modelfile.manifest import Manifest

BATCH = 64
"""Windows whose features are held at once."""

Waveform = NDArray[np.float32]


class Model(Protocol):
    """What is needed of an opened model; `edgekd.modelfile.engine.open_model` gives one."""

    @property
    def manifest(self) -> Manifest:
        """What travels in the file."""
        ...

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (batch, mel, frame) -> float32 (batch, labels)."""
        ...


def window_logits(model: Model, waveforms: Iterable[Waveform]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Logits of windows, and which of them are digital silence (all samples zero). The network never runs on silence.

    Args:
        model: an opened model file.
        waveforms: float32 (window,) each, in [-1, 1] at the front end's sample rate, `manifest.window` samples long.

    Returns:
        float32 (windows, labels), zeros where silent, and bool (windows,).
    """
    labels = len(model.manifest.labels)
    all_logits, all_silent = [np.zeros((0, labels), np.float32)], [np.zeros(0, np.bool_)]
    remaining = iter(waveforms)
    while batch := list(islice(remaining, BATCH)):
        waves = np.stack(batch)  # (batch, window)
        silent = np.logical_not(waves.any(axis=1))
        logits = np.zeros((len(waves), labels), np.float32)
        if not silent.all():
            logits[~silent] = model.logits(log_mel(model.manifest.frontend, waves[~silent]))
        all_logits.append(logits)
        all_silent.append(silent)
    return np.concatenate(all_logits), np.concatenate(all_silent)


def hop_samples(manifest: Manifest, hop: float) -> int:
    """Samples between the starts of two windows.

    Args:
        manifest: of the model that hears them.
        hop: seconds.

    Raises:
        InputError: a hop that is not at least one sample.
    """
    samples = hop * manifest.frontend.sample_rate
    if not 1.0 <= samples < np.inf:
        raise InputError(f"--hop is {hop} s; it must be a positive number of seconds, for instance 1.0")
    return round(samples)
