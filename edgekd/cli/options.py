"""Options of `edgekd listen`, made from the fields of its configuration's tables, whose descriptions are their help."""

import inspect
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import typer
from msgspec.structs import FieldInfo

from edgekd.runtime.config_tables import MAIN_TABLES, OUTPUT_TABLES, SourceTable

Tables = dict[str, dict[str, Any]]
"""Table -> key -> value of a configuration."""
ARGUMENT = ("source", "file")
"""The one setting that is an argument."""


def listen_parameters() -> list[inspect.Parameter]:
    """A parameter TABLE_KEY for each setting that the command line can give; None is not given."""
    found = []
    for table, struct in (MAIN_TABLES | OUTPUT_TABLES).items():
        for field in _fields(struct):
            option = (_meta(field).extra or {}).get("option", field.name if table in MAIN_TABLES else None)
            if option is not None:
                found.append(_parameter(table, field, option))
    return found


def by_table(values: Mapping[str, Any]) -> Tables:
    """The values of `listen_parameters` as tables."""
    tables: Tables = {}
    for name, value in values.items():
        table, _, key = name.partition("_")
        tables.setdefault(table, {})[key] = (tuple(value) or None) if isinstance(value, list) else value
    return tables


def source_option(key: str, help_text: str | None = None) -> Any:
    """An option of another command for a key of `[source]`, with the help of the key unless another is given."""
    field = next(field for field in _fields(SourceTable) if field.name == key)
    return typer.Option(f"--{key}", help=help_text or _meta(field).description)


@cache
def _fields(struct: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    return msgspec.structs.fields(struct)


def _parameter(table: str, field: FieldInfo, option: str) -> inspect.Parameter:
    kind = _plain(field.type)
    help_text = _meta(field).description or ""
    if isinstance(field.default, int | float) and not isinstance(field.default, bool):
        help_text += f" Default: {field.default:g}."
    flags = f"--{option}/--no-{option}" if kind is bool else f"--{option}"
    is_argument = (table, field.name) == ARGUMENT
    info = typer.Argument(metavar="[SOURCE]", help=help_text) if is_argument else typer.Option(flags, help=help_text)
    name = f"{table}_{field.name}"
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _meta(field: FieldInfo) -> msgspec.Meta:
    """What `config_tables.about` noted of a field."""
    return next(meta for meta in get_args(field.type)[1:] if isinstance(meta, msgspec.Meta) and meta.description)


def _plain(kind: Any) -> Any:
    """The type of an option: `Annotated[Annotated[int, ...] | None, ...]` -> int, a choice of names -> str,
    `tuple[str, ...]` -> a list, whose option may be repeated."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return str
    if get_origin(kind) is tuple:
        return list[str]
    members = [member for member in get_args(kind) if member is not NoneType]
    return _plain(members[0]) if members else kind
