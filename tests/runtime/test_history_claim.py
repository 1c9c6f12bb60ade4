"""A history has one writer at a time: a second listener on the same file is refused."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from runtime.toy_listener import eventually, raw, thread_ended, tone, toy_listener

from edgekd.runtime.config_tables import HistoryTable
from edgekd.runtime.outputs.history import output
from edgekd.runtime.outputs.history.output import open_history

SECOND = raw(tone(16000))


def listening(history: Path) -> "subprocess.Popen[bytes]":
    """A listener that has decided once and waits for more."""
    process = subprocess.Popen(
        toy_listener("-", "--history", history), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(SECOND)
    process.stdin.flush()
    assert "label" in json.loads(process.stdout.readline())
    return process


def ended(process: "subprocess.Popen[bytes]") -> int:
    _, _ = process.communicate(timeout=10)
    return process.returncode


@pytest.mark.parametrize("name", ["h.sqlite", "link"])
def test_a_second_listener_on_one_history_is_refused_until_the_first_has_ended(name, tmp_path, edgekd):
    history = tmp_path / "h.sqlite"
    (tmp_path / "link").symlink_to(history)
    first = listening(history)
    second = subprocess.run(
        toy_listener("-", "--history", tmp_path / name), input=SECOND, capture_output=True, check=False
    )
    assert (second.returncode, second.stdout, second.stderr.count(b"\n")) == (2, b"", 1)
    assert str(tmp_path / name) in second.stderr.decode()
    first.stdin.write(4 * SECOND)
    assert ended(first) == 0
    assert ended(listening(history)) == 0
    rows = [json.loads(line) for line in edgekd("history", history, "--json")[1].splitlines()]
    assert [row["label"] for row in rows if "label" in row] == ["low", "low"]
    assert sum(row.get("seconds", 0.0) for row in rows) == pytest.approx(4.0, abs=0.1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["h.sqlite", "link"]


def test_a_listener_that_was_killed_claims_nothing(tmp_path):
    process = listening(tmp_path / "h.sqlite")
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert ended(listening(tmp_path / "h.sqlite")) == 0


def test_a_folder_that_comes_later_is_claimed_before_anything_is_written(tmp_path, monkeypatch):
    for name, seconds in (("SAVE_S", 0.01), ("GROWTH_S", 0.0), ("RETRY_S", 0.0)):
        monkeypatch.setattr(output, name, seconds)
    folder, later = tmp_path / "folder", tmp_path / "later"
    (tmp_path / "file").write_text("no folder")
    folder.symlink_to(tmp_path / "file")
    later.symlink_to(tmp_path / "disk")
    history = open_history(HistoryTable(str(folder / "h.sqlite")))
    try:
        assert eventually(lambda: "cannot be written" in (history.error or ""))
        first = listening(tmp_path / "disk" / "h.sqlite")
        later.replace(folder)
        assert eventually(lambda: "another listener" in (history.error or ""))
        ended(first)
        assert eventually(lambda: history.error is None)
    finally:
        history.close()
        assert thread_ended("history")
