"""The model file: one .tflite or .onnx that also carries its manifest. Standard library only; no engine, no protobuf
package.

Both formats take the manifest behind the model, and stay readable by every other tool: a .tflite gets a zip archive
appended (the convention of TFLite metadata), an .onnx two more `metadata_props` (fields of a protobuf message may come
in any order). Beside the manifest lies the SHA-256 of the model's bytes in front of it and of the manifest, so that a
damaged file is refused instead of run.
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
from edgekd.modelfile import manifest as manifests
from edgekd.modelfile.manifest import Manifest

SUFFIXES = (".tflite", ".onnx")
MANIFEST_KEY, DIGEST_KEY = "edgekd.json", "edgekd.sha256"
"""Names of the zip entries and of the metadata properties."""
MAX_MANIFEST_BYTES = 4 * 2**20
ENTRY_SIGNATURE, MAX_ENTRIES = b"PK\x01\x02", 64
"""What each entry of a zip archive's directory starts with, and how many there may be: two are ours, TFLite metadata
brings a few."""
MAX_MODEL_BYTES = 2**26
TFLITE_IDENTIFIER, IDENTIFIER_START = b"TFL3", 4
MODEL_GRAPH, MODEL_METADATA = 7, 14
"""Field numbers in ONNX's ModelProto."""
GRAPH_INITIALIZER = 5
"""Field number in ONNX's GraphProto."""
TENSOR_DATA = frozenset({4, 9, 10})
"""Numbers of the fields in ONNX's TensorProto that take no more room in memory than in the file: float_data, raw_data,
double_data."""
MAX_STRUCTURE_BYTES = 2**21
"""Of an .onnx file, its weights and metadata left out: an empty node has two bytes in the file and some hundred in
memory."""
ENTRY_KEY, ENTRY_VALUE = 1, 2
"""Field numbers in ONNX's StringStringEntryProto."""
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10
MAX_FIELD_NUMBER = 2**29 - 1
"""Protobuf's own; some of its readers drop the bits above and would see another field."""
MAX_FIELDS = 2**16
"""Of one protobuf message: a graph with more nodes is no model for a small device, and every node costs its readers
memory and time."""


@dataclass(frozen=True)
class ModelFile:
    """A file taken apart. content: the model's own bytes, as they were before the manifest came behind them."""

    manifest: Manifest
    content: bytes


def write(path: str | Path, model_bytes: bytes, manifest: Manifest) -> None:
    """Write a model with its manifest; the file appears complete or not at all.

    Args:
        path: ends in .tflite or .onnx; an existing file is replaced.
        model_bytes: a model as an emitter gives it.
        manifest: what shall travel with it.

    Raises:
        InputError: another suffix, bytes that are not a model of that kind, or a place that cannot be written.
    """
    path = Path(path)
    _check_suffix(path)
    _check_kind(path, model_bytes)
    raw = sealed(path.suffix, model_bytes, manifests.encode(manifest))
    try:
        atomic_write(path, raw, mode=0o644, durable=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def sealed(suffix: str, model_bytes: bytes, encoded_manifest: bytes) -> bytes:
    """The bytes of a file: a model, behind it an encoded manifest and the digest of both. Nothing is checked."""
    entries = {MANIFEST_KEY: encoded_manifest, DIGEST_KEY: _digest(model_bytes, encoded_manifest)}
    return model_bytes + (_zip(model_bytes, entries) if suffix == ".tflite" else metadata(entries))


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a model file; errors as in `read`."""
    return read(path).manifest


def read(path: str | Path) -> ModelFile:
    """Take a model file apart and check that it is whole.

    Raises:
        InputError: unreadable, not a model file, without a manifest, damaged, cut off, or too large.
    """
    path = Path(path)
    found = split(path, read_bytes(path))
    if found is None:
        raise InputError(
            f"{path}: carries no edgekd manifest: another tool wrote this model, or the file is cut off; "
            "give a file that 'edgekd export' wrote"
        )
    return found


def read_bytes(path: Path) -> bytes:
    """All bytes of a .tflite or .onnx file, anybody's.

    Raises:
        InputError: another suffix, unreadable, too large, or bytes that are not a model of that kind.
    """
    if path.suffix or path.exists():  # a name without one that is not there is rather a folder mistyped
        _check_suffix(path)
    try:
        # opening a pipe would wait, a device may never end
        if not path.is_dir() and not path.is_file() and path.exists():
            raise InputError(f"{path}: not a regular file; give a .tflite or .onnx file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_MODEL_BYTES:
                raise InputError(
                    f"{path}: {size:,} bytes, larger than {MAX_MODEL_BYTES:,}, which is no model for a small device; "
                    "give an exported one"
                )
            raw = file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a .tflite or .onnx file") from None
    _check_kind(path, raw)
    return raw


def split(path: Path, raw: bytes) -> ModelFile | None:
    """Take the bytes of a file apart; None for a model that carries no manifest.

    Args:
        path: where they come from.
        raw: as `read_bytes` gives them.

    Raises:
        InputError: damaged or cut off.
    """
    try:
        size, entries = (_read_zip if path.suffix == ".tflite" else _read_metadata)(raw)
    except DamagedError as error:
        raise InputError(f"{path}: the file is damaged ({error}); copy it or export it again") from None
    if MANIFEST_KEY not in entries:
        return None
    manifest = manifests.decode(entries[MANIFEST_KEY], str(path))
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
    """Whether the bytes look like what the suffix says."""
    try:
        if path.suffix == ".tflite":
            genuine = raw[IDENTIFIER_START : IDENTIFIER_START + len(TFLITE_IDENTIFIER)] == TFLITE_IDENTIFIER
        else:
            genuine = any(number == MODEL_GRAPH for number, _, _, _ in fields(raw))
            _check_structure(raw)
    except DamagedError as error:
        raise InputError(f"{path}: not an ONNX file, or damaged ({error}); copy it or export it again") from None
    if not genuine:
        raise InputError(
            f"{path}: not a {path.suffix} model but {len(raw):,} other bytes; give a file that 'edgekd export' wrote"
        )


class DamagedError(Exception):
    """What is wrong inside a file, without its name."""


def _zip(model_bytes: bytes, entries: dict[str, bytes]) -> bytes:
    """A zip archive that follows the model, its offsets counted from the model's start; the same bytes at any time of
    day."""
    buffer = io.BytesIO(model_bytes)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, value in entries.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return buffer.getvalue()[len(model_bytes) :]


def _read_zip(raw: bytes) -> tuple[int, dict[str, bytes]]:
    """Size of the model in front of the archive, and our entries."""
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
                raise DamagedError("an entry is there twice")
            for member in ours:
                if member.compress_type != zipfile.ZIP_STORED:  # ours never is; a crafted one could unpack to any size
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
    """Refuse an ONNX file that would take many times its size in memory, before anything parses it."""
    for size in accumulate(_structure_bytes(raw)):
        if size > MAX_STRUCTURE_BYTES:
            raise DamagedError(f"more than {MAX_STRUCTURE_BYTES:,} bytes beside its weights")


def _structure_bytes(raw: bytes) -> Iterator[int]:
    """Bytes of an ONNX file that are neither weights nor metadata, part by part."""
    for field, start, payload, end in fields(raw):
        if field != MODEL_GRAPH:
            yield (payload if field == MODEL_METADATA else end) - start
            continue
        for part, part_start, part_payload, part_end in fields(raw, payload, end):
            if part != GRAPH_INITIALIZER:
                yield part_end - part_start
                continue
            for number, tensor_start, tensor_payload, tensor_end in fields(raw, part_payload, part_end):
                yield (tensor_payload if number in TENSOR_DATA else tensor_end) - tensor_start


def metadata(entries: dict[str, bytes]) -> bytes:
    """`metadata_props` fields, to stand behind a serialised ModelProto."""
    properties = (_field(ENTRY_KEY, key.encode()) + _field(ENTRY_VALUE, value) for key, value in entries.items())
    return b"".join(_field(MODEL_METADATA, entry) for entry in properties)


def _read_metadata(raw: bytes) -> tuple[int, dict[str, bytes]]:
    """Size of the model in front of our first property, and our properties."""
    size, entries = len(raw), {}
    for field, start, payload, end in fields(raw):
        key = ""
        if field == MODEL_METADATA:
            parts = {
                number: raw[payload + first : payload + last] for number, _, first, last in fields(raw[payload:end])
            }
            key = parts.get(ENTRY_KEY, b"").decode(errors="replace")
        if key in (MANIFEST_KEY, DIGEST_KEY):
            if key in entries:
                raise DamagedError("an entry is there twice")
            entries[key] = parts.get(ENTRY_VALUE, b"")
            _check_size(len(entries[key]))
            size = min(size, start)
        elif entries:  # it would be part of the model, but not of what the digest covers
            raise DamagedError(f"field {field} behind the manifest")
    return size, entries


def _check_size(size: int) -> None:
    if size > MAX_MANIFEST_BYTES:
        raise DamagedError(f"manifest of {size:,} bytes, more than {MAX_MANIFEST_BYTES:,}")


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def fields(raw: bytes, position: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Fields of the protobuf message in `raw[position:stop]`: (number, start of the field, start and end of its
    payload).

    Raises:
        DamagedError: cut off, garbled, or more than `MAX_FIELDS` of them.
    """
    stop, count = len(raw) if stop is None else stop, 0
    while position < stop:
        start, count = position, count + 1
        if count > MAX_FIELDS:
            raise DamagedError(f"more than {MAX_FIELDS:,} fields in one message")
        tag, position = read_varint(raw, position)
        wire, number = tag & 7, tag >> 3
        payload = position
        if wire == VARINT:
            _, position = read_varint(raw, position)
        elif wire == LENGTH_DELIMITED:
            length, payload = read_varint(raw, position)
            position = payload + length
        elif wire in FIXED_SIZES:
            position += FIXED_SIZES[wire]
        else:
            raise DamagedError(f"wire type {wire} at byte {start}")
        if not 0 < number <= MAX_FIELD_NUMBER or position > stop:
            raise DamagedError(f"field {number} at byte {start} of {stop} is cut off or garbled")
        yield number, start, payload, position


def read_varint(raw: bytes, position: int) -> tuple[int, int]:
    """The number and the position behind it."""
    value = 0
    for index, byte in enumerate(raw[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise DamagedError(f"number at byte {position} of {len(raw)} is cut off or garbled")
