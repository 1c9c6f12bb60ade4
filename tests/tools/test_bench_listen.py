"""Processes on a terminal: processor time and memory of all of them, and the error where one ends."""

import sys
import time

import bench_listen
import pytest
from toolbox import wait_for

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
        assert wait_for(lambda: terminal.cpu_s() >= 0.2, WAIT_S)
        memory = terminal.memory()
        assert 0.0 < memory["pss_mb"] <= memory["alone_mb"]


def test_children_of_threads_belong_to_a_process(monkeypatch):
    with started(monkeypatch, PARENT) as terminal:
        assert wait_for(lambda: terminal.memory()["alone_mb"] > 30.0, WAIT_S)
        assert len(terminal.processes()) == 2


def test_the_error_of_a_process_that_ends_has_its_output(monkeypatch):
    def write_on(terminal: bench_listen.Terminal) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            terminal.write(b"\0\0")

    with (
        started(monkeypatch, "raise SystemExit('no such model')") as terminal,
        pytest.raises(InputError, match="no such model"),
    ):
        write_on(terminal)
