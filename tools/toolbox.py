"""What several tools use: starting `edgekd` in a process, errors as one line, and figures of running processes.

Needs the base install only, since `emulated_parity.py` runs on emulated boards with it.
"""

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from edgekd.errors import EdgekdError

EDGEKD = (sys.executable, "-P", "-m", "edgekd.cli")
"""Begins a command line of edgekd."""
NOTHING = "-"
"""A table's cell without a value."""
MEGABYTE = 1e6


def run_tool(tool: Callable[..., Any]) -> None:
    """Run a function with typer's annotations, or a typer app, as a command.

    An error of edgekd becomes one line on standard error and its exit status.
    """
    try:
        if isinstance(tool, typer.Typer):
            tool()
        else:
            typer.run(tool)
    except EdgekdError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that finds the same modules as this one, with some variables set."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


def cores() -> str:
    """Architecture and number of cores, for the record of a measurement."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def wait_for(condition: Callable[[], object], seconds: float, pause_s: float = 0.02) -> bool:
    """Whether a condition became true within some seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(pause_s)
    return bool(condition())


def children(pid: int) -> list[int]:
    """Processes that the threads of a process started and that still exist."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor seconds of all threads of a process."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def memory_mb(pid: int | str) -> dict[str, float]:
    """Megabytes (10^6 bytes) of a process by the names of /proc/PID/smaps_rollup: "Pss", "Rss", "Private_Dirty", ...

    Args:
        pid: its number, or "self".

    Raises:
        OSError: the process has ended, or the system is not Linux.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) / MEGABYTE for name, value in pairs}


def private_mb(pid: int | str) -> float:
    """Megabytes (10^6 bytes) that a process shares with no other; see `memory_mb`."""
    found = memory_mb(pid)
    return found["Private_Clean"] + found["Private_Dirty"]
