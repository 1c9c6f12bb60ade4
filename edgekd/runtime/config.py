"""The configuration file of `edgekd listen`: a key for every option, which the command line overrides."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekd.errors import InputError
from edgekd.modelfile.engine import Model, open_model
from edgekd.modelfile.equaliser import with_equaliser
from edgekd.modelfile.zoo import model_file, zoo_model, zoo_names
from edgekd.rates import require_rate
from edgekd.resources import read_toml
from edgekd.runtime.config_tables import (
    OUTPUT_TABLES,
    ClipsTable,
    DecisionTable,
    HistoryTable,
    HookTable,
    ModelTable,
    MqttTable,
    OutputTable,
    SourceTable,
    WatchTable,
    WebTable,
)
from edgekd.runtime.control import Configuration
from edgekd.runtime.decision import DecisionSettings
from edgekd.runtime.listen import STANDARD_INPUT
from edgekd.runtime.source.capture import require_valid_request
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Watch
from edgekd.runtime.stream import WindowStream

SOURCES = ("file", "mic", "command")
"""Keys that name a source; one of them at most."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that `edgekd listen` can be told."""

    model: ModelTable = ModelTable()
    source: SourceTable = SourceTable()
    decision: DecisionTable = DecisionTable()
    output: OutputTable = OutputTable()
    mqtt: MqttTable | None = None
    web: WebTable | None = None
    hook: HookTable | None = None
    history: HistoryTable | None = None
    clips: ClipsTable | None = None
    watch: WatchTable = WatchTable()

    @property
    def model_file(self) -> Path:
        """The model; where none is named, the one that comes with edgekd. A link without a suffix, such as that of a
        service, stands for what it points to now.

        Raises:
            InputError: the link points to nothing; see `edgekd.modelfile.zoo.model_file`.
        """
        if self.model.file is None:
            return zoo_model(self.model.engine)
        file = Path(self.model.file)
        if file.suffix or not file.is_symlink():
            return model_file(file, self.model.engine)
        try:
            return file.resolve(strict=True)
        except OSError as error:
            raise InputError(f"{file}: a link to no file ({error.strerror}); let it point to a model") from None

    @property
    def request(self) -> SourceRequest:
        """What to hear where there is no file."""
        source = self.source
        return SourceRequest(source.mic, source.command, source.rate, source.channels, source.channel)

    @property
    def limits(self) -> Watch:
        """By which a live source is watched."""
        watch = self.watch
        return Watch(stall_s=watch.stall, zeros_s=watch.zeros, failed_s=watch.failed, queue_s=watch.queue)

    @property
    def settings(self) -> DecisionSettings:
        """How steady decisions are.

        Raises:
            InputError: a value out of range.
        """
        decision = self.decision
        return DecisionSettings(
            smooth_s=decision.smooth,
            margin=decision.margin,
            dwell_s=decision.dwell,
            unknown=decision.unknown,
            gate_dbfs=decision.gate,
        )


def read_config(path: Path) -> Config:
    """Read a configuration; its relative paths are relative to its own folder.

    Raises:
        InputError: unreadable, unknown or mistyped keys, values out of range, two sources.
    """
    config = read_toml(path, Config)
    try:
        _ = config.settings
    except InputError as error:
        raise InputError(f"{path}: [decision]: {error}") from None
    if config.source.rate is not None:
        require_rate(config.source.rate, f"{path}: [source]: rate is")
    named = [key for key in SOURCES if getattr(config.source, key) is not None]
    if len(named) > 1:
        raise InputError(f"{path}: [source]: {' and '.join(named)} are {len(named)} sources; keep one of them")
    file = config.source.file
    return msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, file=_model_beside(path, config.model.file)),
        source=msgspec.structs.replace(
            config.source,
            file=file if file == STANDARD_INPUT else _beside(path, file),
            equaliser=_beside(path, config.source.equaliser),
        ),
        output=msgspec.structs.replace(config.output, track=_beside(path, config.output.track)),
        mqtt=config.mqtt
        and msgspec.structs.replace(
            config.mqtt,
            **{key: _beside(path, getattr(config.mqtt, key)) for key in ("password_file", "ca", "certificate", "key")},
        ),
        web=config.web and msgspec.structs.replace(config.web, token_file=_beside(path, config.web.token_file)),
        history=config.history and msgspec.structs.replace(config.history, file=_beside(path, config.history.file)),
        clips=config.clips and msgspec.structs.replace(config.clips, folder=_beside(path, config.clips.folder)),
    )


def override(config: Config, flags: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration with what the command line says: table -> key -> value, where None was not given.

    A source that the command line names takes the place of the whole `[source]` table.
    """
    given = {table: {key: value for key, value in keys.items() if value is not None} for table, keys in flags.items()}
    if not given.get("source", {}).keys().isdisjoint(SOURCES):
        config = msgspec.structs.replace(config, source=SourceTable())
    return msgspec.structs.replace(
        config,
        **{
            table: (
                OUTPUT_TABLES[table](**keys)
                if getattr(config, table) is None
                else msgspec.structs.replace(getattr(config, table), **keys)
            )
            for table, keys in given.items()
            if keys
        },
    )


def require_same_outputs(running: Config, told: Config) -> None:
    """Outputs are opened at the start alone: refuse a reload that would seem to change them.

    Raises:
        InputError: a table differs.
    """
    changed = [f"[{name}]" for name in OUTPUT_TABLES if getattr(running, name) != getattr(told, name)]
    if changed:
        raise InputError(
            f"{' and '.join(changed)} changed, and outputs are opened at the start alone; start again for it"
        )


def prepared(config: Config, verify: Callable[[Model, str], None]) -> Configuration:
    """All that a running listener changes to, checked before it does.

    Args:
        config: what is told now.
        verify: raises where a model, opened from the file named, does not compute here what it computed where it was
            exported.

    Raises:
        EdgekdError: a file that cannot be opened or does not pass, a value that does not fit the model.
    """
    model = open_model(config.model_file, config.model.engine, config.model.threads)
    verify(model, str(config.model_file))
    WindowStream(model.manifest.frontend, model.manifest.window, config.decision.hop)  # refuses a hop that does not fit
    require_valid_request(config.request)
    classifier = with_equaliser(model, config.source.equaliser)
    return Configuration(
        config.source.file,
        config.request,
        classifier,
        config.decision.hop,
        config.decision.top,
        config.settings,
        config.limits,
    )


def _model_beside(config: Path, file: str | None) -> str | None:
    """As `_beside`, but for the name of a model that comes with edgekd, where no such file is there."""
    beside = _beside(config, file)
    return file if file in zoo_names() and beside is not None and not Path(beside).exists() else beside


def _beside(config: Path, file: str | None) -> str | None:
    return None if file is None else str(config.parent / file)
