"""A job of several processes: the place of this one in it, and how all of them end when one fails or is gone.

Beside the process group, whose collectives say nothing of who is missing, every process counts up a key of the job's
TCP store once a second. Whoever fails tells it there, so that the others end too, and who stops counting is known by
name.
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
from lightning.fabric.plugins.environments import SLURMEnvironment

from edgekd.errors import EdgekdError, InputError

log = logging.getLogger(__name__)

JOIN_SECONDS = 300.0
"""How long processes wait for each other at the start."""
COLLECTIVE_DAYS = 7
"""The watch finds who is gone; a collective itself waits as long as the first process may test, or another compute soft
labels."""
BEAT_SECONDS = 1.0
GONE_SECONDS = 5.0
"""Without a beat: who was meant when a connection breaks."""
LOST_SECONDS = 25.0
"""Without a beat, where no connection breaks: a machine without power, or a collective on GPUs."""
GRACE_SECONDS, TOLD_SECONDS = 10.0, 2.0
"""From knowing that somebody is lost, or that another process has failed, to ending this one where it hangs in a
collective."""
INTERRUPTED = 130
FIRST_PORT, PORTS = 15000, 10000
"""Under SLURM the port is taken from the job's number."""
CONNECTION_SIGNS = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "Connection was likely closed",
    "TCPStore",
)
"""In what torch says when another process is gone."""


@dataclass(frozen=True)
class ProcessEnvironment:
    """This process among those of its job. local_rank: among those of its machine. address, port: where the job's store
    listens. hosted: whether the launcher has opened the store there; otherwise rank 0 does."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    hosted: bool = False


def process_environment(environ: Mapping[str, str]) -> ProcessEnvironment:
    """What torchrun or srun say of this process; a lone one where neither does.

    A script of sbatch that starts edgekd without srun is one process, whatever SLURM_NTASKS is.

    Raises:
        InputError: a variable is missing or no number.
    """
    if "WORLD_SIZE" in environ:
        world, by = _number(environ, "WORLD_SIZE"), ("RANK", "LOCAL_RANK")
    elif "SLURM_PROCID" in environ and ("SLURM_STEP_ID" in environ or environ.get("ENVIRONMENT") != "BATCH"):
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        world, by = _number(environ, name, 1), ("SLURM_PROCID", "SLURM_LOCALID")
    else:
        return ProcessEnvironment()
    if world < 2:
        return ProcessEnvironment()
    rank, local = (_number(environ, name) for name in by)
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "127.0.0.1"))
    address = environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    port = _number(environ, "MASTER_PORT", FIRST_PORT + _number(environ, "SLURM_JOB_ID", 0) % PORTS)
    return ProcessEnvironment(rank, world, local, address, port, environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(
            f"{name}={text!r} in the environment is no number; start several processes with torchrun or srun"
        )
    return int(text)


class ProcessGroup:
    """The other processes, as known through the job's store; watched by a thread of its own."""

    def __init__(self, here: ProcessEnvironment) -> None:
        self.here = here
        self.ending = threading.Event()
        """Set once this process leaves by itself."""
        self._stopped = False
        self._names: list[str] = []
        self._seen: list[float] = []
        self._beats: list[bytes] = []
        self._deaf = True
        """Whether the job's store does not answer, or no longer."""
        self._lock = threading.Lock()

    def stop(self, *_: object) -> NoReturn:
        """Answer SIGTERM, which launchers send to the others when one process has failed."""
        self._stopped = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    def meet(self, device: torch.device | None) -> None:
        """Find all others, then make the process group and begin to watch."""
        here = self.here
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            self._server = self._connected(here.rank == 0 and not here.hosted)
            self._store = dist.PrefixStore(f"edgekd/{attempt}", self._connected(False))
            self._deaf = False
            gpu = "" if device is None else f", GPU {getattr(torch.cuda.get_device_properties(device), 'uuid', device)}"
            self._store.set(f"name/{here.rank}", f"{socket.gethostname()}{gpu}\n{os.getpid()}")
            self._store.set(f"beat/{here.rank}", "0")
            self._store.wait([f"name/{each}" for each in range(here.world)], datetime.timedelta(seconds=JOIN_SECONDS))
        except RuntimeError as error:
            raise InputError(
                f"process {here.rank + 1} of {here.world} did not find the others at {here.address}:{here.port} in"
                f" {JOIN_SECONDS:.0f} s ({_line(error)}); start all of them with torchrun or srun, or set MASTER_ADDR"
                " and MASTER_PORT"
            ) from None
        places, pids = zip(
            *(self._store.get(f"name/{each}").decode().split("\n") for each in range(here.world)), strict=True
        )
        if device is not None and len(set(places)) < here.world:
            raise InputError(
                "two processes of one machine have the same GPU; start one for each GPU, or use --accelerator cpu"
            )
        self._names = [
            f"process {each + 1} of {here.world} (rank {each} on {where.split(', ')[0]}, pid {pid})"
            for each, (where, pid) in enumerate(zip(places, pids, strict=True))
        ]
        self._beats = [b""] * here.world
        self._seen = [time.monotonic()] * here.world
        threading.Thread(target=self._watch, daemon=True).start()
        backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"group/{attempt}", self._server),
            rank=here.rank,
            world_size=here.world,
            timeout=datetime.timedelta(days=COLLECTIVE_DAYS),
            device_id=device,
        )

    def end(self, error: BaseException) -> NoReturn:
        """Leave as the job's first failure wants it: by the error here, where it is that, and otherwise silently.

        Raises:
            InputError: others are gone.
            SystemExit: another process has said why.
        """
        self.ending.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told: BaseException = error
        # its cause is elsewhere: said there, or somebody is gone
        if self._names and (self._stopped or _of_connection(error)):
            until = time.monotonic() + GONE_SECONDS + 2 * BEAT_SECONDS
            while not (gone := self._gone(GONE_SECONDS)) and not self._failed() and time.monotonic() < until:
                time.sleep(BEAT_SECONDS / 4)
                self._beat()
            if gone and not self._failed():
                told = InputError(self._line_of(gone))
            elif not isinstance(error, KeyboardInterrupt):
                told = InputError(
                    f"the connection of this job's processes broke ({_line(error)}); start all of them again with"
                    " --resume"
                )
        status = (
            told.exit_status
            if isinstance(told, EdgekdError)
            else INTERRUPTED
            if isinstance(told, KeyboardInterrupt)
            else 1
        )
        speaks = self._is_first_failure(status)
        status = self._failed() or status
        self._part()
        if speaks:
            raise told from (error.__cause__ if told is error else None)
        raise SystemExit(status) from None

    def _connected(self, server: bool) -> dist.Store:
        return dist.TCPStore(
            self.here.address,
            self.here.port,
            is_master=server,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=JOIN_SECONDS),
        )

    def _is_first_failure(self, status: int) -> bool:
        if self._failed() is not None:
            return False
        try:
            if not self._deaf:
                self._store.set("status", str(status))
                return self._store.add("failures", 1) == 1
        except RuntimeError:
            self._deaf = True
        return True

    def _part(self) -> None:
        """Be counted among those that leave; the process that has the store keeps it until the others have read why."""
        if self._deaf:
            return
        until = time.monotonic() + GONE_SECONDS
        with suppress(RuntimeError):
            left = self._store.add("left", 1)
            hosts = self.here.rank == 0 and not self.here.hosted
            while hosts and left + len(self._gone(GONE_SECONDS)) < self.here.world and time.monotonic() < until:
                time.sleep(BEAT_SECONDS / 10)
                self._beat()
                left = self._store.add("left", 0)

    def _failed(self) -> int | None:
        """The exit status that another process has ended with, None while all are well."""
        try:
            return int(self._store.get("status")) if not self._deaf and self._store.check(["status"]) else None
        except RuntimeError:
            self._deaf = True
            return None

    def _gone(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [each for each, seen in enumerate(self._seen) if now - seen > seconds and each != self.here.rank]

    def _line_of(self, gone: list[int]) -> str:
        if self._deaf:
            who = "torchrun, which had started this process," if self.here.hosted else self._names[0]
        else:
            who = (
                self._names[gone[0]]
                if len(gone) == 1
                else f"{len(gone)} processes, the first being {self._names[gone[0]]},"
            )
        return (
            f"{who} is gone without a word: killed, out of memory, or its machine is down; see to it, then start all"
            " processes again with --resume"
        )

    def _beat(self) -> None:
        with self._lock:
            if self._deaf:
                return
            try:
                self._store.add(f"beat/{self.here.rank}", 1)
                beats = self._store.multi_get([f"beat/{each}" for each in range(self.here.world)])
            except RuntimeError:
                self._deaf = True
                return
            now = time.monotonic()
            for each, (old, new) in enumerate(zip(self._beats, beats, strict=True)):
                if old != new:
                    self._seen[each] = now
            self._beats = beats

    def _watch(self) -> None:
        """Beat, look after the others, and end a process that cannot leave a collective by itself."""
        doomed = 0.0
        last = time.monotonic()
        while not self.ending.wait(BEAT_SECONDS):
            now = time.monotonic()
            if now - last > GONE_SECONDS:  # this process slept, and cannot tell who else did
                self._seen = [now] * self.here.world
            last = now
            self._beat()
            failed, gone = self._failed(), self._gone(LOST_SECONDS)
            if failed is None and not gone:
                doomed = 0.0
                continue
            doomed = doomed or now
            if now - doomed > (GRACE_SECONDS if failed is None else TOLD_SECONDS) and not self.ending.is_set():
                if failed is None and self._is_first_failure(EdgekdError.exit_status):
                    log.error("edgekd: %s", self._line_of(gone))
                self._part()
                os._exit(EdgekdError.exit_status if failed is None else failed)


def _of_connection(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in CONNECTION_SIGNS)
    )


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
