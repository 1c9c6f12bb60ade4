"""Logits of a model file for windows of audio, by the numpy front end and the engine, in batches."""

from collections.abc import Iterable
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.frontend import log_mel
from edgekd.modelfile.manifest import Manifest

BATCH = 64
"""Windows whose features are in memory at once."""

Waveform = NDArray[np.float32]


class RunnableModel(Protocol):
    """What inference needs of a model; `edgekd.modelfile.engine.Model` has it."""

    @property
    def manifest(self) -> Manifest:
        """The manifest in the file."""
        ...

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (batch, mel, frame) -> float32 (batch, labels)."""
        ...


def window_logits(model: RunnableModel, waveforms: Iterable[Waveform]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Logits of windows, and which windows are digital silence (all samples zero). The network does not run on those.

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
        manifest: of the model.
        hop: seconds.

    Raises:
        InputError: a hop that is not at least one sample.
    """
    samples = hop * manifest.frontend.sample_rate
    if not 1.0 <= samples < np.inf:
        raise InputError(f"--hop is {hop} s; it must be a positive number of seconds, for instance 1.0")
    return round(samples)
