"""`edgekd service` on a prepared root directory, and with a simulated systemd; the real systemd's verdict on the unit.

Past 400 lines because all verbs share the prepared root and the simulated systemd.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from edgekd import cli
from edgekd.errors import EdgekdError, GateError, InputError
from edgekd.modelfile import container, golden
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.manifest import TensorQuant
from edgekd.modelfile.verify import verify_model
from edgekd.modelfile.zoo import zoo_model
from edgekd.qgraph import reference, tflite
from edgekd.runtime.config import OUTPUT_TABLES, read_config
from edgekd.runtime.source.health import NOT_RELOADED, RELOADED
from edgekd.service import systemd, trial, verbs
from edgekd.service.paths import HIDDEN, ServicePaths, require_visible
from edgekd.service.status import status
from edgekd.service.systemd import UnitState, local_systemd
from edgekd.service.verbs import install, remove, rollback, update
from edgekd.service.versions import KEPT, current, versions

pytest.importorskip("ai_edge_litert")

PYTHON = "/opt/edgekd/bin/python"
MAX_EXPOSURE = 2.0
ANALYZE = shutil.which("systemd-analyze")

needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


@pytest.fixture(scope="module")
def model(tone_fixtures, tmp_path_factory):
    """Makes a model file: each number of steps another, which verifies only with 0 or 1."""
    graph, folder = tone_fixtures.low_or_high_graph(), tmp_path_factory.mktemp("service")
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    vectors = golden.make(
        tone_fixtures.FRONTEND,
        tone_fixtures.WINDOW,
        TensorQuant("int8", source.scale, source.zero_point),
        0.1,
        lambda features: reference.dequantize(
            reference.run(graph, reference.quantize(features[:, None], source)), output
        ),
    )

    def make(name, steps=0):
        shifted = tuple(
            msgspec.structs.replace(each, logits=(each.logits[0] + steps, each.logits[1])) for each in vectors.vectors
        )
        kept = msgspec.structs.replace(vectors, vectors=shifted)
        manifest = msgspec.structs.replace(tone_fixtures.manifest_for(golden=kept), name=name)
        container.write(folder / f"{name}.tflite", tflite.emit(graph), manifest)
        return folder / f"{name}.tflite"

    return make


@pytest.fixture(autouse=True)
def verified_here(monkeypatch, tmp_path):
    """Verifies models in this process, which is quicker; `test_trial` tests the process of its own."""

    def verify(content, named):
        copy = tmp_path / f"model{named.suffix}"
        copy.write_bytes(content)
        try:
            verify_model(open_model(copy), str(named)).require()
        except EdgekdError as error:
            kind = GateError if isinstance(error, GateError) else InputError
            raise kind(str(error).replace(str(copy), str(named))) from None

    monkeypatch.setattr(trial, "verify", verify)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def paths(root):
    return ServicePaths(root)


class Played:
    """A systemd whose listener "takes" a reload, "refuses" it, "dies" of it, is "deaf" after it (no decision) or "mute"
    (no reply)."""

    def __init__(self):
        self.now, self.answer, self.calls = 100.0, "takes", []
        self.running = UnitState(
            "loaded", "active", "running", "success", "enabled", 7, 0, "HEALTHY: low", 50_000_000, 95.0
        )

    def add_user(self):
        self.calls.append("add_user")

    def prepare(self):
        self.calls.append("prepare")

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")

    def forget(self):
        self.calls.append("forget")

    def reload(self):
        self.calls.append("reload")
        reason = {"takes": f"{RELOADED} tones", "deaf": f"{RELOADED} tones", "refuses": f"{NOT_RELOADED}: bad key"}.get(
            self.answer
        )
        if reason is not None:
            self.running = self.running._replace(text=f"HEALTHY: low; reload {self.calls.count('reload')}: {reason}")
        if self.answer == "takes" and self.running.fed:
            self.running = self.running._replace(fed=self.now + 0.5)
        if self.answer == "dies":
            self.running = self.running._replace(process=8, result="signal")

    def state(self):
        return self.running

    def last_line(self):
        return "edgekd: the model is missing"

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def played(monkeypatch):
    monkeypatch.setattr(verbs, "portaudio_version", lambda: "V19")
    return Played()


def files(root):
    """Everything below a root, with the content of files and the targets of links."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def in_use(paths):
    return (paths.models / "current").resolve().read_bytes()


# --- install ---


def test_install_prepares_a_root_and_reports_what_is_missing(paths, model):
    message = "\n".join(install(paths, None, model("first"), PYTHON))
    assert "note: /opt/edgekd/bin/python does not exist yet; install edgekd for all users" in message
    found = files(paths.root)
    assert found["etc/systemd/system/multi-user.target.wants/edgekd.service"] == "../edgekd.service"
    start = f"\nExecStart={PYTHON} -P -m edgekd.cli listen --config /etc/edgekd/listen.toml\n"
    assert start.encode() in found["etc/systemd/system/edgekd.service"]
    assert b"\nm edgekd audio\n" in found["etc/sysusers.d/edgekd.conf"]
    assert b"\nz /etc/edgekd/listen.toml 0640 root edgekd\n" in found["etc/tmpfiles.d/edgekd.conf"]
    assert paths.config.stat().st_mode & 0o777 == 0o640
    assert in_use(paths) == model("first").read_bytes()
    assert (paths.models / "current").resolve().stat().st_mode & 0o777 == 0o644


def test_install_again_changes_nothing_and_never_the_configuration(paths, model):
    install(paths, None, model("first"), PYTHON)
    paths.config.write_text("[model]\nfile = 'mine'\n")
    before = files(paths.root)
    install(paths, None, None, PYTHON)
    install(paths, None, model("first"), PYTHON)
    assert files(paths.root) == before


def test_the_configuration_that_is_written_is_one_that_listen_reads(paths, model):
    install(paths, None, model("first"), PYTHON)
    config = read_config(paths.config)
    assert config.model.file == "/var/lib/edgekd/models/current"
    assert config.output.changes
    commented = re.sub(r"^# (\w+ = |\[)", r"\1", paths.config.read_text(), flags=re.MULTILINE)
    for source in ("mic", "command"):  # the commented settings are valid too
        paths.config.write_text(re.sub(rf"^{source} = .*", "", commented, flags=re.MULTILINE))
        offered = read_config(paths.config)
        assert all(getattr(offered, name) is not None for name in OUTPUT_TABLES)


def test_the_link_is_followed_anew_by_each_reading(paths, model):
    for name in ("first", "second"):
        install(paths, None, model(name), PYTHON)
        paths.config.write_text(f"[model]\nfile = '{paths.models / 'current'}'\n")
        assert container.read_manifest(read_config(paths.config).model_file).name == name
    (paths.models / "current").unlink()
    (paths.models / "current").symlink_to("nothing.tflite")
    with pytest.raises(InputError, match=r"current: a link to no file"):
        _ = read_config(paths.config).model_file


def test_the_listener_may_read_what_a_careful_umask_would_hide(paths, model):
    before = os.umask(0o077)
    try:
        install(paths, None, model("first"), PYTHON)
    finally:
        os.umask(before)
    assert {
        path.stat().st_mode & 0o777 for path in (paths.configuration, paths.state, paths.models, paths.unit.parent)
    } == {0o755}


def test_install_without_any_model_takes_the_one_that_comes_with_edgekd(paths):
    install(paths, None, None, PYTHON)
    assert paths.models.joinpath("current").resolve().read_bytes() == zoo_model().read_bytes()


@pytest.mark.parametrize("folder", HIDDEN)
def test_an_interpreter_that_the_service_cannot_see_is_refused(paths, model, folder):
    with pytest.raises(
        InputError,
        match=f"below {folder}, .*sudo python3",
    ):
        install(paths, None, model("first"), f"{folder}/pi/venv/bin/python")
    assert files(paths.root) == {}


def test_an_interpreter_with_odd_characters_is_refused(paths, model):
    with pytest.raises(InputError, match="not an absolute path"):
        install(paths, None, model("first"), "/opt/my venv/bin/python")


def test_a_folder_that_only_begins_alike_is_visible():
    require_visible("/homes/edgekd/bin/python", "/opt/home/python")


def test_waiting_longer_and_longer_is_asked_of_a_systemd_that_knows_it(paths):
    assert "RestartSteps" not in paths.unit_text(PYTHON)
    for version, knows in (("252", False), ("257.7-1", True)):
        library = paths.root / "usr/lib/aarch64-linux-gnu/systemd" / f"libsystemd-shared-{version}.so"
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_bytes(b"")
        text = paths.unit_text(PYTHON)
        assert ("RestartSteps=" in text and "RestartMaxDelaySec=" in text) is knows
        assert not re.search("@[A-Z]+@", text)


def test_install_starts_the_service_and_reports_its_state(paths, model, played):
    assert install(paths, played, model("first"), PYTHON)[-1] == "the service runs: HEALTHY: low"
    assert played.calls == ["add_user", "prepare", "start"]


def test_without_a_microphone_the_service_waits_and_that_is_no_failure(paths, model, played):
    played.running = played.running._replace(active="activating", sub="start", text="FAILED: no microphone")
    message = install(paths, played, model("first"), PYTHON)[-1]
    assert message.startswith("the service waits for its first samples: FAILED: no microphone; see:")


def test_a_service_that_ends_again_and_again_is_a_failure_with_its_last_line(paths, model, played):
    played.running = played.running._replace(active="activating", sub="auto-restart", restarts=2)
    with pytest.raises(GateError, match=r"the model is missing; .*journalctl"):
        install(paths, played, model("first"), PYTHON)


# --- update and rollback ---


def test_update_keeps_the_model_before_and_the_listener_takes_the_new_one(paths, model, played):
    install(paths, played, model("first"), PYTHON)
    message = update(paths, played, model("second"))
    assert message[-1].startswith("the listener has loaded it: HEALTHY: low; reload 1: ")
    assert in_use(paths) == model("second").read_bytes()
    assert [version.number for version in versions(paths.models)] == [1, 2]
    assert played.calls[3:] == ["reload"]


def test_update_to_the_same_model_does_nothing(paths, model, played):
    install(paths, None, model("first"), PYTHON)
    before = files(paths.root)
    assert "already the model" in update(paths, played, model("first"))[0]
    assert files(paths.root) == before
    assert played.calls == []


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), InputError, "bad.tflite: "),
        (lambda path: path.write_bytes(b"nonsense"), InputError, "bad.tflite: "),
        (lambda path: path.unlink(), InputError, "bad.tflite: cannot be read"),
        (
            lambda _: None,
            GateError,
            "bad.tflite: litert is 5 steps away, more than 1; do not trust this model on this machine",
        ),
    ],
)
def test_a_model_that_does_not_verify_changes_nothing(paths, model, played, damage, error, message):
    install(paths, None, model("first"), PYTHON)
    before = files(paths.root)
    bad = model("bad", steps=5)
    damage(bad)
    with pytest.raises(error) as raised:
        update(paths, played, bad)
    assert message in str(raised.value)
    assert "/model.tflite" not in str(raised.value)
    assert files(paths.root) == before
    assert played.calls == []


@pytest.mark.parametrize(
    ("answer", "problem", "calls"),
    [
        ("refuses", "not reloaded, .*bad key", ["reload"]),
        ("dies", r"it ended \(signal\)", ["reload", "start"]),  # the new one may have the new model
        ("mute", "no answer within 45 s", ["reload", "start"]),
        ("deaf", "no decision within 45 s", ["reload", "start"]),
    ],
)
def test_a_listener_that_does_not_go_on_gets_the_old_model_back(paths, model, played, answer, problem, calls):
    install(paths, None, model("first"), PYTHON)
    before = files(paths.root)
    played.answer = answer
    with pytest.raises(GateError, match=f"back to 0001-.*: .*{problem}"):
        update(paths, played, model("second"))
    assert files(paths.root) == before
    assert played.calls == calls


def test_a_listener_without_samples_still_loads_a_model(paths, model, played):
    install(paths, None, model("first"), PYTHON)
    played.running = played.running._replace(fed=0.0, active="activating")
    played.answer = "deaf"
    assert "has loaded it, but receives no samples now" in update(paths, played, model("second"))[-1]


def test_a_service_that_does_not_run_takes_the_model_later(paths, model, played):
    install(paths, None, model("first"), PYTHON)
    played.running = UnitState("loaded", "inactive", "dead", "success", "enabled")
    assert "at its next start" in update(paths, played, model("second"))[-1]
    assert played.calls == []


def test_only_the_newest_versions_are_kept(paths, model):
    for number in range(KEPT + 3):
        install(paths, None, model(f"model{number}"), PYTHON)
    assert [version.number for version in versions(paths.models)] == list(range(4, KEPT + 4))
    assert current(paths.models).number == KEPT + 3


def test_rollback_goes_back_again_and_again_and_an_update_then_forgets_what_was_left(paths, model, played):
    names = ["first", "second", "third"]
    for name in names:
        install(paths, None, model(name), PYTHON)
    for name in ("second", "first"):
        rollback(paths, played)
        assert in_use(paths) == model(name).read_bytes()
    with pytest.raises(InputError, match="no earlier model"):
        rollback(paths, played)
    update(paths, None, model("fourth"))
    assert [version.number for version in versions(paths.models)] == [1, 4]
    rollback(paths, None)
    assert in_use(paths) == model("first").read_bytes()


def test_rollback_that_the_listener_does_not_take_changes_nothing(paths, model, played):
    for name in ("first", "second"):
        install(paths, None, model(name), PYTHON)
    before, played.answer = files(paths.root), "dies"
    with pytest.raises(GateError, match="back to 0002-"):
        rollback(paths, played)
    assert files(paths.root) == before


def test_rollback_passes_over_a_version_that_was_damaged(paths, model):
    for name in ("first", "second", "third"):
        install(paths, None, model(name), PYTHON)
    versions(paths.models)[1].path.write_bytes(model("bad", steps=9).read_bytes())
    message = rollback(paths, None)
    assert "0002-" in message[0]
    assert "skipped: not the bytes that were verified" in message[0]
    assert in_use(paths) == model("first").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda link: link.unlink(),
        lambda link: (link.unlink(), link.symlink_to("0009-000000000000.tflite")),
        lambda link: (link.unlink(), link.symlink_to("/etc/passwd")),
        lambda link: (link.unlink(), link.write_text("a file")),
        lambda link: link.resolve().write_bytes(b"cut off"),
    ],
)
def test_a_damaged_link_is_named_and_both_update_and_rollback_repair_it(paths, model, damage):
    for name in ("first", "second"):
        install(paths, None, model(name), PYTHON)
    damage(paths.models / "current")
    report = status(paths, None)
    assert not report.ok
    assert "service update" in report.problems[0]
    rollback(paths, None)
    assert status(paths, None).ok
    damage(paths.models / "current")
    update(paths, None, model("third"))
    assert in_use(paths) == model("third").read_bytes()


def test_a_directory_in_the_place_of_the_link_is_refused(paths, model):
    install(paths, None, model("first"), PYTHON)
    (paths.models / "current").unlink()
    (paths.models / "current").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        update(paths, None, model("second"))


def test_what_a_killed_update_leaves_does_no_harm(paths, model):
    install(paths, None, model("first"), PYTHON)
    (paths.models / ".0002-1a2b3c4d5e6f.tflite.1f2e3d4c.part").write_bytes(b"half")
    (paths.models / ".current.new").symlink_to("half")
    assert status(paths, None).ok
    update(paths, None, model("second"))
    assert sorted(path.name[:5] for path in paths.models.iterdir()) == ["0001-", "0002-", "curre"]


@pytest.mark.parametrize(
    "verb", [lambda paths: update(paths, None, Path("m.tflite")), lambda paths: rollback(paths, None)]
)
def test_what_is_not_installed_has_no_model_to_change(paths, verb):
    with pytest.raises(InputError, match="edgekd service install MODEL"):
        verb(paths)


def test_two_at_a_time_are_refused(paths, model):
    install(paths, None, model("first"), PYTHON)
    with paths.held(), pytest.raises(InputError, match="another 'edgekd service' works there"):
        update(ServicePaths(paths.root), None, model("second"))


# --- remove ---


def test_remove_keeps_configuration_and_models_unless_purged(paths, model, played):
    install(paths, None, model("first"), PYTHON)
    message = remove(paths, played)
    assert played.calls == ["stop", "forget"]
    assert f"{paths.configuration}: kept; --purge removes it" in message
    assert set(files(paths.root)) == {
        "etc/edgekd/listen.toml",
        "var/lib/edgekd/models/current",
        f"var/lib/edgekd/models/{versions(paths.models)[0].path.name}",
    }
    assert "already the model" in install(paths, None, model("first"), PYTHON)[0]
    remove(paths, None, purge=True)
    assert files(paths.root) == {}
    assert remove(paths, None, purge=True) == ["nothing is installed"]


def test_purge_follows_no_link(paths, model):
    install(paths, None, model("first"), PYTHON)
    other = paths.root / "srv"
    paths.state.rename(other)
    paths.state.symlink_to("../../srv")
    remove(paths, None, purge=True)
    assert (other / "models" / "current").is_symlink()


# --- status ---


def test_status_of_a_running_service_has_the_documented_fields(paths, model, played):
    for name in ("first", "second"):
        install(paths, played, model(name), PYTHON)
    played.now = 110.0
    document = json.loads(status(paths, played).to_json())
    assert set(document) == {
        "ok",
        "installed",
        "unit",
        "model",
        "earlier",
        "configuration",
        "journal",
        "problems",
        "notes",
    }
    assert document["ok"]
    assert document["unit"] == {
        "active": "active",
        "sub": "running",
        "enabled": "enabled",
        "restarts": 0,
        "text": "HEALTHY: low",
        "fed_s": 15.0,
        "memory_mb": 50.0,
    }
    assert (document["model"]["name"], document["model"]["version"], document["model"]["labels"]) == ("second", 2, 2)
    assert document["earlier"] == [str(versions(paths.models)[0].path)]
    text = status(paths, played).to_text()
    assert "watchdog       fed 15 s ago" in text
    assert "journal        edgekd: the model is missing" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"active": "activating", "sub": "start", "text": "FAILED: no microphone"},
            "waits for its first samples (FAILED: no microphone); plug",
        ),
        (
            {"active": "activating", "sub": "auto-restart", "result": "watchdog"},
            "ended (watchdog) and is tried again; see why",
        ),
        ({"active": "inactive"}, "it is inactive: sudo systemctl start edgekd"),
        ({"enabled": "disabled"}, "does not start with the system: sudo systemctl enable edgekd"),
    ],
)
def test_status_has_advice(paths, model, played, change, message):
    install(paths, None, model("first"), PYTHON)
    played.running = played.running._replace(**change)
    report = status(paths, played)
    assert message in report.problems[0]
    with pytest.raises(GateError):
        report.require()


def test_status_reports_a_wrong_configuration_and_a_missing_limit(paths, model, played):
    install(paths, None, model("first"), PYTHON)
    paths.config.write_text("[decision]\nhopp = 1\n")
    played.running = played.running._replace(memory=None)
    report = status(paths, played)
    assert "unknown key 'hopp'; did you mean 'hop'" in report.problems[0]
    assert "cgroup_enable=memory" in report.notes[0]


def test_status_of_nothing_explains_how_to_begin(paths):
    assert "begin with: edgekd service install MODEL" in status(paths, None).to_text()


# --- the unit, as systemd sees it ---


@pytest.fixture
def unit(paths, tmp_path):
    path = tmp_path / "edgekd.service"
    path.write_text(paths.unit_text("/usr/bin/env"))  # any program that exists
    return path


@needs_analyze
def test_systemd_finds_nothing_wrong_with_the_unit(unit):
    done = subprocess.run([ANALYZE, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_the_unit_is_exposed_to_little(unit):
    done = subprocess.run(
        [ANALYZE, "security", "--offline=yes", f"--threshold={round(10 * MAX_EXPOSURE)}", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    level = float(re.search(r"Overall exposure level for edgekd.service: ([\d.]+)", done.stdout)[1])
    assert level <= MAX_EXPOSURE


def test_portaudio_gets_the_callback_that_cffi_writes_as_code(unit):
    assert not re.search(r"^MemoryDenyWriteExecute=", unit.read_text(), flags=re.MULTILINE)


# --- the command line ---


def command(capsys, *arguments):
    """Exit status and printed text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["edgekd", "service", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_every_verb_works_on_a_prepared_root(root, model, capsys):
    assert command(capsys, "install", model("first"), "--root", root)[0] == 0
    assert command(capsys, "update", model("second"), "--root", root)[0] == 0
    status_, out, _ = command(capsys, "status", "--root", root, "--json")
    assert (status_, json.loads(out)["model"]["name"]) == (0, "second")
    assert command(capsys, "rollback", "--root", root)[0] == 0
    assert "first" in command(capsys, "status", "--root", root)[1]
    assert command(capsys, "remove", "--root", root, "--purge")[0] == 0
    assert files(root) == {}
    status_, out, err = command(capsys, "status", "--root", root)
    assert (status_, err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "no such directory; give the root directory of a system"),
        (".", "has no directory etc; give the root directory of a system"),
    ],
)
def test_an_unknown_root_gets_one_line(tmp_path, folder, message, capsys):
    code, out, err = command(capsys, "install", "m.tflite", "--root", tmp_path / folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_link_that_leads_out_of_the_root_is_refused(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "var").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"leads out of .*relative"):
        ServicePaths(root)


def test_without_systemd_one_line_explains_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(systemd, "RUNS", tmp_path / "none")
    code, out, err = command(capsys, "rollback")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "systemd does not run here" in err
    assert "--root DIRECTORY" in err


def test_an_error_explains_how_to_run_as_root(monkeypatch, tmp_path):
    monkeypatch.setattr(systemd, "RUNS", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match=r"sudo /opt/edgekd/bin/edgekd service up"):
        local_systemd("update", "/opt/edgekd/bin/edgekd")
    local_systemd("status", "/opt/edgekd/bin/edgekd", changes=False)


SYSTEMCTL = """#!/bin/sh
echo "$0 $*" >> "$(dirname "$0")/calls"
case "$1" in
    show) printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nResult=success\\n'
          printf 'MainPID=12\\nNRestarts=3\\nStatusText=HEALTHY: rain; reload 5: reloaded with the model a=b\\n'
          printf 'UnitFileState=enabled\\nMemoryCurrent=[not set]\\n'
          printf 'WatchdogTimestampMonotonic=2500000\\n' ;;
    stop) echo 'Failed to stop: no permission' >&2; exit 4 ;;
    reset-failed) exit 1 ;;
esac
"""


def test_systemd_is_used_through_its_own_commands(monkeypatch, tmp_path):
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
        (tmp_path / name).write_text(SYSTEMCTL)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(systemd, "RUNS", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    manager = local_systemd("install", "edgekd")
    state = manager.state()
    assert state == UnitState("loaded", "active", "running", "success", "enabled", 12, 3, state.text, None, 2.5)
    assert state.reloaded
    assert state.reload_note == "5: reloaded with the model a=b"
    manager.add_user()
    manager.prepare()
    manager.start()
    manager.reload()
    with pytest.raises(InputError, match="status 4: Failed to stop"):
        manager.stop()
    assert manager.last_line() == ""  # there is no journalctl
    calls = [line.removeprefix(f"{tmp_path}/") for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls[1:] == [
        "systemd-sysusers edgekd.conf",
        "systemd-tmpfiles --create edgekd.conf",
        "systemctl daemon-reload",
        "systemctl reset-failed edgekd.service",
        "systemctl restart --no-block edgekd.service",
        "systemctl kill --kill-who=main --signal=HUP edgekd.service",
        "systemctl stop edgekd.service",
    ]
