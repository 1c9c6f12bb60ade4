"""The manifest inside a model file: labels, front end, quantisation, counts, provenance, golden vectors. It is JSON
with a format version."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.text import MAX_LABEL, MAX_TEXT, QUOTED, cut, unfit

FORMAT_VERSION = 5
"""Version 1 had neither golden vectors nor a calibration, version 2 no counts of the float network, version 3 no
cross-validation, version 4 no mean spectrum."""
MAX_VECTORS = 64
MAX_LABELS = 2**14
"""More than any published set of sounds has."""
MAX_ITEMS = 1024
"""Most teachers, scores, splits, folds and seeds."""
MAX_REASON = 300
"""Most characters of the reason why a manifest is damaged."""
MAX_MODULES = 4096
FLOAT_BYTES = 4
"""Bytes of a parameter of a float network."""
MAX_FRAME_SAMPLES = 2**23
"""Most samples that the front end transforms for one window: frames times FFT size. Above it the front end takes
hundreds of megabytes."""

Scale = Annotated[float, msgspec.Meta(ge=2.0**-100, le=2.0**100)]
"""A factor that float32 can multiply with and divide by."""
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class TensorQuant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantisation of the model's input or output: real = (q - zero_point) * scale; dtype "float32" ignores both."""

    dtype: Literal["int8", "uint8", "float32"]
    scale: Scale
    zero_point: Annotated[int, msgspec.Meta(ge=-128, le=255)]


class GraphCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Complexity of the exported integer graph. macs: multiply-accumulates of convolutions and dense layers per window.
    params: number of parameters. param_bytes: their bytes."""

    macs: int
    params: int
    param_bytes: int


class ModuleCount(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Counts of one module of a float network. name: of the module, like "features.0.conv"; empty for what belongs to
    no module. kind: its class, like "Conv2d"."""

    name: str
    kind: str
    macs: Natural
    params: Natural


class FloatCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of the float network for one window, by a counter for torch. counter: its name and version. macs, params:
    sums over `modules`. modules: those with a count above zero."""

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
    teachers: Names = ()
    scores: Annotated[dict[str, float], msgspec.Meta(max_length=MAX_ITEMS)] = {}


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the temperature was fitted: on `windows` windows of `splits` of the store with `data_hash`.

    error_before, loss_before: expected calibration error and log loss (nats) at temperature 1. error_after, loss_after:
    the same with cross-fitting, that is at temperatures fitted on other recordings than those scored. If that did not
    lower the loss, the temperature of the model is 1.
    """

    data: str
    data_hash: str
    splits: Names
    windows: int
    error_before: Fraction
    error_after: Fraction
    loss_before: NonNegative
    loss_after: NonNegative


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An accuracy, 0..1. low, high: bounds of 95 % of the resamples of a bootstrap."""

    mean: Fraction
    low: Fraction
    high: Fraction


class CrossValidation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy of the model's recipe by cross-validation: for each of `folds` and of `seeds` a network is trained on
    the other folds and tested on that one.

    network: "qat" computes what an int8 file does. clips, windows: accuracy, the mean over folds.
    """

    data: str
    data_hash: str
    folds: Names
    seeds: Annotated[tuple[Natural, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    network: Literal["float", "qat"]
    clips: Estimate
    windows: Estimate


class GoldenVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One waveform of `edgekd.modelfile.golden` with the features and logits computed from it at export.

    seed: of the waveform. probes: little-endian float32 features at the positions given by the seed. input: deflated
    int8 features, (mel, frame). logits: in steps of `Golden.step`; in an integer model whole numbers, those of the
    integer reference.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    probes: bytes
    input: bytes
    logits: tuple[float, ...]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The golden vectors that `edgekd verify` replays. input: int8 quantisation of the features, also in a float file.
    step: logit units of one step."""

    input: TensorQuant
    step: Scale
    vectors: Annotated[tuple[GoldenVector, ...], msgspec.Meta(min_length=1, max_length=MAX_VECTORS)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a device needs besides the weights.

    labels: in the order of the logits. window: samples of one inference at `frontend.sample_rate`. temperature: divides
    the logits before the softmax; 1 without `calibration`. float_counts: convention -> counts of the network before it
    was folded and quantised. spectrum: (mel,) mean natural log-mel of the training clips without augmentation and
    without frames of digital silence; empty if unknown.
    """

    name: str
    student: str
    precision: str
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_LABELS)]
    frontend: FrontEnd
    window: Annotated[int, msgspec.Meta(gt=0)]
    input: TensorQuant
    output: TensorQuant
    counts: GraphCounts
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
    """The manifest in JSON bytes. Older format versions are brought up to date.

    Args:
        raw: JSON bytes as `encode` returns them.
        where: name of the file, for errors.

    Raises:
        InputError: not JSON, an unknown format version, a field that is missing, mistyped, unknown or impossible, or a
            text that `refuse_unfit_texts` refuses.
    """
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(where, error) from None
    version = document.get("format_version")
    if type(version) is not int or version not in {*MIGRATIONS, FORMAT_VERSION}:
        raise InputError(
            f"{where}: manifest format version {cut(repr(version), QUOTED)} is unknown (this edgekd reads 1 to"
            f" {FORMAT_VERSION}); update edgekd or export the model again"
        )
    for older in range(version, FORMAT_VERSION):
        document = MIGRATIONS[older](document)
    try:
        manifest = msgspec.convert(document, Manifest)
    except (msgspec.ValidationError, InputError) as error:  # InputError: from the checks of FrontEnd
        raise _damaged(where, error) from None
    refuse_unfit_texts(manifest, where)
    if len(set(manifest.labels)) < len(manifest.labels):
        raise _damaged(where, "a label occurs twice")
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


def refuse_unfit_texts(manifest: Manifest, where: str) -> None:
    """Raise for a label or another text that could control a terminal, forge a line of a log or fill a page.

    Args:
        manifest: of any origin.
        where: name of the file, for errors.

    Raises:
        InputError: naming the field and the text.
    """
    for field, text in _texts(msgspec.to_builtins(manifest, builtin_types=(bytes,)), ""):
        reason = unfit(text, MAX_TEXT if "." in field else MAX_LABEL)  # the manifest's own are names and labels
        if reason:
            raise InputError(f"{where}: {field} of the manifest: {reason}; rename it and export the model again")


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text in a document, keys too, each with the path of its field."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield f"a key of {field}", key
            yield from _texts(each, f"{field}.{key}" if field else key)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _texts(each, f"{field}[{index}]")


def _with_next_version(document: dict[str, Any]) -> dict[str, Any]:
    """A document of the next version, where that only adds optional fields."""
    return {**document, "format_version": document["format_version"] + 1}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = dict.fromkeys(range(1, 5), _with_next_version)
"""Format version -> function that brings a document to the next version."""


def _damaged(where: str, what: object) -> InputError:
    return InputError(f"{where}: the manifest is damaged ({cut(str(what), MAX_REASON)}); export the model again")
