"""One training by several processes that torchrun or srun started: how they find each other, wait for each other and
end.

torch's process group does the collectives, which time out after `COLLECTIVE_MINUTES`. Work of one process that may
take longer is awaited outside of them, by a key of the group's TCP store. When a process fails, its connections
break and the launcher sends SIGTERM to the others; of all these ends the store counts which was first, and only that
one is reported.
"""

import datetime
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported
from torch.distributed.distributed_c10d import PrefixStore

from edgekd.errors import EdgekdError, InputError

log = logging.getLogger(__name__)

T = TypeVar("T")

JOIN_SECONDS = 300.0
"""How long processes wait for each other at the start."""
COLLECTIVE_MINUTES = 10
"""Timeout of a collective, of a store that does not answer, and of a process without a sign of life."""
SIGNS_OF_LIFE = 30
"""Signs of life of a process within that time."""
WAIT_HOURS = 24
"""How long processes wait for work of one of them, for instance a test or a part of the soft labels."""
LONGEST_POLL_SECONDS = 0.25
"""Between two looks at the store; the first ones follow each other faster."""
END_SECONDS = 5.0
"""How long the process that hosts the store waits for the others before it ends."""
TERM_SECONDS = 15.0
"""Time that this process gets to end by itself after SIGTERM. torchrun kills it after 30 s."""
FIRST_PORT, PORTS = 15000, 10000
"""Under SLURM the port follows from the number of the SLURM job."""
ENDED = "another process of this training has ended, or its machine is down"
STOPPED = f"{ENDED}, or the launcher was stopped"
ADVICE = "see the launcher's lines, then start all processes again with --resume"


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
    address = environ.get("MASTER_ADDR") or _first_node(nodes)
    port = _number(environ, "MASTER_PORT", FIRST_PORT + _number(environ, "SLURM_JOB_ID", 0) % PORTS)
    hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return ProcessEnvironment(rank, world, local_rank, address, port, hosted)


def _first_node(nodes: str) -> str:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # slow to import

    return SLURMEnvironment.resolve_root_node_address(nodes)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(
            f"{name}={text!r} in the environment is no number; start several processes with torchrun or srun"
        )
    return int(text)


class ProcessGroup:
    """This process's membership in a group.

    Args:
        environment: of this process, from `process_environment`.
    """

    def __init__(self, environment: ProcessEnvironment) -> None:
        self._environment = environment
        self._store: PrefixStore | None = None
        self._hosts = environment.rank == 0 and not environment.hosted
        self._gates = 0
        self._ending = threading.Event()
        """Set once this process leaves the group by itself."""
        self._next_look = 0.0
        """Monotonic time of the next look at the signs of life of all processes."""
        self._last_signs: dict[int, tuple[int, float]] = {}
        """Rank -> its signs of life, and the monotonic time at which this process saw the last one."""

    def join(self, device: torch.device | None) -> None:
        """Find the other processes and make torch's process group.

        Args:
            device: the GPU of this process, None on the CPU.

        Raises:
            InputError: the others do not appear in `JOIN_SECONDS`, or two processes have the same GPU.
        """
        self._handle_sigterm()
        here = self._environment
        timeout = datetime.timedelta(seconds=JOIN_SECONDS)
        try:
            store = TCPStore(here.address, here.port, here.world, is_master=self._hosts, timeout=timeout)
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._store = PrefixStore(f"edgekd/{attempt}", store)
            if device is not None:
                self._check_own_gpu(self._store, device)
            threading.Thread(target=self._show_life, args=(self._store,), daemon=True).start()
        except dist.DistError as error:
            raise InputError(
                f"process {here.rank + 1} of {here.world} did not find the others at {here.address}:{here.port} in"
                f" {JOIN_SECONDS:.0f} s ({_first_line(error)}); start all of them with torchrun or srun, or set"
                " MASTER_ADDR and MASTER_PORT"
            ) from None
        dist.init_process_group(
            "gloo" if device is None else "cpu:gloo,cuda:nccl",
            store=PrefixStore("group", self._store),
            rank=here.rank,
            world_size=here.world,
            timeout=datetime.timedelta(minutes=COLLECTIVE_MINUTES),
            device_id=device,
        )

    def _check_own_gpu(self, store: PrefixStore, device: torch.device) -> None:
        """Refuse a GPU that two processes have; NCCL would report it in many lines."""
        gpu = f"{socket.gethostname()} {getattr(torch.cuda.get_device_properties(device), 'uuid', device)}"
        store.set(f"gpu/{self._environment.rank}", gpu)
        gpus = [store.get(f"gpu/{rank}") for rank in range(self._environment.world)]
        if gpus.count(gpu.encode()) > 1:
            raise InputError(
                "two processes of one machine have the same GPU; start one for each GPU, or use --accelerator cpu"
            )

    def pass_gate(self, arrivals: int, arrive: bool = True) -> None:
        """Wait, outside of any collective, until some processes have arrived. All processes pass the same gates in the
        same order.

        Args:
            arrivals: how many processes must arrive.
            arrive: whether this process is one of them; the others only wait.

        Raises:
            DistError: a process has failed or shows no life, the store does not answer, or `WAIT_HOURS` have passed.
        """
        store = self._store
        assert store is not None
        self._gates += 1
        count, is_open = f"gate/{self._gates}/arrivals", f"gate/{self._gates}"
        patience = 60.0 * COLLECTIVE_MINUTES
        if arrive and within(patience, lambda: store.add(count, 1)) == arrivals:
            store.set(is_open, "")
            return
        poll, deadline = LONGEST_POLL_SECONDS / 64, time.monotonic() + 3600 * WAIT_HOURS
        while not within(patience, lambda: store.check([is_open])):
            if within(patience, lambda: store.check(["failures"])):
                raise dist.DistNetworkError("another process has failed")
            self._check_lives(store)
            if time.monotonic() > deadline:
                raise dist.DistNetworkError(f"it was awaited for {WAIT_HOURS} hours")
            time.sleep(poll)
            poll = min(2 * poll, LONGEST_POLL_SECONDS)

    def _show_life(self, store: PrefixStore) -> None:
        """Count a sign of life of this process in the store, again and again."""
        with suppress(dist.DistError):
            while not self._ending.wait(60 * COLLECTIVE_MINUTES / SIGNS_OF_LIFE):
                store.add(f"life/{self._environment.rank}", 1)

    def _check_lives(self, store: PrefixStore) -> None:
        """Look at the signs of life of all processes, unless that was done a moment ago."""
        now, patience = time.monotonic(), 60 * COLLECTIVE_MINUTES
        if now < self._next_look:
            return
        self._next_look = now + patience / SIGNS_OF_LIFE
        for rank in range(self._environment.world):
            signs = within(patience, partial(store.add, f"life/{rank}", 0))
            last, since = self._last_signs.setdefault(rank, (signs, now))
            if signs != last:
                self._last_signs[rank] = (signs, now)
            elif now - since > patience:
                raise dist.DistNetworkError(f"process {rank + 1} shows no life for {patience:.0f} s")

    def leave(self) -> None:
        """Leave the group after the work is done."""
        self._ending.set()
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, self._handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)

    def fail(self, error: BaseException) -> NoReturn:
        """Leave the group after an error. The first process to fail raises its error; the others exit silently.

        Raises:
            BaseException: `error`, where this process is the first to fail.
            InputError: instead, where `error` comes from the end of another process that has reported none.
            SystemExit: another process has failed first.
        """
        self._ending.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        is_first = self._is_first_to_fail()
        if self._hosts and self._store is not None:
            self._wait_for_failures()
        if not is_first:
            raise SystemExit(EdgekdError.exit_status) from None
        if _of_connection(error):
            raise InputError(f"{ENDED} ({_first_line(error)}); {ADVICE}") from None
        raise error

    def _count_failures(self, more: int) -> int:
        store = self._store
        return 1 if store is None else within(END_SECONDS, lambda: store.add("failures", more))

    def _is_first_to_fail(self) -> bool:
        """Count this process among those that failed; whether it is the first, as far as it can know."""
        try:
            return self._count_failures(1) == 1
        except (
            dist.DistError
        ):  # the host of the store, torchrun or rank 0, has ended; one process of a machine reports it
            return self._environment.local_rank <= (0 if self._environment.hosted else 1)

    def _wait_for_failures(self) -> None:
        """Let the others ask the store whether they were first, before it ends with this process."""
        deadline = time.monotonic() + END_SECONDS
        with suppress(dist.DistError):
            while self._count_failures(0) < self._environment.world and time.monotonic() < deadline:
                time.sleep(LONGEST_POLL_SECONDS)

    def _handle_sigterm(self) -> None:
        """Make SIGTERM an interrupt. Launchers send it to the other processes when one has failed."""
        waking, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._end_after_sigterm, args=(waking,), daemon=True).start()
        self._handler = signal.signal(signal.SIGTERM, _interrupt)

    def _end_after_sigterm(self, waking: int) -> None:
        """End this process after SIGTERM where a collective keeps Python from handling it."""
        while (number := os.read(waking, 1)) and number != bytes([signal.SIGTERM]):
            pass
        os.close(waking)
        if number and not self._ending.wait(TERM_SECONDS):
            if self._is_first_to_fail():
                log.error("edgekd: %s; %s", STOPPED, ADVICE)
            os._exit(EdgekdError.exit_status)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(STOPPED)


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call of the store. Such a call waits without end for a machine that is down.

    Raises:
        DistError: there is none after so many seconds.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except RuntimeError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        raise dist.DistNetworkError(f"the store did not answer for {seconds:.0f} s") from None


def _of_connection(error: BaseException) -> bool:
    """Whether an error comes from a broken connection to another process."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_line(error: BaseException) -> str:
    """The first sentence of an error, without the line of gloo's source."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[\S+\] ", "", line).partition(". ")[0]
