"""Jobs as Ray tasks: the same command lines, on whatever machines the cluster has. Folders must be on a file system
that all can see."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import MissingExtraError
from edgekd.experiments.jobs import execute


class RayEngine:
    """Ray's scheduler. It is started here, or joined where RAY_ADDRESS names a cluster.

    Args:
        threads: cores that a job takes.
        gpu: whether it takes a GPU.

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
        self._task = ray.remote(num_cpus=threads, num_gpus=int(gpu), max_retries=0)(_run)
        self._names: dict[Any, str] = {}

    def start(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._names[self._task.remote(tuple(command), str(log.resolve()), dict(environment))] = name

    def finished(self) -> dict[str, int]:
        done, _ = self._ray.wait(list(self._names), num_returns=1)
        return {self._names.pop(reference): self._status(reference) for reference in done}

    def stop(self) -> None:
        for reference in self._names:
            self._ray.cancel(reference, force=True)

    def _status(self, reference: Any) -> int:
        """A worker that died took its process along: see `edgekd.train.launch.end_with_parent`."""
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.RayError:
            return 1


def _run(command: tuple[str, ...], log: str, environment: dict[str, str]) -> int:
    return execute(command, Path(log), environment, lambda _: None)
