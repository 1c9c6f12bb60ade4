"""Finds and reads the TOML data that ships with edgekd: `targets/`, `teachers/` and recipes, in a checkout or in a wheel."""

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import msgspec.inspect

from edgekd.errors import InputError, nearest

Folder = Literal["targets", "teachers", "recipes"]

T = TypeVar("T", bound=msgspec.Struct)

_PACKAGE = Path(__file__).parent


def folder(name: Folder) -> Path:
    """Where a kind of shipped TOML lies: recipes in the package; the others beside it in a checkout, in `_NAME` inside a wheel."""
    if name == "recipes":
        return _PACKAGE / "recipes"
    beside = _PACKAGE.parent / name
    return beside if (_PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir() else _PACKAGE / f"_{name}"


def names(name: Folder) -> list[str]:
    """Names of the shipped files of one kind, without `.toml`, sorted."""
    return sorted(path.stem for path in folder(name).glob("*.toml"))


def find(name_or_path: str | Path, kind: Folder, *others: Folder) -> Path:
    """The file that a user means: a path to a .toml file, or the name of a shipped one.

    Args:
        name_or_path: `my/board.toml` or `dcase2023`.
        kind: the folder searched first; `others` follow in order.

    Raises:
        InputError: no such file, or no such name (with the nearest one).
    """
    text = str(name_or_path)
    folders = (kind, *others)
    if text.endswith(".toml") or len(Path(text).parts) > 1:
        if Path(text).is_file():
            return Path(text)
        raise InputError(f"{text}: no such file; give a path to a .toml file or one of: {', '.join(_known(folders))}")
    for candidate in folders:
        path = folder(candidate) / f"{text}.toml"
        if path.is_file():
            return path
    raise InputError(f"'{text}' is no name in {' or '.join(folders)}{nearest(text, _known(folders))}")


def read_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file into a msgspec struct that forbids unknown fields.

    Raises:
        InputError: unreadable, not TOML, or a field that is missing, mistyped or unknown (with the nearest valid key).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable .toml file") from None
    try:
        return msgspec.toml.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}{_unknown_key_hint(str(error), kind)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def _known(folders: tuple[Folder, ...]) -> list[str]:
    return [name for candidate in folders for name in names(candidate)]


def _unknown_key_hint(message: str, kind: type[msgspec.Struct]) -> str:
    """`; did you mean 'macs'?` when msgspec says that a key is unknown, else an empty string.

    The key may sit in any struct nested in `kind`, so the keys of all of them are candidates.
    """
    match = re.search(r"unknown field `([^`]*)`", message)
    return nearest(match[1], _keys(kind)) if match else ""


def _keys(kind: type[msgspec.Struct]) -> list[str]:
    """Names of all fields of a struct and of the structs nested in it."""
    found: dict[str, None] = {}

    def walk(node: Any) -> None:
        if isinstance(node, msgspec.inspect.StructType):
            for field in node.fields:
                found[field.encode_name] = None
                walk(field.type)
        elif isinstance(node, msgspec.inspect.UnionType):
            for member in node.types:
                walk(member)
        elif isinstance(node, msgspec.inspect.CollectionType):
            walk(node.item_type)
        elif isinstance(node, msgspec.inspect.DictType):
            walk(node.value_type)

    walk(msgspec.inspect.type_info(kind))
    return list(found)
