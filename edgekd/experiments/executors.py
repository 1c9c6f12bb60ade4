"""Starts the processes of jobs: on this machine, or as tasks of a Ray cluster.

Both executors run the same command lines. With Ray, all folders must be on a file system that every machine sees.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from edgekd.errors import MissingExtraError
from edgekd.train.launch import PARENT

GRACE_SECONDS = 10.0
"""Time between the request that a process ends (SIGINT) and its kill."""


class Executor(Protocol):
    """Runs processes somewhere."""

    def start(self, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> None:
        """Start a process. `environment` is added to the environment of the machine it runs on."""
        ...

    def finished(self) -> dict[str, int]:
        """Wait until at least one process has ended.

        Returns:
            Name -> exit status; -n for a process that signal n ended.
        """
        ...

    def stop(self) -> None:
        """End all running processes."""
        ...


def execute(
    command: Sequence[str],
    log_file: Path,
    environment: Mapping[str, str],
    on_start: Callable[["subprocess.Popen[bytes]"], None],
) -> int:
    """Run a process to its end with its output in `log_file`, and return its exit status.

    The process gets a session of its own. An interrupt at the terminal therefore does not reach it directly; the
    executor passes it on.
    """
    with log_file.open("wb") as output:
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


class LocalExecutor:
    """Processes of this machine, each watched by a thread.

    Args:
        count: how many processes run at a time.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._futures: dict[Future[int], str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = threading.Event()

    def start(self, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> None:
        self._futures[self._pool.submit(execute, command, log_file, environment, self._add)] = name

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

    def _add(self, process: "subprocess.Popen[bytes]") -> None:
        self._processes.append(process)
        if self._stopping.is_set():  # it started after `stop` had sent its signal
            process.kill()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)  # no effect on a process that has ended


class RayExecutor:
    """Tasks of Ray, which chooses the machine. Ray is started here, or joined where RAY_ADDRESS names a cluster.

    Args:
        threads: cores that a task takes.
        gpu: whether a task takes a GPU.

    Raises:
        MissingExtraError: ray is not installed.
    """

    def __init__(self, threads: int, gpu: bool) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingExtraError("ray", "ray") from None
        self._ray: Any = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._task = ray.remote(num_cpus=threads, num_gpus=int(gpu), max_retries=0)(_ray_task)
        self._names: dict[Any, str] = {}

    def start(self, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> None:
        self._names[self._task.remote(tuple(command), str(log_file.resolve()), dict(environment))] = name

    def finished(self) -> dict[str, int]:
        done, _ = self._ray.wait(list(self._names), num_returns=1)
        return {self._names.pop(reference): self._status(reference) for reference in done}

    def stop(self) -> None:
        for reference in self._names:
            self._ray.cancel(reference, force=True)

    def _status(self, reference: Any) -> int:
        """Exit status of a task. A worker that died took its process along, by
        `edgekd.train.launch.end_with_parent`."""
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.RayError:
            return 1


def _ray_task(command: tuple[str, ...], log_file: str, environment: dict[str, str]) -> int:
    return execute(command, Path(log_file), environment, lambda _: None)
