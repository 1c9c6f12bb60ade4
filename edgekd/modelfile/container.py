"""The model file: a .tflite or .onnx file that also holds its manifest. Reads and writes it with the standard library
alone, without an engine or the protobuf package.

The manifest follows the model, and other tools can still read the file: a .tflite gets a zip archive appended (the
convention of TFLite metadata), an .onnx two more `metadata_props` (the fields of a protobuf message may come in any
order). Next to the manifest is the SHA-256 of the model's bytes and of the manifest, so that a damaged file is refused
instead of run.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from edgekd.errors import InputError, nearest
from edgekd.files import atomic_write
from edgekd.modelfile.manifest import Manifest, decode, encode, refuse_unfit_texts
from edgekd.protobuf import MODEL_GRAPH, MODEL_METADATA, DamagedError, field, fields
from edgekd.tflite_tables import is_tflite

SUFFIXES = (".tflite", ".onnx")
MANIFEST_KEY, DIGEST_KEY = "edgekd.json", "edgekd.sha256"
"""Names of the zip entries and of the metadata properties."""
MAX_MANIFEST_BYTES = 4 * 2**20
ENTRY_SIGNATURE, MAX_ENTRIES = b"PK\x01\x02", 64
"""First bytes of each entry in the directory of a zip archive, and the most entries allowed. edgekd writes two, TFLite
metadata a few."""
MAX_MODEL_BYTES = 2**26
"""Largest file that is read."""
WEIGHT_PARTS: dict[str, dict[int, str]] = {
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 11: "graph", 22: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""ONNX's messages that may hold weights: kind -> number of a field -> kind of that field. Weights are initializers and
the values of Constant nodes, also in the graphs that a node runs."""
TENSOR, TENSOR_DATA = "tensor", frozenset({4, 9, 10})
"""Field numbers in ONNX's TensorProto of float_data, raw_data and double_data, which take no more space in memory than
in the file."""
MAX_NESTING = 16
"""Most messages inside each other in which weights are looked for."""
MAX_STRUCTURE_BYTES = 2**21
"""Most bytes of an .onnx file without its weights and metadata: an empty node has two bytes in the file and some
hundred in memory."""
ENTRY_KEY, ENTRY_VALUE = 1, 2
"""Field numbers in ONNX's StringStringEntryProto."""


@dataclass(frozen=True)
class ModelFile:
    """The parts of a model file. content: the model's own bytes, without the manifest."""

    manifest: Manifest
    content: bytes


def write(path: str | Path, model_bytes: bytes, manifest: Manifest) -> None:
    """Write a model with its manifest. The file appears complete or not at all.

    Args:
        path: ends in .tflite or .onnx; an existing file is replaced.
        model_bytes: a model as an emitter returns it.
        manifest: of the model.

    Raises:
        InputError: another suffix, bytes that are not a model of that format, a label or another text that no reader
            would accept, or a path that cannot be written.
    """
    path = Path(path)
    _check_suffix(path)
    _check_kind(path, model_bytes)
    refuse_unfit_texts(manifest, str(path))
    raw = sealed(path.suffix, model_bytes, encode(manifest))
    try:
        atomic_write(path, raw, mode=0o644, durable=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another path") from None


def sealed(suffix: str, model_bytes: bytes, encoded_manifest: bytes) -> bytes:
    """The bytes of a model file: the model, then an encoded manifest and the digest of both. Nothing is checked."""
    entries = {MANIFEST_KEY: encoded_manifest, DIGEST_KEY: _digest(model_bytes, encoded_manifest)}
    return model_bytes + (_zip(model_bytes, entries) if suffix == ".tflite" else metadata(entries))


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a model file; errors as in `read`."""
    return read(path).manifest


def read(path: str | Path) -> ModelFile:
    """The parts of a model file, once its digest is checked.

    Raises:
        InputError: unreadable, not a model file, without a manifest, damaged, cut off, or too large.
    """
    path = Path(path)
    file = split(path, read_bytes(path))
    if file is None:
        raise InputError(
            f"{path}: carries no edgekd manifest: another tool wrote this model, or the file is cut off; "
            "give a file that 'edgekd export' wrote"
        )
    return file


def read_bytes(path: Path) -> bytes:
    """All bytes of a .tflite or .onnx file, of edgekd or of any other tool.

    Raises:
        InputError: another suffix, unreadable, too large, or bytes that are not a model of that format.
    """
    # a missing path without a suffix is probably a mistyped folder: its error is "cannot be read"
    if path.suffix or path.exists():
        _check_suffix(path)
    try:
        # opening a pipe would block, and a device may have no end
        if not path.is_dir() and not path.is_file() and path.exists():
            raise InputError(f"{path}: not a regular file; give a .tflite or .onnx file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_MODEL_BYTES:
                raise InputError(
                    f"{path}: {size:,} bytes, larger than {MAX_MODEL_BYTES:,}, so it is not a model for a small device;"
                    " give a file that 'edgekd export' wrote"
                )
            raw = file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a .tflite or .onnx file") from None
    _check_kind(path, raw)
    return raw


def split(path: Path, raw: bytes) -> ModelFile | None:
    """The parts of a model file, once its digest is checked; None for a model without a manifest.

    Args:
        path: of the file, for its suffix and for errors.
        raw: all bytes of the file, as `read_bytes` returns them.

    Raises:
        InputError: damaged or cut off.
    """
    try:
        size, entries = (_read_zip if path.suffix == ".tflite" else _read_metadata)(raw)
    except DamagedError as error:
        raise InputError(f"{path}: the file is damaged ({error}); copy it or export it again") from None
    if MANIFEST_KEY not in entries:
        return None
    manifest = decode(entries[MANIFEST_KEY], str(path))
    content = raw[:size]
    if entries.get(DIGEST_KEY) != _digest(content, entries[MANIFEST_KEY]):
        raise InputError(
            f"{path}: the file has changed since it was exported (SHA-256 differs); copy it or export it again"
        )
    return ModelFile(manifest, content)


def _digest(content: bytes, encoded_manifest: bytes) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(encoded_manifest)
    return digest.hexdigest().encode()


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown model format '{path.suffix}'{nearest(path.suffix, SUFFIXES)}")


def _check_kind(path: Path, raw: bytes) -> None:
    """Raise where the bytes are not in the format of the suffix."""
    try:
        if path.suffix == ".tflite":
            matches = is_tflite(raw)
        else:
            matches = any(number == MODEL_GRAPH for number, _, _, _ in fields(raw))
            _check_structure(raw)
    except DamagedError as error:
        raise InputError(f"{path}: not an ONNX file, or damaged ({error}); copy it or export it again") from None
    if not matches:
        raise InputError(
            f"{path}: not a {path.suffix} model but {len(raw):,} other bytes; give a file that 'edgekd export' wrote"
        )


def _zip(model_bytes: bytes, entries: dict[str, bytes]) -> bytes:
    """Bytes of a zip archive to append to a model, with offsets from the start of the model. They do not depend on the
    time."""
    buffer = io.BytesIO(model_bytes)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, value in entries.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return buffer.getvalue()[len(model_bytes) :]


def _read_zip(raw: bytes) -> tuple[int, dict[str, bytes]]:
    """Size of the model before the archive, and edgekd's entries in the archive by name."""
    file = io.BytesIO(raw)
    if not zipfile.is_zipfile(file):
        if MANIFEST_KEY.encode() in raw:
            raise DamagedError("its end is missing")
        return len(raw), {}
    if raw.count(ENTRY_SIGNATURE) > MAX_ENTRIES:  # before `zipfile` makes an object of each
        raise DamagedError(f"more than {MAX_ENTRIES} entries in its zip archive")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            ours = [member for member in members if member.filename in (MANIFEST_KEY, DIGEST_KEY)]
            if len(ours) > len({member.filename for member in ours}):
                raise DamagedError("an entry occurs twice")
            for member in ours:
                # edgekd never compresses; a crafted entry could unpack to any size
                if member.compress_type != zipfile.ZIP_STORED:
                    raise DamagedError(f"{member.filename} is compressed")
                _check_size(member.file_size)
            return min((member.header_offset for member in members), default=0), {
                member.filename: archive.read(member) for member in ours
            }
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise DamagedError(f"manifest: {error}") from None


def _check_structure(raw: bytes) -> None:
    """Raise for an ONNX file that would take many times its size in memory, before anything parses it."""
    for size in accumulate(_structure_bytes(raw)):
        if size > MAX_STRUCTURE_BYTES:
            raise DamagedError(f"more than {MAX_STRUCTURE_BYTES:,} bytes besides its weights")


def _structure_bytes(raw: bytes) -> Iterator[int]:
    """Number of bytes in each part of an ONNX file that is neither weights nor metadata."""
    for number, start, payload, end in fields(raw):
        if number != MODEL_GRAPH:
            yield (payload if number == MODEL_METADATA else end) - start
            continue
        yield from _part_bytes(raw, "graph", payload, end, MAX_NESTING)


def _part_bytes(raw: bytes, kind: str, start: int, end: int, depth: int) -> Iterator[int]:
    """As `_structure_bytes`, in the message of a kind in `WEIGHT_PARTS` that is in `raw[start:end]`."""
    for number, first, payload, last in fields(raw, start, end):
        part = WEIGHT_PARTS.get(kind, {}).get(number)
        if part is None or depth == 0:
            yield (payload if kind == TENSOR and number in TENSOR_DATA else last) - first
        else:
            yield payload - first
            yield from _part_bytes(raw, part, payload, last, depth - 1)


def metadata(entries: dict[str, bytes]) -> bytes:
    """Bytes of `metadata_props` fields, to append to a serialised ModelProto."""
    properties = (field(ENTRY_KEY, key.encode()) + field(ENTRY_VALUE, value) for key, value in entries.items())
    return b"".join(field(MODEL_METADATA, entry) for entry in properties)


def _read_metadata(raw: bytes) -> tuple[int, dict[str, bytes]]:
    """Size of the model before edgekd's first property, and edgekd's properties by key."""
    size, entries = len(raw), {}
    for number, start, payload, end in fields(raw):
        key = ""
        if number == MODEL_METADATA:
            parts = {part: raw[payload + first : payload + last] for part, _, first, last in fields(raw[payload:end])}
            key = parts.get(ENTRY_KEY, b"").decode(errors="replace")
        if key in (MANIFEST_KEY, DIGEST_KEY):
            if key in entries:
                raise DamagedError("an entry occurs twice")
            entries[key] = parts.get(ENTRY_VALUE, b"")
            _check_size(len(entries[key]))
            size = min(size, start)
        elif entries:  # other tools would read it as part of the model, but the digest does not cover it
            raise DamagedError(f"field {number} after the manifest")
    return size, entries


def _check_size(size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        raise DamagedError(f"manifest of {size:,} bytes, more than {MAX_MANIFEST_BYTES:,}")
