"""Advice to the kernel on which parts of a large audio file to read, and which to drop from memory.

A page fault in a map reads 128 KiB or more around it, most of it for nothing where clips are drawn at random: 262 KiB
for a clip of 32 KiB, which soon evicts what is wanted in a store larger than memory. Parts that are told beforehand
cost 35 KiB, and the waiting for a batch of 64 falls from 35 to 11 ms where the batches after it are told too
(`tools/bench_store.py`, cold cache, a virtual disk, two cores, 2026-11). MADV_RANDOM would change nothing for those
parts, and would make every scan that nobody announced wait page by page.
"""

import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

STREAMED_SHARE = 0.5
"""A store whose audio takes more of the available memory is streamed: its pages cannot be counted on to stay."""
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMORY = (
    ("memory.max", "memory.current", "file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)
"""Of a control group, version 2 and 1: the files of its limit and its use, and the key in memory.stat of what could be
given back."""


def will_read(audio: mmap.mmap, parts: Iterable[tuple[int, int]]) -> None:
    """Have the kernel begin to read parts of a map, (first, after last) byte each; returns while it reads."""
    for first, after in parts:
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        audio.madvise(mmap.MADV_WILLNEED, start, after - start)


def forget(handle: int) -> None:
    """Drop the pages of an open file that is on the disk; does nothing where the system has no such call."""
    if sys.platform == "linux":
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def is_streamed(audio_bytes: int) -> bool:
    """Whether audio of this size is too large to stay in memory; where the system does not tell its memory, it is
    not."""
    available = available_bytes()
    return available is not None and audio_bytes > STREAMED_SHARE * available


def available_bytes() -> int | None:
    """Memory that this process may fill: what the machine has left, or less where a control group limits it. None: not
    told."""
    try:
        (line,) = (line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        return min([int(line.split()[1]) << 10, *_control_groups()])
    except (OSError, ValueError):
        return None


def _control_groups() -> list[int]:
    """Bytes that each limited control group of this process has left, cached files counted as free."""
    left = []
    for line in CGROUP.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        root = CGROUP_ROOT / "memory" if controllers else CGROUP_ROOT
        if controllers and "memory" not in controllers.split(","):
            continue
        group = root / name.lstrip("/")
        left += [
            _left(each, *CGROUP_MEMORY[bool(controllers)])
            for each in (group, *group.parents)
            if each.is_relative_to(root)
        ]
    return [each for each in left if each is not None]


def _left(group: Path, limit_file: str, used_file: str, cache_key: str) -> int | None:
    """None for a group without a limit, or that is not seen from here."""
    try:
        limit, used = (group / limit_file).read_text().strip(), int((group / used_file).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used + int(stat.get(cache_key, 0)), 0)
