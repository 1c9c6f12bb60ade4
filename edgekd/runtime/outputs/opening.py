"""Which outputs a configuration turns on. Each one's code is imported here, late: a listener without it stays small."""

from collections.abc import Callable
from typing import Any

from edgekd.runtime.config import OUTPUT_TABLES, Config
from edgekd.runtime.outputs.hub import Output, Outputs
from edgekd.runtime.outputs.tables import WebTable


def _web(table: WebTable) -> Output:
    from edgekd.runtime.outputs.web import Web

    return Web(table)


OPENERS: dict[str, Callable[[Any], Output]] = {"web": _web}
"""Name of a table -> what makes an output of it, at work."""


def open_outputs(config: Config) -> Outputs:
    """The outputs of a configuration, at work.

    Raises:
        InputError: what can never work: an address that is none, a folder that cannot be written.
        MissingExtraError: a package that is not installed.
    """
    return Outputs([OPENERS[name](table) for name in OUTPUT_TABLES if (table := getattr(config, name)) is not None])
