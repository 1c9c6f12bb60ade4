"""Decisions kept in a database: not each of them, but from when to when which label was shown.

The stream only adds to numbers in memory. A thread writes them: what is complete after a few seconds, the label that
goes on less often, so that a memory card lasts. Clock times tell when; the order never depends on them, and a label's
stretch ends where the clock is set. Of an audio file, which is heard faster than it would be played, times are as if it
were played from the moment on at which it was opened.
"""

import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from edgekd.errors import InputError
from edgekd.runtime.config_tables import HistoryTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Moment, in_a_line
from edgekd.runtime.outputs.history.database import BATCH, Event, HistoryFile, Run, is_damage, move_aside, require_ours
from edgekd.runtime.source.health import Change

SAVE_S, GROWTH_S = 5.0, 30.0
"""Longest time until what is complete is written, and until the label that goes on is."""
RETRY_S = 10.0
NOTICE_S = 30.0
"""How long it is told that a file was moved aside."""
LIMIT = 5000
"""Rows that wait while they cannot be written; then the oldest are dropped."""
BREAK_S = 0.05
"""Two windows with so much more than a window's length between their ends have a break of sound between them."""
JUMP_S = 1.0
"""A clock that is so far from where it was expected was set."""


class _Stretch:
    """A row on its way into the database. id: its own there, None before it is there. waits: whether it has news for
    it. total: of the probabilities. t: of the newest window."""

    def __init__(self, row: Run | Event) -> None:
        self.row, self.total, self.t, self.waits = row, 0.0, 0.0, False
        self.id: int | None = None


class History:
    """Keeps a history in a database."""

    name = "history"

    def __init__(self, table: HistoryTable, file: str | None = None) -> None:
        """file: the audio file that is heard, None for a live source."""
        self._heard_file, self._began = file, time.time()
        self._path, self._max_bytes = Path(table.file), int(table.max_mb * 1e6)
        self._lock = threading.Lock()
        self._waiting: deque[_Stretch] = deque()
        self._open: _Stretch | None = None  # the run that goes on
        self._offset: float | None = None  # of the clock against one that is never set, seconds
        self._model: str | None = None
        self._file: HistoryFile | None = None
        self._checked = False
        self._failure: str | None = None
        self._notice, self._notice_until = "", 0.0
        self._saved_at = self._retry_at = 0.0
        self.dropped = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written now, or what became of a damaged file."""
        return self._failure or (self._notice if time.monotonic() < self._notice_until else None)

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Take a line."""
        with self._lock:
            now = self._now(event.t)
            if isinstance(event, Change):
                self._add(Event(now, event.t, event.state, event.reason))
                return
            window_s = 0.0
            if moment is not None:
                window_s = moment.manifest.window / moment.manifest.frontend.sample_rate
                if moment.manifest.name != self._model:
                    self._model = moment.manifest.name
                    self._add(Event(now, event.t, None, f"listening with the model {self._model}"))
            self._decide(event, now, window_s)

    def close(self) -> None:
        """Write what waits, for a moment."""
        self._stopping.set()
        self._thread.join(0.9 * CLOSE_S)

    def _now(self, t: float) -> float:
        """Clock time of a line at `t` seconds. Adds a row where the clock was set, and one at the beginning of a
        file."""
        now = time.time()
        offset = now - time.monotonic()
        before, self._offset = self._offset, offset
        if self._heard_file is not None:
            if before is None:
                self._add(
                    Event(
                        self._began,
                        0.0,
                        None,
                        f"hearing {self._heard_file}; times count from here as if it were played",
                    )
                )
            return self._began + t
        if before is not None and abs(offset - before) > JUMP_S:
            self._open = None
            self._add(Event(now, t, None, f"the clock was set by {offset - before:+.0f} s"))
        return now

    def _decide(self, decision: Decision, now: float, window_s: float) -> None:
        stretch = self._open
        if stretch is not None and isinstance(stretch.row, Run) and 0.0 < decision.t - stretch.t <= window_s + BREAK_S:
            stretch.row = stretch.row._replace(
                ended=max(now, stretch.row.ended), seconds=round(decision.t - stretch.row.t, 3)
            )
            self._wait(stretch)
        else:
            stretch = None
        if stretch is None or stretch.row[0] != decision.label:
            stretch = self._open = self._add(Run(decision.label, now, now, decision.t, 0.0, 0, 0, None, None, None))
        run = stretch.row
        assert isinstance(run, Run)
        if decision.gated is True:
            stretch.row = run._replace(windows=run.windows + 1, gated=run.gated + 1)
        else:
            stretch.total += decision.probability
            stretch.row = run._replace(
                windows=run.windows + 1,
                mean=round(stretch.total / (run.windows + 1 - run.gated), 4),
                least=min(decision.probability, 1.0 if run.least is None else run.least),
                most=max(decision.probability, run.most or 0.0),
            )
        stretch.t = decision.t
        self._wait(stretch)

    def _add(self, row: Run | Event) -> _Stretch:
        stretch = _Stretch(row)
        self._wait(stretch)
        return stretch

    def _wait(self, stretch: _Stretch) -> None:
        if stretch.waits:
            return
        if len(self._waiting) >= LIMIT:
            self._waiting.popleft().waits = False
            self.dropped += 1
        self._waiting.append(stretch)
        stretch.waits = True

    def _run(self) -> None:
        while not self._stopping.wait(SAVE_S):
            now = time.monotonic()
            with self._lock:
                complete = any(stretch is not self._open for stretch in self._waiting)
            if now >= self._retry_at and (complete or now - self._saved_at >= GROWTH_S):
                self._save()
        self._save()
        if self._file is not None:
            self._file.close()

    def _save(self) -> None:
        """Write all that waits. A failure is kept as the trouble, and what was not written waits on."""
        try:
            self._write()
        except Exception as error:  # also a bug: the thread must not die unseen
            self._retry_at = time.monotonic() + RETRY_S
            self._fail(error)
        else:
            self._failure, self._saved_at = None, time.monotonic()

    def _write(self) -> None:
        if self._file is not None and not self._file.is_there():
            self._file.close()
            self._forget_file()
            self._say_for_a_while(f"{self._path} was removed or replaced")
        if self._file is None:
            self._file = HistoryFile(self._path, self._max_bytes)
            if not self._checked:
                self._file.check()
                self._checked = True
        while batch := self._take():
            try:
                ids = self._file.write([(stretch.id, row) for stretch, row in batch])
            except BaseException:
                self._put_back([stretch for stretch, _ in batch])
                raise
            for (stretch, _), known in zip(batch, ids, strict=True):
                stretch.id = known

    def _take(self) -> list[tuple[_Stretch, Run | Event]]:
        """The oldest that wait, with their rows as they are now; what grows from here on waits anew."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            for stretch in batch:
                stretch.waits = False
            return [(stretch, stretch.row) for stretch in batch]

    def _put_back(self, batch: list[_Stretch]) -> None:
        with self._lock:
            for stretch in reversed(batch):
                if not stretch.waits and len(self._waiting) < LIMIT:
                    self._waiting.appendleft(stretch)
                    stretch.waits = True

    def _fail(self, error: Exception) -> None:
        """Name what went wrong; a damaged file makes way for a new one."""
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()
        if is_damage(error):
            try:
                aside = move_aside(self._path)
            except OSError as renaming:
                self._failure = f"{self._path} is damaged ({error}) and cannot be moved aside ({_words(renaming)})"
            else:
                self._retry_at = 0.0
                self._say_for_a_while(f"{self._path} was damaged ({error}) and is now {aside.name}; a new one is begun")
            self._forget_file()
        else:
            self._file = None
            self._failure = (
                str(error)
                if isinstance(error, InputError)
                else f"{self._path} cannot be written ({_words(error)}); rows wait"
            )

    def _forget_file(self) -> None:
        """Nothing has a place in the next file yet, which is not checked either."""
        self._file, self._checked = None, False
        with self._lock:
            for stretch in (*self._waiting, *(() if self._open is None else (self._open,))):
                stretch.id = None

    def _say_for_a_while(self, notice: str) -> None:
        self._failure = None
        self._notice, self._notice_until = notice, time.monotonic() + NOTICE_S


def open_history(table: HistoryTable, file: str | None = None) -> History:
    """The history of a configuration; the database need not exist nor be writable yet. file: the audio file that is
    heard, if any.

    Raises:
        InputError: a folder, or a database of another program or of a later version.
    """
    require_ours(Path(table.file))
    return History(table, file)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or in_a_line(error)
