"""What protects the work in a run folder: its lock, its log file, and errors of the machine raised with advice."""

import errno
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from edgekd.errors import InputError
from edgekd.files import held
from edgekd.train.parallel import processes
from edgekd.train.run.folder import RUN_FILE

LOG_FORMAT = "%(asctime)s %(message)s"
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
MEMORY_SIGNS = ("can't allocate memory", "DefaultCPUAllocator", "out of memory")
"""Parts of torch's messages when memory runs out, where it has no class of error for that."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


@contextmanager
def report_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Raise an `InputError` where memory runs out in the block.

    Args:
        what: the work of the block, named in the error.
        advice: what to do.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"memory ran out in {what} ({reason}); {advice}") from None


def smaller_batch(table: str, batch_size: int) -> str:
    """Advice for a phase whose batches need too much memory. table: of the recipe, "train" or "qat"."""
    if batch_size == 1:
        return "choose a smaller network or a shorter view.seconds"
    return f"begin anew with --set {table}.batch_size={batch_size // 2} --force, or free memory and go on with --resume"


@contextmanager
def report_disk_errors(out: Path) -> Iterator[None]:
    """Raise an `InputError` where the block cannot write to the run folder `out`.

    Raises:
        InputError: the disk is full, over its quota or read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(
            f"{error.filename or out} cannot be written ({error.strerror}); free space there and go on with --resume: "
            "the state after the last full epoch is kept"
        ) from None


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


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which Lightning logs only errors, not hardware, workers and tips, and no warning is shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
