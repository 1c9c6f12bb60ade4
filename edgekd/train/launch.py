"""The start of a training command: the process is replaced once by itself, with environment variables that must be set
before Python starts, and edgekd's log is shown."""

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
"""Keeps glibc from returning freed memory to the system: page faults took 61 % of a training step without it."""
SPINNING = {"GOMP_SPINCOUNT": "1000"}
"""Waiting threads sleep early: on a shared machine, spinning made a step of two threads up to six times slower."""
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""torch prints many lines when another process has ended; `edgekd.train.parallel.processes` raises one error."""
MARKER = "EDGEKD_LAUNCHED"
PARENT = "EDGEKD_PARENT"
"""Environment variable with the id of the process whose end ends this one."""
ORPHAN_POLL_SECONDS = 0.5
ORPHANED = 137
"""Exit status of a process whose parent has ended, as after SIGKILL."""
PROGRAMS = (("edgekd",), ("edgekd", "cli", "__main__.py"))
"""Ends of sys.argv[0] of this program; any other process imports edgekd and is left alone."""


def relaunch_once() -> None:
    """Replace this process by itself with the environment variables of this module. Returns at once where that was done
    already, off Linux, and in any other program."""
    program = Path(sys.argv[0]).parts
    is_edgekd = any(program[-len(end) :] == end for end in PROGRAMS)
    if MARKER in os.environ or not sys.platform.startswith("linux") or not is_edgekd:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**ALLOCATOR, **SPINNING, **QUIET, **os.environ, MARKER: "1"},
    )


def first_process() -> bool:
    """Whether this process is rank 0 of those that torchrun or srun started, and prints for all of them."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def end_with_parent() -> None:
    """Watch the edgekd command that started this process as one of its jobs, if one did, and end this process when that
    one has ended in any way. A run folder can be left at any time; an orphan would lock it for hours."""
    given = os.environ.get(PARENT, "")
    if not given.isdigit():
        return
    parent = int(given)
    watched = os.getppid()  # not `parent` where torchrun or srun is between them

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


class _StderrHandler(logging.Handler):
    """Prints to the current `sys.stderr`, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log() -> None:
    """Print edgekd's log, level INFO, on standard error. Calling it again changes nothing."""
    logger = logging.getLogger("edgekd")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
