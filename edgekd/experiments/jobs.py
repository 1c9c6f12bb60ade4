"""Runs command lines as processes, several at a time, in the order that their needs allow.

A job that succeeds leaves FOLDER/NAME.done. The same jobs in the same folder therefore continue after any
interruption; a job that was half done is started again with `--resume`. The output of a job is in FOLDER/NAME.log.
"""

import importlib.util
import os
import shutil
import signal
import site
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgekd
from edgekd.errors import InputError, nearest
from edgekd.experiments.executors import Executor, LocalExecutor, RayExecutor
from edgekd.files import in_use
from edgekd.text import counted

ENGINES = ("auto", "local", "ray")
DONE, LOG = ".done", ".log"
RELEASE_SECONDS = 10.0
"""Longest wait until the process of a killed command releases its run folder."""
POLL_SECONDS = 0.1
RAY_QUEUE = 256
"""Jobs handed to Ray at a time. Ray itself decides how many the cluster has room for."""

JobState = Literal["done", "failed", "left"]
"""left: not started, since a job that it needs has failed."""


@dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
        name: unique; names the log file.
        command: program and arguments.
        needs: names of jobs that must succeed first.
        resume_file: exists once the job can be resumed. Where its folder exists without it, the folder is removed and
            the job starts from the beginning. None for a job that cannot be resumed.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    resume_file: Path | None = None


@dataclass(frozen=True)
class JobResult:
    """How a job ended. error: one line, empty where it is done. log_file: what it printed."""

    state: JobState
    error: str
    log_file: Path


@dataclass(frozen=True)
class Slot:
    """Room for one process at a time. gpu: its CUDA_VISIBLE_DEVICES, None for the CPU."""

    gpu: str | None = None


@dataclass(frozen=True)
class Workers:
    """How jobs run. slots: one for each process at a time. threads: of each process. engine: "local" or "ray"."""

    slots: tuple[Slot, ...]
    threads: int
    engine: str = "local"


def edgekd_command(*arguments: str) -> tuple[str, ...]:
    """A command line of edgekd for a process of its own, whatever the working folder holds."""
    return (sys.executable, "-P", "-m", "edgekd.cli", *arguments)


def chosen_workers(jobs: int | None, threads: int | None, engine: str, gpus: int) -> Workers:
    """How many processes run at a time, and where.

    Args:
        jobs: processes at a time; None is one per GPU, or as many as the cores have room for.
        threads: of each process. None shares the cores among `jobs` or the GPUs. Without either it is 1: small networks
            gain more from another run at the same time.
        engine: one of `ENGINES`.
        gpus: how many GPUs torch sees.

    Raises:
        InputError: an unknown engine.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine '{engine}' is unknown{nearest(engine, ENGINES)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else []
    names = names[:gpus] if len(names) >= gpus else [str(index) for index in range(gpus)]
    if threads is None:
        threads = max(1, cores // (jobs or gpus)) if jobs or gpus else 1
    engine = _ray_or_local() if engine == "auto" else engine
    count = jobs or (RAY_QUEUE if engine == "ray" else gpus or max(1, cores // threads))
    return Workers(tuple(Slot(names[index % gpus] if gpus else None) for index in range(count)), threads, engine)


def run_jobs(jobs: Sequence[Job], folder: Path, workers: Workers, log: Callable[[str], None]) -> dict[str, JobResult]:
    """Run all jobs that are not done, in the order given as far as their needs allow.

    Args:
        jobs: the needs of each name earlier jobs of the list.
        folder: of the log files and the marks of finished jobs.
        workers: how many processes run at a time, and where.
        log: called with one line for each job that ends.

    Returns:
        Name -> result, for every job.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM, after all processes have been ended.
        InputError: Ray is chosen and not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        job.name: JobResult("done", "", folder / f"{job.name}{LOG}")
        for job in jobs
        if (folder / f"{job.name}{DONE}").is_file()
    }
    waiting = [job for job in jobs if job.name not in results]
    if results:
        log(f"{len(results)} of {counted(len(jobs), 'run')} done already")
    if not waiting:
        return results
    executor, free = _executor(workers), list(workers.slots)
    slot_of: dict[str, Slot] = {}
    with _sigterm_interrupts():
        try:
            while waiting or slot_of:
                for job in _ready(waiting, results, folder)[: len(free)]:
                    waiting.remove(job)
                    slot_of[job.name] = free.pop(0)
                    environment = _environment(workers, slot_of[job.name])
                    executor.start(job.name, next_command(job), folder / f"{job.name}{LOG}", environment)
                if not slot_of:  # every waiting job needs one that has failed
                    break
                for name, status in executor.finished().items():
                    free.append(slot_of.pop(name))
                    result = results[name] = _result(folder, name, status)
                    error = f" ({result.error})" if result.error else ""
                    log(f"{len(results)} of {len(jobs)}: {name} {result.state}{error}")
        finally:
            executor.stop()
    return {job.name: results[job.name] for job in jobs}


def _ready(waiting: list[Job], results: dict[str, JobResult], folder: Path) -> list[Job]:
    """Jobs whose needs are done. A job whose needs have failed moves from `waiting` to `results`."""
    ready = []
    for job in list(waiting):
        states = {need: results[need].state for need in job.needs if need in results}
        bad = [need for need, state in states.items() if state != "done"]
        if bad:
            waiting.remove(job)
            results[job.name] = JobResult("left", f"{bad[0]} has failed", folder / f"{job.name}{LOG}")
        elif len(states) == len(job.needs):
            ready.append(job)
    return ready


def next_command(job: Job) -> tuple[str, ...]:
    """The command that starts a job now: with --resume where the job is half done."""
    if job.resume_file is None or not job.resume_file.parent.exists():
        return job.command
    end = time.monotonic() + RELEASE_SECONDS
    while in_use(job.resume_file.parent, unknown=False) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    if job.resume_file.is_file():
        return (*job.command, "--resume")
    shutil.rmtree(job.resume_file.parent)
    return job.command


def _result(folder: Path, name: str, status: int) -> JobResult:
    """The result of a process with an exit status; a job that succeeded is marked as done."""
    log_file = folder / f"{name}{LOG}"
    if status == 0:
        (folder / f"{name}{DONE}").touch()
        return JobResult("done", "", log_file)
    if status < 0:
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return JobResult("failed", f"ended by signal {-status}{hint}", log_file)
    lines = log_file.read_text(encoding="utf-8", errors="replace").split("\n") if log_file.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
    return JobResult("failed", last.removeprefix("edgekd: "), log_file)


def _environment(workers: Workers, slot: Slot) -> dict[str, str]:
    """Environment variables of a process, besides those of the machine it runs on."""
    added = {}
    root = str(Path(edgekd.__file__).resolve().parents[1])
    if root not in [*site.getsitepackages(), site.getusersitepackages()]:  # a checkout that is not installed
        added["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    if slot.gpu is not None and workers.engine == "local":  # Ray gives each task its own GPU
        added["CUDA_VISIBLE_DEVICES"] = slot.gpu
    return added


def _executor(workers: Workers) -> Executor:
    if workers.engine == "local":
        return LocalExecutor(len(workers.slots))
    return RayExecutor(workers.threads, workers.slots[0].gpu is not None)


def _ray_or_local() -> str:
    """ "ray" where Ray is installed and set up, else "local"."""
    if importlib.util.find_spec("ray") is None:
        return "local"
    loaded = sys.modules.get("ray")
    return "ray" if os.environ.get("RAY_ADDRESS") or (loaded is not None and loaded.is_initialized()) else "local"


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does. Only the main thread can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"ended by signal {number}")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
