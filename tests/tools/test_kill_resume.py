"""The kill-and-resume tool finds differences, and ends exactly the processes that it started."""

import json
import random
import signal
import subprocess
import sys
import time

import kill_resume
import pytest

COUNTS = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
steps = out / "steps.txt"
while len(done := steps.read_text().split() if steps.exists() else []) < 20:
    time.sleep(0.01)
    steps.with_suffix(".part").write_text(" ".join([*done, STEP]))
    steps.with_suffix(".part").replace(steps)
"""


@pytest.fixture
def counting(monkeypatch):
    """A kind that counts to twenty in a file, a step in 10 ms; `counting(step)`: step is the Python code of a value."""

    def make(step):
        def start(arguments, log):
            program = [sys.executable, "-c", COUNTS.replace("STEP", step), *arguments]
            with log.open("ab") as file:
                return subprocess.Popen(program, stderr=file, start_new_session=True)

        monkeypatch.setattr(kill_resume, "start", start)
        return kill_resume.Kind(
            lambda out: [str(out)], kill_resume.file_results("steps.txt"), lambda _: "counting", lambda _: False
        )

    return make


def test_a_run_that_resumes_correctly_is_equal(counting, tmp_path):
    tally = kill_resume.run_kind(counting("str(len(done))"), tmp_path, 6, random.Random(0))
    assert (tally.kills, tally.differ, tally.fell) == (6, [], {"counting": 6})
    assert tally.resumes >= 6
    assert tally.runs >= 1


def test_a_run_that_resumes_with_other_values_is_named(counting, tmp_path):
    tally = kill_resume.run_kind(counting("str(__import__('os').getpid())"), tmp_path, 2, random.Random(0))
    assert "run0/steps.txt" in tally.differ
    assert (tmp_path / "run0" / "steps.txt").exists()
    assert json.loads(kill_resume.report({"x": tally}, 0).splitlines()[-1])["kinds"]["x"]["equal"] is False


def test_a_command_that_fails_stops_the_tool(counting, tmp_path):
    with pytest.raises(SystemExit, match="ended with 1"):
        kill_resume.run_kind(counting("1 / 0"), tmp_path, 2, random.Random(0))


CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '60']{}); print(1, flush=True); sys.stdin.read()"


@pytest.mark.parametrize("session", ["", ", start_new_session=True"])
def test_children_end_with_their_parent(session):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(session)],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        assert kill_resume.killed(process, 0.01)
        began = time.monotonic()
        process.stdout.read()  # ends when the child, which has the pipe too, has ended
        assert time.monotonic() - began < 5


def test_a_command_does_not_outlive_an_interrupt(counting, tmp_path):
    counting("str(len(done))")
    with pytest.raises(KeyboardInterrupt), kill_resume.started([str(tmp_path / "out")], tmp_path / "log") as process:
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL


def test_a_process_that_ended_by_itself_is_not_killed():
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    assert not kill_resume.killed(process, 60)
    assert process.returncode == 0


def test_a_comparison_ignores_nothing_but_times():
    one, two, other = ({"created": n, "seconds": n, "metrics": {"a": m}} for n, m in ((1, 1), (2, 1), (1, 2)))
    same = [kill_resume.without_times(json.dumps(each).encode()) for each in (one, two, other)]
    assert same[0] == same[1] != same[2]
    assert kill_resume.compare("x", {"a": b"1", "b": b"2"}, {"a": b"1", "c": b"2"}) == ["x/b", "x/c"]


def test_prepare_is_killed_and_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_resume, "WAVS", 40)
    tally = kill_resume.run_kind(kill_resume.kinds(tmp_path)["prepare"](), tmp_path, 2, random.Random(1))
    assert (tally.kills, tally.differ) == (2, [])
