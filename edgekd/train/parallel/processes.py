"""The processes of one training: who this one is, what the first does for all, and how all end when one fails. No files
here.

torchrun and SLURM's srun start the processes; each has a rank, and rank 0 is the one that writes, tests and speaks. A
lone process is its own first, and every function here then does nothing.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from edgekd.errors import InputError
from edgekd.train.parallel.process_group import ProcessEnvironment, ProcessGroup, process_environment

T = TypeVar("T")


def rank() -> int:
    """0 for the first process and for a lone one."""
    return dist.get_rank() if _grouped() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _grouped() else 1


def shard() -> tuple[int, int]:
    """(rank, processes): which part of each batch is this process's."""
    return rank(), world()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def first(work: Callable[[], T]) -> T:
    """What the first process gets from `work`, in every process. An error there ends all (`in_process_group`)."""
    if world() == 1:
        return work()
    box = [work() if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]


def barrier() -> None:
    """Go on when all processes are here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def averaged(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over processes of scalars that every process has under the same names."""
    if world() == 1 or not values:
        return values
    total = torch.stack(list(values.values()))
    dist.all_reduce(total)
    return dict(zip(values, total / world(), strict=True))


def trainer_settings(accelerator: str) -> dict[str, Any]:
    """Of Lightning's trainer; every parameter must have a gradient in every step.

    Batch norm's statistics are those of each process's share and never exchanged: the first one's are kept.
    """
    if world() == 1:
        return {"accelerator": accelerator, "devices": 1}
    on_gpu = _on_gpu(accelerator)
    strategy = _Strategy(cluster_environment=_OneOfMany(), broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": [torch.cuda.current_device()] if on_gpu else 1,
        "num_nodes": world(),
        "strategy": strategy,
        "use_distributed_sampler": False,
    }


class _OneOfMany(ClusterEnvironment):
    """To Lightning every process is a machine of its own with one device: however many each machine has, and whichever
    GPU it is given."""

    creates_processes_externally = True
    main_address, main_port = "", 0  # the process group is there before Lightning

    @staticmethod
    def detect() -> bool:
        return _grouped()

    def world_size(self) -> int:
        return world()

    def global_rank(self) -> int:
        return rank()

    def node_rank(self) -> int:
        return rank()

    def local_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None:
        assert size == world()

    def set_global_rank(self, rank: int) -> None:
        assert rank == dist.get_rank()


class _Strategy(DDPStrategy):
    """Keeps `Job.stop` as the answer to SIGTERM: Lightning's own waits for processes that are gone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._answer = signal.getsignal(signal.SIGTERM)

    def on_train_start(self) -> None:
        signal.signal(signal.SIGTERM, self._answer)


@contextmanager
def in_process_group(accelerator: str) -> Iterator[None]:
    """Train together with the processes that torchrun or srun started beside this one. Inside another `in_process_group`,
    or in a lone process, nothing changes.

    Whatever ends one process ends all: the first to fail raises what it has to say, the others leave with its exit
    status and no word.

    Raises:
        InputError: others never came, or are gone; two processes have the same GPU.
    """
    here = ProcessEnvironment() if _grouped() else process_environment(os.environ)
    if here.world == 1:
        yield
        return
    job = ProcessGroup(here)
    answer = signal.signal(signal.SIGTERM, job.stop)
    logger = logging.getLogger("edgekd")
    level = logger.level
    if here.rank:
        logger.setLevel(logging.ERROR)
    try:
        job.meet(_device(here) if _on_gpu(accelerator) else None)
        yield
        barrier()
    except BaseException as error:
        job.end(error)
    job.ending.set()
    dist.destroy_process_group()
    logger.setLevel(level)
    signal.signal(signal.SIGTERM, answer)


def _on_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


def _device(here: ProcessEnvironment) -> torch.device:
    """The GPU of this process: of those that it sees, or the one that SLURM gave it."""
    seen = torch.cuda.device_count()
    if seen > 1 and here.local_rank >= seen:
        raise InputError(
            f"process {here.local_rank + 1} of this machine has no GPU of its own ({seen} are there); start {seen}"
            " processes, or use --accelerator cpu"
        )
    device = torch.device("cuda", here.local_rank if seen > 1 else 0)
    torch.cuda.set_device(device)
    return device
