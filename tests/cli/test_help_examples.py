"""The example in the help of every command names options that it has. The slow test runs all of them as they stand, one
after the other in one folder: each uses what those before made.

Only the sizes differ: the store is small, networks train for an epoch, and a command that stands for a microphone
writes noise.
"""

import os
import pwd
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer.main

from edgekd import cli, demo
from edgekd.data import fetch, weights
from edgekd.experiments import runs
from edgekd.experiments.jobs import JobResult, next_command
from edgekd.runtime.source import microphones
from edgekd.service import trial
from edgekd.train import launch

WALK = (
    "record",
    "data prepare",
    "data synth",
    "data fetch",
    "data info",
    "weights list",
    "weights fetch",
    "weights path",
    "teach",
    "distill",
    "crossval",
    "sweep",
    "reproduce",
    "adapt",
    "svm",
    "bench-train",
    "export",
    "info",
    "zoo",
    "verify",
    "check",
    "bench",
    "evaluate",
    "predict",
    "equalise",
    "submission",
    "listen",
    "history",
    "service install",
    "service update",
    "service status",
    "service rollback",
    "service remove",
    "mics",
    "doctor",
    "demo",
)
"""All commands, in an order in which each finds what it needs."""
SMALLER = {
    "record": ("--seconds", "1"),
    "data synth": ("--seconds", "1", "--clips", "60"),
    "bench": ("--repeats", "3"),
    "adapt": ("--epochs", "1", "--qat-epochs", "1", "--recorders", "a", "--min-clips", "1"),
    "listen": ("--history", "history.sqlite"),
    "bench-train": ("--set", "train.batch_size=8"),
    "teach": ("--set", "train.epochs=1", "--set", "view.seconds=1.0", "--set", "augment.roll=0.5"),
    "distill": ("--set", "train.epochs=1", "--set", "qat.epochs=1", "--set", "student.width=8"),
    **dict.fromkeys(
        ("crossval", "sweep"),
        ("--set", "train.epochs=1", "--set", "qat.epochs=1", "--set", "student.width=8"),
    ),
}
"""Options added to an example; a later one overrides."""
ARECORD = """#!{python}
import sys, time, numpy
block = (numpy.random.default_rng(0).normal(0, 300, 1600)).astype("<i2").tobytes()
start = time.monotonic()
for number in range(1, 201):
    sys.stdout.buffer.write(block)
    sys.stdout.flush()
    time.sleep(max(start + 0.1 * number - time.monotonic(), 0))  # by the clock, however busy the machine is
"""
WEIGHTS = '[mn04-as]\nfile = "toy.pt"\nlicence = "MIT"\nlineage = "none"\nuse = "a toy"\n'
"""A table of published weights, whose file is at hand."""


def commands(group: object, words: tuple[str, ...] = ()) -> dict[str, object]:
    """Words that call a command -> the command."""
    found = {}
    for name, command in group.commands.items():
        found |= (
            commands(command, (*words, name)) if hasattr(command, "commands") else {" ".join((*words, name)): command}
        )
    return found


def run_here(jobs, folder, *_):
    """Runs of experiments in this process, which saves the seconds of starting one."""
    folder.mkdir(exist_ok=True)
    for job in jobs:
        cli.run(list(next_command(job)[4:]))
    return {job.name: JobResult("done", "", folder / f"{job.name}.log") for job in jobs}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a recording, a microphone's stand-in, and none of what examples make."""
    (tmp_path / "bin").mkdir()
    arecord = tmp_path / "bin" / "arecord"
    arecord.write_text(ARECORD.format(python=sys.executable))
    arecord.chmod(0o755)
    noise = np.random.default_rng(0).normal(0, 0.05, 48000)
    soundfile.write(tmp_path / "yard.wav", noise, 16000)
    (tmp_path / "image" / "etc").mkdir(parents=True)
    (tmp_path / "audio" / "dog").mkdir(parents=True)
    for number in range(10):
        soundfile.write(tmp_path / "audio" / "dog" / f"{number}.wav", noise[:16000], 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv(launch.MARKER, "1")
    # the interpreter of the tests may be below a folder that is root's alone
    monkeypatch.setattr(trial, "USERS", (pwd.getpwuid(os.geteuid()).pw_name,))
    monkeypatch.setattr(runs, "run_jobs", run_here)
    monkeypatch.setattr(microphones, "microphones", list)
    monkeypatch.setattr(fetch, "fetch", lambda _, out, *__: out)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "toy.pt").write_bytes(b"")
    (tmp_path / "weights" / "table.toml").write_text(WEIGHTS)
    monkeypatch.setattr(weights, "TABLE", tmp_path / "weights" / "table.toml")
    monkeypatch.setenv(weights.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: None)  # CI runs the README's
    return tmp_path


KNOWN = commands(typer.main.get_command(cli.app))


def example_of(name: str) -> list[str]:
    """The words of a command's example."""
    example = KNOWN[name].epilog or ""
    assert example.startswith(f"Example: edgekd {name}"), name
    return shlex.split(example.removeprefix("Example: "))


def test_every_command_has_an_example_that_it_understands():
    assert sorted(KNOWN) == sorted(WALK)
    for name in WALK:
        words = example_of(name)[1 + len(name.split()) :]
        with KNOWN[name].make_context(name, words) as context:
            assert not context.args, name


@pytest.mark.slow
@pytest.mark.timeout(900)  # it is all of edgekd
def test_the_example_of_every_command_runs(place, monkeypatch, capsys):
    for name in WALK:
        example = [*example_of(name), *SMALLER.get(name, ())]
        monkeypatch.setattr(sys, "argv", example)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        assert not stopped.value.code, f"{shlex.join(example)}: {printed.err}"
    assert {path.name for path in place.iterdir()} >= {
        "audio",
        "own",
        "store",
        "teacher",
        "student",
        "cv",
        "sweep",
        "models",
        "labels.csv",
    }
