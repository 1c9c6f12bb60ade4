"""Standard streams that are closed, full, or left by their reader."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from runtime.toy_listener import toy_listener

EDGEKD = [sys.executable, "-m", "edgekd.cli"]


def sh(script: str, *words: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """Runs a shell script; "$@" are the words."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *map(str, words)], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def silence(tmp_path) -> Path:
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16000 * 20))
    return path


@pytest.mark.parametrize("command", [["zoo"], ["listen"]])
def test_a_closed_standard_output_is_no_error(command, silence):
    words = toy_listener(silence) if command == ["listen"] else [*EDGEKD, *command]
    done = sh('"$@" >&-', *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_printed_never_reaches_a_file_that_takes_the_number_of_a_closed_stream(silence, tmp_path):
    history = tmp_path / "h.sqlite"
    done = sh('"$@" 0<&- >&- 2>&-', *toy_listener(silence, "--history", history, "--hook", "echo printed >&2"))
    assert done.returncode == 0
    assert history.read_bytes().startswith(b"SQLite format 3")
    assert b'"probability":' not in history.read_bytes()


def test_messages_do_not_go_to_standard_output_where_standard_error_is_closed_or_full():
    for where in ("2>&-", "2>/dev/full"):
        done = sh(f'"$@" {where}', *EDGEKD, "zoo", "no-such-model")
        assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_standard_input_is_named():
    done = sh('"$@" <&-', *toy_listener("-"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard input is closed" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["zoo"], ["listen"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_named(command, unbuffered, silence):
    words = toy_listener(silence) if command == ["listen"] else [*EDGEKD, *command]
    done = sh('"$@" > /dev/full', *words, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("edgekd: standard output: No space left on device")


def test_a_standard_output_that_is_too_large_is_named(silence, tmp_path):
    done = sh(f'ulimit -f 1; "$@" > {tmp_path / "log"}', *toy_listener(silence))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("edgekd: standard output: File too large")


def test_a_file_that_the_disk_does_not_give_is_named(tmp_path):
    unreadable = tmp_path / "rain.wav"
    unreadable.symlink_to("/proc/self/mem")  # reading its beginning is an I/O error
    done = sh('"$@"', *toy_listener(unreadable))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(unreadable) in done.stderr
    assert "Input/output error" in done.stderr


def test_a_reader_that_has_seen_enough_of_a_listener_is_status_141(silence):
    done = sh('{ "$@"; echo "status $?" >&2; } | head -1', *toy_listener(silence))
    assert json.loads(done.stdout)["rms"] == 0.0
    assert done.stderr == "status 141\n"
