"""Lightning's view of a process group that exists before its trainer starts."""

import signal
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy


class OneDeviceEach(ClusterEnvironment):
    """Presents every process to Lightning as a machine with one device, however many processes a machine has and
    whichever GPU each of them uses."""

    creates_processes_externally = True
    main_address, main_port = "", 0  # unused: the process group exists before Lightning starts

    @staticmethod
    def detect() -> bool:
        return dist.is_initialized()

    def world_size(self) -> int:
        return dist.get_world_size()

    def global_rank(self) -> int:
        return dist.get_rank()

    def node_rank(self) -> int:
        return dist.get_rank()

    def local_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None:
        assert size == dist.get_world_size()

    def set_global_rank(self, rank: int) -> None:
        assert rank == dist.get_rank()


class GroupStrategy(DDPStrategy):
    """Lightning's DDP in an existing process group. It keeps the handler of SIGTERM of `ProcessGroup`; Lightning's
    own starts a collective, in which processes that have ended never join."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cluster_environment=OneDeviceEach(), **settings)
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self) -> None:
        signal.signal(signal.SIGTERM, self._handler)
