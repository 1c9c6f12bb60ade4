"""Whole processes on a terminal: what they used is all of theirs, and one that ends is told."""

import sys
import time

import bench_listen
import pytest

from edgekd.errors import InputError

WAIT_S = 20.0
BUSY = "import time\nwhile time.process_time() < 0.2: pass\n"
LONELY = BUSY + "assert __import__('sys').stdout.isatty()\nprint(input())"
PARENT = (
    "import subprocess, sys, threading\nthreading.Thread(target=lambda: subprocess.run([sys.executable, '-c', 'import"
    " sys; held = bytearray(30_000_000); '\n    'sys.stdin.read()'])).start()\n"
)


def started(monkeypatch: pytest.MonkeyPatch, program: str) -> bench_listen.Terminal:
    monkeypatch.setattr(bench_listen, "LISTEN", (sys.executable, "-c", program))
    return bench_listen.Terminal()


def test_processor_time_of_a_process_is_counted(monkeypatch):
    with started(monkeypatch, LONELY) as terminal:
        end = time.monotonic() + WAIT_S
        while terminal.cpu_s() < 0.2 and time.monotonic() < end:
            time.sleep(0.01)
        assert terminal.cpu_s() >= 0.2
        held = terminal.memory()
        assert 0.0 < held["pss_mb"] <= held["alone_mb"]


def test_children_of_threads_belong_to_a_process(monkeypatch):
    with started(monkeypatch, PARENT) as terminal:
        end = time.monotonic() + WAIT_S
        while terminal.memory()["alone_mb"] < 30.0 and time.monotonic() < end:
            time.sleep(0.01)
        assert terminal.memory()["alone_mb"] > 30.0
        assert len(terminal._processes()) == 2


def test_a_process_that_ends_is_told_with_its_words(monkeypatch):
    def hear_on(terminal: bench_listen.Terminal) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            terminal.hear(b"\0\0")

    with (
        started(monkeypatch, "raise SystemExit('no such model')") as terminal,
        pytest.raises(InputError, match="no such model"),
    ):
        hear_on(terminal)
