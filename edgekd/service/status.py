"""`edgekd service status`: what is installed, its state, and what to do about problems."""

import os
from pathlib import Path

import msgspec

from edgekd.errors import GateError, InputError
from edgekd.modelfile.container import read_manifest
from edgekd.runtime.config import read_config
from edgekd.service import versions as models
from edgekd.service.paths import ServicePaths
from edgekd.service.systemd import Manager, UnitState

BOOT_OPTIONS = "/boot/firmware/cmdline.txt"


class UnitReport(msgspec.Struct, frozen=True):
    """State of the unit. text: of the listener. fed_s: seconds since the watchdog was fed, None where it was not.
    memory_mb: 10^6 bytes, None where it is not counted. restarts: since the start."""

    active: str
    sub: str
    enabled: str
    restarts: int
    text: str
    fed_s: float | None
    memory_mb: float | None


class ModelReport(msgspec.Struct, frozen=True):
    """The model in use. file: its path. digest: start of its SHA-256. version: its number. labels: how many."""

    name: str
    file: str
    digest: str
    version: int
    labels: int
    created: str


class ServiceReport(msgspec.Struct, frozen=True):
    """The result of `edgekd service status`.

    installed: whether the unit file exists. unit: None where no systemd was asked. model: None where there is no intact
    one. earlier: files of the versions to go back to, the newest first. configuration: path. journal: its newest line.
    problems: what keeps the service from working, each with what to do. notes: further facts worth knowing.
    """

    ok: bool
    installed: bool
    unit: UnitReport | None
    model: ModelReport | None
    earlier: list[str]
    configuration: str
    journal: str
    problems: list[str]
    notes: list[str]

    def to_json(self) -> bytes:
        """The document of `service status --json`."""
        return msgspec.json.encode(self)

    def to_text(self) -> str:
        """A summary for people."""
        if not self.installed:
            return self.problems[0]
        unit, model = self.unit, self.model
        lines = []
        if unit is not None:
            lines += [
                (
                    f"unit           {unit.active} ({unit.sub}), {unit.enabled or 'not installed'}, {unit.restarts}"
                    " restarts"
                ),
                f"status         {unit.text or '-'}",
                f"watchdog       {'not fed yet' if unit.fed_s is None else f'fed {unit.fed_s:.0f} s ago'}",
                f"memory         {'not counted' if unit.memory_mb is None else f'{unit.memory_mb:.0f} MB'}",
            ]
        if model is not None:
            lines += [
                f"model          {model.name}, {model.labels} labels, exported {model.created}",
                f"file           {model.file} (version {model.version}, SHA-256 {model.digest}...)",
            ]
        lines += [
            f"earlier        {', '.join(Path(file).name for file in self.earlier) or 'none'}",
            f"configuration  {self.configuration}",
        ]
        lines += [f"journal        {self.journal}"] if self.journal else []
        lines += [f"problem        {problem}" for problem in self.problems]
        return "\n".join([*lines, *(f"note           {reload_note}" for reload_note in self.notes)])

    def require(self) -> None:
        """Raise if the service cannot work.

        Raises:
            GateError: there is a problem.
        """
        if not self.ok:
            raise GateError(self.problems[0])


def status(paths: ServicePaths, manager: Manager | None) -> ServiceReport:
    """Examine all parts. Nothing is changed, and root is not needed.

    Args:
        paths: of the service.
        manager: systemd, if it runs there.
    """
    installed = paths.unit.is_file()
    if not installed:
        missing = "no service is installed; begin with: edgekd service install MODEL"
        return ServiceReport(False, False, None, None, [], str(paths.config), "", [missing], [])
    problems, notes = [], []
    model = None
    try:
        model = _model(paths)
        if model is None:
            problems.append(f"{paths.models}: no model is there; give one to 'edgekd service update'")
    except InputError as error:
        problems.append(str(error))
    if paths.config.exists() and not os.access(paths.config, os.R_OK):
        notes.append(f"{paths.config} can only be read by root; with sudo this command checks it too")
    else:
        try:
            read_config(paths.config)
        except InputError as error:
            problems.append(f"{error}; correct it, then: sudo systemctl reload edgekd")
    unit, journal = None, ""
    if manager is not None:
        state, journal = manager.state(), manager.last_line()
        fed_s = round(manager.clock() - state.fed, 1) if state.fed else None
        memory_mb = None if state.memory is None else round(state.memory / 1e6, 1)
        unit = UnitReport(state.active, state.sub, state.enabled, state.restarts, state.text, fed_s, memory_mb)
        problems += _problems(state)
        if state.active == "active" and memory_mb is None:
            notes.append(
                "memory is not limited here; on Raspberry Pi OS append cgroup_enable=memory to the line in"
                f" {BOOT_OPTIONS}"
            )
    earlier = [
        str(version.path)
        for version in reversed(models.versions(paths.models))
        if model is None or version.number < model.version
    ]
    return ServiceReport(not problems, True, unit, model, earlier, str(paths.config), journal, problems, notes)


def _model(paths: ServicePaths) -> ModelReport | None:
    version = models.current(paths.models)
    if version is None:
        return None
    manifest = read_manifest(version.path)
    return ModelReport(
        manifest.name,
        str(version.path),
        version.digest,
        version.number,
        len(manifest.labels),
        manifest.provenance.created,
    )


def _problems(state: UnitState) -> list[str]:
    """Problems of the unit, and what to do."""
    found = []
    if state.enabled != "enabled":
        found.append("the service does not start with the system: sudo systemctl enable edgekd")
    if state.sub == "auto-restart" or state.active == "failed":
        found.append(f"the listener ended ({state.result}) and is tried again; see why: sudo journalctl -u edgekd")
    elif state.active == "activating":
        message = state.text or "it has not reported anything yet"
        found.append(
            f"it waits for its first samples ({message}); plug a microphone in, or choose one of 'edgekd mics' in the"
            " configuration"
        )
    elif state.active not in ("active", "reloading"):
        found.append(f"it is {state.active or 'not known to systemd'}: sudo systemctl start edgekd")
    return found
