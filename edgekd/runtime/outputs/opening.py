"""Which outputs a configuration turns on. Each one's code is imported here, late: a listener without it stays small."""

from collections.abc import Callable
from typing import Any

from edgekd.runtime.config import Config
from edgekd.runtime.config_tables import OUTPUT_TABLES, ClipsTable, HistoryTable, HookTable, MqttTable, WebTable
from edgekd.runtime.listen import STANDARD_INPUT
from edgekd.runtime.outputs.base import Output, Outputs


def _web(table: WebTable, _config: Config) -> Output:
    from edgekd.runtime.outputs.web.web import Web

    return Web(table)


def _mqtt(table: MqttTable, _config: Config) -> Output:
    from edgekd.runtime.outputs.mqtt.settings import open_mqtt

    return open_mqtt(table)


def _hook(table: HookTable, _config: Config) -> Output:
    from edgekd.runtime.outputs.hooks.hook import open_hook

    return open_hook(table)


def _history(table: HistoryTable, config: Config) -> Output:
    from edgekd.runtime.outputs.history.output import open_history

    return open_history(table, None if config.source.file == STANDARD_INPUT else config.source.file)


def _clips(table: ClipsTable, _config: Config) -> Output:
    from edgekd.runtime.outputs.clips import open_clips

    return open_clips(table)


OPENERS: dict[str, Callable[[Any, Config], Output]] = {
    "web": _web,
    "mqtt": _mqtt,
    "hook": _hook,
    "history": _history,
    "clips": _clips,
}
"""Name of a table -> what makes an output of it and of the configuration that it is in, at work."""


def open_outputs(config: Config, systemd: Output | None = None) -> Outputs:
    """The outputs of a configuration, at work; where one is refused, those before it are closed. systemd: what tells it
    of all that they are told.

    Raises:
        InputError: what can never work: an address that is none, a folder that cannot be written.
        MissingExtraError: a package that is not installed.
    """
    opened: list[Output] = [] if systemd is None else [systemd]
    try:
        for name in OUTPUT_TABLES:
            if (table := getattr(config, name)) is not None:
                opened.append(OPENERS[name](table, config))
    except BaseException:
        with Outputs(opened):
            raise
    return Outputs(opened)
