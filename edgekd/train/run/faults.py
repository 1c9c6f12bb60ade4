"""Errors of the machine, raised as `InputError` with advice: memory that ran out, a disk that is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edgekd.errors import InputError

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
