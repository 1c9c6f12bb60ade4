"""YAML text without a library: nested keys in blocks, and every string in double quotes as in JSON, which YAML reads
alike."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STEP = "  "
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
"""Keys that YAML does not read as strings."""
ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
"""Characters that JSON allows in a string and YAML does not."""


def dump(value: Mapping[str, Any]) -> str:
    """A YAML document of mappings, sequences, strings, numbers, booleans and None (null); numbers that are not finite
    become null. Each line ends in a line break."""
    return "".join(f"{line}\n" for line in _block(value, ""))


def _block(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{indent}{_key(key)}:", item, indent)
    else:
        for item in value:
            first, *rest = list(_block(item, "")) if _nested(item) else [scalar(item)]
            yield f"{indent}- {first}"
            yield from (f"{indent}{STEP}{line}" for line in rest)


def _entry(head: str, item: Any, indent: str) -> Iterator[str]:
    if _nested(item):
        yield head
        yield from _block(item, indent + STEP)
    else:
        yield f"{head} {scalar(item)}"


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and bool(value)


def scalar(value: Any) -> str:
    """One value as YAML, on one line."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "null"
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"  # YAML would read 1e-05 as a string
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, str):
        return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    return "[]"


def _key(key: str) -> str:
    return key if PLAIN_KEY.fullmatch(key) and key.lower() not in WORDS else scalar(key)
