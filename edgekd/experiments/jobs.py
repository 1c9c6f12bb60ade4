"""Runs command lines as processes of their own, several at a time, those that others need first, and picks up where it
was stopped.

A job that has ended well leaves FOLDER/NAME.done, so that the same jobs in the same folder go on after any
interruption; a job that was half way is told to `--resume`. What a job prints is in FOLDER/NAME.log.
"""

import importlib.util
import os
import shutil
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import edgekd
from edgekd.errors import InputError, nearest
from edgekd.files import in_use
from edgekd.text import counted
from edgekd.train.launch import PARENT

ENGINES = ("auto", "local", "ray")
DONE, LOG = ".done", ".log"
GRACE_SECONDS = 10.0
"""Between asking a process to end and ending it."""
RELEASE_SECONDS = 10.0
"""Longest wait for the process of a killed command to let go of its run folder."""
POLL_SECONDS = 0.1
RAY_QUEUE = 256
"""Jobs handed to Ray at a time; it knows what the cluster has room for."""

State = Literal["done", "failed", "left"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
        name: unique; names its log.
        command: program and arguments.
        needs: names of jobs that must have ended well before.
        begun: a file that is there once the job can be resumed; where its folder exists without it, the folder is
            removed.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    begun: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """state: "left" where a job that it needs has failed. error: one line, empty where done. log: what it printed."""

    state: State
    error: str
    log: Path


@dataclass(frozen=True)
class Slot:
    """A place for one process at a time. gpu: its CUDA_VISIBLE_DEVICES, None for the CPU."""

    gpu: str | None = None


@dataclass(frozen=True)
class Workers:
    """Where jobs run. slots: how many at a time, and with which GPU. threads: of each. engine: "local" or "ray"."""

    slots: tuple[Slot, ...]
    threads: int
    engine: str = "local"


class Engine(Protocol):
    """Runs processes somewhere."""

    def start(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Begin one; the environment is added to that of the place."""
        ...

    def finished(self) -> dict[str, int]:
        """Wait until one or more have ended: name to exit status, that of a process ended by signal n being -n."""
        ...

    def stop(self) -> None:
        """End all that run."""
        ...


def edgekd_command(*arguments: str) -> tuple[str, ...]:
    """A command line of this program for a process of its own, whatever the working folder holds."""
    return (sys.executable, "-P", "-m", "edgekd.cli", *arguments)


def chosen_workers(jobs: int | None, threads: int | None, engine: str, gpus: int) -> Workers:
    """How many processes to run at a time, and how.

    Args:
        jobs: asked for; None is one per GPU, or as many as cores have room for.
        threads: of each; None shares the cores where `jobs` or GPUs say how many there are, and is 1 elsewhere: small
            networks gain more from another run beside them.
        engine: one of `ENGINES`.
        gpus: that torch sees.

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


def run_jobs(jobs: Sequence[Job], folder: Path, workers: Workers, say: Say) -> dict[str, Outcome]:
    """Run all jobs that are not done, in the order given as far as needs allow.

    Args:
        jobs: their needs name earlier jobs of the list.
        folder: of logs and marks.
        workers: where.
        say: told of each job that ends.

    Returns:
        name -> what came of it, for every job.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM, after all processes have been ended.
        InputError: ray is asked for and not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {
        job.name: Outcome("done", "", folder / f"{job.name}{LOG}")
        for job in jobs
        if (folder / f"{job.name}{DONE}").is_file()
    }
    waiting = [job for job in jobs if job.name not in outcomes]
    if outcomes:
        say(f"{len(outcomes)} of {counted(len(jobs), 'run')} done already")
    if not waiting:
        return outcomes
    engine, free = _engine(workers), list(workers.slots)
    taken: dict[str, Slot] = {}
    with _terminable():
        try:
            while waiting or taken:
                for job in _ready(waiting, outcomes, folder)[: len(free)]:
                    waiting.remove(job)
                    taken[job.name] = free.pop(0)
                    engine.start(
                        job.name, _prepared(job), folder / f"{job.name}{LOG}", _environment(workers, taken[job.name])
                    )
                if not taken:  # all that waits needs what has failed
                    break
                for name, status in engine.finished().items():
                    free.append(taken.pop(name))
                    outcomes[name] = _ended(folder, name, status)
                    say(
                        f"{len(outcomes)} of {len(jobs)}: {name} {outcomes[name].state}"
                        + (f" ({outcomes[name].error})" if outcomes[name].error else "")
                    )
        finally:
            engine.stop()
    return {job.name: outcomes[job.name] for job in jobs}


def _ready(waiting: list[Job], outcomes: dict[str, Outcome], folder: Path) -> list[Job]:
    """Jobs whose needs are done; those whose needs have failed are moved to the outcomes."""
    ready = []
    for job in list(waiting):
        states = {need: outcomes[need].state for need in job.needs if need in outcomes}
        bad = [need for need, state in states.items() if state != "done"]
        if bad:
            waiting.remove(job)
            outcomes[job.name] = Outcome("left", f"{bad[0]} has failed", folder / f"{job.name}{LOG}")
        elif len(states) == len(job.needs):
            ready.append(job)
    return ready


def _prepared(job: Job) -> tuple[str, ...]:
    """The command, with --resume where it was half way."""
    if job.begun is None or not job.begun.parent.exists():
        return job.command
    end = time.monotonic() + RELEASE_SECONDS
    while in_use(job.begun.parent, unknown=False) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    if job.begun.is_file():
        return (*job.command, "--resume")
    shutil.rmtree(job.begun.parent)
    return job.command


def _ended(folder: Path, name: str, status: int) -> Outcome:
    log = folder / f"{name}{LOG}"
    if status == 0:
        (folder / f"{name}{DONE}").touch()
        return Outcome("done", "", log)
    if status < 0:
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return Outcome("failed", f"ended by signal {-status}{hint}", log)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
    return Outcome("failed", last.removeprefix("edgekd: "), log)


def _environment(workers: Workers, slot: Slot) -> dict[str, str]:
    """What a process gets besides the environment of its place."""
    added = {}
    root = str(Path(edgekd.__file__).resolve().parents[1])
    if root not in [*site.getsitepackages(), site.getusersitepackages()]:  # a checkout that is not installed
        added["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    if slot.gpu is not None and workers.engine == "local":  # ray gives each task its own
        added["CUDA_VISIBLE_DEVICES"] = slot.gpu
    return added


def _engine(workers: Workers) -> Engine:
    if workers.engine == "local":
        return LocalEngine(len(workers.slots))
    from edgekd.experiments.ray_jobs import RayEngine

    return RayEngine(workers.threads, workers.slots[0].gpu is not None)


def _ray_or_local() -> str:
    """Ray where it is installed and somebody has set it up."""
    if importlib.util.find_spec("ray") is None:
        return "local"
    loaded = sys.modules.get("ray")
    return "ray" if os.environ.get("RAY_ADDRESS") or (loaded is not None and loaded.is_initialized()) else "local"


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is answered as SIGINT is; signals are the main thread's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"ended by signal {number}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def execute(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    on_start: Callable[["subprocess.Popen[bytes]"], None],
) -> int:
    """Run a process to its end, its output in `log`; its exit status.

    It has a session of its own, so that an interrupt at the terminal reaches it only through who started it.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
        )
        on_start(process)
        return process.wait()


class LocalEngine:
    """Processes of this machine, each watched by a thread."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._futures: dict[Future[int], str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = threading.Event()

    def start(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._futures[self._pool.submit(execute, command, log, environment, self._watch)] = name

    def finished(self) -> dict[str, int]:
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        return {self._futures.pop(future): future.result() for future in done}

    def stop(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGINT)
        _, running = wait(self._futures, timeout=GRACE_SECONDS)
        if running:
            self._signal(signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        self._processes.append(process)
        if self._stopping.is_set():
            process.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)  # does nothing where it has ended
