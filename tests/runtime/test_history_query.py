"""`edgekd history`: lines, tables and pictures of a listener's database, and errors of its options."""

import csv
import json
import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekd.errors import InputError
from edgekd.runtime.outputs.history import day as history_day
from edgekd.runtime.outputs.history import query
from edgekd.runtime.outputs.history.database import BATCH, HistoryEvent, HistoryFile, LabelRun

HOUR = 3600.0


@pytest.fixture(autouse=True)
def zone(monkeypatch):
    """The local zone is Berlin's."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(f"{text}+02:00").timestamp()


def run(label: str, began: str, seconds: float, mean: float | None = 0.8) -> LabelRun:
    return LabelRun(
        label, at(began), at(began) + seconds, 0.0, seconds, int(2 * seconds) + 1, 0, mean, mean and 0.5, mean and 0.9
    )


ROWS = [
    HistoryEvent(at("2026-07-01T22:00"), 1.0, None, "listening with the model toy"),
    run("rain", "2026-07-01T22:00", 4 * HOUR),
    run("street, north", "2026-07-02T02:00", 1800.0, 0.4),
    HistoryEvent(at("2026-07-02T02:30"), 2.0, "FAILED", "gone"),
    run("rain", "2026-07-02T12:00", 60.0),
    run("quiet", "2026-07-03T00:00", 60.0, None),
]


@pytest.fixture
def file(tmp_path) -> Path:
    made = HistoryFile(tmp_path / "h.sqlite", 10_000_000)
    made.write([(None, row) for row in ROWS])
    made.close()
    return tmp_path / "h.sqlite"


def test_lines_are_in_local_time_the_newest_last(file, edgekd):
    status, out, err = edgekd("history", file)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "2026-07-01 22:00:00             listening with the model toy",
        "2026-07-01 22:00:00    4:00:00  rain                     0.80  0.50..0.90",
        "2026-07-02 02:00:00    0:30:00  street, north            0.40  0.50..0.90",
        "2026-07-02 02:30:00             FAILED: gone",
        "2026-07-02 12:00:00    0:01:00  rain                     0.80  0.50..0.90",
        "2026-07-03 00:00:00    0:01:00  quiet                    not scored",
    ]


def test_json_is_an_object_a_line_in_utc(file, edgekd):
    _, out, _ = edgekd("history", file, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == len(ROWS)
    assert lines[3] == {"at": "2026-07-02T00:30:00.000Z", "t": 2.0, "state": "FAILED", "reason": "gone"}
    assert (lines[1]["label"], lines[1]["began"], lines[1]["ended"], lines[1]["mean"]) == (
        "rain",
        "2026-07-01T20:00:00.000Z",
        "2026-07-02T00:00:00.000Z",
        0.8,
    )


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"since": "2026-07-02"}, [1, 2, 3, 4, 5]),
        ({"until": "2026-07-01"}, [0, 1]),
        ({"since": "2026-07-02 02:30", "until": "2026-07-02"}, [2, 3, 4]),
        ({"since": "12:00"}, [4, 5]),
        ({"since": "2h"}, [5]),
        ({"since": "yesterday", "until": "yesterday"}, [1, 2, 3, 4]),
        ({"label": "rain"}, [1, 4]),
        ({"day": "2026-07-02"}, [1, 2, 3, 4]),
        ({"since": "2026-07-01T22:00:00+00:00"}, [1, 2, 3, 4, 5]),
    ],
)
def test_a_query_gives_the_rows_it_asks_for(file, asked, wanted):
    now = (
        datetime.fromisoformat("2026-07-03T00:30")
        if "12:00" not in asked.values()
        else datetime.fromisoformat("2026-07-02T20:00")
    )
    assert list(query.rows(query.parse_query(file, now=now, **asked))) == [ROWS[i] for i in wanted]


def test_many_rows_come_in_portions_and_hold_up_no_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(query, "ROWS_PER_READ", 7)
    writer = HistoryFile(tmp_path / "h", 1_000_000)
    writer.write(
        [
            (None, run(f"l{i}", "2026-07-01T22:00", 1.0) if i % 3 else HistoryEvent(0.0, 0.0, None, str(i)))
            for i in range(BATCH)
        ]
    )
    found = []
    for row in query.rows(query.parse_query(tmp_path / "h")):
        found.append(row)
        with closing(sqlite3.connect(tmp_path / "h")) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # no reader prevents it
    assert len(found) == BATCH
    assert [row.label for row in found if isinstance(row, LabelRun)] == [f"l{i}" for i in range(BATCH) if i % 3]
    writer.close()


def test_a_folder_that_cannot_be_written_can_be_read(file):
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        assert len(list(query.rows(query.parse_query(file)))) == len(ROWS)
    finally:
        file.parent.chmod(0o755)
    assert [path.name for path in file.parent.iterdir()] == ["h.sqlite"]


def test_csv_is_whole_in_utc_and_replaces_nothing_unasked(file, tmp_path, edgekd):
    out = tmp_path / "new" / "out.csv"
    assert edgekd("history", file, "--csv", out, "--since", "2026-07-02") == (0, f"{out}: 5 rows\n", "")
    with out.open(newline="") as opened:
        table = list(csv.DictReader(opened))
    assert [row["label"] for row in table] == ["rain", "street, north", "", "rain", "quiet"]
    assert (table[1]["began"], table[1]["seconds"], table[1]["mean"]) == ("2026-07-02T00:00:00.000Z", "1800.0", "0.4")
    assert (table[2]["state"], table[2]["reason"], table[2]["began"]) == ("FAILED", "gone", "2026-07-02T00:30:00.000Z")
    assert edgekd("history", file, "--csv", out)[0] == 2
    assert edgekd("history", file, "--csv", out, "--force")[1] == f"{out}: 6 rows\n"
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]


def test_a_day_is_drawn_in_eighty_columns(file, edgekd):
    _, out, _ = edgekd("history", file, "--day", "2026-07-02")
    lines = out.splitlines()
    assert max(map(len, lines)) < 80
    assert lines[2] == f"{'(any label)':21} █████░".replace("░", "") + " " * 19 + "·" + " " * 23 + "  2:31:00"
    assert lines[3] == f"{'rain':21} ████" + " " * 20 + "·" + " " * 23 + "  2:01:00"
    assert lines[4] == f"{'street, north':21} " + " " * 4 + "█" + " " * 43 + "  0:30:00"
    assert lines[5].startswith("1 line on the source")


def test_a_day_is_drawn_without_blocks_where_the_terminal_has_none(file):
    asked = query.parse_query(file, day="2026-07-02")
    day = history_day.read_day(asked.day, query.rows(asked))
    for encoding in ("ascii", "latin-1", None, "no-such"):
        assert history_day.to_text(day, encoding).splitlines()[3].startswith(f"{'rain':21} ####")
        history_day.to_text(day, encoding).encode("ascii")


def test_a_day_as_json_has_seconds_in_each_hour(file, edgekd):
    _, out, _ = edgekd("history", file, "--day", "2026-07-02", "--json")
    day = json.loads(out)
    assert day["labels"]["rain"] == [3600.0, 3600.0, *[0.0] * 10, 60.0, *[0.0] * 11]
    assert (day["day"], len(day["heard"]), day["events"]) == ("2026-07-02", 24, 1)


def test_a_day_without_decisions_is_reported(file, edgekd):
    assert edgekd("history", file, "--day", "2020-01-01") == (0, "2020-01-01: no decisions\n", "")


@pytest.mark.parametrize(
    ("day", "hours", "second", "third"), [("2026-03-29", 23, 3600.0, 0.0), ("2026-10-25", 25, 3600.0, 7200.0)]
)
def test_days_on_which_clocks_change(day, hours, second, third):
    drawn = date.fromisoformat(day)
    begin = datetime.fromisoformat(day).timestamp()
    found = history_day.read_day(
        drawn, [LabelRun("a", begin - 9, begin + hours * HOUR + 9, 0.0, 0.0, 1, 0, None, None, None)]
    )
    assert sum(found.total) == hours * HOUR
    assert found.hours["a"][1:3] == [second, third]
    assert sum(found.lengths) == hours * HOUR


def test_the_picture_of_a_day_is_whole_and_needs_nothing_else(file, tmp_path, edgekd):
    made = HistoryFile(file, 10_000_000)
    made.write([(None, run("<b>&\x07", "2026-07-02T12:02", 600.0))])
    at = datetime.fromisoformat("2026-07-02T13:00").timestamp()
    made.write([(None, HistoryEvent(at, 3.0, "FAILED", "</title><script>\x1b"))])
    made.close()
    out = tmp_path / "day.svg"
    status, text, _ = edgekd("history", file, "--day", "2026-07-02", "--svg", out)
    assert (status, text) == (0, f"{out}: 2026-07-02, 3 labels\n")
    assert edgekd("history", file, "--day", "2026-07-02", "--svg", out)[0] == 2
    assert edgekd("history", file, "--day", "2026-07-02", "--svg", out, "--force")[0] == 0
    svg = out.read_text()
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"rain", "street, north", "<b>&\\x07", "12:00", "2:01:00"} <= set(texts)
    assert svg.count("http") == 1  # the namespace
    assert "gone" in svg
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        *("svg", "title", "style"),
        *("rect", "text", "line", "g"),
    }
    assert [line[0].text[20:] for line in root.iter("{http://www.w3.org/2000/svg}line") if len(line)] == [
        "FAILED: gone",
        "FAILED: </title><script>\\x1b",
    ]
    rain = next(group for group in root.iter("{http://www.w3.org/2000/svg}g") if group[0].text.startswith("rain"))
    bars = [element for element in rain if element.tag.endswith("rect")]
    assert [(float(bar.get("x")), float(bar.get("width"))) for bar in bars] == [(190.0, 60.0), (190.0 + 360.0, 2.5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no database is named; give the FILE that"),
        (["missing"], "missing: no such file"),
        (["FILE", "--since", "soon"], "--since is 'soon'; give a day"),
        (["FILE", "--until", "2026-13-01"], "--until is '2026-13-01'"),
        (["FILE", "--since", "25:00"], "--since is '25:00'"),
        (["FILE", "--day", "9999-12-31"], "no history is so old or so new"),
        (["x" * 300], "cannot be read (File name too long)"),
        (["FILE", "--day", "2026-7-1"], "--day is '2026-7-1'; give a day like"),
        (["FILE", "--since", "2026-07-03", "--until", "2026-07-01"], "must be the earlier"),
        (["FILE", "--day", "today", "--since", "1h"], "leave out --since"),
        (["FILE", "--svg", "a.svg"], "--svg draws a day"),
        (["FILE", "--label", "rian"], "no decision with the label 'rian'; did you mean 'rain'?"),
        (["FILE", "--csv", "."], "is a folder"),
        (["FILE", "--day", "today", "--svg", "/"], "/ is a folder"),
        (["other"], "database of another program"),
        (["text"], "cannot be read as a history"),
        (["folder"], "no such file"),
    ],
)
def test_mistakes_are_one_line_and_status_2(file, edgekd, monkeypatch, arguments, message):
    monkeypatch.chdir(file.parent)
    with closing(sqlite3.connect("other")) as db:
        db.execute("CREATE TABLE photos (id)")
        db.commit()
    Path("text").write_text("no database")
    Path("folder").mkdir()
    status, out, err = edgekd("history", *["h.sqlite" if word == "FILE" else word for word in arguments])
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


FORMULAS = ["=1+1", "+cmd", "-2+3", "@sum", "\t=1", " =1", "\n=1"]


def test_formulas_of_a_csv_are_quoted_and_numbers_are_not(tmp_path, edgekd):
    made = HistoryFile(tmp_path / "h.sqlite", 10_000_000)
    made.write([(None, run(label, "2026-07-02T12:00", 60.0)) for label in [*FORMULAS, "-1.5", "rain\r=1"]])
    made.write([(None, HistoryEvent(at("2026-07-02T12:00"), 1.0, None, "=reason"))])
    made.close()
    assert edgekd("history", tmp_path / "h.sqlite", "--csv", tmp_path / "out.csv")[0] == 0
    with (tmp_path / "out.csv").open(newline="") as opened:
        table = list(csv.DictReader(opened))
    assert [row["label"] for row in table] == [*(f"'{label}" for label in FORMULAS), "-1.5", "rain =1", ""]
    assert table[-1]["reason"] == "'=reason"


TAMPERED = {
    "a text as time": "UPDATE runs SET ended = 'late' WHERE id = 2",
    "an endless time": "UPDATE runs SET ended = 9e999 WHERE id = 2",
    "a time after all years": "UPDATE runs SET ended = 1e15 WHERE id = 2",
    "bytes as label": "UPDATE runs SET label = x'ff00' WHERE id = 2",
    "a probability of 2": "UPDATE runs SET mean = 2 WHERE id = 2",
    "fewer windows than none": "UPDATE runs SET windows = -1 WHERE id = 2",
    "bytes as reason": "UPDATE changes SET reason = x'ff00' WHERE id = 4",
    "bytes as state": "UPDATE changes SET state = x'ff00' WHERE id = 4",
    "a huge label": f"UPDATE runs SET label = '{'x' * 10**6}' WHERE id = 2",
    "text that is no UTF-8": "UPDATE runs SET label = CAST(x'ff' AS TEXT) WHERE id = 2",
    "a view as table": "CREATE TABLE own AS SELECT * FROM runs; DROP TABLE runs; CREATE VIEW runs AS SELECT * FROM own",
    "other columns": "ALTER TABLE runs DROP COLUMN mean",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED)
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--day", "2026-07-02"], ["--csv", "out.csv"], ["--label", "x"]])
def test_a_database_that_another_program_changed_is_one_line_and_status_2(
    file, edgekd, monkeypatch, arguments, statement
):
    monkeypatch.chdir(file.parent)
    with closing(sqlite3.connect(file)) as db:
        db.executescript(statement)
    status, _, err = edgekd("history", file, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert str(file) in err
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("letter", [b"\xff", b"\x1b", b"\n"])
def test_a_damaged_table_is_one_line_and_status_2(file, edgekd, letter):
    file.write_bytes(file.read_bytes().replace(b"label TEXT NOT NULL", b"label TEXT NOT NUL" + letter))
    status, out, err = edgekd("history", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert str(file) in err
    assert "\x1b" not in err


def test_the_row_that_another_program_changed_is_named_and_can_be_removed(file, edgekd):
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE runs SET ended = 'late' WHERE id = 2")
    _, _, err = edgekd("history", file)
    statement = err.partition("'")[2].partition("'")[0]
    assert statement == "DELETE FROM runs WHERE id = 2"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute(statement)
    assert edgekd("history", file)[0] == 0


@pytest.mark.parametrize("arguments", [[], ["--day", "2026-07-02"]])
def test_control_characters_of_a_database_do_not_reach_the_terminal(file, edgekd, arguments):
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE runs SET label = ?", ("\x1b]0;x\x07",))
        db.execute("UPDATE changes SET reason = ?, state = ?", ("\x1b[2J", "\x9b"))
    status, out, _ = edgekd("history", file, *arguments)
    assert status == 0
    assert not set(out) & set("\x1b\x07\x9b")
    assert "\\x1b]0;x\\x07" in out  # as everywhere else in edgekd


@pytest.mark.parametrize("option", ["--csv", "--svg"])
def test_a_device_is_written_to_and_stays_a_device(file, edgekd, option):
    for force in ([], ["--force"]):
        assert edgekd("history", file, "--day", "2026-07-02", option, os.devnull, *force)[0] == 0
        assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("option", ["--csv", "--svg"])
def test_a_link_to_nothing_is_not_followed(file, tmp_path, edgekd, option):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for force in ([], ["--force"]):
        status, _, err = edgekd("history", file, "--day", "2026-07-02", option, link, *force)
        assert (status, err.count("\n")) == (2, 1)
        assert f"{link} is a link to {tmp_path / 'elsewhere'}" in err
        assert option in err
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_file_is_named(file):
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a history"):
        list(query.rows(query.parse_query(file)))


def test_times_are_of_the_zone_now():
    assert query.local(datetime(2026, 7, 1, 20, tzinfo=UTC).timestamp()) == "2026-07-01 22:00:00"
    assert query.duration(timedelta(days=2, seconds=61).total_seconds()) == "48:01:01"
