"""What travels inside a model file: labels, front end, quantisation, counts, provenance. One format with a version."""

import msgspec

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd

FORMAT_VERSION = 1


class TensorQuant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantisation of the model's input or output: real = (q - zero_point) * scale; dtype "float32" ignores both."""

    dtype: str
    scale: float
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
    """The whole deployment beside the weights. window: samples of one inference at `frontend.sample_rate`."""

    name: str
    student: str
    precision: str
    labels: tuple[str, ...]
    frontend: FrontEnd
    window: int
    input: TensorQuant
    output: TensorQuant
    counts: Counts
    provenance: Provenance
    temperature: float = 1.0
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
        InputError: not JSON, an unknown format version, a missing, mistyped or unknown field.
    """
    try:
        version = msgspec.json.decode(raw, type=dict[str, object]).get("format_version")
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"{where}: the manifest is damaged ({error}); export the model again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{where}: manifest format version {version!r} is unknown (this edgekd reads {FORMAT_VERSION}); "
                         "update edgekd or export the model again")
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: the manifest is damaged ({error}); export the model again") from None
