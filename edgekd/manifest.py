"""What travels inside a model file: labels, front end, quantisation, counts, provenance. One format with a version."""

from typing import Annotated, Literal

import msgspec

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd

FORMAT_VERSION = 1

Positive = Annotated[float, msgspec.Meta(gt=0)]


class TensorQuant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantisation of the model's input or output: real = (q - zero_point) * scale; dtype "float32" ignores both."""

    dtype: Literal["int8", "uint8", "float32"]
    scale: Positive
    zero_point: int


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Complexity of the exported graph: exact MACs per window (convolutions and dense layers), parameters, their bytes."""

    macs: int
    params: int
    param_bytes: int


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


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole deployment beside the weights.

    labels: in the order of the logits. window: samples of one inference at `frontend.sample_rate`. temperature: divides the logits
    before the softmax.
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
    temperature: Positive = 1.0
    format_version: int = FORMAT_VERSION


def encode(manifest: Manifest) -> bytes:
    """JSON bytes of a manifest, UTF-8."""
    return msgspec.json.encode(manifest)


def decode(raw: bytes, where: str) -> Manifest:
    """Read a manifest, refusing unknown versions and damage.

    Args:
        raw: JSON bytes as `encode` gives them.
        where: the file named in errors.

    Raises:
        InputError: not JSON, an unknown format version, a field that is missing, mistyped, unknown or impossible.
    """
    try:
        version = msgspec.json.decode(raw, type=dict[str, object]).get("format_version")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(where, error) from None
    if version != FORMAT_VERSION:
        raise InputError(f"{where}: manifest format version {version!r} is unknown (this edgekd reads {FORMAT_VERSION}); "
                         "update edgekd or export the model again")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, InputError) as error:  # the front end judges its values itself
        raise _damaged(where, error) from None
    if len(set(manifest.labels)) < len(manifest.labels):
        raise _damaged(where, "a label is there twice")
    return manifest


def _damaged(where: str, what: object) -> InputError:
    return InputError(f"{where}: the manifest is damaged ({what}); export the model again")
