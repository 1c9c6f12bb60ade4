"""Finds and reads the TOML files that ship with edgekd (targets, teachers, recipes, reproductions), in a checkout or in
a wheel. Converts tables to msgspec structs with errors that name the key and the value, and paths in them to paths."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from edgekd.errors import InputError, nearest

Folder = Literal["targets", "teachers", "recipes", "reproductions"]

T = TypeVar("T", bound=msgspec.Struct)

SUFFIXES = (".toml", ".json")
"""Suffixes of files. Any other text without a folder in it is the name of a shipped file."""
SECRETS = frozenset({"password", "token"})
"""Keys whose values are never shown in errors."""
TEXT = "utf-8-sig"
"""Encoding of what people write: UTF-8, also with the byte order mark that some editors put in front."""
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\w+))", re.ASCII)
_PACKAGE = Path(__file__).parent


def folder(name: Folder) -> Path:
    """Folder of the shipped files of one kind. Recipes and reproductions are in the package; the others are next to the
    package in a checkout and in its folder `_NAME` in a wheel."""
    if name in {"recipes", "reproductions"}:
        return _PACKAGE / name
    in_checkout = _PACKAGE.parent / name
    return (
        in_checkout
        if (_PACKAGE.parent / "pyproject.toml").is_file() and in_checkout.is_dir()
        else _PACKAGE / f"_{name}"
    )


def names(name: Folder) -> list[str]:
    """Names of the shipped files of one kind, without `.toml`, sorted."""
    return sorted(path.stem for path in folder(name).glob("*.toml"))


def find(name_or_path: str | Path, kind: Folder, *others: Folder) -> Path:
    """The file that a user names: by a path to a .toml or .json file, or by the name of a shipped one.

    Args:
        name_or_path: `my/board.toml` or `dcase2023`.
        kind: the folder searched first; `others` follow in order.

    Raises:
        InputError: no such file, or no such name (the nearest one is suggested).
    """
    text = str(name_or_path)
    folders = (kind, *others)
    if Path(text).suffix in SUFFIXES or len(Path(text).parts) > 1:
        if Path(text).is_file():
            return Path(text)
        raise InputError(f"{text}: no such file; give a path to a .toml file or one of: {', '.join(_known(folders))}")
    for candidate in folders:
        path = folder(candidate) / f"{text}.toml"
        if path.is_file():
            return path
    raise InputError(f"'{text}' is no name in {' or '.join(folders)}{nearest(text, _known(folders))}")


def read_table(path: Path) -> dict[str, Any]:
    """Content of a .toml file, or of a .json file with one object.

    Raises:
        InputError: unreadable, not TOML or JSON, or not an object.
    """
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = path.read_bytes().decode(TEXT)
        raw: Any = _json(text) if kind == "JSON" else _toml(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid {kind} ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a {type(raw).__name__}; it must hold a table of keys")
    return raw


def _json(text: str) -> Any:
    import json  # late: the command line imports this module at every start

    return json.loads(text)


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def read_toml(path: Path, kind: type[T]) -> T:
    """A TOML file as a msgspec struct.

    Raises:
        InputError: see `read_table` and `convert`.
    """
    return convert(read_table(path), kind, str(path))


def path_in(file: Path, text: str) -> Path:
    """The path that a text in a file means. `~` is a home folder, `$NAME` and `${NAME}` are variables of the
    environment, and a relative path begins at the folder of the file.

    Raises:
        InputError: a user or a variable that does not exist, or no path.
    """
    for braced, plain in _VARIABLE.findall(text):
        if (braced or plain) not in os.environ:
            raise InputError(
                f"{file}: path {text!r}: the variable {braced or plain} is not set; write the path without it"
            )
    path = os.path.expanduser(text)  # noqa: PTH111 Path would also expand ./~name, which is a file
    if path.startswith("~"):
        raise InputError(
            f"{file}: path {text!r}: {text.partition('/')[0]} has no home folder; write the path without it"
        )
    if "\0" in path:
        raise InputError(f"{file}: path {text!r}: no path holds a zero byte; remove it")
    return file.parent / os.path.expandvars(path)


def convert(raw: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Tables as a struct, with keys and values checked.

    Args:
        raw: tables as read from TOML or JSON.
        kind: the struct.
        where: the start of every error, for instance a path.

    Raises:
        InputError: a key that is missing, mistyped or unknown (with the nearest valid one), or a value out of range.
    """
    _check_keys(raw, kind, where)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {_explained(str(error), raw)}") from None


def _explained(message: str, raw: Any) -> str:
    """A message of msgspec ("Expected `int` >= 1 - at `$.train.epochs`") with the key at the start and the value at the
    end."""
    what, _, key_path = message.partition(" - at `$")
    keys = re.findall(r"\w+", key_path)
    for key in keys:
        raw = raw[key] if isinstance(raw, Mapping) else raw[int(key)]
    shown = re.sub(r"://.*@", "://***@", repr(raw))  # a URL may contain a password
    got = f" {shown}" if ", got" in what else f", got {shown}"
    # no value: a key is missing, or the value is already shown or secret
    if isinstance(raw, Mapping) or repr(raw) in what or not SECRETS.isdisjoint(keys):
        got = ""
    return "".join([*(f"{'.'.join(keys)}: " for _ in keys[:1]), what[:1].lower(), what[1:], got])


def _check_keys(raw: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    """Raise for unknown keys, also in nested tables. The tag of a struct is not an unknown key."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in raw.items():
        if key == struct.__struct_config__.tag_field:
            continue
        if key not in fields:
            raise InputError(f"{where}: unknown key '{key}'{nearest(key, fields)}")
        for kind in (fields[key], *get_args(fields[key])):  # a table, or one that may be absent
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, Mapping):
                _check_keys(value, kind, f"{where}: [{key}]")


def _known(folders: tuple[Folder, ...]) -> list[str]:
    return [name for candidate in folders for name in names(candidate)]
