"""The database of decisions: its tables, its size, and what is done where it is damaged.

Rows are in the order in which they began, whatever the clock said: `id` counts on over both tables. Times are UTC, in
seconds since 1970. The file and its log together stay below the size that is allowed; the oldest rows go. Everything
here may raise `sqlite3.Error`.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple

from edgekd.errors import InputError

MAGIC = b"SQLite format 3\0"
HEADER_BYTES, VERSION_AT, APPLICATION_AT = 100, 60, 68
"""Of a database: the length of its header, and where in it are two numbers of 4 bytes, the highest first."""
APPLICATION, VERSION = 0x65646B64, 1
"""Numbers by which a database is known as ours."""
PAGE = 4096
"""Bytes."""
MAX_LOG = 2_000_000
"""Bytes that the log may have; less where little is allowed at all."""
INDEX_BYTES = 65536
"""Of the log's index, which lies beside it."""
BATCH = 100
"""Rows of one transaction: it must be small beside the log."""
MAX_TEXT = 300
"""Bytes of a reason or a label."""
BUSY_S = 1.0
MAX_DAMAGED = 5
"""Damaged files that are kept, each as large as a history may be; beyond, something destroys them, and a person must
look."""
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, label TEXT NOT NULL, began REAL NOT NULL, ended REAL NOT NULL,
    t REAL NOT NULL, seconds REAL NOT NULL, windows INTEGER NOT NULL, gated INTEGER NOT NULL,
    mean REAL, least REAL, most REAL);
CREATE TABLE changes (id INTEGER PRIMARY KEY, at REAL NOT NULL, t REAL NOT NULL, state TEXT, reason TEXT NOT NULL);
"""


class Run(NamedTuple):
    """A stretch in which one label was shown, without a break of sound. began, ended: UTC, seconds. t: of audio since
    the listener's start, at the first window's end. seconds: of audio, to the first window of the next. windows:
    decisions. gated: how many of them were not judged. mean, least, most: probability of the label over the others,
    None where there are none."""

    label: str
    began: float
    ended: float
    t: float
    seconds: float
    windows: int
    gated: int
    mean: float | None
    least: float | None
    most: float | None


class Event(NamedTuple):
    """A change of state, or another line that is no decision. at: UTC, seconds. t: of audio. state: None where it is
    not of the source."""

    at: float
    t: float
    state: str | None
    reason: str


class HistoryFile:
    """A database, open to write."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open a database, or make one, with the folder that holds it."""
        self.path = path
        self._log_limit = min(MAX_LOG, max_bytes // 4)
        self._page_limit = (max_bytes - self._log_limit - INDEX_BYTES) // PAGE
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            self._prepare()
            self._inode = path.stat().st_ino
        except BaseException:
            self._db.close()
            raise

    def check(self) -> None:
        """Read all of it; raises where it is damaged."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            error = sqlite3.DatabaseError(str(found))
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def is_there(self) -> bool:
        """Whether the file is still the one that was opened."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def write(self, rows: Iterable[tuple[int | None, Run | Event]]) -> list[int]:
        """Write rows, at most `BATCH`, all or none; one that has an id already takes the place of what had it. Returns
        the ids."""
        self._make_room()
        ids = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            following = self._number(
                "SELECT 1 + max((SELECT coalesce(max(id), 0) FROM runs), (SELECT coalesce(max(id), 0) FROM changes))"
            )
            for known, row in rows:
                ids.append(following if known is None else known)
                following += known is None
                values = [_short(value) if isinstance(value, str) else value for value in row]
                self._db.execute(
                    f"INSERT OR REPLACE INTO {'runs' if isinstance(row, Run) else 'changes'} VALUES"
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
        """Close it; the log goes into the file."""
        self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA cache_size = -512")
        if not self._number("SELECT count(*) FROM sqlite_master"):
            self._db.execute(f"PRAGMA page_size = {PAGE}")
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # one transaction in the file itself, before there is a log, so that whoever reads its first bytes knows
            # whose it is
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT;"
            )
        elif self._number("PRAGMA application_id") != APPLICATION or self._number("PRAGMA user_version") != VERSION:
            raise InputError(f"{self.path} is a database of another program or version; choose another file")
        self._db.execute("PRAGMA journal_mode = WAL")
        # to the disk now and then, not at each commit; a power cut costs the newest rows
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {max(1, self._log_limit // 4 // PAGE)}")

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _make_room(self) -> None:
        """Make the log short and remove the oldest rows, a bite at a time, so that what comes next fits."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size > self._log_limit // 2 and self._shorten_log():
            raise sqlite3.OperationalError(f"another program has been reading {self.path} for long; rows wait")
        bite = max(1, self._log_limit // 8 // PAGE)
        pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
        while pages - free > self._page_limit - bite or pages > self._page_limit:
            removed = self._remove_oldest(bite / (pages - free)) if pages - free > self._page_limit - bite else 0
            if pages > self._page_limit:
                self._db.execute(f"PRAGMA incremental_vacuum({bite})").fetchall()
            if self._shorten_log():
                return  # a reader is at it; the rest next time
            before = pages, free
            pages, free = self._number("PRAGMA page_count"), self._number("PRAGMA freelist_count")
            if (pages, free) == before and not removed:
                return

    def _remove_oldest(self, share: float) -> int:
        """Remove the first rows, about this share of all, or fewer where there are few numbers among the first: a run
        that goes on for long. Returns how many."""
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
        """Bring the log into the file and cut it to nothing. Returns whether a reader hinders it."""
        return bool(self._number("PRAGMA wal_checkpoint(TRUNCATE)"))


def _short(text: str) -> str:
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is no database any more."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE


def move_aside(path: Path) -> Path:
    """Give a damaged file, and its log, another name: FILE.damaged-N.

    Raises:
        OSError: it cannot be renamed.
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


def require_ours(path: Path) -> None:
    """Refuse a path where there can never be a history of this version.

    A file that is damaged passes: it will be moved aside.

    Raises:
        InputError: a folder, a database of another program, or one of a later version.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except IsADirectoryError:
        raise InputError(f"history: {path} is a folder; give a file, for instance {path / 'history.sqlite'}") from None
    except OSError:  # it is not there, or what a listener's life may heal
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


def open_to_read(path: Path) -> closing[sqlite3.Connection]:
    """A connection that reads, also while a listener writes.

    Raises:
        InputError: no such file, one that cannot be read, or no history.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the database that 'edgekd listen --history' writes")
        path.open("rb").close()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); ask as whoever may, for instance with sudo"
        ) from None
    require_ours(path)
    # where nobody writes there is no log, and none must be made for reading
    written = path.with_name(f"{path.name}-wal").exists()
    return closing(
        sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro{'' if written else '&immutable=1'}", uri=True, timeout=BUSY_S
        )
    )
