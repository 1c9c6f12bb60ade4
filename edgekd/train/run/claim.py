"""A run folder in use: whether it may be made, replaced or resumed, how it is made, its lock and log file, and errors
of the machine with advice."""

import errno
import logging
import platform
import shlex
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec
import torch

from edgekd.errors import InputError
from edgekd.files import atomic_write, finished_name, held, in_use, remove_unfinished
from edgekd.text import json_bytes, listing
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe, without_init_path
from edgekd.train.run.folder import (
    FIT_NAME,
    RECIPE_FILE,
    RUN_FILE,
    RUN_FILES,
    RUN_FORMAT,
    RUN_VERSION,
    STAGE_FOLDERS,
    STAGES_FILE,
    STAGES_FORMAT,
    RunInfo,
    read_info,
    read_recipe,
    run_version,
    write_info,
)

LOG_FORMAT = "%(asctime)s %(message)s"
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
MEMORY_SIGNS = ("can't allocate memory", "DefaultCPUAllocator", "out of memory")
"""Parts of torch's messages when memory runs out, where it has no class of error for that."""


def check_run_folder(path: Path, teachers: Sequence[Path], *, force: bool, resume: bool) -> None:
    """Refuse a folder in which a run cannot be made or resumed, before anything slow begins. Nothing is changed.

    Args:
        path: the run folder.
        teachers: run folders that the run learns from.
        force: replace a run that is there.
        resume: continue a run that is there.

    Raises:
        InputError: without `force` or `resume` there is a run already; the folder holds files of no run, or is in use;
            or, with `resume`, there is no run, or one of an earlier version.
    """
    if force and resume:
        raise InputError("--force begins anew and --resume goes on; give one of them")
    if any(path.resolve() == teacher.resolve() for teacher in teachers):
        raise InputError(f"{path} is one of the teachers; choose another --out")
    for teacher in teachers if force else ():
        if path.resolve() in teacher.resolve().parents:
            raise InputError(f"{path}: --force would delete the teacher {teacher}; choose another --out")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    inside = {child.name for child in path.iterdir()} if path.exists() else set()
    unfinished = {name for name in inside if name != finished_name(name)}
    # nothing, or a run that was killed at its start
    if inside == unfinished and {finished_name(name) for name in inside} <= {RUN_FILE, STAGES_FILE}:
        if resume:
            raise InputError(f"{path}: nothing to resume; leave out --resume to begin")
        return
    if not _is_run(path):
        raise InputError(
            f"{path} is not empty and not an edgekd run folder; choose another --out (--force replaces runs only)"
        )
    if not force and not resume and RUN_FILE in inside:  # without it, only its stages are there
        raise InputError(f"{path} exists; go on with --resume, begin anew with --force, or choose another --out")
    if resume and RUN_FILE in inside:
        _check_version(path)
    if in_use(path, unknown=False):
        raise InputError(f"{path} is being trained by another process; wait for it or choose another --out")
    known = RUN_FILES | (STAGE_FOLDERS if STAGES_FILE in inside else frozenset())
    strange = sorted(name for name in inside if finished_name(name) not in known and not FIT_NAME.fullmatch(name))
    if force and strange:
        raise InputError(
            f"{path} holds files that are no part of a run ({listing(strange)}); move them away or choose another --out"
        )


def claim(
    path: Path, info: RunInfo, recipe: Recipe, *, force: bool, resume: bool
) -> Literal["new", "resumed", "finished"]:
    """Make a run folder, or make sure that the run there can be resumed. Call `check_run_folder` first.

    Returns:
        whether the run is new, resumed, or finished already.

    Raises:
        InputError: the run there was begun with another recipe, store or teacher, or the folder cannot be written.
    """
    state: Literal["new", "resumed", "finished"] = _resumable(path, info, recipe) if resume else "new"
    if state == "finished" and read_recipe(path).export == recipe.export:
        return state
    try:
        if path.exists() and in_use(path, unknown=False):  # since `check_run_folder`
            raise InputError(f"{path} is being trained by another process; wait for it or choose another --out")
        if force and path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        if not resume:
            write_info(path, info)
        # the export table may have changed
        atomic_write(path / RECIPE_FILE, json_bytes(recipe))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --out") from None
    return state


def older_version_error(path: Path, version: int, command: str) -> InputError:
    """The error of a run folder that an earlier version of edgekd began, whose recipe hashes follow other rules.

    Args:
        path: the run folder.
        version: of its run.json.
        command: "distill" or "teach", with its options.
    """
    return InputError(
        f"{path}: begun by an earlier version of edgekd (run version {version}) and cannot be resumed; train it anew"
        f" with: edgekd {command} --out {shlex.quote(str(path))} --force"
    )


def _is_run(path: Path) -> bool:
    """Whether run.json or stages.json names the format: a run, perhaps damaged or with no more than its stages."""
    for file, name in ((RUN_FILE, RUN_FORMAT), (STAGES_FILE, STAGES_FORMAT)):
        with suppress(OSError):
            if name.encode() in (path / file).read_bytes():
                return True
    return False


def _check_version(path: Path) -> None:
    """Refuse to resume a run whose run.json is not of this version."""
    version = run_version(path)
    if version != RUN_VERSION:
        info = read_info(path)
        command = "teach" if read_recipe(path).role == "teacher" else "distill"
        fits = f" --cross-fit {info.cross_fit}" if info.cross_fit else ""
        given = " --teacher RUN" * len(info.teachers) if not (path / STAGES_FILE).is_file() else ""
        raise older_version_error(path, version, f"{command} RECIPE --data DATA{fits}{given}")


def _resumable(path: Path, info: RunInfo, recipe: Recipe) -> Literal["resumed", "finished"]:
    saved = read_info(path)
    changed = saved.recipe_hash != info.recipe_hash
    # a number written as 2 or as 2.0 gives other digits, but the same training
    if changed and without_init_path(
        msgspec.structs.replace(read_recipe(path), export=recipe.export)
    ) == without_init_path(recipe):
        saved = msgspec.structs.replace(saved, recipe_hash=info.recipe_hash)
    for what, old, new in (
        ("recipe", saved.recipe_hash, info.recipe_hash),
        ("store", saved.data.hash, info.data.hash),
        ("list of teachers", saved.teachers, info.teachers),
        ("initial run", saved.init, info.init),
        ("set of impulse responses", saved.impulse_responses, info.impulse_responses),
        ("number of fits", str(saved.cross_fit), str(info.cross_fit)),
    ):
        if old != new:
            raise InputError(
                f"{path}: begun with another {what} ({_short(old)}, now {_short(new)}); "
                "resume with the same, or begin anew with --force"
            )
    return "finished" if saved.status == "finished" else "resumed"


def _short(value: str | tuple[str, ...]) -> str:
    return value[:8] if isinstance(value, str) else ", ".join(each[:8] for each in value) or "none"


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
