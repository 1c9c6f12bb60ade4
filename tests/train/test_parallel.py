"""Two processes on one machine, as torchrun and srun start them: they give the run of one process, and end together."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.train.loop.module import TrainingModule, process_weight
from edgekd.train.loop.training import train
from edgekd.train.parallel.process_group import ProcessEnvironment, process_environment
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import CHECKPOINT_FILE, METRICS_FILE, REPORT_FILE, RUN_FILE, SOFT_LABELS_FOLDER, load_run
from edgekd.train.teachers import soft_labels

ROOT = Path(__file__).parents[2]
PART_CLIPS = 4
PATIENCE = 200
"""Seconds that a process may need on a busy machine, where starting takes longest; an idle one needs a few."""
TOGETHER = 60
"""Seconds in which the other processes end."""

pytestmark = pytest.mark.timeout(2 * PATIENCE)
SCRIPT = """
import sys
from pathlib import Path
from edgekd.train.parallel import processes
from edgekd.train.teachers import soft_labels as softlabels
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options

softlabels.PART_CLIPS = {part_clips}
folder = Path(sys.argv[1])
with processes.in_process_group("cpu"):
    assert processes.world() == 2
    student, teachers = str(folder / "student.json"), [folder / "t"]
    distill(student, folder / "store", folder / "two", teachers, (), Options(threads=1))
    distill(student, folder / "store", folder / "resumed", teachers, (), Options(threads=1, resume=True))
"""
STUDENT = {"train": {"epochs": 2, "batch_size": 15, "test_every": 1}, "qat": {"epochs": 2}, "augment": {"mixup_p": 0.0}}


class PowerCutError(Exception):
    pass


def environment(**changes):
    """Environment of a process: this tree's edgekd, one thread, and of a launcher's variables only those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def start(tmp_path):
    """`start(*arguments)`: two processes of a command, as srun would start them."""
    running = []

    def begin(*arguments):
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
                command = [sys.executable, "-m", "edgekd.cli", *map(str, arguments)]
                running.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=err, cwd=tmp_path))
        return running

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path):
    """A store and recipes on disk."""
    write_store(tmp_path / "store")
    (tmp_path / "student.json").write_bytes(msgspec.json.encode(recipe_dict(**STUDENT)))
    return tmp_path


def test_a_run_by_two_is_the_run_of_one(folder, monkeypatch):
    from edgekd.data.store.store import ClipStore

    monkeypatch.setattr(soft_labels, "PART_CLIPS", PART_CLIPS)
    store = ClipStore.open(folder / "store")
    student = decode(recipe_dict(**STUDENT), "student")
    train(decode(recipe_dict("teacher", train={"epochs": 1}), "t"), store, folder / "t")
    one = train(student, store, folder / "one", [folder / "t"])
    begin = TrainingModule.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise PowerCutError
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", stop)
        with pytest.raises(PowerCutError):
            train(student, store, folder / "resumed", [folder / "t"])
    before = {path.name: path.read_bytes() for path in (folder / "t" / SOFT_LABELS_FOLDER).iterdir()}
    shutil.rmtree(folder / "t" / SOFT_LABELS_FOLDER)
    (folder / "job.py").write_text(SCRIPT.format(part_clips=PART_CLIPS))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(folder / "job.py"),
        str(folder),
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (folder / "t" / SOFT_LABELS_FOLDER).iterdir()} == before
    for name in ("two", "resumed"):
        run = load_run(folder / name)
        assert {path.name for path in run.path.iterdir()} - {REPORT_FILE} == {
            path.name for path in one.path.iterdir()
        } - {REPORT_FILE}
        assert len((run.path / METRICS_FILE).read_text().splitlines()) == 1 + 2 + 2
        assert run.info.frontend == one.info.frontend
        for metric, value in run.info.metrics.items():
            assert value == pytest.approx(one.info.metrics[metric], abs=0.35), metric
        assert run.qat_model()
    first = [(folder / name / METRICS_FILE).read_text().splitlines()[1].split(",") for name in ("one", "two")]
    # label loss of one step; batch norm and dropout differ
    assert float(first[1][4]) == pytest.approx(float(first[0][4]), rel=0.15)


def test_an_error_of_the_first_process_ends_both_with_one_line(folder, start):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("three years")
    both = start("distill", "student.json", "--data", "store", "--out", "out", "--accelerator", "cpu")
    assert both[0].wait(PATIENCE) == 2
    assert both[1].wait(TOGETHER) == 2
    printed = (folder / "0.err").read_text() + (folder / "1.err").read_text()
    assert re.fullmatch(r"edgekd: out .* not an edgekd run folder; .*\n", printed)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_other_which_reports_it(folder, start, victim):
    both = start(
        "distill",
        "student.json",
        "--data",
        "store",
        "--out",
        "out",
        "--set",
        "train.epochs=100000",
        "--accelerator",
        "cpu",
    )
    until = time.monotonic() + PATIENCE
    while not (folder / "out" / CHECKPOINT_FILE).is_file() and time.monotonic() < until:
        time.sleep(0.1)
    both[victim].kill()
    assert both[1 - victim].wait(TOGETHER) == 2
    errors = [line for line in (folder / f"{1 - victim}.err").read_text().splitlines() if line.startswith("edgekd:")]
    assert len(errors) == 1
    assert re.search(
        rf"process {victim + 1} of 2 \(rank {victim} on .*, pid {both[victim].pid}\) is gone .*--resume", errors[0]
    )
    assert (folder / "out" / RUN_FILE).is_file()


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
