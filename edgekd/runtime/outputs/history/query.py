"""`edgekd history`: reads a listener's database and prints it as lines or a table.

A listener may be writing at the same time. Rows are read in batches, so that it is never delayed.
"""

import csv
import re
import shlex
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekd.errors import InputError, nearest
from edgekd.files import check_output, output_file
from edgekd.runtime.outputs.history.database import HistoryEvent, LabelRun, open_to_read
from edgekd.text import counted, plain_cells, printable

ROWS_PER_READ = 2000
"""Rows read at a time."""
EVER = 1e12
"""Seconds since 1970 after every time."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
AGO = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*([{''.join(UNITS)}])")
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
COLUMNS = ("began", "ended", "seconds", "label", "windows", "gated", "mean", "least", "most", "state", "reason")
QUERY = """
SELECT id, label, began, ended, t, seconds, windows, gated, mean, least, most, NULL, NULL FROM runs
    WHERE id > :after AND ended >= :since AND began < :until AND (:label IS NULL OR label = :label)
UNION ALL
SELECT id, NULL, at, NULL, t, NULL, NULL, NULL, NULL, NULL, NULL, state, reason FROM changes
    WHERE id > :after AND at >= :since AND at < :until AND :label IS NULL
ORDER BY id LIMIT :limit
"""


class HistoryQuery(NamedTuple):
    """Which rows to read. since, until: UTC, seconds since 1970. label: None for all rows, also those that are not
    decisions. day: to draw, if any."""

    file: Path
    since: float
    until: float
    label: str | None
    day: date | None


def parse_query(
    file: Path | None,
    *,
    since: str | None = None,
    until: str | None = None,
    label: str | None = None,
    day: str | None = None,
    draws: bool = False,
    now: datetime | None = None,
) -> HistoryQuery:
    """The query that the options of the command line describe.

    Args:
        file: the database.
        since, until: a date, a date and a time, a time of today, all of the local zone, or how long ago. A date alone
            includes the whole day.
        label: read only rows of this label.
        day: a date, "today" or "yesterday".
        draws: whether a picture is wanted, which needs a day.
        now: for tests.

    Raises:
        InputError: no file, times that cannot be parsed or contradict each other, a label that the file does not have.
    """
    if file is None:
        raise InputError("no database is named; give the FILE that 'edgekd listen --history FILE' writes")
    now = now or datetime.now()
    if draws and day is None:
        raise InputError("--svg draws a day; say which, for instance --day today")
    if day is not None and (since is not None or until is not None):
        raise InputError("--day is a time of its own; leave out --since and --until, or --day")
    if day is not None:
        drawn = _date(day, "--day", now)
        try:
            begin, end = _midnight(drawn), _midnight(drawn + timedelta(days=1))
        except (ValueError, OverflowError):  # the first or the last date that Python knows
            raise InputError(f"--day is {drawn}; no history is so old or so new") from None
    else:
        drawn = None
        begin = -EVER if since is None else _instant(since, "--since", now, day_end=False)
        end = EVER if until is None else _instant(until, "--until", now, day_end=True)
    if begin >= end:
        raise InputError(f"--since is {since} and --until {until}; it must be the earlier of them")
    query = HistoryQuery(file, begin, end, label, drawn)
    if label is not None:
        known = [row[0] for row in _read(file, "SELECT DISTINCT label FROM runs WHERE typeof(label) = 'text'", {})]
        if label not in known:
            raise InputError(f"{file} has no decision with the label '{label}'{nearest(label, known) if known else ''}")
    return query


def rows(query: HistoryQuery) -> Iterator[LabelRun | HistoryEvent]:
    """Rows in the order in which they began.

    Raises:
        InputError: the file is missing, no history, or damaged.
    """
    after = 0
    while True:
        batch = _read(
            query.file,
            QUERY,
            {
                "after": after,
                "since": query.since,
                "until": query.until,
                "label": query.label,
                "limit": ROWS_PER_READ,
            },
        )
        for known, label, *run, state, reason in batch:
            is_run = state is reason is None
            content = (label, *run) if is_run else (run[0], run[2], state, reason)
            try:
                yield msgspec.convert(content, LabelRun) if is_run else msgspec.convert(content, HistoryEvent)
            except msgspec.ValidationError as error:
                table = "runs" if is_run else "changes"
                remedy = shlex.join(["sqlite3", str(query.file), f"DELETE FROM {table} WHERE id = {known}"])
                raise InputError(
                    f"{query.file}: row {known} of {table} was not written by a listener ({error}); remove it: {remedy}"
                ) from None
        if len(batch) < ROWS_PER_READ:
            return
        after = batch[-1][0]


def to_text(row: LabelRun | HistoryEvent) -> str:
    """A line for people: local time, duration, label, mean probability, lowest and highest; or what happened."""
    if isinstance(row, HistoryEvent):
        return printable(f"{local(row.at)}  {'':9}  {f'{row.state}: ' if row.state else ''}{row.reason}")
    probabilities = "" if row.mean is None else f"{row.mean:.2f}  {row.least:.2f}..{row.most:.2f}"
    line = f"{local(row.began)}  {duration(row.ended - row.began):>9}  {row.label:<24} {probabilities or 'not scored'}"
    return printable(line)


def to_json(row: LabelRun | HistoryEvent) -> str:
    """A line of JSON; times are UTC."""
    content: dict[str, Any] = row._asdict()
    content.update({name: _utc(content[name]) for name in ("at", "began", "ended") if name in content})
    return msgspec.json.encode(content).decode()


def export(query: HistoryQuery, path: Path, *, force: bool = False) -> str:
    """Write rows as a CSV table with times in UTC. Returns a line for people.

    Raises:
        InputError: as `rows`; a table that exists, a path that cannot be written.
    """
    check_output(path, "--csv", force=force)
    count = 0
    with output_file(path, "--csv") as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows(query):
            writer.writerow(plain_cells(_cells(row)))
            count += 1
    return f"{path}: {counted(count, 'row')}"


def local(seconds: float) -> str:
    """A time in the local zone."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _cells(row: LabelRun | HistoryEvent) -> list[Any]:
    if isinstance(row, HistoryEvent):
        return [_utc(row.at), *[""] * (len(COLUMNS) - 3), row.state or "", row.reason]
    numbers = [row.windows, row.gated, *("" if value is None else value for value in (row.mean, row.least, row.most))]
    return [_utc(row.began), _utc(row.ended), row.seconds, row.label, *numbers, "", ""]


def _read(file: Path, query: str, values: dict[str, Any]) -> list[Any]:
    """All rows of a query; the database is closed at once."""
    try:
        with open_to_read(file) as db:
            return db.execute(query, values).fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the second: a message that quotes a damaged table
        why = printable(str(error))
        raise InputError(
            f"{file}: cannot be read as a history ({why}); a listener moves a damaged one aside when it starts"
        ) from None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date(text: str, what: str, now: datetime) -> date:
    if text in ("today", "yesterday"):
        return now.date() - timedelta(days=text == "yesterday")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{what} is '{text}'; give a day like {now:%Y-%m-%d}, today or yesterday") from None


def _midnight(day: date) -> float:
    """The start of a day in the local zone, seconds since 1970."""
    return datetime.combine(day, clock_time()).timestamp()


def _instant(text: str, what: str, now: datetime, *, day_end: bool) -> float:
    """A time, seconds since 1970. day_end: for a date alone, the end of the day instead of its start."""
    try:
        if ago := AGO.fullmatch(text):
            return now.timestamp() - float(ago[1]) * UNITS[ago[2]]
        if CLOCK.fullmatch(text):
            return datetime.combine(
                now.date(), clock_time.fromisoformat(text.rjust(5 if text.count(":") == 1 else 8, "0"))
            ).timestamp()
        if text in ("today", "yesterday") or len(text) == len("2026-01-01"):
            return _midnight(_date(text, what, now) + timedelta(days=day_end))
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError, InputError):
        raise InputError(
            f"{what} is '{text}'; give a day or a time of the local zone, like {now:%Y-%m-%d} or '{now:%Y-%m-%d}"
            " 14:30', a time of today, like 14:30, or how long ago, like 90m, 2h or 3d"
        ) from None
