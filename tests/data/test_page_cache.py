"""Stores larger than memory: how they are detected, and which bytes the kernel is asked to read ahead."""

import numpy as np
import pytest

from edgekd.data.store import page_cache
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets what the system reports: MemAvailable in KiB, lines of /proc/self/cgroup, files of the control groups."""

    def report(available, groups=(), files=None):
        monkeypatch.setattr(page_cache, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(page_cache, "CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(page_cache, "CGROUP_ROOT", tmp_path / "groups")
        if available is not None:
            (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available} kB\n")
            (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        for name, text in (files or {}).items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)

    return report


def limited(name, limit, used, cached, version=2):
    files = (
        ("memory.max", "memory.current", "file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
    )
    return {
        f"{name}/{files[0]}": f"{limit}\n",
        f"{name}/{files[1]}": f"{used}\n",
        f"{name}/memory.stat": f"anon 5\n{files[2]} {cached}\n",
    }


def test_available_memory_is_that_of_the_machine(machine):
    machine(4 << 20, ["0::/"])
    assert page_cache.available_bytes() == 4 * GIB
    assert page_cache.exceeds_memory(3 * GIB)
    assert not page_cache.exceeds_memory(GIB)


def test_a_control_group_may_allow_less_and_its_cache_counts_as_free(machine):
    machine(4 << 20, ["0::/a/b"], limited("a/b", "max", 7, 1) | limited("a", 2 * GIB, GIB, GIB // 2))
    assert page_cache.available_bytes() == 3 * GIB // 2


def test_control_groups_of_version_1(machine):
    machine(4 << 20, ["9:cpu:/x", "4:memory:/x"], limited("memory/x", GIB, GIB // 2, 0, version=1))
    assert page_cache.available_bytes() == GIB // 2


def test_without_a_report_of_the_system_nothing_is_streamed(machine):
    machine(None)
    assert page_cache.available_bytes() is None
    assert not page_cache.exceeds_memory(1 << 60)


@pytest.fixture
def path(tmp_path):
    """Three clips of two channels: 1000, 50 and 3000 samples."""
    with StoreWriter(tmp_path / "store", name="toy", licence="none", sample_rate=1000, channels=2) as writer:
        for number, samples in enumerate((1000, 50, 3000)):
            pcm = np.random.default_rng(number).integers(-9, 9, (samples, 2)).astype(np.int16)
            writer.add(Clip(f"{number}.wav", "cat", "train"), pcm)
        return writer.finish().path


@pytest.fixture
def prefetched(monkeypatch):
    """The parts that the kernel was asked to read ahead, in bytes."""
    parts = []
    prefetch = page_cache.prefetch

    def recording(audio, wanted):
        wanted = list(wanted)
        parts.extend(wanted)
        prefetch(audio, wanted)

    monkeypatch.setattr(page_cache, "prefetch", recording)
    return parts


def test_the_bytes_of_the_windows_are_prefetched(path, prefetched):
    opened = ClipStore.open(path, streamed=True)
    opened.prefetch(np.array([2, 0]), np.array([100, 0]), 500)
    assert prefetched == [((1050 + 100) * 4, (1050 + 600) * 4), (0, 2000)]
    prefetched.clear()
    opened.prefetch([1])
    assert prefetched == [(4000, 4200)]
    prefetched.clear()
    opened.prefetch([1, 1], [20, 60], 100)  # across the end of the clip, and after it
    assert prefetched == [(4080, 4200)]


def test_a_window_of_a_streamed_store_is_prefetched_and_equals_that_of_a_small_store(path, prefetched):
    small, large = ClipStore.open(path, streamed=False), ClipStore.open(path, streamed=True)
    for clip, start in ((0, 0), (2, 2900), (1, 10)):
        np.testing.assert_array_equal(small.window(clip, start, 300), large.window(clip, start, 300))
    assert prefetched == [(0, 1200), ((1050 + 2900) * 4, 4050 * 4), (4040, 4200)]


def test_a_store_that_fits_into_memory_prefetches_nothing(path, prefetched):
    opened = ClipStore.open(path)
    assert not opened.streamed
    opened.prefetch([0, 1, 2])
    opened.window(0, 0, 10)
    assert prefetched == []


def test_the_available_memory_decides_whether_a_store_is_streamed(path, machine):
    machine(1 << 20, ["0::/"])
    assert not ClipStore.open(path).streamed
    machine(20, ["0::/"])
    assert ClipStore.open(path).streamed
