"""The output of `[history]`: keeps in a database from when to when each label was shown.

The stream only updates rows in memory. A thread writes them: finished rows after a few seconds, the current label's row
less often, to spare a memory card. Clock times are recorded but never decide the order. A stretch ends where the clock
is set. An audio file is processed faster than real time; its times are as if it were played from the moment at which it
was opened.
"""

import sqlite3
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

from edgekd.errors import InputError
from edgekd.files import claimed, private_folder
from edgekd.runtime.config_tables import HistoryTable
from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.base import CLOSE_S, Observation, reason_text
from edgekd.runtime.outputs.history.database import (
    BATCH,
    HistoryEvent,
    HistoryFile,
    LabelRun,
    is_damage,
    require_history,
    set_aside,
)
from edgekd.runtime.source.health import StatusLine

SAVE_S, GROWTH_S = 5.0, 30.0
"""Longest time until finished rows are written, and until the current label's row is, seconds."""
RETRY_S = 10.0
NOTICE_S = 30.0
"""How long the output reports that a file was renamed, seconds."""
LIMIT = 5000
"""Rows that wait while they cannot be written; beyond that the oldest are dropped."""
QUIET_BEGINS = "quiet: the level is below the gate"
"""The reason of the row that follows the last label before a silence, of which no time is counted."""
BREAK_S = 0.05
"""Two windows whose ends are further apart than a window's length plus this have missing samples between them,
seconds."""
JUMP_S = 1.0
"""A clock that differs by more than this from the expected time was set, seconds."""


class _PendingRow:
    """A row on its way into the database. id: in the database, None before it is written. queued: whether a newer state
    of it waits to be written. total: sum of the probabilities. t: of the newest window, seconds."""

    def __init__(self, row: LabelRun | HistoryEvent) -> None:
        self.row, self.total, self.t, self.queued = row, 0.0, 0.0, False
        self.id: int | None = None


class History:
    """Writes a history to a database."""

    name = "history"

    def __init__(self, table: HistoryTable, file: str | None = None) -> None:
        """file: the audio file that is the source, None for a live source.

        Raises:
            InputError: another listener writes this database, and time would count twice.
        """
        self._audio_file, self._began = file, time.time()
        self._path, self._max_bytes = Path(table.file), int(table.max_mb * 1e6)
        self._lock = threading.Lock()
        self._waiting: deque[_PendingRow] = deque()
        self._open: _PendingRow | None = None  # the current label's row; none while it is quiet
        self._quiet = False
        self._offset: float | None = None  # wall clock minus monotonic clock, seconds
        self._model: str | None = None
        self._file: HistoryFile | None = None
        self._checked = False
        self._failure: str | None = None
        self._notice, self._notice_until = "", 0.0
        self._saved_at = self._retry_at = 0.0
        self.dropped = 0
        self._stopping = threading.Event()
        self._claim, self._is_claimed = ExitStack(), False
        with suppress(OSError):  # such errors may end while the listener runs
            self._claim_file()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """Why nothing can be written now, or that a damaged file was renamed."""
        return self._failure or (self._notice if time.monotonic() < self._notice_until else None)

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Add a line to the rows in memory."""
        with self._lock:
            now = self._now(event.t)
            if isinstance(event, StatusLine):
                self._add(HistoryEvent(now, event.t, event.state, event.reason))
                return
            window_s = 0.0
            if observation is not None:
                window_s = observation.manifest.window / observation.manifest.frontend.sample_rate
                if observation.manifest.name != self._model:
                    self._model = observation.manifest.name
                    self._add(HistoryEvent(now, event.t, None, f"listening with the model {self._model}"))
            self._decide(event, now, window_s)

    def close(self) -> None:
        """Write the rows that wait, within `CLOSE_S`."""
        self._stopping.set()
        self._thread.join(0.9 * CLOSE_S)

    def _now(self, t: float) -> float:
        """Clock time of a line at `t` seconds. Adds a row if the clock was set, and one at the start of a file."""
        now = time.time()
        offset = now - time.monotonic()
        before, self._offset = self._offset, offset
        if self._audio_file is not None:
            if before is None:
                self._add(
                    HistoryEvent(
                        self._began,
                        0.0,
                        None,
                        f"listening to {self._audio_file}; times count from here as if it were played",
                    )
                )
            return self._began + t
        if before is not None and abs(offset - before) > JUMP_S:
            self._open = None
            self._add(HistoryEvent(now, t, None, f"the clock was set by {offset - before:+.0f} s"))
        return now

    def _decide(self, decision: Decision, now: float, window_s: float) -> None:
        stretch = self._open
        if (
            stretch is not None
            and isinstance(stretch.row, LabelRun)
            and 0.0 < decision.t - stretch.t <= window_s + BREAK_S
        ):
            stretch.row = stretch.row._replace(
                ended=max(now, stretch.row.ended), seconds=round(decision.t - stretch.row.t, 3)
            )
            self._enqueue(stretch)
        else:
            stretch = None
        before, self._quiet = self._quiet, decision.is_quiet
        if decision.is_quiet:
            self._open = None
            if not before:
                self._add(HistoryEvent(now, decision.t, None, QUIET_BEGINS))
            return
        if stretch is None or stretch.row[0] != decision.label:
            stretch = self._open = self._add(
                LabelRun(decision.label, now, now, decision.t, 0.0, 0, 0, None, None, None)
            )
        run = stretch.row
        assert isinstance(run, LabelRun)
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
        self._enqueue(stretch)

    def _add(self, row: LabelRun | HistoryEvent) -> _PendingRow:
        stretch = _PendingRow(row)
        self._enqueue(stretch)
        return stretch

    def _enqueue(self, stretch: _PendingRow) -> None:
        if stretch.queued:
            return
        if len(self._waiting) >= LIMIT:
            self._waiting.popleft().queued = False
            self.dropped += 1
        self._waiting.append(stretch)
        stretch.queued = True

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
        self._claim.close()

    def _claim_file(self) -> None:
        """Make sure that no other listener writes the database."""
        if self._is_claimed:
            return
        private_folder(self._path.parent)
        try:
            self._claim.enter_context(claimed(self._path))
        except BlockingIOError:
            raise InputError(
                f"history: another listener writes {self._path}, and time would count twice; give each its own file"
            ) from None
        self._is_claimed = True

    def _save(self) -> None:
        """Write all rows that wait. If that fails, `error` says why and the rows keep waiting."""
        try:
            self._write()
        except Exception as error:  # also a bug: the thread must not end unseen
            self._retry_at = time.monotonic() + RETRY_S
            self._fail(error)
        else:
            self._failure, self._saved_at = None, time.monotonic()

    def _write(self) -> None:
        if self._file is not None and not self._file.is_same_file():
            self._file.close()
            self._forget_file()
            self._notice_for_a_while(f"{self._path} was removed or replaced")
        self._claim_file()
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

    def _take(self) -> list[tuple[_PendingRow, LabelRun | HistoryEvent]]:
        """Remove and return the oldest waiting rows as they are now. A row that grows later is queued again."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            for stretch in batch:
                stretch.queued = False
            return [(stretch, stretch.row) for stretch in batch]

    def _put_back(self, batch: list[_PendingRow]) -> None:
        with self._lock:
            for stretch in reversed(batch):
                if not stretch.queued and len(self._waiting) < LIMIT:
                    self._waiting.appendleft(stretch)
                    stretch.queued = True

    def _fail(self, error: Exception) -> None:
        """Report an error. A damaged file is renamed, and a new one is begun."""
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()
        if is_damage(error):
            try:
                aside = set_aside(self._path)
            except OSError as renaming:
                self._failure = f"{self._path} is damaged ({error}) and cannot be moved aside ({reason_text(renaming)})"
            else:
                self._retry_at = 0.0
                self._notice_for_a_while(
                    f"{self._path} was damaged ({error}) and is now {aside.name}; a new one is begun"
                )
            self._forget_file()
        else:
            self._file = None
            self._failure = (
                str(error)
                if isinstance(error, InputError)
                else f"{self._path} cannot be written ({reason_text(error)}); rows wait"
            )

    def _forget_file(self) -> None:
        """Forget all ids: the next file does not have the rows yet, and it is not checked yet."""
        self._file, self._checked = None, False
        with self._lock:
            for stretch in (*self._waiting, *(() if self._open is None else (self._open,))):
                stretch.id = None

    def _notice_for_a_while(self, notice: str) -> None:
        self._failure = None
        self._notice, self._notice_until = notice, time.monotonic() + NOTICE_S


def open_history(table: HistoryTable, file: str | None = None) -> History:
    """The output of `[history]`. The database need not exist or be writable yet. file: the audio file that is the
    source, if any.

    Raises:
        InputError: a folder, a database of another program or of a later version, or one that another listener writes.
    """
    require_history(Path(table.file))
    return History(table, file)
