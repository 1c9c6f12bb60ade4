"""YAML documents as text, written by PyYAML."""

import math
import re
from collections.abc import Mapping
from typing import Any

from edgekd.errors import MissingExtraError

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_. -]+")
"""Matches strings that need no quotes in YAML 1.1 and 1.2, besides those that PyYAML quotes itself. The two versions
read some others differently, for instance `1e3`, `0o7` and `y`."""
STRING = "tag:yaml.org,2002:str"


def pyyaml() -> Any:
    """The module `yaml`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "check") from None
    return yaml


def yaml_text(document: Mapping[str, Any]) -> str:
    """A document of dicts, lists, tuples, strings, numbers, booleans and None. Keys keep their order, numbers that are
    not finite become null, each value is on a line of its own, and there are no aliases.

    Raises:
        MissingExtraError: see `pyyaml`.
    """
    yaml = pyyaml()
    dumper: Any = type(
        "Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True}
    )  # the next lines change the class
    dumper.add_representer(
        str, lambda to, text: to.represent_scalar(STRING, text, style=None if PLAIN.fullmatch(text) else '"')
    )
    dumper.add_representer(
        float, lambda to, number: to.represent_float(number) if math.isfinite(number) else to.represent_none(None)
    )
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=math.inf))
