"""What travels inside a model file: labels, front end, quantisation, counts, provenance, golden vectors. One format
with a version."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd

FORMAT_VERSION = 5
"""Version 1 had neither golden vectors nor a calibration, version 2 no counts of the float network, version 3 no
cross-validation, version 4 no mean spectrum."""
MAX_VECTORS = 64
MAX_MODULES = 4096
FLOAT_BYTES = 4
"""Of each parameter of a float network."""
MAX_FRAME_SAMPLES = 2**23
"""Samples that the front end transforms for one window, frames times FFT size: beyond it takes hundreds of
megabytes."""

Scale = Annotated[float, msgspec.Meta(ge=2.0**-100, le=2.0**100)]
"""Within what float32 can divide by and multiply with."""
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TensorQuant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantisation of the model's input or output: real = (q - zero_point) * scale; dtype "float32" ignores both."""

    dtype: Literal["int8", "uint8", "float32"]
    scale: Scale
    zero_point: Annotated[int, msgspec.Meta(ge=-128, le=255)]


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Complexity of the exported graph: exact MACs per window (convolutions and dense layers), parameters, their
    bytes."""

    macs: int
    params: int
    param_bytes: int


class ModuleCount(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a counter says of one module. name: in the network, "features.0.conv"; empty for what belongs to none. kind:
    "Conv2d"."""

    name: str
    kind: str
    macs: Natural
    params: Natural


class FloatCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a counter for torch says of the float network at the input of one window. counter: name and version. Totals
    are the sums over `modules`, those that it counts something for."""

    counter: str
    macs: Natural
    params: Natural
    modules: Annotated[tuple[ModuleCount, ...], msgspec.Meta(max_length=MAX_MODULES)]

    @property
    def param_bytes(self) -> int:
        """Bytes of the float32 parameters."""
        return FLOAT_BYTES * self.params


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from. scores: name -> value in 0..1, e.g. "float_clip_accuracy"; created: ISO 8601 UTC."""

    recipe: str
    recipe_hash: str
    data: str
    data_hash: str
    data_licence: str
    synthetic: bool
    edgekd_version: str
    created: str
    teachers: tuple[str, ...] = ()
    scores: dict[str, float] = {}


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the temperature was fitted on: windows of `splits` of the store with `data_hash`.

    error_before, loss_before: expected calibration error and log loss (nats) at temperature 1. error_after, loss_after:
    at temperatures fitted on other recordings than those they are judged on. Where that did not lower the loss, the
    temperature is 1.
    """

    data: str
    data_hash: str
    splits: tuple[str, ...]
    windows: int
    error_before: Fraction
    error_after: Fraction
    loss_before: NonNegative
    loss_after: NonNegative


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An accuracy, 0..1; between low and high lie 95 % of the resamples of a bootstrap."""

    mean: Fraction
    low: Fraction
    high: Fraction


class CrossValidation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What networks of the model's recipe reached that were trained on all of `folds` but one and tested on that one,
    each in turn and with each of `seeds`. clips, windows: accuracy, the mean over folds. network: "qat" computes what
    an int8 file does."""

    data: str
    data_hash: str
    folds: tuple[str, ...]
    seeds: tuple[Natural, ...]
    network: Literal["float", "qat"]
    clips: Estimate
    windows: Estimate


class GoldenVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One waveform of `edgekd.modelfile.golden` and what came of it at export.

    seed: of the waveform. probes: little-endian float32 features at the positions that the seed gives. input: deflated
    int8 features, (mel, frame). logits: in steps of `Golden.step` above zero; whole numbers, those of the integer
    reference, in an integer model.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    probes: bytes
    input: bytes
    logits: tuple[float, ...]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `edgekd verify` replays. input: int8 quantisation of the features, in every file. step: logit units of one
    step."""

    input: TensorQuant
    step: Scale
    vectors: Annotated[tuple[GoldenVector, ...], msgspec.Meta(min_length=1, max_length=MAX_VECTORS)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole deployment beside the weights.

    labels: in the order of the logits. window: samples of one inference at `frontend.sample_rate`. temperature: divides
    the logits before the softmax; 1 where there is no `calibration`. float_counts: convention -> count of the network
    before it was folded and quantised. spectrum: (mel,) mean natural log-mel of the training clips without
    augmentation, frames of digital silence left out; empty where it is not known.
    """

    name: str
    student: str
    precision: str
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    frontend: FrontEnd
    window: Annotated[int, msgspec.Meta(gt=0)]
    input: TensorQuant
    output: TensorQuant
    counts: Counts
    provenance: Provenance
    temperature: Scale = 1.0
    calibration: Calibration | None = None
    crossval: CrossValidation | None = None
    golden: Golden | None = None
    float_counts: dict[Literal["torchinfo", "ptflops"], FloatCount] = {}
    spectrum: tuple[float, ...] = ()
    format_version: int = FORMAT_VERSION


def encode(manifest: Manifest) -> bytes:
    """JSON bytes of a manifest, UTF-8."""
    return msgspec.json.encode(manifest)


def decode(raw: bytes, where: str) -> Manifest:
    """Read a manifest, bringing older versions to this one and refusing unknown versions and damage.

    Args:
        raw: JSON bytes as `encode` gives them.
        where: the file named in errors.

    Raises:
        InputError: not JSON, an unknown format version, a field that is missing, mistyped, unknown or impossible.
    """
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(where, error) from None
    version = document.get("format_version")
    if type(version) is not int or version not in {*MIGRATIONS, FORMAT_VERSION}:
        raise InputError(
            f"{where}: manifest format version {version!r} is unknown (this edgekd reads 1 to {FORMAT_VERSION}); "
            "update edgekd or export the model again"
        )
    for older in range(version, FORMAT_VERSION):
        document = MIGRATIONS[older](document)
    try:
        manifest = msgspec.convert(document, Manifest)
    except (msgspec.ValidationError, InputError) as error:  # the front end judges its values itself
        raise _damaged(where, error) from None
    if len(set(manifest.labels)) < len(manifest.labels):
        raise _damaged(where, "a label is there twice")
    for convention, count in manifest.float_counts.items():
        if (count.macs, count.params) != (
            sum(each.macs for each in count.modules),
            sum(each.params for each in count.modules),
        ):
            raise _damaged(where, f"the counts of {convention} do not add up")
    if manifest.spectrum and len(manifest.spectrum) != manifest.frontend.n_mels:
        raise _damaged(where, f"the mean spectrum does not fit {manifest.frontend.n_mels} bands")
    if manifest.frontend.frames(manifest.window) * manifest.frontend.n_fft > MAX_FRAME_SAMPLES:
        raise _damaged(
            where,
            f"a window of {manifest.window:,} samples has {manifest.frontend.frames(manifest.window):,} frames of "
            f"{manifest.frontend.n_fft:,} samples",
        )
    return manifest


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "format_version": 2}


def _from_2(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "format_version": 3}


def _from_3(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "format_version": 4}


def _from_4(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "format_version": 5}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}
"""Version -> what makes a document of the next one."""


def _damaged(where: str, what: object) -> InputError:
    return InputError(f"{where}: the manifest is damaged ({what}); export the model again")
