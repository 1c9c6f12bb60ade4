"""The history database: its content, its size, and how it survives damage.

Past 400 lines because every way in which a database can be damaged or full stands here, on one small writer.
"""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime.toy_listener import eventually, thread_ended

from edgekd.errors import InputError
from edgekd.runtime.config_tables import HistoryTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Observation
from edgekd.runtime.outputs.history import output as module
from edgekd.runtime.outputs.history.database import (
    BATCH,
    MAX_DAMAGED,
    HistoryEvent,
    HistoryFile,
    LabelRun,
    require_history,
    set_aside,
)
from edgekd.runtime.outputs.history.output import History, open_history
from edgekd.runtime.source.health import StatusLine

START = 1_800_000_000.0


class Clock:
    """Replaces the module `time`: one clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.now, self.steady = START, 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.steady

    def pass_by(self, seconds: float) -> None:
        self.now, self.steady = self.now + seconds, self.steady + seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def opened(tmp_path, monkeypatch) -> Iterator[History]:
    """A history that saves when it is closed."""
    monkeypatch.setattr(module, "SAVE_S", 1000.0)
    history = open_history(HistoryTable(str(tmp_path / "h.sqlite")))
    yield history
    finish(history)


@pytest.fixture
def saves_often(monkeypatch) -> None:
    """Histories save at once, also the row that still grows, and after an error too."""
    for name, seconds in (("SAVE_S", 0.01), ("GROWTH_S", 0.0), ("RETRY_S", 0.0)):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def saving(saves_often, tmp_path) -> Iterator[History]:  # noqa: ARG001
    """A history that saves all the time."""
    history = open_history(HistoryTable(str(tmp_path / "h.sqlite")))
    yield history
    finish(history)


@pytest.fixture
def path(tmp_path) -> Path:
    """The file of `opened` and `saving`."""
    return tmp_path / "h.sqlite"


def observation(model: str = "toy") -> Observation:
    return Observation(
        SimpleNamespace(name=model, window=16000, frontend=SimpleNamespace(sample_rate=16000)),
        None,
        None,
        0.0,
        0.0,
        None,
    )


def publish(
    history: History, t: float, label: str = "rain", probability: float = 0.5, gated: bool = False, model: str = "toy"
) -> None:
    history.publish(Decision(t, label, probability, (), "HEALTHY", 0.1, 0, probability, gated), observation(model))


def finish(history: History) -> None:
    """Close the history, and wait until its thread has written the rows."""
    history.close()
    assert thread_ended("history")


def rows(path: Path, table: str = "runs") -> list[tuple]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()


def written(path: Path, table: str = "runs") -> list[tuple]:
    """The rows so far of a file that a thread writes; none where it cannot be read yet."""
    try:
        return rows(path, table) if path.exists() else []
    except sqlite3.DatabaseError:
        return []


def test_a_label_that_stays_is_one_row_and_changes_are_beside_it(clock, opened, path):
    for t, label, probability in (
        (1.0, "rain", 0.5),
        (1.5, "rain", 0.9),
        (2.0, "rain", 0.7),
        (2.5, "wind", 0.4),
        (3.0, "wind", 0.6),
    ):
        publish(opened, t, label, probability)
        clock.pass_by(0.5)
    opened.publish(StatusLine(3.2, "FAILED", "gone"), None)
    finish(opened)
    assert rows(path) == [
        (2, "rain", START, START + 1.5, 1.0, 1.5, 3, 0, 0.7, 0.5, 0.9),
        (3, "wind", START + 1.5, START + 2.0, 2.5, 0.5, 2, 0, 0.5, 0.4, 0.6),
    ]
    assert rows(path, "changes") == [
        (1, START, 1.0, None, "listening with the model toy"),
        (4, START + 2.5, 3.2, "FAILED", "gone"),
    ]


def test_times_of_a_file_are_as_if_it_were_played(clock, path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_S", 1000.0)
    history = open_history(HistoryTable(str(path)), "yard.wav")
    for t, label in ((1.0, "rain"), (2.0, "rain"), (3.0, "wind"), (3600.0, "wind")):
        clock.pass_by(0.001)
        clock.now += 5000.0 * (t == 2.0)  # is set, which does not matter
        publish(history, t, label)
    finish(history)
    assert [row[1:4] for row in rows(path)] == [
        ("rain", START + 1.0, START + 3.0),
        ("wind", START + 3.0, START + 3.0),
        ("wind", START + 3600.0, START + 3600.0),
    ]
    assert rows(path, "changes") == [
        (1, START, 0.0, None, "listening to yard.wav; times count from here as if it were played"),
        (2, START + 1.0, 1.0, None, "listening with the model toy"),
    ]


def test_a_row_that_was_written_goes_on_growing(clock, saving, path):
    for t in range(1, 6):
        publish(saving, float(t))
        clock.pass_by(1.0)
        assert eventually(lambda t=t: [row[6] for row in written(path)] == [t])
    publish(saving, 6.0, "wind")
    finish(saving)
    assert [row[1:7] for row in rows(path)] == [
        ("rain", START, START + 5, 1.0, 5.0, 5),
        ("wind", START + 5, START + 5, 6.0, 0.0, 1),
    ]


def test_windows_that_were_not_scored_are_counted_apart(clock, opened, path):  # noqa: ARG001
    publish(opened, 1.0, probability=0.4)
    publish(opened, 1.5, probability=0.4, gated=True)
    publish(opened, 4.0, "unknown", 0.0, gated=True)
    finish(opened)
    assert [row[6:] for row in rows(path)] == [(2, 1, 0.4, 0.4, 0.4), (1, 1, None, None, None)]


def test_missing_sound_ends_a_row(clock, opened, path):
    publish(opened, 1.0)
    clock.pass_by(7.0)
    publish(opened, 8.0)
    finish(opened)
    assert [(row[2], row[3], row[4]) for row in rows(path)] == [
        (START, START, 1.0),
        (START + 7, START + 7, 8.0),
    ]


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_clock_that_is_set_changes_neither_the_order_nor_a_length(clock, opened, path, jump):
    for t in (1.0, 2.0, 3.0, 4.0):
        publish(opened, t)
        clock.pass_by(1.0)
        if t == 2.0:
            clock.now += jump
    finish(opened)
    found = rows(path)
    assert [row[3] - row[2] for row in found] == [1.0, 1.0]
    assert [row[4] for row in found] == [1.0, 3.0]
    assert rows(path, "changes")[1][4] == f"the clock was set by {jump:+.0f} s"


def test_another_model_is_named(clock, opened, path):  # noqa: ARG001
    publish(opened, 1.0)
    publish(opened, 1.5, model="other")
    finish(opened)
    assert [row[4] for row in rows(path, "changes")] == [
        "listening with the model toy",
        "listening with the model other",
    ]


def test_it_is_written_in_seconds_by_itself_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_S", 0.05)
    history = open_history(HistoryTable(str(tmp_path / "new" / "h.sqlite")))
    publish(history, 1.0)
    assert eventually(lambda: [row[4] for row in written(tmp_path / "new" / "h.sqlite")] == [1.0])
    publish(history, 1.5)
    began = time.monotonic()
    history.close()
    assert time.monotonic() - began < CLOSE_S + 1.0  # a busy machine has its say
    assert [row[6] for row in rows(tmp_path / "new" / "h.sqlite")] == [2]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["h.sqlite"]


def sizes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


def run(number: int) -> LabelRun:
    return LabelRun(f"label {number % 7}", START + number, START + number + 1, number * 1.0, 1.0, 2, 0, 0.5, 0.4, 0.6)


def test_the_file_and_its_log_stay_below_the_limit_and_the_newest_stay(tmp_path):
    file, largest = HistoryFile(tmp_path / "h.sqlite", 1_000_000), 0
    for first in range(0, 40_000, BATCH):
        file.write(
            [(None, run(first + i) if i % 10 else HistoryEvent(START, 1.0, "FAILED", "x" * 1000)) for i in range(BATCH)]
        )
        largest = max(largest, sizes(file.path))
    assert 600_000 < largest <= 1_000_000
    file.check()
    file.close()
    ids = sorted(row[0] for table in ("runs", "changes") for row in rows(file.path, table))
    assert ids == list(range(ids[0], 40_001))
    assert len(ids) > 5000


def test_a_lower_limit_shrinks_a_file(tmp_path):
    file = HistoryFile(tmp_path / "h.sqlite", 4_000_000)
    for first in range(0, 30_000, BATCH):
        file.write([(None, run(first + i)) for i in range(BATCH)])
    file.close()
    assert sizes(file.path) > 1_500_000
    file = HistoryFile(tmp_path / "h.sqlite", 1_000_000)
    file.write([(None, run(30_000))])
    assert sizes(file.path) <= 1_000_000
    file.close()
    assert rows(file.path)[-1][0] == 30_001


def test_a_run_that_goes_on_for_long_does_not_keep_what_came_after_it(tmp_path):
    file, largest = HistoryFile(tmp_path / "h.sqlite", 1_000_000), 0
    (known,) = file.write([(None, run(0))])
    for _ in range(200):
        file.write([(known, run(0)), *[(None, HistoryEvent(START, 1.0, "HEALTHY", "x" * 250))] * 50])
        largest = max(largest, sizes(file.path))
    file.close()
    assert largest <= 1_000_000
    assert rows(file.path)[0][0] == known


def test_a_reader_that_stays_does_not_make_the_log_grow_without_end(tmp_path):
    file = HistoryFile(tmp_path / "h.sqlite", 1_000_000)
    file.write([(None, run(0))])
    with closing(sqlite3.connect(file.path)) as reader:
        reading = reader.execute("SELECT * FROM runs")
        reading.fetchone()
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()

        def fill() -> None:
            for first in range(0, 40_000, BATCH):
                file.write([(None, run(first + i)) for i in range(BATCH)])

        with pytest.raises(sqlite3.OperationalError, match="has been reading"):
            fill()
        assert sizes(file.path) <= 1_000_000
    file.write([(None, run(1))])
    file.close()


def test_two_writers_overwrite_nothing(tmp_path):
    first, second = (HistoryFile(tmp_path / "h.sqlite", 1_000_000) for _ in range(2))
    assert first.write([(None, run(0))]) + second.write([(None, run(1))]) + first.write(
        [(None, run(2)), (1, run(3))]
    ) == [1, 2, 3, 1]
    first.close()
    second.close()
    assert [row[4] for row in rows(first.path)] == [3.0, 1.0, 2.0]


def broken(kind: str, path: Path) -> None:
    if kind == "text":
        path.write_bytes(b"these are no decisions\n" * 1000)
        return
    file = HistoryFile(path, 1_000_000)
    for first in range(0, 5000, BATCH):
        file.write([(None, run(first + i)) for i in range(BATCH)])
    file.close()
    content = path.read_bytes()
    path.write_bytes(
        {
            "zeros": bytes(len(content)),
            "cut": content[: len(content) // 2],
            "middle": content[:40_000] + b"\xff" * 20_000 + content[60_000:],
            "table": content.replace(b"label TEXT NOT NULL", b"label TEXT NOT NUL\xff"),
        }[kind]
    )


@pytest.mark.usefixtures("saves_often")
@pytest.mark.parametrize("kind", ["text", "zeros", "cut", "middle", "table"])
def test_a_damaged_file_is_named_moved_aside_and_begun_anew(clock, path, kind):
    broken(kind, path)
    damaged = path.read_bytes()
    history = open_history(HistoryTable(str(path)))
    publish(history, 1.0)
    assert eventually(lambda: history.error is not None)
    assert eventually(lambda: [row[4] for row in written(path)] == [1.0])
    assert history.error.startswith(f"{path} was damaged (")  # for so long that it is seen
    assert "h.sqlite.damaged-1" in history.error
    assert path.with_name("h.sqlite.damaged-1").read_bytes() == damaged
    clock.pass_by(module.NOTICE_S + 1.0)
    assert history.error is None
    finish(history)
    assert [row[4] for row in rows(path)] == [1.0]


def test_a_last_row_that_none_can_follow_is_damage(path):
    with closing(module.HistoryFile(path, 10_000_000)) as made:
        made.write([(2**63 - 1, LabelRun("rain", 0.0, 0.0, 0.0, 0.0, 1, 0, None, None, None))])
    history = open_history(HistoryTable(str(path)))
    publish(history, 1.0)
    finish(history)
    assert "was damaged (no row can follow its last)" in history.error
    finish(history)


def test_a_database_with_statements_of_its_own_is_not_written(opened, path):
    with closing(module.HistoryFile(path, 10_000_000)):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END")
    publish(opened, 1.0)
    finish(opened)
    assert f"{path}: another program has changed its tables" in opened.error
    assert rows(path) == []


def test_damage_while_it_is_open_is_survived(saving, path):
    for t in range(1, 4):
        publish(saving, 3.0 * t)
    assert eventually(lambda: len(written(path)) == 3)
    with closing(sqlite3.connect(path)) as other:  # so that the file has all rows, and the log none
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(b"\xff" * path.stat().st_size)
    for t in range(4, 400):
        publish(saving, 3.0 * t)
    assert eventually(lambda: saving.error is not None and "was damaged" in saving.error)
    finish(saving)
    assert rows(path)[-1][4] == 399 * 3.0


def test_damaged_files_do_not_fill_the_disk(tmp_path):
    for _ in range(MAX_DAMAGED):
        (tmp_path / "h").write_text("x")
        set_aside(tmp_path / "h")
    (tmp_path / "h").write_text("x")
    with pytest.raises(OSError, match="look at the disk"):
        set_aside(tmp_path / "h")


def test_rows_that_cannot_be_written_are_an_error_and_wait(saving, path, monkeypatch):
    def full(*_arguments):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(HistoryFile, "write", full)
        publish(saving, 1.0)
        assert eventually(lambda: saving.error is not None)
        assert saving.error.startswith(f"{path} cannot be written (database or disk is full)")
        publish(saving, 1.5)
        publish(saving, 2.0, "wind")
    assert eventually(lambda: saving.error is None)
    finish(saving)
    assert [(row[0], row[1], row[6]) for row in rows(path)] == [(2, "rain", 2), (3, "wind", 1)]


def test_rows_that_wait_are_bounded(saving, path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 50)
    while not path.is_dir():  # the history may have begun its file already
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
    for t in range(100):
        publish(saving, 5.0 * t)
    assert eventually(lambda: saving.error is not None)
    assert "cannot be written" in saving.error
    assert saving.dropped == 51
    path.rmdir()
    assert eventually(lambda: saving.error is None)
    finish(saving)
    assert [row[4] for row in rows(path)] == [5.0 * t for t in range(50, 100)]


def test_a_file_that_is_removed_is_begun_anew(saving, path):
    publish(saving, 1.0)
    assert eventually(lambda: written(path))
    path.unlink()
    publish(saving, 1.5)
    assert eventually(lambda: saving.error == f"{path} was removed or replaced")
    finish(saving)
    assert [row[6] for row in rows(path)] == [2]


def test_the_thread_outlives_a_bug_and_names_it(saving, path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.HistoryFile, "write", lambda *_: {}["a bug"])
        publish(saving, 1.0)
        assert eventually(lambda: saving.error is not None)
        assert "'a bug'" in saving.error
    assert eventually(lambda: saving.error is None)
    finish(saving)
    assert [row[6] for row in rows(path)] == [1]


def test_a_place_that_cannot_be_looked_at_is_no_reason_not_to_listen(tmp_path):
    require_history(tmp_path / ("x" * 300))


def test_another_programs_database_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE photos (id)")
        db.commit()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(InputError, match="of another program"):
        open_history(HistoryTable(str(tmp_path / "other.db")))
    with pytest.raises(InputError, match="of another program"):
        HistoryFile(tmp_path / "other.db", 1_000_000)
    assert (tmp_path / "other.db").read_bytes() == before
    with pytest.raises(InputError, match="is a folder"):
        open_history(HistoryTable(str(tmp_path)))


def test_a_later_format_is_refused(tmp_path):
    file = HistoryFile(tmp_path / "h.sqlite", 1_000_000)
    file.close()
    with closing(sqlite3.connect(file.path)) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="later edgekd"):
        open_history(HistoryTable(str(file.path)))


def test_a_kill_in_the_middle_costs_no_row_that_was_written(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from edgekd.runtime.outputs.history.database import HistoryFile, LabelRun\n"
        "file = HistoryFile(Path(sys.argv[1]), 1_000_000)\n"
        "for n in range(100000):\n"
        "    print(file.write([(None, LabelRun('a', 1.0, 2.0, 1.0, 1.0, 2, 0, 0.5, 0.5, 0.5))])[0], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "h")], stdout=subprocess.PIPE) as process:
        lines = [process.stdout.readline() for _ in range(300)]
        process.kill()
        lines += process.stdout.readlines()
    file = HistoryFile(tmp_path / "h", 1_000_000)
    file.check()
    file.close()
    assert rows(tmp_path / "h")[-1][0] >= int(lines[-1])


def test_telling_costs_microseconds(opened):
    began = time.perf_counter()
    for number in range(2000):
        publish(opened, 1.0 + number * 0.5)
    assert (time.perf_counter() - began) / 2000 < 1e-3
