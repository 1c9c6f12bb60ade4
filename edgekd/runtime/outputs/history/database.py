"""The SQLite database of the history: its tables, its size limit, and the handling of a damaged file.

Rows are ordered by `id`, which counts on over both tables in the order in which rows began, whatever the clock showed.
Times are UTC, seconds since 1970. The file and its log together stay below the size limit; the oldest rows are removed.
Functions here may raise `sqlite3.Error`.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from edgekd.errors import InputError
from edgekd.files import PRIVATE, private_folder

MAGIC = b"SQLite format 3\0"
HEADER_BYTES, VERSION_AT, APPLICATION_AT = 100, 60, 68
"""Length of a database's header, and the offsets of two big-endian numbers of 4 bytes in it."""
APPLICATION, VERSION = 0x65646B64, 1
"""The numbers that identify a history database of edgekd."""
PAGE = 4096
"""Bytes."""
MAX_LOG = 2_000_000
"""Most bytes of the write-ahead log; less where the size limit is small."""
INDEX_BYTES = 65536
"""Size of the log's index file beside it."""
BATCH = 100
"""Rows of one transaction, which must be small beside the log."""
MAX_TEXT = 300
"""Bytes of a reason or a label."""
MAX_STORED = 100_000
"""Bytes of a row that are read at most; those of a listener have less than 1000."""
MAX_ID = 2**53
BUSY_S = 1.0
MAX_DAMAGED = 5
"""Damaged files that are kept, each up to the size of a history. If more appear, something destroys them, and a person
must look."""
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, label TEXT NOT NULL, began REAL NOT NULL, ended REAL NOT NULL,
    t REAL NOT NULL, seconds REAL NOT NULL, windows INTEGER NOT NULL, gated INTEGER NOT NULL,
    mean REAL, least REAL, most REAL);
CREATE TABLE changes (id INTEGER PRIMARY KEY, at REAL NOT NULL, t REAL NOT NULL, state TEXT, reason TEXT NOT NULL);
"""


Time = Annotated[float, msgspec.Meta(ge=-6e10, le=2.5e11)]
"""UTC, seconds since 1970, of years that a calendar can show."""
Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Length = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
"""Seconds."""


class LabelRun(NamedTuple):
    """A stretch in which one label was shown, without missing samples.

    began, ended: UTC, seconds. t: of audio since the listener's start, at the end of the first window, seconds.
    seconds: of audio, up to the first window of the next stretch. windows: decisions. gated: how many of them were not
    scored. mean, least, most: probability of the label in the other windows, None where there are none.
    """

    label: str
    began: Time
    ended: Time
    t: Length
    seconds: Length
    windows: Count
    gated: Count
    mean: Probability | None
    least: Probability | None
    most: Probability | None


class HistoryEvent(NamedTuple):
    """A change of state, or another line that is not a decision. at: UTC, seconds. t: of audio, seconds. state: None
    where the line is not about the source."""

    at: Time
    t: Length
    state: str | None
    reason: str


class HistoryFile:
    """A database that is open for writing."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open a database, or create it together with its folder; others than its owner cannot read either."""
        self.path = path
        self._log_limit = min(MAX_LOG, max_bytes // 4)
        self._page_limit = (max_bytes - self._log_limit - INDEX_BYTES) // PAGE
        private_folder(path.parent)
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path} is a link to {path.readlink()}, which does not exist; make that file or choose another"
            )
        with suppress(FileExistsError):  # SQLite gives its log the permissions of the file
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            self._prepare()
            self._inode = path.stat().st_ino
        except BaseException:
            self._db.close()
            raise

    def check(self) -> None:
        """Read the whole database; raises if it is damaged."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found == "ok" and self._next_id() > MAX_ID:
            found = "no row can follow its last"
        if found != "ok":
            error = sqlite3.DatabaseError(str(found))
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def is_same_file(self) -> bool:
        """Whether the path still leads to the file that was opened."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def write(self, rows: Iterable[tuple[int | None, LabelRun | HistoryEvent]]) -> list[int]:
        """Write rows, at most `BATCH`, all or none. A row with an id replaces the row that has it. Returns the ids."""
        self._free_space()
        ids = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            next_id = self._next_id()
            for known, row in rows:
                ids.append(next_id if known is None else known)
                next_id += known is None
                values = [_short(value) if isinstance(value, str) else value for value in row]
                self._db.execute(
                    f"INSERT OR REPLACE INTO {'runs' if isinstance(row, LabelRun) else 'changes'} VALUES"
                    f" (?{', ?' * len(values)})",
                    (ids[-1], *values),
                )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return ids

    def close(self) -> None:
        """Close the database; the log goes into the file."""
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA cache_size = -512")
        if not self._number("SELECT count(*) FROM sqlite_master"):
            self._db.execute(f"PRAGMA page_size = {PAGE}")
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # one transaction in the file itself, before there is a log, so that the header identifies the file
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT;"
            )
        elif self._number("PRAGMA application_id") != APPLICATION or self._number("PRAGMA user_version") != VERSION:
            raise InputError(f"{self.path} is a database of another program or version; choose another file")
        require_tables(self._db, self.path)
        self._db.execute("PRAGMA journal_mode = WAL")
        # not synced at each commit; a power cut costs the newest rows
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {max(1, self._log_limit // 4 // PAGE)}")

    def _next_id(self) -> int:
        return self._number(
            "SELECT 1 + max((SELECT coalesce(max(id), 0) FROM runs), (SELECT coalesce(max(id), 0) FROM changes))"
        )

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _free_space(self) -> None:
        """Shorten the log and remove the oldest rows, a few pages at a time, so that the next rows fit."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size > self._log_limit // 2 and self._shorten_log():
            raise sqlite3.OperationalError(f"another program has been reading {self.path} for long; rows wait")
        step = max(1, self._log_limit // 8 // PAGE)
        pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
        while pages - free > self._page_limit - step or pages > self._page_limit:
            removed = self._remove_oldest(step / (pages - free)) if pages - free > self._page_limit - step else 0
            if pages > self._page_limit:
                self._db.execute(f"PRAGMA incremental_vacuum({step})").fetchall()
            if self._shorten_log():
                return  # another program is reading; the rest follows next time
            before = pages, free
            pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
            if (pages, free) == before and not removed:
                return

    def _remove_oldest(self, share: float) -> int:
        """Remove the first rows, about this share of all. It may be fewer where the first run is a long one and its id
        stands alone. Returns the number of removed rows."""
        first, last = self._db.execute(
            "SELECT min(id), max(id) FROM (SELECT min(id) AS id FROM runs UNION SELECT min(id) FROM changes "
            "UNION SELECT max(id) FROM runs UNION SELECT max(id) FROM changes)"
        ).fetchone()
        if first is None:
            return 0
        cut = first + int(share * (last - first))
        return sum(
            self._db.execute(f"DELETE FROM {table} WHERE id <= ?", (cut,)).rowcount for table in ("runs", "changes")
        )

    def _shorten_log(self) -> bool:
        """Write the log into the file and truncate it. Returns whether a reader prevents that."""
        return bool(self._number("PRAGMA wal_checkpoint(TRUNCATE)"))


def _short(text: str) -> str:
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")


def is_damage(error: Exception) -> bool:
    """Whether an error means that the file is not a readable database."""
    if isinstance(error, UnicodeDecodeError):  # of sqlite3's message, which quotes a damaged table
        return True
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and its log, to FILE.damaged-N.

    Raises:
        OSError: it cannot be renamed, or too many damaged files are there.
    """
    for number in count(1):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if number > MAX_DAMAGED:
            raise OSError(f"there are {MAX_DAMAGED} damaged files beside {path}; look at the disk and remove them")
        if not aside.exists():
            break
    path.rename(aside)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        log.rename(aside.with_name(f"{aside.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return aside


def require_history(path: Path) -> None:
    """Refuse a path that can never hold a history of this version. A damaged file passes, because it will be renamed.

    Raises:
        InputError: a folder, a database of another program, or one of a later version.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except IsADirectoryError:
        raise InputError(f"history: {path} is a folder; give a file, for instance {path / 'history.sqlite'}") from None
    except OSError:  # it does not exist, or the error may end while the listener runs
        return
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC) or path.with_name(f"{path.name}-journal").exists():
        return
    application, version = (int.from_bytes(header[at : at + 4], "big") for at in (APPLICATION_AT, VERSION_AT))
    if application != APPLICATION:
        raise InputError(f"history: {path} is a database of another program; choose another file")
    if version > VERSION:
        raise InputError(
            f"history: {path} was made by a later edgekd (format {version}, this one knows {VERSION}); choose another"
            " file"
        )


def require_tables(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database whose tables are not those of a history, or that runs statements of its own when rows are
    written: another program has changed it.

    Raises:
        InputError: they are not.
    """
    # as bytes: damaged text cannot be decoded
    statement = "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE name IN ('runs', 'changes') OR type = 'trigger'"
    found = {b" ".join((sql or b"").split()) for (sql,) in db.execute(statement)}
    if found and found != {b" ".join(sql.encode().split()) for sql in SCHEMA.split(";") if sql.strip()}:
        raise InputError(f"{path}: another program has changed its tables; choose another file")


def open_to_read(path: Path) -> closing[sqlite3.Connection]:
    """A connection for reading, also while a listener writes.

    Raises:
        InputError: the file does not exist, cannot be read, or is no history.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the database that 'edgekd listen --history' writes")
        path.open("rb").close()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run this as a user who may, for instance with sudo"
        ) from None
    require_history(path)
    # without a writer there is no log, and reading must not create one
    written = path.with_name(f"{path.name}-wal").exists()
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro{'' if written else '&immutable=1'}", uri=True, timeout=BUSY_S
    )
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_STORED)
    try:
        require_tables(db, path)
    except BaseException:
        db.close()
        raise
    return closing(db)
