"""What surrounds a training: the lock of its run folder, its log file, its threads and its accelerator."""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from edgekd.errors import InputError, nearest
from edgekd.files import held
from edgekd.train.parallel import processes
from edgekd.train.run.folder import RUN_FILE

ACCELERATORS = ("auto", "cpu", "gpu")
LOG_FORMAT = "%(asctime)s %(message)s"


@contextmanager
def locked_run_folder(out: Path, created: str = RUN_FILE) -> Iterator[None]:
    """Lock a run folder for all processes of this training.

    Args:
        out: the folder.
        created: a file that the first process has written there; the others check that they see it.

    Raises:
        InputError: another training holds the lock, or a process does not see the file.
    """
    with ExitStack() as stack:
        if processes.rank() == 0:
            try:
                stack.enter_context(held(out))
            except BlockingIOError:
                raise InputError(
                    f"{out} is being trained by another process; wait for it or choose another --out"
                ) from None
        processes.barrier()
        if not (out / created).is_file():
            raise InputError(
                f"{out}: machine {platform.node()} does not see the run folder that the first process has made; "
                "put --out and --data where all machines see them"
            )
        yield


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write the log of edgekd to a file too, in the first process."""
    if processes.rank():
        yield
        return
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("edgekd")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log file that ignores a full disk: the files that must be kept report it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record


def check_accelerator(name: str) -> None:
    """Refuse an unknown --accelerator, and a GPU on a machine without one.

    Raises:
        InputError: the name is none of `ACCELERATORS`, or torch finds no GPU.
    """
    if name not in ACCELERATORS:
        raise InputError(f"accelerator '{name}' is unknown{nearest(name, ACCELERATORS)}")
    if name == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise InputError("accelerator 'gpu': torch finds none on this machine; use --accelerator cpu")


def set_threads(threads: int | None) -> None:
    """Set torch's threads on the CPU.

    None leaves torch's default, which is all cores of the machine. One of several processes then takes the number from
    SLURM_CPUS_PER_TASK, or 1, unless OMP_NUM_THREADS is set.
    """
    if threads is None and processes.world() > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    if threads is not None:
        torch.set_num_threads(threads)
