"""One training by several processes: how they find each other, and how all of them end when one fails or dies.

The collectives of torch's process group do not tell which process is missing. So every process counts up a key of its
own in the group's TCP store once a second. A process that fails publishes its exit status there, and the others end
too. A process whose counter stops is reported by its rank, machine and process id.
"""

import datetime
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported
from torch.distributed.distributed_c10d import PrefixStore, Store

from edgekd.errors import EdgekdError, InputError

log = logging.getLogger(__name__)

JOIN_SECONDS = 300.0
"""How long processes wait for each other at the start."""
COLLECTIVE_DAYS = 7
"""Timeout of a collective: it waits while the first process tests, or another computes soft labels. Missing processes
are found by their heartbeats."""
HEARTBEAT_SECONDS = 1.0
GONE_SECONDS = 5.0
"""Time without a heartbeat after which a process counts as gone once a connection has broken."""
LOST_SECONDS = 25.0
"""Time without a heartbeat after which a process counts as gone where no connection breaks: a machine without power, or
a collective on GPUs."""
GRACE_SECONDS, FAILED_GRACE_SECONDS = 10.0, 2.0
"""Time that this process gets to leave a collective by itself after another is lost, or has failed; then it is
ended."""
INTERRUPTED = 130
"""Exit status after an interrupt."""
FIRST_PORT, PORTS = 15000, 10000
"""Under SLURM the port follows from the number of the SLURM job."""
CONNECTION_SIGNS = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Connection was likely closed",
    "TCPStore",
)
"""Parts of torch's messages when another process is gone."""


@dataclass(frozen=True)
class ProcessEnvironment:
    """What the launcher tells a process about its group.

    rank: 0 to world - 1. world: number of processes. local_rank: among those of its machine. address, port: of the
    group's TCP store. hosted: the launcher has opened that store; otherwise rank 0 opens it.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    hosted: bool = False


def process_environment(environ: Mapping[str, str]) -> ProcessEnvironment:
    """The group of this process from the environment variables of torchrun or srun; a lone process without them.

    A script of sbatch that starts edgekd without srun is one process, whatever SLURM_NTASKS is.

    Raises:
        InputError: a variable is missing or no number.
    """
    if "WORLD_SIZE" in environ:
        world, names = _number(environ, "WORLD_SIZE"), ("RANK", "LOCAL_RANK")
    elif "SLURM_PROCID" in environ and ("SLURM_STEP_ID" in environ or environ.get("ENVIRONMENT") != "BATCH"):
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        world, names = _number(environ, name, 1), ("SLURM_PROCID", "SLURM_LOCALID")
    else:
        return ProcessEnvironment()
    if world < 2:
        return ProcessEnvironment()
    rank, local_rank = (_number(environ, name) for name in names)
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "127.0.0.1"))
    address = environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    port = _number(environ, "MASTER_PORT", FIRST_PORT + _number(environ, "SLURM_JOB_ID", 0) % PORTS)
    hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return ProcessEnvironment(rank, world, local_rank, address, port, hosted)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(
            f"{name}={text!r} in the environment is no number; start several processes with torchrun or srun"
        )
    return int(text)


class ProcessGroup:
    """This process's membership in a group: the TCP store of the group, and a thread that watches the heartbeats of all
    members."""

    def __init__(self, environment: ProcessEnvironment) -> None:
        self.environment = environment
        self.leaving = threading.Event()
        """Set once this process leaves the group by itself."""
        self._terminated = False
        self._names: list[str] = []
        self._last_seen: list[float] = []
        self._heartbeats: list[bytes] = []
        self._store_lost = True
        """Whether the group's store does not answer, or not yet."""
        self._lock = threading.Lock()

    def on_sigterm(self, *_: object) -> NoReturn:
        """Handle SIGTERM, which launchers send to the other processes when one has failed."""
        self._terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    def join(self, device: torch.device | None) -> None:
        """Find all members, make torch's process group, and start watching.

        Args:
            device: the GPU of this process, None on the CPU.

        Raises:
            InputError: the others do not appear in `JOIN_SECONDS`, or two processes have the same GPU.
        """
        here = self.environment
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            self._server = self._connect(here.rank == 0 and not here.hosted)
            self._store = PrefixStore(f"edgekd/{attempt}", self._connect(False))
            self._store_lost = False
            gpu = "" if device is None else f", GPU {getattr(torch.cuda.get_device_properties(device), 'uuid', device)}"
            self._store.set(f"name/{here.rank}", f"{socket.gethostname()}{gpu}\n{os.getpid()}")
            self._store.set(f"beat/{here.rank}", "0")
            self._store.wait([f"name/{rank}" for rank in range(here.world)], datetime.timedelta(seconds=JOIN_SECONDS))
        except RuntimeError as error:
            raise InputError(
                f"process {here.rank + 1} of {here.world} did not find the others at {here.address}:{here.port} in"
                f" {JOIN_SECONDS:.0f} s ({_first_line(error)}); start all of them with torchrun or srun, or set"
                " MASTER_ADDR and MASTER_PORT"
            ) from None
        locations, pids = zip(
            *(self._store.get(f"name/{rank}").decode().split("\n") for rank in range(here.world)), strict=True
        )
        if device is not None and len(set(locations)) < here.world:
            raise InputError(
                "two processes of one machine have the same GPU; start one for each GPU, or use --accelerator cpu"
            )
        self._names = [
            f"process {rank + 1} of {here.world} (rank {rank} on {location.split(', ')[0]}, pid {pid})"
            for rank, (location, pid) in enumerate(zip(locations, pids, strict=True))
        ]
        self._heartbeats = [b""] * here.world
        self._last_seen = [time.monotonic()] * here.world
        threading.Thread(target=self._watch, daemon=True).start()
        backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore(f"group/{attempt}", self._server),
            rank=here.rank,
            world_size=here.world,
            timeout=datetime.timedelta(days=COLLECTIVE_DAYS),
            device_id=device,
        )

    def fail(self, error: BaseException) -> NoReturn:
        """Leave the group after an error. The first process to fail raises its error; the others exit silently with the
        same status.

        Raises:
            BaseException: `error`, where this process is the first to fail.
            InputError: other processes are gone.
            SystemExit: another process has failed first.
        """
        self.leaving.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raised: BaseException = error
        # a broken connection has its cause elsewhere: another process has failed, or is gone
        if self._names and (self._terminated or _of_connection(error)):
            deadline = time.monotonic() + GONE_SECONDS + 2 * HEARTBEAT_SECONDS
            while not (gone := self._gone(GONE_SECONDS)) and not self._failure() and time.monotonic() < deadline:
                time.sleep(HEARTBEAT_SECONDS / 4)
                self._beat()
            if gone and not self._failure():
                raised = InputError(self._gone_message(gone))
            elif not isinstance(error, KeyboardInterrupt):
                raised = InputError(
                    f"the connection of the training's processes broke ({_first_line(error)}); start all of them again"
                    " with --resume"
                )
        status = (
            raised.exit_status
            if isinstance(raised, EdgekdError)
            else INTERRUPTED
            if isinstance(raised, KeyboardInterrupt)
            else 1
        )
        is_first = self._publish_failure(status)
        status = self._failure() or status
        self._leave()
        if is_first:
            raise raised from (error.__cause__ if raised is error else None)
        raise SystemExit(status) from None

    def _connect(self, server: bool) -> Store:
        return TCPStore(
            self.environment.address,
            self.environment.port,
            is_master=server,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=JOIN_SECONDS),
        )

    def _publish_failure(self, status: int) -> bool:
        """Write an exit status to the store; whether this process is the first to fail, as far as it can know."""
        if self._failure() is not None:
            return False
        try:
            if not self._store_lost:
                self._store.set("status", str(status))
                return self._store.add("failures", 1) == 1
        except RuntimeError:
            self._store_lost = True
        return True

    def _leave(self) -> None:
        """Count this process among those that leave. The process that hosts the store waits until the others have read
        the status, or `GONE_SECONDS`."""
        if self._store_lost:
            return
        deadline = time.monotonic() + GONE_SECONDS
        here = self.environment
        with suppress(RuntimeError):
            left = self._store.add("left", 1)
            hosts = here.rank == 0 and not here.hosted
            while hosts and left + len(self._gone(GONE_SECONDS)) < here.world and time.monotonic() < deadline:
                time.sleep(HEARTBEAT_SECONDS / 10)
                self._beat()
                left = self._store.add("left", 0)

    def _failure(self) -> int | None:
        """The exit status that another process has published, None while there is none."""
        try:
            return int(self._store.get("status")) if not self._store_lost and self._store.check(["status"]) else None
        except RuntimeError:
            self._store_lost = True
            return None

    def _gone(self, seconds: float) -> list[int]:
        """Ranks of the other processes without a heartbeat for so many seconds."""
        now = time.monotonic()
        return [
            rank for rank, seen in enumerate(self._last_seen) if now - seen > seconds and rank != self.environment.rank
        ]

    def _gone_message(self, gone: list[int]) -> str:
        if self._store_lost:
            who = "torchrun, which started this process," if self.environment.hosted else self._names[0]
        elif len(gone) == 1:
            who = self._names[gone[0]]
        else:
            who = f"{len(gone)} processes, the first being {self._names[gone[0]]},"
        return (
            f"{who} is gone without an error message: it was killed, ran out of memory, or its machine is down; find"
            " the cause, then start all processes again with --resume"
        )

    def _beat(self) -> None:
        """Count up this process's heartbeat, and note whose has changed."""
        with self._lock:
            if self._store_lost:
                return
            try:
                self._store.add(f"beat/{self.environment.rank}", 1)
                heartbeats = self._store.multi_get([f"beat/{rank}" for rank in range(self.environment.world)])
            except RuntimeError:
                self._store_lost = True
                return
            now = time.monotonic()
            for rank, (old, new) in enumerate(zip(self._heartbeats, heartbeats, strict=True)):
                if old != new:
                    self._last_seen[rank] = now
            self._heartbeats = heartbeats

    def _watch(self) -> None:
        """Beat, watch the others, and end this process where it cannot leave a collective by itself."""
        failed_since = 0.0
        last = time.monotonic()
        while not self.leaving.wait(HEARTBEAT_SECONDS):
            now = time.monotonic()
            if now - last > GONE_SECONDS:  # this process was suspended, and so cannot know whether others were
                self._last_seen = [now] * self.environment.world
            last = now
            self._beat()
            status, gone = self._failure(), self._gone(LOST_SECONDS)
            if status is None and not gone:
                failed_since = 0.0
                continue
            failed_since = failed_since or now
            grace = GRACE_SECONDS if status is None else FAILED_GRACE_SECONDS
            if now - failed_since > grace and not self.leaving.is_set():
                if status is None and self._publish_failure(EdgekdError.exit_status):
                    log.error("edgekd: %s", self._gone_message(gone))
                self._leave()
                os._exit(EdgekdError.exit_status if status is None else status)


def _of_connection(error: BaseException) -> bool:
    """Whether an error comes from a broken connection to another process."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in CONNECTION_SIGNS)
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
