"""Atomic writing of files, and locks on folders and files.

Every file that edgekd replaces is written by `atomic_write`, `atomic_path` or `output_file`: it appears complete or not
at all. A process that works in a folder locks it with `held`, and one that owns a file, which may come later, with
`claimed`.
"""

import errno
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
UNSYNCABLE = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})
"""Errors of a folder that cannot be waited for: its file system does not do it, or its owner forbids to list it."""
LOCK_TRIES, LOCK_PAUSE_S = 5, 0.02
"""How often a lock is tried, and the pause between. `in_use` of another process holds the lock for a short time."""


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """A new hidden file in the same folder. It replaces `path` when the block ends, and is removed if the block raises.

    A link is replaced, not the file behind it. A pipe or a device is yielded as it is.

    Args:
        path: the file, in a folder that exists.
        mode: permissions of the new file, less those of the umask.

    Raises:
        OSError: it cannot be written. `path` is unchanged, and is the file name of the error.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        try:
            yield part
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def atomic_write(path: Path, content: bytes, *, mode: int | None = None, durable: bool = False) -> None:
    """Write a file so that it appears complete or not at all.

    Args:
        path: the file, in a folder that exists. An existing file is replaced.
        content: all bytes of the file.
        mode: permissions; None for those of the umask.
        durable: wait until content and name are on the disk, so that both survive a power failure.

    Raises:
        OSError: see `atomic_path`.
    """
    with atomic_path(path, mode=0o666 if mode is None else 0o600) as part, part.open("wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_folder(path.parent)


@contextmanager
def output_file(path: Path, option: str) -> Iterator[Path]:
    """`atomic_path` for a file that a user named. Missing folders are made, and links are followed.

    Args:
        path: the file. An existing file is replaced.
        option: of the command line that named the file, for errors, for instance "--csv".

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(os.path.realpath(path))) as part:
            yield part
    except OSError as error:
        raise unwritable(path, error, option) from None


def unwritable(path: Path, error: OSError, option: str) -> InputError:
    """The error of an output file that cannot be written."""
    return InputError(f"{path} cannot be written ({error.strerror}); choose another {option}")


def finished_name(name: str) -> str:
    """The final name of an unfinished file: "run.json" of ".run.json.1f2e3d4c.part". Other names are returned as they
    are."""
    if not name.endswith(PART):
        return name
    stem = name.removesuffix(PART)
    # early versions of edgekd wrote unfinished files without a leading dot
    return stem[1:].rpartition(".")[0] if stem.startswith(".") else stem


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of a killed process. No process may be writing in the folder."""
    for path in folder.iterdir():
        if path.name != finished_name(path.name):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until new and changed names in a folder are on the disk, where the file system and the rights allow it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, also while the folder is renamed. A file system without locks locks nothing.

    The operating system releases the lock when the process ends, also after a crash.

    Raises:
        BlockingIOError: another process has the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Claim a file, which need not exist, for this process: by a lock on a hidden file beside it, which is removed at
    the end. A file system without locks locks nothing.

    The operating system releases the lock when the process ends, also after a crash.

    Raises:
        BlockingIOError: another process has claimed it.
        OSError: nothing can be written beside it.
    """
    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    while True:
        handle = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            if not _leads_to(lock, handle):  # the owner before removed it after this process had opened it
                continue
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()
            return
        finally:
            os.close(handle)


def in_use(folder: Path, *, unknown: bool) -> bool:
    """Whether a running process has locked a folder; `unknown` on a file system without locks. A missing folder is not
    in use."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # a shared lock: two calls at a time do not see each other as the owner
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return unknown
    finally:
        os.close(handle)
    return False


def _leads_to(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int) -> None:
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == LOCK_TRIES:
                raise
            time.sleep(LOCK_PAUSE_S)
        except OSError:  # a file system without locks
            return
        else:
            return
