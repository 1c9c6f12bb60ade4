"""Two processes on one machine, as torchrun and srun start them: they give the run of one process, and end together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from helpers.trainings import recipe_dict, write_store

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.train.loop.module import TrainingModule, process_weight
from edgekd.train.loop.training import Options, train
from edgekd.train.parallel.process_group import ProcessEnvironment, process_environment
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import METRICS_FILE, REPORT_FILE, RUN_FILE, SOFT_LABELS_FOLDER, load_run

ROOT = Path(__file__).parents[2]
PART_CLIPS = 4
PATIENCE = 200
"""Seconds that a process may need on a busy machine, where starting takes longest; an idle one needs a few."""
TOGETHER = 60
"""Seconds in which the other processes end."""

pytestmark = pytest.mark.timeout(2 * PATIENCE)
DISTILL = ("distill", "student.json", "--data", "store", "--threads", "1", "--accelerator", "cpu", "--teacher", "t")
STUDENT = {"train": {"epochs": 2, "batch_size": 15, "test_every": 1}, "qat": {"epochs": 2}, "augment": {"mixup_p": 0.0}}
JOB = f"""
import os, signal, sys
from edgekd.cli import entry
from edgekd.train.loop.module import TrainingModule
from edgekd.train.parallel import processes
from edgekd.train.teachers import soft_labels

soft_labels.PART_CLIPS = {PART_CLIPS}
begin, run = TrainingModule.on_train_epoch_start, entry.run

def kill_the_second(self):
    if processes.rank() == 1 and self.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self)

def runs(arguments):
    with processes.in_process_group("cpu"):
        assert processes.world() == 2
        run([*arguments, "--out", "two"])
        run([*arguments, "--out", "resumed", "--resume"])
        TrainingModule.on_train_epoch_start = kill_the_second
        run([*arguments, "--out", "killed"])

entry.run = runs
entry.main()
"""
"""Trains "two" and "resumed"; "killed" loses its second process in the second epoch."""
COLLECTIVE_SECONDS = 3
WAIT = f"""
import os, signal, sys, time
import torch
from edgekd.errors import EdgekdError, InputError
from edgekd.train.launch import show_log
from edgekd.train.parallel import process_group, processes

def work():
    time.sleep({COLLECTIVE_SECONDS + 1})
    return "long work"

def bad_work():
    raise InputError("bad input")

ends_by = sys.argv[1]
if ends_by != "SIGTERM":
    process_group.COLLECTIVE_MINUTES = {COLLECTIVE_SECONDS} / 60
if ends_by != "error":
    process_group.END_SECONDS = process_group.TERM_SECONDS = 1
show_log()
try:
    with processes.in_process_group("cpu"):
        assert processes.first(work) == "long work"
        print("waited", flush=True)
        if ends_by == "error":
            processes.first(bad_work)
        if ends_by == "SIGSTOP":
            processes.first(lambda: os.kill(os.getpid(), signal.SIGSTOP))
        if ends_by == "vanished":
            if processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            processes.barrier()
        if processes.rank() == 1:
            time.sleep({PATIENCE})
        processes.averaged({{"loss": torch.ones(())}})
except EdgekdError as error:
    print(f"edgekd: {{error}}", file=sys.stderr)
    sys.exit(error.exit_status)
"""
"""Work of the first process that takes longer than a collective may; then an error there, a first process that does not
answer, one that waits for a second process that has vanished, or a collective without the second process."""


class PowerCutError(Exception):
    pass


def environment(**changes):
    """Environment of a process: this tree's edgekd, one thread, and of a launcher's variables only those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC"))}
    quiet = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return {**kept, **quiet, **changes}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def start(tmp_path):
    """`start(*command)`: two processes of a command of Python, as srun would start them."""
    running = []

    def begin(*command):
        port = free_port()
        for rank in "01":
            env = environment(
                SLURM_NTASKS="2",
                SLURM_PROCID=rank,
                SLURM_LOCALID=rank,
                SLURM_STEP_ID="0",
                SLURM_JOB_ID="1",
                SLURM_NODELIST="localhost",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
            with (tmp_path / f"{rank}.err").open("w") as err:
                command_line = [sys.executable, *map(str, command)]
                running.append(
                    subprocess.Popen(command_line, env=env, stdout=subprocess.PIPE, stderr=err, cwd=tmp_path)
                )
        return running

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with the runs of `JOB`, and with "one", the run of one process; and what torchrun returned.

    The soft labels of the teacher "t" are computed by two processes; those of one are in "labels".
    """
    folder = tmp_path_factory.mktemp("parallel")
    store = write_store(folder / "store")
    (folder / "student.json").write_bytes(msgspec.json.encode(recipe_dict(**STUDENT)))
    train(decode(recipe_dict("teacher", train={"epochs": 1}), "t"), store, folder / "t")
    train(student(), store, folder / "one", [folder / "t"])
    begin = TrainingModule.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise PowerCutError
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", stop)
        with pytest.raises(PowerCutError):
            train(student(), store, folder / "resumed", [folder / "t"])
    (folder / "t" / SOFT_LABELS_FOLDER).rename(folder / "labels")
    (folder / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "job.py"]
    done = subprocess.run(
        [*command, *DISTILL],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return folder, done


def student():
    return decode(recipe_dict(**STUDENT), "student")


def assert_same_run(run, one):
    assert {path.name for path in run.path.iterdir()} - {REPORT_FILE} == {path.name for path in one.path.iterdir()}
    assert len((run.path / METRICS_FILE).read_text().splitlines()) == 1 + 2 + 2
    assert run.info.frontend == one.info.frontend
    for metric, value in run.info.metrics.items():
        assert value == pytest.approx(one.info.metrics[metric], abs=0.35), metric
    assert run.qat_model()


@pytest.mark.parametrize("name", ["two", "resumed"])
def test_a_run_by_two_is_the_run_of_one(job, name):
    folder, done = job
    assert (folder / name / RUN_FILE).is_file(), done.stderr
    assert_same_run(load_run(folder / name), load_run(folder / "one"))


def test_the_first_loss_of_two_is_that_of_one(job):
    folder, _ = job
    first = [(folder / name / METRICS_FILE).read_text().splitlines()[1].split(",") for name in ("one", "two")]
    # label loss of one step; batch norm and dropout differ
    assert float(first[1][4]) == pytest.approx(float(first[0][4]), rel=0.15)


def test_two_compute_the_soft_labels_of_one_in_parts(job):
    folder, _ = job
    by_one, by_two = (
        {path.name: path.read_bytes() for path in labels.iterdir()}
        for labels in (folder / "labels", folder / "t" / SOFT_LABELS_FOLDER)
    )
    assert by_two == by_one


def test_a_killed_process_ends_the_job_with_one_line_and_one_process_goes_on(job):
    folder, done = job
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgekd:")]
    assert line.endswith("--resume")
    store = ClipStore.open(folder / "store")
    run = train(student(), store, folder / "killed", [folder / "t"], Options(resume=True))
    assert_same_run(run, load_run(folder / "one"))


@pytest.mark.parametrize(
    "ends_by",
    ["error", *(pytest.param(name, marks=pytest.mark.slow) for name in ("time-out", "vanished", "SIGTERM", "SIGSTOP"))],
)
def test_long_work_of_the_first_process_is_awaited_outside_of_a_collective(tmp_path, start, ends_by):
    (tmp_path / "job.py").write_text(WAIT)
    both = start("job.py", ends_by)
    for process in both:
        assert process.stdout.readline() == b"waited\n"
    if ends_by == "SIGTERM":
        time.sleep(COLLECTIVE_SECONDS)  # it is in the collective then, where Python handles no signal
        both[0].send_signal(signal.SIGTERM)
    for process in {"error": both, "SIGSTOP": both[1:]}.get(ends_by, both[:1]):
        assert process.wait(TOGETHER) == 2
    printed = (tmp_path / "0.err").read_text() + (tmp_path / "1.err").read_text()
    expected = "bad input" if ends_by == "error" else "another process .*--resume"
    assert re.fullmatch(rf"edgekd: {expected}\n", printed), printed


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ProcessEnvironment()),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ProcessEnvironment()),
        (
            {
                "RANK": "3",
                "WORLD_SIZE": "4",
                "LOCAL_RANK": "1",
                "MASTER_ADDR": "a",
                "MASTER_PORT": "7",
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
            ProcessEnvironment(3, 4, 1, "a", 7, hosted=True),
        ),
        (
            {
                "SLURM_NTASKS": "4",
                "SLURM_PROCID": "2",
                "SLURM_LOCALID": "0",
                "SLURM_JOB_ID": "123456",
                "SLURM_NODELIST": "node[3-4,9]",
            },
            ProcessEnvironment(2, 4, 0, "node3", 15000 + 3456),
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},
            ProcessEnvironment(),
        ),  # the script of sbatch itself
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
            ProcessEnvironment(),
        ),
    ],
    ids=["alone", "torchrun of one", "torchrun", "srun", "sbatch", "srun of one"],
)
def test_the_group_of_a_process_comes_from_its_launchers_variables(variables, found):
    assert process_environment(variables) == found


def test_missing_variables_of_a_launcher_are_refused():
    with pytest.raises(InputError, match=r"RANK='' .*torchrun"):
        process_environment({"WORLD_SIZE": "2"})


def test_the_weighted_mean_of_shares_is_the_mean_of_the_batch(store, monkeypatch):
    from edgekd.train.batches.epochs import TrainingView

    whole, *shares = (
        TrainingView(store, store.indices(["a"]), decode(recipe_dict(), "student"), 7, 16, 31, 0, shard)
        for shard in ((0, 1), (0, 2), (1, 2))
    )
    monkeypatch.setattr("edgekd.train.parallel.processes.world", lambda: 2)
    for batch, *parts in zip(whole.batches(0), *(share.batches(0) for share in shares), strict=True):
        items = len(batch["partner"])
        gains = [part["gain_db"][: len(part["partner"])] for part in parts]
        mean = sum(process_weight(len(gain), items) * gain.mean() for gain in gains) / 2
        assert mean == pytest.approx(batch["gain_db"][:items].mean(), rel=1e-5)
