"""Functions for a training by several processes: rank, work of the first process, barrier, means over processes. No
files here.

torchrun or SLURM's srun start the processes. Each has a rank; rank 0 writes files, tests and logs. In a lone process
every function here works without a process group.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgekd.errors import InputError
from edgekd.train.parallel.process_group import ProcessEnvironment, ProcessGroup, process_environment

T = TypeVar("T")

_groups: list[ProcessGroup] = []
"""The group of this process; empty in a lone process."""


def rank() -> int:
    """0 for the first process and for a lone one."""
    return dist.get_rank() if _grouped() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _grouped() else 1


def shard() -> tuple[int, int]:
    """(rank, number of processes): this process's share of each batch."""
    return rank(), world()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def first(work: Callable[[], T]) -> T:
    """The result of `work`, which only the first process runs, in every process. `work` may take hours: the others
    wait outside of any collective. An error of `work` ends all processes (`in_process_group`)."""
    if not _groups:
        return work()
    mine = [work()] if rank() == 0 else []
    _groups[0].pass_gate(1, arrive=rank() == 0)
    received: list[Any] = mine or [None]
    dist.broadcast_object_list(received, src=0, device=torch.device("cpu"))
    result: T = received[0]
    return result


def barrier() -> None:
    """Wait until all processes have called this, for hours where one of them works that long."""
    if _groups:
        _groups[0].pass_gate(world())
        dist.all_reduce(torch.zeros(1))  # nobody asks the store after this, and its host may end


def averaged(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over processes of scalars that every process has under the same names."""
    if world() == 1 or not values:
        return values
    total = torch.stack(list(values.values()))
    dist.all_reduce(total)
    return dict(zip(values, total / world(), strict=True))


def trainer_settings(accelerator: str) -> dict[str, Any]:
    """Settings of Lightning's trainer for this process. Every parameter must have a gradient in every step.

    The statistics of batch norm are those of each process's share of the batch; they are not exchanged, and those of
    the first process are saved.
    """
    if world() == 1:
        return {"accelerator": accelerator, "devices": 1}
    from edgekd.train.parallel.strategy import GroupStrategy  # slow to import

    on_gpu = _on_gpu(accelerator)
    return {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": [torch.cuda.current_device()] if on_gpu else 1,
        "num_nodes": world(),
        "strategy": GroupStrategy(broadcast_buffers=False, gradient_as_bucket_view=True),
        "use_distributed_sampler": False,
    }


@contextmanager
def in_process_group(accelerator: str) -> Iterator[None]:
    """Join the process group that torchrun or srun started this process for, and leave it at the end. Nothing changes
    in a lone process or inside another `in_process_group`.

    An error of one process ends all: the first to fail raises its error, the others exit silently with status 2.

    Raises:
        InputError: other processes did not start or are gone; two processes have the same GPU.
    """
    environment = ProcessEnvironment() if _groups else process_environment(os.environ)
    if environment.world == 1:
        yield
        return
    logger = logging.getLogger("edgekd")
    level = logger.level
    if environment.rank:
        logger.setLevel(logging.ERROR)
    group = ProcessGroup(environment)
    try:
        group.join(_device(environment) if _on_gpu(accelerator) else None)
        _groups.append(group)
        yield
        barrier()
    except BaseException as error:
        group.fail(error)
    finally:
        _groups.clear()
    group.leave()
    logger.setLevel(level)


def _on_gpu(accelerator: str) -> bool:
    return accelerator != "cpu" and torch.cuda.is_available()


def _device(environment: ProcessEnvironment) -> torch.device:
    """The GPU of this process: by its local rank where it sees several, or the one that SLURM gave it."""
    gpus = torch.cuda.device_count()
    if gpus > 1 and environment.local_rank >= gpus:
        raise InputError(
            f"process {environment.local_rank + 1} of this machine has no GPU of its own (there are {gpus}); start"
            f" {gpus} processes, or use --accelerator cpu"
        )
    device = torch.device("cuda", environment.local_rank if gpus > 1 else 0)
    torch.cuda.set_device(device)
    return device
