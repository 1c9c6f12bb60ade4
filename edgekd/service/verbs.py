"""`edgekd service`: the listener as a systemd service, with models that can be changed and changed back while it runs.

Each verb works on a `Place`, and on the systemd that runs there; None prepares a root directory that some other machine
will start from. Everything is checked before anything is written, files appear whole, and the unit comes last: whatever
stops a verb, the same verb goes on.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import edgekd
from edgekd.errors import GateError, InputError
from edgekd.modelfile.zoo import zoo_model
from edgekd.runtime.diagnose import portaudio_version
from edgekd.service import versions as models
from edgekd.service.paths import UNIT, Place, install_hint, link, require_visible, template, write
from edgekd.service.systemd import POLL_S, Manager, State

LOOK = "see: sudo journalctl -u edgekd"
CHECK_S = 45.0
"""Longest wait for a listener to take a model and decide with it; the slowest board needs a few seconds."""
START_S = 20.0
"""Longest wait for a decision after the start; a microphone may be plugged in any time later."""
FRESH_S = 30.0
"""A watchdog that was fed so long ago is that of a listener that hears; it is fed each 15 s."""


class Taken(NamedTuple):
    """What came of a reload. problem: why the listener does not go on, or "". said: else what to say. refused: it goes
    on as it was."""

    problem: str
    said: str = ""
    refused: bool = False


def install(place: Place, manager: Manager | None, model: Path | None, python: str) -> list[str]:
    """Write what the service needs, and start it where systemd runs; a configuration that is there stays.

    Args:
        place: where.
        manager: systemd, if it runs there.
        model: .tflite or .onnx; None keeps the one that is installed, or takes the one that comes with edgekd.
        python: interpreter of the environment that edgekd is installed in, as the service sees it.

    Returns:
        What was done, line by line.

    Raises:
        InputError: what the service would not find or could not use.
        GateError: a model that computes something else here, or a service that ends again and again.
    """
    unit = place.unit_text(python)
    if model is None and models.whole_current(place.models) is None:
        model = zoo_model()
    with place.held():
        done = [] if model is None else _keep(place, model)[1]
        write(place.users, template("sysusers.conf").encode(), 0o644)
        write(place.modes, template("tmpfiles.conf").encode(), 0o644)
        if not os.path.lexists(place.config):
            write(place.config, template("listen.toml").encode(), 0o640)
            done.append(f"{place.config}: written; it is yours from now on")
        write(place.unit, unit.encode(), 0o644)
        link(place.wanted, f"../{UNIT}")
        done.append(f"{place.unit}: written, and started with the system")
        if manager is None:
            there = os.path.lexists(place.root / python.lstrip("/"))
            return done if there else [*done, f"note: {python} is not there yet; {install_hint()}"]
        manager.prepare()
        manager.start()
        return [*done, *_microphone_notes(), _settled(manager)]


def update(place: Place, manager: Manager | None, model: Path) -> list[str]:
    """Let the service use another model, which is verified before; where the listener does not go on with it, the one
    before comes back.

    Raises:
        InputError: the service is not installed, or the model cannot be used; all stays as it was.
        GateError: the model computes something else here, or the running listener did not take it; all is as it was.
    """
    _require_installed(place)
    with place.held():
        before = models.whole_current(place.models)
        now, done = _keep(place, model, prune=False)
        if now == before:
            return done
        done.append(_change_over(place, manager, before, now))
        models.prune(place.models, before, now)
        return done


def rollback(place: Place, manager: Manager | None) -> list[str]:
    """Go back to the model before the one in use; where the link to that is damaged, to the newest that is whole.

    Raises:
        InputError: the service is not installed, or no earlier model is kept that passes.
        GateError: the running listener did not take it; all is as it was.
    """
    _require_installed(place)
    with place.held():
        before = models.whole_current(place.models)
        earlier = [
            version for version in models.versions(place.models) if before is None or version.number < before.number
        ]
        refused = []
        for version in reversed(earlier):
            try:
                if not models.is_whole(version):
                    raise InputError("not the bytes that were verified")
                models.verify(version.path, version.path)
            except (InputError, GateError) as error:
                refused.append(f"note: {version.path.name} is passed over: {error}")
                continue
            return [*refused, f"{version.path}: the model again", _change_over(place, manager, before, version)]
        raise InputError(
            f"{place.models}: no earlier model is kept there that passes; give one to 'edgekd service update'"
        )


def remove(place: Place, manager: Manager | None, *, purge: bool = False) -> list[str]:
    """End the service and remove it; nothing to remove is no error.

    Args:
        place: where.
        manager: systemd, if it runs there.
        purge: also the configuration, the models, and all that the listener has kept.
    """
    done = []
    if manager is not None and manager.state().load == "loaded":
        manager.stop()
    for path in (place.wanted, place.unit, place.modes, place.users):
        if os.path.lexists(path):
            path.unlink()
            done.append(f"{path}: removed")
    if manager is not None:
        manager.forget()
    for folder in (place.configuration, place.state):
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
        InputError: it cannot.
    """
    require_visible(
        sys.executable,
        str(Path(sys.executable).resolve()),
        sys.base_prefix,
        str(Path(edgekd.__file__).resolve().parent),
    )
    return sys.executable


def _require_installed(place: Place) -> None:
    if not place.unit.is_file():
        raise InputError(
            f"{place.unit}: not there, so no service is installed; begin with: edgekd service install MODEL"
        )


def _keep(place: Place, model: Path, *, prune: bool = True) -> tuple[models.Version, list[str]]:
    """The version of a model, a new one unless it is in use already, and a line on it; with `prune` the link points to
    it at once."""
    before = models.whole_current(place.models)
    now = models.add(place.models, model)
    if before is not None and (before.digest, before.path.suffix) == (now.digest, now.path.suffix):
        models.discard(now)
        return before, [f"{model}: verified; it is already the model, {before.path}"]
    if prune:
        models.use(place.models, now)
        models.prune(place.models, before, now)
    return now, [f"{model}: verified and kept as {now.path}"]


def _change_over(place: Place, manager: Manager | None, before: models.Version | None, now: models.Version) -> str:
    """Point the link to a version and let the listener take it; back to the version before where it does not.

    Raises:
        GateError: it does not, and all is as it was.
    """
    models.use(place.models, now)
    if manager is None:
        return f"{place.models / models.CURRENT}: now {now.path.name}"
    taken = _taken(manager)
    if not taken.problem:
        return taken.said
    if before is None:
        raise GateError(f"{now.path.name} stays, but the listener does not go on with it: {taken.problem}; {LOOK}")
    models.use(place.models, before)
    if now.number > before.number:
        models.discard(now)
    if not taken.refused:  # it may have the new one
        manager.start()
    raise GateError(
        f"back to {before.path.name}, because the listener does not go on with the new model: {taken.problem}; {LOOK}"
    )


def _taken(manager: Manager) -> Taken:
    """Ask the listener to reload and watch it."""
    before = now = manager.state()
    if not before.process or before.active not in ("active", "activating", "reloading"):
        return Taken(
            "", "the service does not run now: it takes the model at its next start (sudo systemctl start edgekd)"
        )
    heard = before.fed > 0.0 and manager.clock() - before.fed < FRESH_S
    manager.reload()
    began = unchanged = manager.clock()  # unchanged: when it had surely not reloaded yet
    while manager.clock() - began < CHECK_S:
        manager.sleep(POLL_S)
        asked, now = manager.clock(), manager.state()
        if now.process != before.process:
            return Taken(f"it ended ({now.result or 'for no reason that is known'})")
        if now.note == before.note:
            unchanged = asked
        elif not now.reloaded:
            return Taken(now.note, refused=True)
        elif not heard or now.fed > unchanged:
            return Taken(
                "", f"the listener has taken it{'' if heard else ', but hears nothing at the moment'}: {now.text}"
            )
    return Taken(f"no {'answer' if now.note == before.note else 'decision'} within {CHECK_S:g} s")


def _settled(manager: Manager) -> str:
    """What became of a service that was started.

    Raises:
        GateError: it ends again and again.
    """
    began = manager.clock()
    now = State()
    while manager.clock() - began < START_S:
        manager.sleep(POLL_S)
        now = manager.state()
        if now.active == "active":
            return f"the service runs: {now.text}"
        if now.restarts or now.active == "failed" or now.sub == "auto-restart":
            raise GateError(
                f"installed, but the listener ends again and again: {manager.last_line() or now.result}; {LOOK}"
            )
    return (
        f"the service waits for its first sound: {now.text or 'nothing is told yet'}; see: edgekd service status,"
        " edgekd mics"
    )


def _microphone_notes() -> list[str]:
    if portaudio_version() is not None:
        return []
    return ["note: PortAudio is not found, without which no microphone is heard: sudo apt install libportaudio2"]
