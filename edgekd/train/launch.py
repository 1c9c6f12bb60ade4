"""What a training command does first: start its process anew, once, with an environment that must be set before Python
starts, and show what edgekd logs."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 35),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""Keeps glibc from handing freed memory back: page faults took 61 % of a training step without it."""
WAITING = {"GOMP_SPINCOUNT": "1000"}
"""Threads that wait sleep soon: on a machine that others use, spinning made a step of two threads up to six times
slower."""
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""torch warns in many lines when another process of a job is gone; `edgekd.train.parallel.processes` says it in one."""
MARKER = "EDGEKD_LAUNCHED"
PARENT = "EDGEKD_PARENT"
"""Environment variable with the process that a job must not outlive."""
ORPHAN_POLL_SECONDS = 0.5
ORPHANED = 137
"""Exit status of a process whose parent was killed: as if it had been killed too."""
PROGRAMS = (("edgekd",), ("edgekd", "cli", "__main__.py"))
"""Ends of sys.argv[0] of this program; any other process imports edgekd and is left alone."""


def relaunch_once() -> None:
    """Replace this process by itself under the allocator's settings; returns at once where that was done, or would not
    help."""
    program = Path(sys.argv[0]).parts
    ours = any(program[-len(end) :] == end for end in PROGRAMS)
    if MARKER in os.environ or not sys.platform.startswith("linux") or not ours:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**ALLOCATOR, **WAITING, **QUIET, **os.environ, MARKER: "1"},
    )


def first_process() -> bool:
    """Whether this process speaks for all that torchrun or srun have started beside it."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def end_with_parent() -> None:
    """Where another edgekd command started this process as one of its jobs, end when that one has ended, in whatever
    way. A run folder may be left at any moment; an orphan would go on for hours and keep others out of it."""
    given = os.environ.get(PARENT, "")
    if not given.isdigit():
        return
    parent = int(given)
    watched = os.getppid()  # another one where the job has started processes of its own

    def watch() -> None:
        while os.getppid() == watched and (watched == parent or _lives(parent)):
            time.sleep(ORPHAN_POLL_SECONDS)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Standard(logging.Handler):
    """Prints to whatever standard error is at the moment; a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log() -> None:
    """Print edgekd's log, level INFO, on standard error. Calling it again changes nothing."""
    logger = logging.getLogger("edgekd")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Standard) for handler in logger.handlers):
        logger.addHandler(_Standard())
