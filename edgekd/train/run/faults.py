"""Faults of the machine, told as what the user can do about them: memory that ran out, a disk that is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edgekd.errors import InputError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
MEMORY_SIGNS = ("can't allocate memory", "DefaultCPUAllocator", "out of memory")
"""In what torch says when there is no memory, where it has no error of its own for that."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


@contextmanager
def memory_told(what: str, advice: str) -> Iterator[None]:
    """Name what was done when memory ran out.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"memory ran out in {what} ({reason}); {advice}") from None


def smaller_batch(table: str, batch_size: int) -> str:
    """What to do where batches of a phase need too much memory. table: "train" or "qat"."""
    if batch_size == 1:
        return "choose a smaller network or a shorter view.seconds"
    return f"begin anew with --set {table}.batch_size={batch_size // 2} --force, or free memory and go on with --resume"


@contextmanager
def disk_told(out: Path) -> Iterator[None]:
    """Say what to do where a run folder cannot be written.

    Raises:
        InputError: it can't.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(
            f"{error.filename or out} cannot be written ({error.strerror}); free space there and go on with --resume: "
            "what the last full epoch left is kept"
        ) from None
