"""`edgekd service`: the listener as a systemd service, with models that can be changed and changed back while it runs.

Each verb works on `ServicePaths` and on the systemd that runs there. Without systemd it prepares a root directory from
which another machine will start. A verb checks everything before it writes anything but the service's user, as which
it verifies the model (`trial`). Files appear complete, and the unit file comes last. If a verb is interrupted, the same
verb continues.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import edgekd
from edgekd.errors import GateError, InputError
from edgekd.modelfile.container import read_bytes
from edgekd.modelfile.zoo import zoo_model
from edgekd.runtime.diagnose import portaudio_version
from edgekd.service import trial
from edgekd.service import versions as models
from edgekd.service.paths import UNIT, ServicePaths, install_hint, link, require_visible, template, write
from edgekd.service.systemd import POLL_S, Manager, UnitState

JOURNAL_HINT = "see: sudo journalctl -u edgekd"
CHECK_S = 45.0
"""Longest wait for a listener to load a model and decide with it, seconds; the slowest board needs a few."""
START_S = 20.0
"""Longest wait for a decision after the start, seconds; a microphone may be plugged in at any later time."""
FRESH_S = 30.0
"""If the watchdog was fed within so many seconds, the listener receives samples; it feeds the watchdog each 15 s."""


class ReloadResult(NamedTuple):
    """The result of a reload. problem: why the listener does not go on with the new model, or "". message: otherwise
    what to report. refused: it goes on with the old model."""

    problem: str
    message: str = ""
    refused: bool = False


def install(paths: ServicePaths, manager: Manager | None, model: Path | None, python: str) -> list[str]:
    """Write the files of the service, and start it where systemd runs. An existing configuration is kept.

    Args:
        paths: of the service.
        manager: systemd, if it runs there.
        model: .tflite or .onnx; None keeps the installed one, or takes the one that comes with edgekd.
        python: interpreter of the environment with edgekd, as the service sees it.

    Returns:
        Lines that report each step.

    Raises:
        InputError: a path or a model that the service could not use.
        GateError: a model that computes something else here, or a service that ends again and again.
    """
    unit = paths.unit_text(python)
    if model is None and models.intact_current(paths.models) is None:
        model = zoo_model()
    with paths.held():
        write(paths.users, template("sysusers.conf").encode(), 0o644)
        if manager is not None:
            manager.add_user()
        done = [] if model is None else _add_version(paths, model)[1]
        write(paths.modes, template("tmpfiles.conf").encode(), 0o644)
        if not os.path.lexists(paths.config):
            write(paths.config, template("listen.toml").encode(), 0o640)
            done.append(f"{paths.config}: written; it is yours from now on")
        write(paths.unit, unit.encode(), 0o644)
        link(paths.wanted, f"../{UNIT}")
        done.append(f"{paths.unit}: written, and started with the system")
        if manager is None:
            exists = os.path.lexists(paths.root / python.lstrip("/"))
            return done if exists else [*done, f"note: {python} does not exist yet; {install_hint()}"]
        manager.prepare()
        manager.start()
        return [*done, *_microphone_notes(), _wait_until_active(manager)]


def update(paths: ServicePaths, manager: Manager | None, model: Path) -> list[str]:
    """Verify a model and let the service use it. If the listener does not go on with it, the model before comes back.

    Raises:
        InputError: the service is not installed, or the model cannot be used; nothing has changed.
        GateError: the model computes something else here, or the running listener did not accept it; the model before
            is in use.
    """
    _require_installed(paths)
    with paths.held():
        before = models.intact_current(paths.models)
        now, done = _add_version(paths, model, prune=False)
        if now == before:
            return done
        done.append(_change_over(paths, manager, before, now))
        models.prune(paths.models, before, now)
        return done


def rollback(paths: ServicePaths, manager: Manager | None) -> list[str]:
    """Go back to the model before the one in use; if the link is damaged, to the newest intact one.

    Raises:
        InputError: the service is not installed, or no earlier model passes.
        GateError: the running listener did not accept it; the model before is in use.
    """
    _require_installed(paths)
    with paths.held():
        before = models.intact_current(paths.models)
        earlier = [
            version for version in models.versions(paths.models) if before is None or version.number < before.number
        ]
        refused = []
        for version in reversed(earlier):
            try:
                if not models.is_intact(version):
                    raise InputError("not the bytes that were verified")
                trial.verify(read_bytes(version.path), version.path)
            except (InputError, GateError) as error:
                refused.append(f"note: {version.path.name} is skipped: {error}")
                continue
            return [*refused, f"{version.path}: the model again", _change_over(paths, manager, before, version)]
        raise InputError(f"{paths.models}: no earlier model there passes; give one to 'edgekd service update'")


def remove(paths: ServicePaths, manager: Manager | None, *, purge: bool = False) -> list[str]:
    """Stop the service and remove its files. It is no error if nothing is installed.

    Args:
        paths: of the service.
        manager: systemd, if it runs there.
        purge: also remove the configuration, the models, and all data of the listener.
    """
    done = []
    if manager is not None and manager.state().load == "loaded":
        manager.stop()
    for path in (paths.wanted, paths.unit, paths.modes, paths.users):
        if os.path.lexists(path):
            path.unlink()
            done.append(f"{path}: removed")
    if manager is not None:
        manager.forget()
    for folder in (paths.configuration, paths.state):
        if not os.path.lexists(folder):
            continue
        if not purge:
            done.append(f"{folder}: kept; --purge removes it")
        elif folder.is_symlink():
            folder.unlink()
            done.append(f"{folder}: the link is removed, not what it points to")
        else:
            shutil.rmtree(folder)
            done.append(f"{folder}: removed")
    return done or ["nothing is installed"]


def own_python() -> str:
    """The interpreter of this process, if a service can see it and the edgekd that it imports.

    Raises:
        InputError: a service cannot see it.
    """
    require_visible(
        sys.executable,
        str(Path(sys.executable).resolve()),
        sys.base_prefix,
        str(Path(edgekd.__file__).resolve().parent),
    )
    return sys.executable


def _require_installed(paths: ServicePaths) -> None:
    if not paths.unit.is_file():
        raise InputError(
            f"{paths.unit}: not there, so no service is installed; begin with: edgekd service install MODEL"
        )


def _add_version(paths: ServicePaths, model: Path, *, prune: bool = True) -> tuple[models.Version, list[str]]:
    """Verify a model and add it as a version, unless it is in use already. With `prune` the link points to it at once.
    Returns the version and a line on it."""
    before = models.intact_current(paths.models)
    now = models.add(paths.models, model)
    if before is not None and (before.digest, before.path.suffix) == (now.digest, now.path.suffix):
        models.discard(now)
        return before, [f"{model}: verified; it is already the model, {before.path}"]
    if prune:
        models.use(paths.models, now)
        models.prune(paths.models, before, now)
    return now, [f"{model}: verified and kept as {now.path}"]


def _change_over(
    paths: ServicePaths, manager: Manager | None, before: models.Version | None, now: models.Version
) -> str:
    """Point the link to a version and let the listener load it. If it does not, point the link back.

    Raises:
        GateError: it does not, and the version before is in use.
    """
    models.use(paths.models, now)
    if manager is None:
        return f"{paths.models / models.CURRENT}: now {now.path.name}"
    result = _reload(manager)
    if not result.problem:
        return result.message
    if before is None:
        raise GateError(
            f"{now.path.name} stays, but the listener does not go on with it: {result.problem}; {JOURNAL_HINT}"
        )
    models.use(paths.models, before)
    if now.number > before.number:
        models.discard(now)
    if not result.refused:  # it may have loaded the new model
        manager.start()
    raise GateError(
        f"back to {before.path.name}, because the listener does not go on with the new model: {result.problem};"
        f" {JOURNAL_HINT}"
    )


def _reload(manager: Manager) -> ReloadResult:
    """Ask the listener to reload, and wait for the result."""
    before = now = manager.state()
    if not before.process or before.active not in ("active", "activating", "reloading"):
        return ReloadResult(
            "", "the service does not run now: it takes the model at its next start (sudo systemctl start edgekd)"
        )
    is_fed = before.fed > 0.0 and manager.clock() - before.fed < FRESH_S
    manager.reload()
    began = unchanged = manager.clock()  # unchanged: the last time at which it had certainly not reloaded yet
    while manager.clock() - began < CHECK_S:
        manager.sleep(POLL_S)
        asked, now = manager.clock(), manager.state()
        if now.process != before.process:
            return ReloadResult(f"it ended ({now.result or 'for an unknown reason'})")
        if now.reload_note == before.reload_note:
            unchanged = asked
        elif not now.reloaded:
            return ReloadResult(now.reload_note, refused=True)
        elif not is_fed or now.fed > unchanged:
            return ReloadResult(
                "", f"the listener has loaded it{'' if is_fed else ', but receives no samples now'}: {now.text}"
            )
    return ReloadResult(f"no {'answer' if now.reload_note == before.reload_note else 'decision'} within {CHECK_S:g} s")


def _wait_until_active(manager: Manager) -> str:
    """Wait for a started service. Returns a line on its state.

    Raises:
        GateError: it ends again and again.
    """
    began = manager.clock()
    now = UnitState()
    while manager.clock() - began < START_S:
        manager.sleep(POLL_S)
        now = manager.state()
        if now.active == "active":
            return f"the service runs: {now.text}"
        if now.restarts or now.active == "failed" or now.sub == "auto-restart":
            raise GateError(
                f"installed, but the listener ends again and again: {manager.last_line() or now.result}; {JOURNAL_HINT}"
            )
    return (
        f"the service waits for its first samples: {now.text or 'nothing is reported yet'}; see: edgekd service status,"
        " edgekd mics"
    )


def _microphone_notes() -> list[str]:
    if portaudio_version() is not None:
        return []
    return ["note: PortAudio is not found, and microphones need it: sudo apt install libportaudio2"]
