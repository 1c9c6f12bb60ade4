"""Jobs: needs run first, each job has its own process, failures are reported, and finished jobs do not run again."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edgekd.errors import InputError, MissingExtraError
from edgekd.experiments import jobs
from edgekd.experiments.jobs import Job, Slot, Workers, chosen_workers, run_jobs

TWO = Workers((Slot(), Slot()), 1)


def python(code, *arguments):
    return (sys.executable, "-c", textwrap.dedent(code), *map(str, arguments))


def appends(path, word, *, fail=False):
    """A command that adds a word to a file."""
    return python(
        f"""
        import sys
        with open(sys.argv[1], "a") as file:
            print(sys.argv[2], *sys.argv[3:], file=file)
        print("printed", sys.argv[2])
        sys.exit("edgekd: it went wrong" if {fail} else 0)
    """,
        path,
        word,
    )


def quiet(_):
    return None


@pytest.mark.parametrize("workers", [TWO, Workers((Slot(),), 1)])
def test_needs_come_first_and_output_is_kept(tmp_path, workers):
    log = tmp_path / "order"
    listed = [Job("c", appends(log, "c")), Job("a", appends(log, "a"), ("c",)), Job("b", appends(log, "b"), ("a", "c"))]
    outcomes = run_jobs(listed, tmp_path / "jobs", workers, quiet)
    assert log.read_text().split() == ["c", "a", "b"]
    assert list(outcomes) == ["c", "a", "b"]
    assert {each.state for each in outcomes.values()} == {"done"}
    assert outcomes["a"].log_file.read_text() == "printed a\n"


def test_a_failure_is_reported_and_jobs_that_need_it_are_left(tmp_path):
    log, lines = tmp_path / "order", []
    listed = [
        Job("bad", appends(log, "bad", fail=True)),
        Job("next", appends(log, "next"), ("bad",)),
        Job("last", appends(log, "last"), ("next",)),
        Job("other", appends(log, "other")),
    ]
    outcomes = run_jobs(listed, tmp_path / "jobs", TWO, lines.append)
    assert {name: each.state for name, each in outcomes.items()} == {
        "bad": "failed",
        "next": "left",
        "last": "left",
        "other": "done",
    }
    assert (outcomes["bad"].error, outcomes["next"].error) == ("it went wrong", "bad has failed")
    assert sorted(log.read_text().split()) == ["bad", "other"]
    assert any("bad failed (it went wrong)" in line for line in lines)


def test_a_process_that_is_killed_is_a_failure_of_its_own(tmp_path):
    killed = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    outcomes = run_jobs([Job("x", killed), Job("y", python("pass"))], tmp_path / "jobs", TWO, quiet)
    assert outcomes["x"].error == "ended by signal 9, perhaps for want of memory"
    assert outcomes["y"].state == "done"


def test_the_same_jobs_continue_where_they_were_stopped(tmp_path):
    log, resume_file = tmp_path / "order", tmp_path / "run" / "run.json"
    make = Job(
        "half",
        python(
            """
        import pathlib, sys
        run = pathlib.Path(sys.argv[1])
        assert sys.argv[2:] == ([] if not run.exists() else ["--resume"])
        run.mkdir(exist_ok=True)
        (run / "run.json").touch()
        sys.exit(len(sys.argv) == 2)
    """,
            resume_file.parent,
        ),
        resume_file=resume_file,
    )
    listed = [Job("first", appends(log, "first")), make]
    (tmp_path / "run").mkdir()  # killed before it could be resumed
    assert run_jobs(listed, tmp_path / "jobs", TWO, quiet)["half"].state == "failed"
    assert run_jobs(listed, tmp_path / "jobs", TWO, quiet)["half"].state == "done"
    assert run_jobs(listed, tmp_path / "jobs", TWO, quiet)["half"].state == "done"
    assert log.read_text().split() == ["first"]


def test_an_interrupt_ends_the_processes(tmp_path):
    started = tmp_path / "started"
    slow = python(
        "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)", started
    )

    def interrupt():
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            [Job("slow", slow), Job("never", appends(tmp_path / "order", "x"), ("slow",))],
            tmp_path / "jobs",
            TWO,
            quiet,
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert not (tmp_path / "jobs" / "slow.done").exists()
    assert not (tmp_path / "order").exists()


def test_a_job_does_not_outlive_the_process_that_started_it(tmp_path):
    child = (
        "from edgekd.train.launch import end_with_parent; end_with_parent(); import time; print('up', flush=True);"
        " time.sleep(60)"
    )
    parent = f"""
        import sys
        from pathlib import Path
        from edgekd.experiments.jobs import Job, Slot, Workers, run_jobs
        command = (sys.executable, "-c", "import os; print(os.getpid(), flush=True); {child}")
        run_jobs([Job("x", command)], Path(sys.argv[1]), Workers((Slot(),), 1), print)
    """
    log = tmp_path / "x.log"
    with subprocess.Popen(
        python(parent, tmp_path), env={**os.environ, "PYTHONPATH": str(Path(jobs.__file__).parents[2])}
    ) as process:
        while "up" not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end and _runs(int(log.read_text().split()[0])):
        time.sleep(0.05)
    assert not _runs(int(log.read_text().split()[0]))


def _runs(process):
    """Whether a process runs. Without a process that reaps orphans it may stay as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_fit_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert chosen_workers(None, None, "auto", 0) == Workers((Slot(),) * 8, 1)
    assert chosen_workers(None, 4, "local", 0) == Workers((Slot(),) * 2, 4)
    assert chosen_workers(2, None, "local", 0) == Workers((Slot(),) * 2, 4)
    assert chosen_workers(None, None, "local", 2) == Workers((Slot("0"), Slot("1")), 4)
    assert chosen_workers(3, 1, "local", 2).slots == (Slot("0"), Slot("1"), Slot("0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert chosen_workers(None, None, "local", 2).slots == (Slot("5"), Slot("7"))
    with pytest.raises(InputError, match=r"--engine 'rai' .*'ray'"):
        chosen_workers(None, None, "rai", 0)


def test_each_gpu_is_given_to_one_process_at_a_time(tmp_path):
    show = python("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    outcomes = run_jobs([Job("x", show), Job("y", show)], tmp_path, Workers((Slot("5"), Slot("7")), 1), quiet)
    assert sorted(each.log_file.read_text().strip() for each in outcomes.values()) == ["5", "7"]


class FakeRay(ModuleType):
    """The part of Ray that is used: tasks run when they are waited for. No test machine has a cluster."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self):
        super().__init__("ray")
        self.options, self.tasks = None, {}

    def is_initialized(self):
        return True

    def remote(self, **options):
        self.options = options

        def decorate(function):
            def remote(*arguments):
                self.tasks[reference := len(self.tasks)] = lambda: function(*arguments)
                return reference

            return SimpleNamespace(remote=remote)

        return decorate

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        if reference == 2:
            raise self.exceptions.RayError("the worker died")
        return self.tasks[reference]()


def test_ray_runs_the_same_jobs(tmp_path, monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    log = tmp_path / "order"
    listed = [Job("a", appends(log, "a")), Job("b", appends(log, "b"), ("a",)), Job("c", appends(log, "c"))]
    outcomes = run_jobs(listed, tmp_path / "jobs", Workers((Slot("0"),), 3, "ray"), quiet)
    assert {name: each.state for name, each in outcomes.items()} == {"a": "done", "b": "done", "c": "failed"}
    assert log.read_text().split() == ["a", "b"]
    assert fake.options == {"num_cpus": 3, "num_gpus": 1, "max_retries": 0}


def test_missing_ray_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekd\[ray\]'"):
        run_jobs([Job("a", python("pass"))], tmp_path, Workers((Slot(),), 1, "ray"), quiet)


def test_ray_is_chosen_only_where_it_is_set_up(monkeypatch):
    monkeypatch.setattr(jobs.importlib.util, "find_spec", lambda _: object())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert chosen_workers(1, 1, "auto", 0).engine == "local"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert chosen_workers(None, 1, "auto", 0).engine == "ray"
    assert len(chosen_workers(None, 1, "auto", 0).slots) == jobs.RAY_QUEUE
    assert len(chosen_workers(3, 1, "auto", 0).slots) == 3
    monkeypatch.setattr(jobs.importlib.util, "find_spec", lambda _: None)
    assert chosen_workers(1, 1, "auto", 0).engine == "local"
