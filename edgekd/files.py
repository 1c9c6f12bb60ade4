"""Files that appear complete or not at all, and locks on folders.

Every file that edgekd replaces is written by `atomic_write` or `atomic_path`; a folder that a process works in is
marked by `held`.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekd.errors import InputError

PART = ".part"
"""Suffix of a file that is being written."""
LOCK_TRIES, LOCK_PAUSE_S = 5, 0.02
"""How often a taken lock is tried again: a process that only looks whether a folder is in use holds the lock for a
moment."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A new hidden file beside `path`, which replaces `path` when the block ends and is removed when the block fails.

    Raises:
        OSError: it cannot be written; `path` is unchanged and is the error's file name.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes, *, mode: int | None = None, durable: bool = False) -> None:
    """Write a file that appears complete or not at all.

    Args:
        path: replaced if it exists; its folder exists.
        content: the whole file.
        mode: permissions; None leaves them to the umask.
        durable: wait until content and name are on the disk, so that both outlast a power cut.

    Raises:
        OSError: see `atomic_path`.
    """
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(content)
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_folder(path.parent)


@contextmanager
def output_file(path: Path, option: str) -> Iterator[Path]:
    """`atomic_path` for a file that a user named: folders above it are made, and errors are for people.

    Args:
        path: replaced if it exists.
        option: of the command line that named it, for instance "--csv".

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            yield part
    except OSError as error:
        raise unwritable(path, error, option) from None


def unwritable(path: Path, error: OSError, option: str) -> InputError:
    """The error of an output file that cannot be written."""
    return InputError(f"{path} cannot be written ({error.strerror}); choose another {option}")


def finished_name(name: str) -> str:
    """The name of the file that `name` becomes when it is written: ".run.json.1f2e3d4c.part" -> "run.json", other names
    as they are."""
    if not name.endswith(PART):
        return name
    whole = name.removesuffix(PART)
    # without a dot: written by versions before 0.2
    return whole[1:].rpartition(".")[0] if whole.startswith(".") else whole


def remove_unfinished(folder: Path) -> None:
    """Remove files that a killed process was writing. Nobody may be writing in the folder."""
    for path in folder.iterdir():
        if path.name != finished_name(path.name):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until names that were made or changed in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, also while it is renamed. On a file system without locks nothing is locked.

    The system drops the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _take(handle)
        yield
    finally:
        os.close(handle)


def in_use(folder: Path, *, unknown: bool) -> bool:
    """Whether a living process holds a folder; `unknown` where the file system cannot tell. A missing folder is not in
    use."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # shared: two that look do not take each other for the holder
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return unknown
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> None:
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == LOCK_TRIES:
                raise
            time.sleep(LOCK_PAUSE_S)
        except OSError:  # no locks here
            return
        else:
            return
