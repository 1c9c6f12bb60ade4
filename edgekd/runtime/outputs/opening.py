"""Opens the outputs of a configuration. The code of each is imported only here and only when needed, so that a listener
without it stays small."""

from collections.abc import Callable
from typing import Any

from edgekd.errors import MissingExtraError
from edgekd.runtime.config import Config
from edgekd.runtime.config_tables import OUTPUT_TABLES, ClipsTable, HistoryTable, HookTable, MqttTable, WebTable
from edgekd.runtime.listen import STANDARD_INPUT
from edgekd.runtime.outputs.base import Output, OutputGroup


def _web(table: WebTable, _config: Config) -> Output:
    try:
        from edgekd.runtime.outputs.web.web import Web
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (which [web] and --web need)", "web") from None

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
"""Name of a table -> function that opens its output, from the table and the whole configuration."""


def open_outputs(config: Config, systemd: Output | None = None) -> OutputGroup:
    """Open all outputs of a configuration. If one is refused, those that are open already are closed.

    Args:
        config: the configuration.
        systemd: the notifier for systemd, which receives the same lines as the outputs.

    Raises:
        InputError: a setting that can never work: a malformed address, a folder that is a file.
        MissingExtraError: a package is not installed.
    """
    opened: list[Output] = [] if systemd is None else [systemd]
    try:
        for name in OUTPUT_TABLES:
            if (table := getattr(config, name)) is not None:
                opened.append(OPENERS[name](table, config))
    except BaseException:
        with OutputGroup(opened):
            raise
    return OutputGroup(opened)
