"""Stores larger than memory: when they are, and what the kernel is told to read."""

import numpy as np
import pytest

from edgekd.data.store import readahead, store
from edgekd.data.store.store import Clip, ClipStore
from edgekd.data.store.writer import StoreWriter

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets what the system tells: MemAvailable in KiB, lines of /proc/self/cgroup, files of the control groups."""

    def tell(available, groups=(), files=None):
        monkeypatch.setattr(readahead, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(readahead, "CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(readahead, "CGROUP_ROOT", tmp_path / "groups")
        if available is not None:
            (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available} kB\n")
            (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        for name, text in (files or {}).items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)

    return tell


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


def test_memory_is_what_the_machine_has_left(machine):
    machine(4 << 20, ["0::/"])
    assert readahead.available_bytes() == 4 * GIB
    assert readahead.is_streamed(3 * GIB)
    assert not readahead.is_streamed(GIB)


def test_a_control_group_may_allow_less_and_its_cache_counts_as_free(machine):
    machine(4 << 20, ["0::/a/b"], limited("a/b", "max", 7, 1) | limited("a", 2 * GIB, GIB, GIB // 2))
    assert readahead.available_bytes() == 3 * GIB // 2


def test_control_groups_of_version_1(machine):
    machine(4 << 20, ["9:cpu:/x", "4:memory:/x"], limited("memory/x", GIB, GIB // 2, 0, version=1))
    assert readahead.available_bytes() == GIB // 2


def test_where_the_system_does_not_tell_nothing_is_streamed(machine):
    machine(None)
    assert readahead.available_bytes() is None
    assert not readahead.is_streamed(1 << 60)


@pytest.fixture
def path(tmp_path):
    """Three clips of two channels: 1000, 50 and 3000 samples."""
    with StoreWriter(tmp_path / "store", name="toy", licence="none", sample_rate=1000, channels=2) as writer:
        for number, samples in enumerate((1000, 50, 3000)):
            pcm = np.random.default_rng(number).integers(-9, 9, (samples, 2)).astype(np.int16)
            writer.add(Clip(f"{number}.wav", "cat", "train"), pcm)
        return writer.finish().path


@pytest.fixture
def told(monkeypatch):
    """Parts that the kernel was told of, in bytes."""
    parts = []
    will_read = readahead.will_read

    def listening(audio, wanted):
        wanted = list(wanted)
        parts.extend(wanted)
        will_read(audio, wanted)

    monkeypatch.setattr(store, "will_read", listening)
    return parts


def test_the_kernel_is_told_of_the_bytes_of_the_windows(path, told):
    opened = ClipStore.open(path, streamed=True)
    opened.will_need(np.array([2, 0]), np.array([100, 0]), 500)
    assert told == [((1050 + 100) * 4, (1050 + 600) * 4), (0, 2000)]
    told.clear()
    opened.will_need([1])
    assert told == [(4000, 4200)]
    told.clear()
    opened.will_need([1, 1], [20, 60], 100)  # over the end, and beyond it
    assert told == [(4080, 4200)]


def test_a_window_is_told_as_it_is_read_and_the_same_either_way(path, told):
    small, large = ClipStore.open(path, streamed=False), ClipStore.open(path, streamed=True)
    for clip, start in ((0, 0), (2, 2900), (1, 10)):
        np.testing.assert_array_equal(small.window(clip, start, 300), large.window(clip, start, 300))
    assert told == [(0, 1200), ((1050 + 2900) * 4, 4050 * 4), (4040, 4200)]


def test_a_store_that_fits_tells_nothing(path, told):
    opened = ClipStore.open(path)
    assert not opened.streamed
    opened.will_need([0, 1, 2])
    opened.window(0, 0, 10)
    assert told == []


def test_a_store_decides_by_the_memory_there_is(path, machine):
    machine(1 << 20, ["0::/"])
    assert not ClipStore.open(path).streamed
    machine(20, ["0::/"])
    assert ClipStore.open(path).streamed
