"""A model of unknown origin is verified in a process of its own, as the user of the service and not as root."""

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgekd.errors import GateError, InputError
from edgekd.modelfile.zoo import zoo_model
from edgekd.service import trial

pytest.importorskip("ai_edge_litert")

IS_ROOT = os.geteuid() == 0
USERS = {each.pw_name for each in pwd.getpwall()}
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def public():
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder)
        path.chmod(0o777)
        yield path


@pytest.fixture
def interpreter(public):
    """Makes a program that stands for the interpreter."""

    def make(body: str, mode: int = 0o755) -> Path:
        path = public / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(mode)
        return path

    return make


def test_no_engine_opens_a_strangers_model_as_root(public, interpreter, tmp_path):
    """The process is recorded by what takes the place of the interpreter."""
    seen = public / "seen"
    program = interpreter(f'id -u > {seen}; id -G >> {seen}; env >> {seen}; echo "$@" >> {seen}; test -r "$6"')
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(program)!r}\n")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "EDGEKD_MQTT_PASSWORD": "S3cret77",
    }
    done = subprocess.run(
        [sys.executable, "-m", "edgekd.cli", "service", "install", zoo_model(), "--root", tmp_path / "root"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    user, groups, *others = seen.read_text().splitlines()
    assert int(user) in (
        [pwd.getpwnam(name).pw_uid for name in trial.USERS if name in USERS] if IS_ROOT else [os.geteuid()]
    )
    assert not IS_ROOT or "0" not in groups.split()
    assert "S3cret77" not in "\n".join(others)
    assert " verify " in others[-1]
    kept = next((tmp_path / "root/var/lib/edgekd/models").glob("0001-*"))
    assert kept.read_bytes() == zoo_model().read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644


@pytest.fixture
def own_user(monkeypatch):
    """Verifies as the user of the tests, who can run their interpreter."""
    monkeypatch.setattr(trial, "USERS", (pwd.getpwuid(os.geteuid()).pw_name,))


@pytest.mark.usefixtures("own_user")
def test_the_process_of_its_own_verifies():
    model = zoo_model()
    trial.verify(model.read_bytes(), model)
    with pytest.raises(InputError, match=r"^/there/bad\.tflite: .*(damaged|changed)"):
        trial.verify(model.read_bytes()[:-100], Path("/there/bad.tflite"))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("echo 'edgekd: m: 5 steps away' >&2; exit 1", GateError, "^m: 5 steps away$"),
        ("echo 'edgekd: m: no golden vectors' >&2; exit 2", InputError, "^m: no golden vectors$"),
        ("kill -SEGV $$", InputError, "bad.tflite: .*signal 11"),
        ("echo 'No module named edgekd' >&2; exit 1", InputError, "bad.tflite: .*No module named edgekd"),
        ("sleep 60", InputError, r"bad.tflite: .*0\.2 s"),
        ("yes x | head -c 3000000 >&2; echo 'edgekd: m: no' >&2; exit 2", InputError, "^m: no$"),
    ],
    ids=["differs", "refused", "crash", "broken", "endless", "loud"],
)
def test_whatever_stops_the_process_refuses_the_model(monkeypatch, interpreter, body, kind, message):
    monkeypatch.setattr(sys, "executable", str(interpreter(body)))
    if "sleep" in body:
        monkeypatch.setattr(trial, "LIMIT_S", 0.2)
    with pytest.raises(kind, match=message):
        trial.verify(b"model", Path("bad.tflite"))


def test_an_interpreter_that_only_root_may_run_is_named(monkeypatch, interpreter):
    program = interpreter("exit 0", 0o700 if IS_ROOT else 0o600)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(InputError, match=rf"{program}.*install edgekd for all users"):
        trial.verify(b"model", Path("m.tflite"))
