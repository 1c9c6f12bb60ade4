"""A microphone's colour, found without labels and taken off the log-mel: band-wise matching of means.

A linear microphone adds a constant to every band of the log-mel. So the mean of what is heard through it, over sounds
of many kinds, less the mean of the training clips, which travels in the model file, is what it adds (Mezza, Habets,
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
"""Natural logarithm of a power, per decibel."""
FLOOR_TOLERANCE = 1e-3
"""Of the natural log-mel: a frame whose loudest band is no further above the front end's floor is digital silence."""

Decibels = Annotated[float, msgspec.Meta(ge=-200, le=200)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Floats = NDArray[np.float64]


class Equaliser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `edgekd equalise` writes.

    model: name of the model whose training clips were compared with. data_hash: of their store. frontend: of the model.
    db: (mel,) what the microphone adds to each band. windows, seconds: what was heard. created: ISO 8601 UTC.
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
    """The mean natural log-mel of each band over frames that are not digital silence. fe: the front end that `add` is
    given log-mel of."""

    def __init__(self, fe: FrontEnd) -> None:
        self._fe, self.frames = fe, 0
        self._sum: Floats = np.zeros(fe.n_mels)

    def add(self, features: NDArray[np.float32], sounding: NDArray[np.bool_] | None = None) -> None:
        """features: normalised log-mel, float32 (..., mel, frame). sounding: (..., frame) frames that count; by default
        those of sound."""
        chosen = self.sounding(features) if sounding is None else sounding
        self._sum += np.moveaxis(features, -2, -1)[chosen].sum(axis=0, dtype=np.float64)
        self.frames += int(chosen.sum())

    def sounding(self, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(..., frame) which frames are not digital silence."""
        floor = (math.log(self._fe.log_floor) + FLOOR_TOLERANCE - self._fe.mean) / self._fe.std
        loud: NDArray[np.bool_] = features.max(axis=-2) > floor
        return loud

    def value(self) -> Floats:
        """float64 (mel,), before the front end's mean and standard deviation.

        Raises:
            InputError: nothing but digital silence was added.
        """
        if not self.frames:
            raise InputError("there is nothing but digital silence to take a mean of")
        return self._sum / self.frames * self._fe.std + self._fe.mean


def colour(manifest: Manifest, heard: Floats) -> Floats:
    """float64 (mel,): what a microphone adds to each band, dB.

    Args:
        manifest: of the model that will hear it.
        heard: (mel,) mean natural log-mel of what was heard through it.

    Raises:
        InputError: the file does not tell the mean of its training clips.
    """
    if not manifest.spectrum:
        raise InputError(
            f"{manifest.name}: the file does not tell the mean spectrum of its training clips; train and export it "
            "again with this edgekd"
        )
    added: Floats = (heard - np.array(manifest.spectrum)) / NEPERS_PER_DB
    return added


def equalised(model: Model, db: Floats) -> Model:
    """The model behind an equaliser: `logits` takes db, (mel,), off the features it is given."""
    fe = model.manifest.frontend
    return model.behind((np.asarray(db) * (NEPERS_PER_DB / fe.std)).astype(np.float32)[:, None])


def with_equaliser(model: Model, path: str | Path | None) -> Model:
    """The model behind the equaliser of a file, or as it is where there is none.

    Raises:
        InputError: a file that can't be read, is damaged, or was made for another front end or other training clips.
    """
    return model if path is None else equalised(model, np.array(_read(Path(path), model.manifest).db))


def _read(path: Path, manifest: Manifest) -> Equaliser:
    again = "make it again with 'edgekd equalise'"
    try:
        made = msgspec.json.decode(path.read_bytes(), type=Equaliser)
    except OSError as error:
        raise InputError(
            f"{path}: the equaliser cannot be read ({error.strerror}); 'edgekd equalise' makes one"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise InputError(f"{path} is no equaliser, or a damaged one ({error}); {again}") from None
    if _shape(made.frontend) != _shape(manifest.frontend) or len(made.db) != manifest.frontend.n_mels:
        raise InputError(
            f"{path} was made for {made.model}, whose front end is another than that of {manifest.name}; {again}"
        )
    if made.data_hash != manifest.provenance.data_hash:
        raise InputError(
            f"{path} was made for {made.model}, which was trained on other clips than {manifest.name}; {again}"
        )
    return made


def _shape(fe: FrontEnd) -> FrontEnd:
    """All that decides what a band hears."""
    return msgspec.structs.replace(fe, mean=0.0, std=1.0)
