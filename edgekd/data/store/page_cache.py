"""Advice to the kernel on which parts of a large audio file to read ahead, and which to drop from memory.

A page fault in a map reads 128 KiB or more around it. Where clips are drawn at random, most of that is not used:
262 KiB for a clip of 32 KiB, which soon evicts what is needed in a store larger than memory. With `prefetch` a clip
costs 35 KiB, and waiting for a batch of 64 falls from 35 to 11 ms where the next batches are prefetched too
(`tools/bench_store.py`, cold cache, a virtual disk, two cores, 2026-11). MADV_RANDOM would not help prefetched parts,
and would make every sequential scan wait for each page.
"""

import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

MEMORY_SHARE = 0.5
"""Audio that takes a larger share of the available memory cannot be expected to stay in the page cache."""
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMORY = (
    ("memory.max", "memory.current", "file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
)
"""For control groups of version 2 and 1: the files with the limit and the use, and the key in memory.stat of the cached
files, which can be evicted."""


def prefetch(audio: mmap.mmap, parts: Iterable[tuple[int, int]]) -> None:
    """Have the kernel begin to read parts of a map, (first, after last) byte each; returns while it reads."""
    for first, after in parts:
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        audio.madvise(mmap.MADV_WILLNEED, start, after - start)


def drop_pages(handle: int) -> None:
    """Drop an open file's pages from the cache once they are on the disk; does nothing on systems other than Linux."""
    if sys.platform == "linux":
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def exceeds_memory(audio_bytes: int) -> bool:
    """Whether audio of this size is too large to stay in memory; False where the available memory is not known."""
    available = available_bytes()
    return available is not None and audio_bytes > MEMORY_SHARE * available


def available_bytes() -> int | None:
    """Memory that this process may use: what is available on the machine, or less where a control group limits it.
    None where the system does not report it."""
    try:
        (line,) = (line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        return min([int(line.split()[1]) << 10, *_control_groups()])
    except (OSError, ValueError):
        return None


def _control_groups() -> list[int]:
    """Bytes that each limited control group of this process may still use, cached files counted as free."""
    available = []
    for line in CGROUP.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        root = CGROUP_ROOT / "memory" if controllers else CGROUP_ROOT
        if controllers and "memory" not in controllers.split(","):
            continue
        group = root / name.lstrip("/")
        available += [
            _available_in(each, *CGROUP_MEMORY[bool(controllers)])
            for each in (group, *group.parents)
            if each.is_relative_to(root)
        ]
    return [each for each in available if each is not None]


def _available_in(group: Path, limit_file: str, used_file: str, cache_key: str) -> int | None:
    """None for a group that has no limit or cannot be read."""
    try:
        limit, used = (group / limit_file).read_text().strip(), int((group / used_file).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used + int(stat.get(cache_key, 0)), 0)
