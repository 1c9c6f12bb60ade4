"""edgekd as the first process of a container: nothing that it started stays as a zombie."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from runtime.toy_listener import eventually, toy_listener

CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
CAN_UNSHARE = (
    shutil.which("unshare") and not subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode
)
# As in a container, but for the number: a process that gets all whose parent has ended.
AS_FIRST = """
import ctypes, os, signal, subprocess, sys, time
from edgekd.cli.init import continue_in_child
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
continue_in_child()
"""


class Process(NamedTuple):
    pid: int
    state: str
    parent: int


def processes() -> list[Process]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
        except OSError:  # it has ended
            continue
        found.append(Process(int(folder.name), state, int(parent)))
    return found


def descendants(pid: int) -> list[Process]:
    found, parents = [], {pid}
    while new := [each for each in processes() if each.parent in parents and each not in found]:
        found += new
        parents |= {each.pid for each in new}
    return found


def zombies(pid: int) -> list[Process]:
    return [each for each in descendants(pid) if each.state == "Z"]


def as_first(program: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", AS_FIRST + program], stdout=subprocess.PIPE, text=True)


def test_strangers_are_waited_for_and_no_exit_status_is_lost():
    process = as_first(
        "left = 'sleep 0.01 & sleep 0.02 & exit 3'\n"
        "print([subprocess.run(['sh', '-c', left]).returncode for _ in range(20)], flush=True)\n"
        "time.sleep(60)\n"
    )
    with process:
        assert json.loads(process.stdout.readline()) == [3] * 20
        assert eventually(lambda: len(descendants(process.pid)) == 1)  # the child that does the work
        process.terminate()
        assert process.wait(5) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(7)", 7), ("sys.exit(0)", 0), ("os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_it_ends_as_its_child_does(end, status):
    with as_first(end) as process:
        assert process.wait(5) == status


def test_signals_reach_the_child():
    process = as_first(
        "got = []\n"
        "for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):\n"
        "    signal.signal(number, lambda number, _: print(number, flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            process.send_signal(number)
            assert int(process.stdout.readline()) == number
        process.terminate()


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs unshare, and the right to make a process namespace")
def test_a_listener_that_is_process_1_leaves_no_zombies_of_its_source_and_its_hook(tmp_path):
    starts, hooks = tmp_path / "starts", tmp_path / "hooks"
    command = toy_listener(
        "--command",
        f"echo >> {starts}; head -c 64000 /dev/urandom; sleep 600 > /dev/null 2>&1 & exit 1",
        "--hook",
        f"sleep 600 & setsid sleep 600 & echo >> {hooks}",
    )
    with subprocess.Popen([*CONTAINER, *command], stdout=subprocess.PIPE) as process:
        try:
            assert eventually(lambda: starts.exists() and len(starts.read_text()) >= 2 and hooks.exists(), 20)
            (first,) = [each for each in descendants(process.pid) if each.parent == process.pid]
            assert eventually(lambda: not zombies(process.pid), 2)
            # ended by a signal to process 1, as by `docker stop`
            os.kill(first.pid, signal.SIGTERM)
            process.stdout.read()
            assert process.wait(10) == 0
        finally:
            process.kill()
