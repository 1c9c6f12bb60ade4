"""Equaliser: the gains of a microphone in each mel band, estimated without labels and subtracted from the log-mel.

A linear microphone adds a constant to every band of the log-mel. Its gains are the mean log-mel of recordings made with
it, of many kinds of sound, minus the mean log-mel of the training clips, which the manifest holds (Mezza, Habets,
Mueller, Sarti: Unsupervised domain adaptation for acoustic scene classification using band-wise statistics matching,
EUSIPCO 2020).
"""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.engine import Model
from edgekd.modelfile.manifest import Manifest

FORMAT: Literal["edgekd-equaliser"] = "edgekd-equaliser"
NEPERS_PER_DB = math.log(10) / 10
"""Natural logarithm of a power ratio of 1 dB."""
FLOOR_TOLERANCE = 1e-3
"""Natural log units. A frame is digital silence where its loudest band is no further above the front end's floor."""

Decibels = Annotated[float, msgspec.Meta(ge=-200, le=200)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Floats = NDArray[np.float64]


class Equaliser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that `edgekd equalise` writes.

    model: name of the model that it was made for. data_hash: of the store of the model's training clips. frontend: of
    the model. db: (mel,) gain of the microphone in each band. windows, seconds: of the recordings measured. created:
    ISO 8601 UTC.
    """

    format: Literal["edgekd-equaliser"] = FORMAT
    version: Literal[1] = 1
    model: str
    data_hash: str
    frontend: FrontEnd
    db: tuple[Decibels, ...]
    windows: Natural
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    created: str


class BandMean:
    """Mean natural log-mel of each band over frames that are not digital silence.

    fe: the front end that computes the log-mel given to `add`. frames: number of frames added.
    """

    def __init__(self, fe: FrontEnd) -> None:
        self._fe, self.frames = fe, 0
        self._sum: Floats = np.zeros(fe.n_mels)

    def add(self, features: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> None:
        """Add frames to the mean.

        Args:
            features: normalised log-mel, float32 (..., mel, frame).
            mask: (..., frame), true for the frames that count; None counts those that are not digital silence.
        """
        chosen = self.not_silent(features) if mask is None else mask
        self._sum += np.moveaxis(features, -2, -1)[chosen].sum(axis=0, dtype=np.float64)
        self.frames += int(chosen.sum())

    def add_mean(self, other: "BandMean") -> None:
        """Add the frames of another mean of the same front end."""
        self._sum += other._sum
        self.frames += other.frames

    def not_silent(self, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Mask (..., frame) of the frames that are not digital silence."""
        floor = (self._fe.log_least + FLOOR_TOLERANCE - self._fe.mean) / self._fe.std
        loud: NDArray[np.bool_] = features.max(axis=-2) > floor
        return loud

    def value(self) -> Floats:
        """The mean, float64 (mel,), without the front end's normalisation.

        Raises:
            InputError: no frame was added.
        """
        if not self.frames:
            raise InputError("there is nothing but digital silence to take a mean of")
        return self._sum / self.frames * self._fe.std + self._fe.mean


def band_gains(manifest: Manifest, mean: Floats) -> Floats:
    """Gains of a microphone in dB, float64 (mel,): what it adds to each band.

    Args:
        manifest: of the model that the microphone is used with.
        mean: (mel,) mean natural log-mel of recordings made with the microphone.

    Raises:
        InputError: the manifest has no mean spectrum of its training clips.
    """
    if not manifest.spectrum:
        raise InputError(
            f"{manifest.name}: the file has no mean spectrum of its training clips; train and export it again with this"
            " edgekd"
        )
    gains: Floats = (mean - np.array(manifest.spectrum)) / NEPERS_PER_DB
    return gains


def with_gains(model: Model, db: Floats) -> Model:
    """The model with an equaliser: its `logits` subtracts the gains `db`, (mel,) in dB, from its input."""
    fe = model.manifest.frontend
    return model.with_gains((np.asarray(db) * (NEPERS_PER_DB / fe.std)).astype(np.float32)[:, None])


def with_equaliser(model: Model, path: str | Path | None) -> Model:
    """The model with the equaliser of a file; the model itself where `path` is None.

    Raises:
        InputError: a file that cannot be read, is damaged, or was made for another front end or other training clips.
    """
    return model if path is None else with_gains(model, np.array(_read(Path(path), model.manifest).db))


def _read(path: Path, manifest: Manifest) -> Equaliser:
    advice = "make it again with 'edgekd equalise'"
    try:
        equaliser = msgspec.json.decode(path.read_bytes(), type=Equaliser)
    except OSError as error:
        raise InputError(
            f"{path}: the equaliser cannot be read ({error.strerror}); make one with 'edgekd equalise'"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise InputError(f"{path} is no equaliser, or a damaged one ({error}); {advice}") from None
    if (
        _without_normalisation(equaliser.frontend) != _without_normalisation(manifest.frontend)
        or len(equaliser.db) != manifest.frontend.n_mels
    ):
        raise InputError(
            f"{path} was made for {equaliser.model}, whose front end is another than that of {manifest.name}; {advice}"
        )
    if equaliser.data_hash != manifest.provenance.data_hash:
        raise InputError(
            f"{path} was made for {equaliser.model}, which was trained on other clips than {manifest.name}; {advice}"
        )
    return equaliser


def _without_normalisation(fe: FrontEnd) -> FrontEnd:
    """The front end without its normalisation, on which the bands do not depend."""
    return msgspec.structs.replace(fe, mean=0.0, std=1.0)
