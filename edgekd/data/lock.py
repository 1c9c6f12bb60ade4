"""Tells a folder that a living process works in from one that a killed process left: the system drops a lock with its process."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES, PAUSE_S = 5, 0.02
"""How often a lock that is taken is asked for: who only looks whether a folder is in use holds it for a moment."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a folder as in use, also where it is renamed meanwhile. A file system without locks marks nothing.

    Raises:
        BlockingIOError: another process has it marked.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _take(handle)
        yield
    finally:
        os.close(handle)


def in_use(folder: Path, *, unknown: bool) -> bool:
    """Whether a living process holds a folder; `unknown` where the file system cannot tell. A folder that is gone is not in use."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look do not take each other for its holder
    except BlockingIOError:
        return True
    except OSError:
        return unknown
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> None:
    for turn in range(TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if turn + 1 == TRIES:
                raise
            time.sleep(PAUSE_S)
        except OSError:  # no locks here
            return
        else:
            return
