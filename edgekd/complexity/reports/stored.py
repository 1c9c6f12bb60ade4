"""Reads a JSON document that an edgekd command printed: an object for one model, a list of objects for several."""

from pathlib import Path
from typing import TypeVar

import msgspec

from edgekd.errors import InputError

MAX_BYTES = 2**26
"""Largest document. Even a report with as many layers as a model file may have is far smaller."""

T = TypeVar("T", bound=msgspec.Struct)


def read_json(path: Path, kind: type[T], option: str, wanted: str) -> tuple[T, ...]:
    """The objects of a document. Fields that `kind` does not have are ignored.

    Args:
        path: the file.
        kind: the struct.
        option: that named the file, for errors.
        wanted: what the file must be, in words, for errors.

    Raises:
        InputError: unreadable, too large, not JSON, another document, or an empty list.
    """
    try:
        if not path.is_dir() and not path.is_file() and path.exists():  # opening a pipe would block
            raise InputError(f"{option} {path}: not a regular file; give {wanted}")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be read ({error.strerror}); give {wanted}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{option} {path}: more than {MAX_BYTES:,} bytes; give {wanted}")
    try:
        found = msgspec.json.decode(raw, type=kind | tuple[kind, ...])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        reason = str(error)
        raise InputError(
            f"{option} {path}: another document ({reason[:1].lower()}{reason[1:]}); give {wanted}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{option} {path}: damaged, or no JSON ({error}); give {wanted}") from None
    documents: tuple[T, ...] = found if isinstance(found, tuple) else (found,)
    if not documents:
        raise InputError(f"{option} {path}: an empty list; give {wanted}")
    return documents
