"""A listener on a terminal: it ends when the terminal closes."""

import os
import signal
import subprocess
import sys
import termios
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runtime.toy_listener import eventually, toy_listener

START_ON_TERMINAL = f"""
import fcntl, os, signal, sys
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)  # standard input becomes the terminal of this new session
os.execv(sys.argv[2], sys.argv[2:])
"""
HangUp = Callable[[], None]


@contextmanager
def on_terminal(
    command: list[str], how: str = "plain", out: Path | None = None
) -> Iterator[tuple["subprocess.Popen[bytes]", HangUp]]:
    """A program on a terminal of its own, and what closes the terminal. how: "nohup" ignores SIGHUP. out: receives what
    it prints; None for the terminal."""
    other_end, end = os.openpty()
    with Path(os.devnull if out is None else out).open("wb") as file:
        stream = end if out is None else file
        process = subprocess.Popen(
            [sys.executable, "-c", START_ON_TERMINAL, how, *command],
            stdin=end,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    os.close(end)
    open_ends = [other_end]
    try:
        yield process, lambda: os.close(open_ends.pop())
    finally:
        for left in open_ends:
            os.close(left)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(10)


@pytest.fixture
def microphone(tmp_path) -> list[str]:
    """Options for a source that writes its process number to `pid`, gives two seconds and then nothing."""
    return ["--command", f"echo $$ > {tmp_path / 'pid'}; head -c 64000 /dev/urandom; exec sleep 600"]


def has_decided(log: Path) -> bool:
    return eventually(lambda: log.is_file() and '"label"' in log.read_text(), 10)


def has_ended(pid_file: Path) -> bool:
    """Whether the process of a file ends soon."""

    def is_gone() -> bool:
        try:
            return not Path(
                f"/proc/{pid_file.read_text().strip()}/cmdline"
            ).read_bytes()  # empty until it is waited for
        except FileNotFoundError:
            return True

    return eventually(is_gone)


def test_a_terminal_that_closes_ends_the_listener_and_its_source(microphone, tmp_path):
    log = tmp_path / "log"
    with on_terminal(toy_listener(*microphone), out=log) as (process, hang_up):
        assert has_decided(log)
        hang_up()
        assert process.wait(5) == 0
    assert "reload" not in log.read_text()
    assert has_ended(tmp_path / "pid")


def test_it_ends_too_where_its_lines_go_to_the_terminal(microphone, tmp_path):
    history = tmp_path / "h.sqlite"
    with on_terminal(toy_listener(*microphone, "--history", history)) as (process, hang_up):
        assert eventually((tmp_path / "pid").exists, 10)
        hang_up()
        process.wait(5)
    assert history.is_file()
    assert has_ended(tmp_path / "pid")


def test_a_second_sighup_does_not_cut_the_end_short(microphone, tmp_path):
    log, history = tmp_path / "log", tmp_path / "h.sqlite"
    with on_terminal(toy_listener(*microphone, "--history", history), out=log) as (process, _):
        assert has_decided(log)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        assert process.wait(5) == 0
    assert history.is_file()


def test_after_nohup_a_terminal_that_closes_ends_nothing(microphone, tmp_path):
    log = tmp_path / "log"
    with on_terminal(toy_listener(*microphone), "nohup", log) as (process, hang_up):
        assert has_decided(log)
        hang_up()
        assert eventually(lambda: "reload" in log.read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_terminal_that_closes_before_the_end_of_a_file_is_no_success(tmp_path):
    sound, log = tmp_path / "long.wav", tmp_path / "log"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000 * 900))
    with on_terminal(toy_listener(sound), out=log) as (process, hang_up):
        assert has_decided(log)
        hang_up()
        assert process.wait(5) == 129
