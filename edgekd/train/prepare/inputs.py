"""The inputs of a training: its clips, the shape of what the network gets, and the front end's statistics."""

import dataclasses
from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from edgekd.data.store.store import ClipStore, Partition
from edgekd.errors import InputError, nearest
from edgekd.frontend import FrontEnd
from edgekd.modelfile.equaliser import BandMean
from edgekd.models import ModelConfig, input_kind
from edgekd.models.logmel import LogMel
from edgekd.text import listing
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.recipe.recipe import Recipe

STATISTICS_CLIPS = 2000
"""Training clips that set the front end's mean and standard deviation."""
LEAST_STD = 1e-3
"""Log-mel standard deviation below which training clips hold no signal."""


def partition_clips(recipe: Recipe, store: ClipStore) -> Partition:
    """The training clips and the test clips of a recipe.

    Raises:
        InputError: see `ClipStore.partition`; or data.recorders names a recorder that is unknown or has no training
            clip.
    """
    data = recipe.data
    partition = data.sides(store)
    if not data.recorders:
        return partition
    recorder = np.array([clip.recorder for clip in store.clips], dtype=object)
    trained = set(recorder[partition.train])
    for name in data.recorders:
        if name not in trained:
            known = sorted(trained - {""})
            what = "has no training clips" if name in recorder else f"is unknown{nearest(name, known)}"
            raise InputError(
                f"{store.path}: recorder '{name}' of data.recorders {what}; training clips are of"
                f" {listing(known) or 'no'} recorders"
            )
    return dataclasses.replace(partition, train=partition.train[np.isin(recorder[partition.train], data.recorders)])


@dataclass(frozen=True)
class NetworkInput:
    """Sizes of one item that a network gets.

    channels: of the waveform and of the log-mel. samples: of the waveform. mels, frames: of the log-mel; 0 for a
    network that takes waveforms.
    """

    channels: int
    samples: int
    mels: int
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, mels, frames), or (channels, samples) of a waveform."""
        return (self.channels, self.mels, self.frames) if self.mels else (self.channels, self.samples)


def network_input(recipe: Recipe, store: ClipStore, config: ModelConfig) -> NetworkInput:
    """The sizes of the input that a recipe's view gives its network.

    Raises:
        InputError: the view is shorter than one frame.
    """
    fe, samples = recipe.frontend, window_samples(recipe.view, store)
    channels = store.channels if recipe.view.channels == "all" else 1
    if input_kind(config) == "waveform":
        return NetworkInput(channels, samples, 0, 0)
    frames = fe.frames(samples)
    if frames == 0:
        raise InputError(
            f"recipe {recipe.name}: a view of {samples} samples does not fill one frame of n_fft {fe.n_fft}; "
            "raise view.seconds"
        )
    return NetworkInput(channels, samples, fe.n_mels, frames)


def measure_front_end(recipe: Recipe, view: TrainingView) -> tuple[FrontEnd, tuple[float, ...]]:
    """The front end with the mean and standard deviation of the training clips, and their mean spectrum.

    With `normalize = false` the front end is the recipe's own.

    Args:
        recipe: of a network that takes log-mels.
        view: the training set.

    Returns:
        the front end, and `RunInfo.spectrum`.

    Raises:
        InputError: the training clips have no variation.
    """
    fe = recipe.frontend
    plain = msgspec.structs.replace(fe, mean=0.0, std=1.0)
    log_mel, bands = LogMel(plain), BandMean(plain)
    count = total = squares = 0.0
    for waveform in view.unaugmented(STATISTICS_CLIPS, RandomStream.STATISTICS):
        features = log_mel(torch.from_numpy(waveform))
        bands.add(features.numpy())
        features = features.double()
        count += features.numel()
        total += float(features.sum())
        squares += float(features.square().sum())
    spectrum = tuple(bands.value().round(4).tolist()) if bands.frames else ()
    if not recipe.normalize:
        return fe, spectrum
    mean = total / count
    std = max(squares / count - mean**2, 0.0) ** 0.5
    if std < LEAST_STD:
        raise InputError(
            f"{view.store.path}: the training clips have no variation (log-mel standard deviation {std:.2g}); are they"
            " all silent?"
        )
    return msgspec.structs.replace(fe, mean=round(mean, 4), std=round(std, 4)), spectrum
