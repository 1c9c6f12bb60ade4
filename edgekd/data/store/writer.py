"""Writes a clip store: into a hidden sibling folder first, renamed at the end, so that nobody ever sees half a store.

The sibling is locked while its process lives. It holds the store in the making and a journal of its clips; a writer of
the same store and request goes on with what a killed one left, any other clears it, or puts back the store that was
about to be replaced.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.journal import Entry, Journal, digest
from edgekd.data.store.readahead import forget
from edgekd.data.store.store import (
    AUDIO_FILE,
    FORMAT,
    INFO_FILE,
    PCM_TYPE,
    TABLE_FILE,
    Clip,
    ClipStore,
    StoreInfo,
    encode_table,
    listing,
)
from edgekd.errors import InputError
from edgekd.files import held, in_use
from edgekd.text import counted

STORE_FILES = frozenset({AUDIO_FILE, TABLE_FILE, INFO_FILE})
PARTIAL, OLD = "partial", "old"
"""Kinds of hidden siblings: a store in the making, and one that is being replaced."""
NEW, JOURNAL_FILE, REQUEST_FILE = "store", "journal", "request"
"""What the first kind holds: the store to be, its journal, and the request it is made for."""
SYNC_BYTES = 1 << 27
"""Audio between two waits for the disk: what a power cut may cost."""


class StoreWriter:
    """A store in the making, a context manager: leaving it without `finish` removes what was written, or keeps it with
    a request.

    Clips are added in order. With a request, those that an earlier writer left come first, by `take`; `add` ends that.

    Args:
        path: where the store shall be; its parent is made.
        force: replace a store that is there. A folder that is anything else is never touched.
        request: one line that decides, with a clip's key, what its PCM is; empty where nothing is to be kept.
        name, licence, synthetic, official_folds, sample_rate, channels: as in `StoreInfo`.

    Raises:
        InputError: something is in the way, another process makes the same store, or the place cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        licence: str,
        sample_rate: int,
        channels: int,
        synthetic: bool = False,
        official_folds: bool = False,
        force: bool = False,
        request: str = "",
    ) -> None:
        self.path = path.resolve()
        left = _clear_leftovers(self.path, request)
        check_free(self.path, force)
        self._force, self._request = force, request
        self._info = {
            "name": name,
            "licence": licence,
            "synthetic": synthetic,
            "official_folds": official_folds,
            "sample_rate": sample_rate,
            "channels": channels,
        }
        self._sample_rate, self._channels = sample_rate, channels
        self._clips: list[Clip] = []
        self._paths: set[str] = set()
        self._digest = hashlib.sha256()
        self._bytes = self._synced = 0
        with ExitStack() as opened:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._folder = left or _sibling(self.path, PARTIAL)
                try:
                    opened.enter_context(held(self._folder))
                except BlockingIOError:
                    raise _busy(self.path) from None
                opened.callback(self._clear)
                if any(each != self._folder and in_use(each, unknown=False) for each in _siblings(self.path, PARTIAL)):
                    raise _busy(self.path)  # both began at once
                if left is None:
                    (self._folder / REQUEST_FILE).write_text(request)
                (self._folder / NEW).mkdir(exist_ok=True)
                (self._folder / NEW / AUDIO_FILE).touch()
                self._audio: BinaryIO = opened.enter_context((self._folder / NEW / AUDIO_FILE).open("r+b"))
                self._journal = Journal(self._folder / JOURNAL_FILE)
                opened.callback(self._journal.close)
                noted = sum(entry.samples for entry in self._journal.entries) * channels * PCM_TYPE.itemsize
                if self._audio.seek(0, os.SEEK_END) > noted:  # a kill came between a clip's audio and its line
                    self._audio.truncate(noted)
                self._audio.seek(0)
            except OSError as error:
                raise _unwritable(self.path, error) from None
            self._opened = opened.pop_all()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # closing writes what is buffered; a full disk was told before
            self._audio.close()
        self._opened.close()

    @property
    def left(self) -> int:
        """Clips of an earlier writer that were neither taken nor given up yet."""
        return max(len(self._journal.entries) - len(self._clips), 0)

    @property
    def last_digest(self) -> bytes:
        """Hash of the PCM of the clip that was added or taken last; only with a request."""
        return self._journal.entries[len(self._clips) - 1].digest

    @property
    def hint(self) -> str:
        """What remains when the writer is left now, for the end of a message; empty where that is nothing."""
        if not self._kept():
            return ""
        return (
            f"; {counted(len(self._journal.entries), 'clip is', 'clips are')} kept in {self._folder.name}, and the same"
            " command goes on"
        )

    def take(self, clip: Clip, key: str) -> NDArray[np.int16] | None:
        """Add a clip from what an earlier writer left.

        Args:
            clip: its row, as in `add`.
            key: of what it is made from.

        Returns:
            (time, channels) int16, or None where the next clip that was left has another key or is not as it was
            written.
        """
        entry = self._journal.entries[len(self._clips)]
        if entry.key != key:
            return None
        raw = self._audio.read(entry.samples * self._channels * PCM_TYPE.itemsize)
        if digest(raw) != entry.digest:
            self._give_up()
            return None
        self._note(clip, raw)
        return np.frombuffer(raw, PCM_TYPE).reshape(-1, self._channels)

    def add(self, clip: Clip, pcm: NDArray[np.int16], key: str = "") -> None:
        """Append a clip.

        Args:
            clip: its row; `seconds` is replaced by the length of `pcm`.
            pcm: (time, channels) int16, at least one sample.
            key: of what it was made from, 32 hex digits; only used with a request.

        Raises:
            InputError: the path is in the store already, or the disk is full.
        """
        if clip.path in self._paths:
            raise InputError(f"{clip.path} is listed twice; remove one of its rows")
        if pcm.ndim != 2 or pcm.shape[0] == 0 or pcm.shape[1] != self._channels:
            raise ValueError(f"pcm of {clip.path} has shape {pcm.shape}, wanted (time, {self._channels})")
        raw = np.ascontiguousarray(pcm, dtype=PCM_TYPE).tobytes()
        try:
            if self.left:
                self._give_up()
            self._audio.write(raw)
            if self._request:
                self._audio.flush()
                self._journal.add(Entry(key, len(pcm), digest(raw)))
            if self._bytes - self._synced > SYNC_BYTES:
                self._sync()
        except OSError as error:
            raise _unwritable(self.path, error, self.hint) from None
        self._note(clip, raw)

    def finish(self) -> ClipStore:
        """Write the table, read the audio back and compare its hash, move the store to its place and open it.

        Raises:
            InputError: no clip was added, the place cannot be written, or the disk does not hold what was written.
        """
        if not self._clips:
            raise InputError(f"{self.path}: no clip is left to store")
        table = encode_table(self._clips)
        info = msgspec.convert(
            {**self._info, "table_sha256": hashlib.sha256(table).hexdigest(), "audio_sha256": self._digest.hexdigest()},
            StoreInfo,
        )
        new = self._folder / NEW
        try:
            if self.left:
                self._give_up()
            self._sync()
            forget(self._audio.fileno())  # so that what is compared comes from the disk
            (new / TABLE_FILE).write_bytes(table)
            (new / INFO_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")
            self._read_back()
            self._move()
        except OSError as error:
            raise _unwritable(self.path, error, self.hint) from None
        return ClipStore.open(self.path)

    def _note(self, clip: Clip, raw: bytes) -> None:
        """The audio of a clip is in its place."""
        samples = len(raw) // (self._channels * PCM_TYPE.itemsize)
        self._digest.update(raw)
        self._bytes += len(raw)
        self._paths.add(clip.path)
        self._clips.append(
            Clip(clip.path, clip.label, clip.split, clip.group, clip.recorder, clip.parent, samples / self._sample_rate)
        )

    def _give_up(self) -> None:
        """Cut off what an earlier writer left and was not taken."""
        self._journal.cut(len(self._clips))
        self._audio.seek(self._bytes)
        self._audio.truncate()

    def _kept(self) -> bool:
        """Whether there is something to go on with."""
        journal = self._folder / JOURNAL_FILE
        return (
            bool(self._request) and (self._folder / NEW).exists() and journal.is_file() and journal.stat().st_size > 0
        )

    def _clear(self) -> None:
        if not self._kept():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _sync(self) -> None:
        """Wait until the audio is on the disk."""
        self._audio.flush()
        os.fsync(self._audio.fileno())
        self._synced = self._bytes

    def _read_back(self) -> None:
        try:
            ClipStore.open(self._folder / NEW).verify()
        except InputError:
            raise InputError(
                f"{self.path}: the disk does not hold what was written to it; check the disk, then give the same"
                " command again or choose another --out"
            ) from None

    def _move(self) -> None:
        check_free(self.path, self._force)
        new = self._folder / NEW
        if not self.path.exists() or not any(self.path.iterdir()):
            new.replace(self.path)
            return
        old = _sibling(self.path, OLD)
        self.path.replace(old)
        try:
            new.replace(self.path)
        except BaseException:  # an interruption here must not lose the old store
            if not self.path.exists():
                old.replace(self.path)
            raise
        shutil.rmtree(old)


def check_free(path: Path, force: bool) -> None:
    """Refuse a place that holds anything but nothing, an empty folder, or (with `force`) a store.

    Raises:
        InputError: names what is in the way.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    inside = {child.name for child in path.iterdir()}
    if not inside:
        return
    strange = sorted(inside - STORE_FILES)
    if INFO_FILE not in inside or not _is_store(path):
        raise InputError(
            f"{path} exists and is not an edgekd store; choose another --out (--force replaces stores only)"
        )
    if strange:
        raise InputError(
            f"{path} holds files that are not part of a store ({listing(strange)}); move them away or choose another"
            " --out"
        )
    if not force:
        raise InputError(f"{path} exists; replace it with --force or choose another --out")


def _sibling(path: Path, kind: str) -> Path:
    """A new hidden folder beside a store."""
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.{kind}-", dir=path.parent))


def _siblings(path: Path, kind: str) -> list[Path]:
    """The hidden folders of a kind that lie beside a store and hold nothing but what a writer puts there."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{kind}-\w{{8}}")  # as mkdtemp ends it
    if not path.parent.is_dir():
        return []
    holds = _holds_partial if kind == PARTIAL else _holds_store
    return [each for each in path.parent.iterdir() if name.fullmatch(each.name) and each.is_dir() and holds(each)]


def _holds_store(folder: Path) -> bool:
    return _holds_only(folder, STORE_FILES)


def _holds_partial(folder: Path) -> bool:
    return _holds_only(folder, {NEW, JOURNAL_FILE, REQUEST_FILE}) and (
        not (folder / NEW).exists() or _holds_store(folder / NEW)
    )


def _holds_only(folder: Path, names: Collection[str]) -> bool:
    try:
        return all(child.name in names for child in folder.iterdir())
    except OSError:  # it was cleared meanwhile
        return False


def _clear_leftovers(path: Path, request: str) -> Path | None:
    """Remove what killed writers of a store left, and put back a store that one was about to replace.

    Returns:
        what is left for `request`.

    Raises:
        InputError: a living process makes the same store.
    """
    partial = _siblings(path, PARTIAL)
    if any(in_use(each, unknown=False) for each in partial):
        raise _busy(path)
    if any(in_use(each, unknown=True) for each in partial):
        return None
    kept = None
    with suppress(OSError):  # clearing is a courtesy; whatever is really in the way is told later
        kept = next((each for each in partial if request and _request_of(each) == request), None)
        old = _siblings(path, OLD)
        for each in old:
            if not path.exists() and _is_store(each):
                each.replace(path)
        for each in (
            *partial,
            *(each for each in old if each.exists() and (_is_store(path) or not any(each.iterdir()))),
        ):
            if each != kept:
                shutil.rmtree(each)
    return kept


def _request_of(folder: Path) -> str | None:
    try:
        return (folder / REQUEST_FILE).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _is_store(path: Path) -> bool:
    """A store, perhaps damaged: its store.json names the format."""
    try:
        return FORMAT.encode() in (path / INFO_FILE).read_bytes()
    except OSError:
        return False


def _busy(path: Path) -> InputError:
    return InputError(f"{path} is being made by another process; wait for it or choose another --out")


def _unwritable(path: Path, error: OSError, hint: str = "") -> InputError:
    return InputError(f"{path} cannot be written ({error.strerror}); free space or choose another --out{hint}")
