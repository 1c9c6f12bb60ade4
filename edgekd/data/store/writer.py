"""Writes a clip store into a hidden folder next to its path and renames that at the end, so that no store is ever seen
incomplete.

The hidden folder is locked while the writing process lives. It holds the unfinished store and a journal of its clips. A
later writer of the same path and request reuses what a killed writer left. Any other writer removes it, and puts back
a store that the killed writer was about to replace.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_TYPE
from edgekd.data.store.clips import Clip, encode_table
from edgekd.data.store.journal import Journal, JournalEntry, digest
from edgekd.data.store.page_cache import drop_pages
from edgekd.data.store.store import AUDIO_FILE, FORMAT, INFO_FILE, TABLE_FILE, ClipStore, StoreInfo
from edgekd.errors import InputError
from edgekd.files import held, in_use
from edgekd.text import MAX_LABEL, counted, json_bytes, listing, printable, unfit

STORE_FILES = frozenset({AUDIO_FILE, TABLE_FILE, INFO_FILE})
PARTIAL, OLD = "partial", "old"
"""Kinds of hidden folders next to a store, with an unfinished store, and with a store that is being replaced."""
NEW, JOURNAL_FILE, REQUEST_FILE = "store", "journal", "request"
"""What a PARTIAL folder holds: the unfinished store, its journal, and the request that it is written for."""
SYNC_BYTES = 1 << 27
"""Bytes of audio after which the writer waits for the disk: the most that a power cut can lose."""


class StoreWriter:
    """Writes one store; a context manager. Leaving it without `finish` removes what was written, or keeps it for the
    next writer where there is a request.

    Clips are added in order. With a request, clips that an earlier writer left come first, by `reuse`; the first `add`
    discards the rest of them.

    Args:
        path: of the store; folders above it are made.
        force: replace a store at `path`. Any other folder there is never changed.
        request: one line that, together with a clip's key, determines the clip's PCM; "" keeps nothing for a later
            writer.
        name, licence, synthetic, official_folds, sample_rate, channels: as in `StoreInfo`.

    Raises:
        InputError: something else is at `path`, another process writes the same store, or `path` cannot be written.
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
        left = _clean_up(self.path, request)
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
                opened.callback(self._remove_unless_kept)
                if any(each != self._folder and in_use(each, unknown=False) for each in _siblings(self.path, PARTIAL)):
                    raise _busy(self.path)  # both started at once
                if left is None:
                    (self._folder / REQUEST_FILE).write_text(request)
                (self._folder / NEW).mkdir(exist_ok=True)
                (self._folder / NEW / AUDIO_FILE).touch()
                self._audio: BinaryIO = opened.enter_context((self._folder / NEW / AUDIO_FILE).open("r+b"))
                self._journal = Journal(self._folder / JOURNAL_FILE)
                opened.callback(self._journal.close)
                recorded = sum(entry.samples for entry in self._journal.entries) * channels * PCM_TYPE.itemsize
                if self._audio.seek(0, os.SEEK_END) > recorded:  # killed between a clip's audio and its line
                    self._audio.truncate(recorded)
                self._audio.seek(0)
            except OSError as error:
                raise _unwritable(self.path, error) from None
            self._opened = opened.pop_all()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # closing writes what is buffered; a full disk has raised before
            self._audio.close()
        self._opened.close()

    @property
    def left(self) -> int:
        """Number of clips from an earlier writer that were neither reused nor discarded yet."""
        return max(len(self._journal.entries) - len(self._clips), 0)

    @property
    def last_digest(self) -> bytes:
        """Hash of the PCM of the clip that was added or reused last; only with a request."""
        return self._journal.entries[len(self._clips) - 1].digest

    @property
    def hint(self) -> str:
        """The end of an error message: what is kept when the writer is left now, "" for nothing."""
        if not self._keeps_clips():
            return ""
        return (
            f"; {counted(len(self._journal.entries), 'clip is', 'clips are')} kept in {self._folder.name}, and the same"
            " command resumes"
        )

    def reuse(self, clip: Clip, key: str) -> NDArray[np.int16] | None:
        """Add a clip from the audio that an earlier writer left.

        Args:
            clip: its row, as in `add`.
            key: of its source.

        Returns:
            (time, channels) int16, or None where the next clip left has another key or its audio has changed.
        """
        entry = self._journal.entries[len(self._clips)]
        if entry.key != key:
            return None
        raw = self._audio.read(entry.samples * self._channels * PCM_TYPE.itemsize)
        if digest(raw) != entry.digest:
            self._discard_left()
            return None
        self._append(clip, raw)
        return np.frombuffer(raw, PCM_TYPE).reshape(-1, self._channels)

    def add(self, clip: Clip, pcm: NDArray[np.int16], key: str = "") -> None:
        """Append a clip.

        Args:
            clip: its row; `seconds` is replaced by the length of `pcm`.
            pcm: (time, channels) int16, at least one sample.
            key: of its source, 32 hex digits; only used with a request.

        Raises:
            InputError: the path is in the store already, a label that no model file can carry, or the disk is full.
        """
        if reason := unfit(clip.label, MAX_LABEL):
            raise InputError(f"{printable(clip.path)}: its label {reason}; rename it")
        if clip.path in self._paths:
            raise InputError(f"{clip.path} is listed twice; remove one of its rows")
        if pcm.ndim != 2 or pcm.shape[0] == 0 or pcm.shape[1] != self._channels:
            raise ValueError(f"pcm of {clip.path} has shape {pcm.shape}, wanted (time, {self._channels})")
        raw = np.ascontiguousarray(pcm, dtype=PCM_TYPE).tobytes()
        try:
            if self.left:
                self._discard_left()
            self._audio.write(raw)
            if self._request:
                self._audio.flush()
                self._journal.add(JournalEntry(key, len(pcm), digest(raw)))
            if self._bytes - self._synced > SYNC_BYTES:
                self._sync()
        except OSError as error:
            raise _unwritable(self.path, error, self.hint) from None
        self._append(clip, raw)

    def finish(
        self, source_rates: Mapping[str, Mapping[int, int]] | None = None, cancelled: Sequence[str] = ()
    ) -> ClipStore:
        """Write the table, read the audio back and compare its hash, rename the store to its path and open it.

        Args:
            source_rates, cancelled: as in `StoreInfo`.

        Raises:
            InputError: no clip was added, the path cannot be written, or the disk does not hold what was written.
        """
        if not self._clips:
            raise InputError(f"{self.path}: no clip is left to store")
        table = encode_table(self._clips)
        hashes = {"table_sha256": hashlib.sha256(table).hexdigest(), "audio_sha256": self._digest.hexdigest()}
        facts = {"source_rates": source_rates or {}, "cancelled": cancelled}
        info = msgspec.convert({**self._info, **hashes, **facts}, StoreInfo)
        new = self._folder / NEW
        try:
            if self.left:
                self._discard_left()
            self._sync()
            drop_pages(self._audio.fileno())  # so that the audio is read back from the disk
            (new / TABLE_FILE).write_bytes(table)
            (new / INFO_FILE).write_bytes(json_bytes(info))
            self._verify_written()
            self._rename()
        except OSError as error:
            raise _unwritable(self.path, error, self.hint) from None
        return ClipStore.open(self.path)

    def _append(self, clip: Clip, raw: bytes) -> None:
        """Add a clip to the table, whose audio is in the file."""
        samples = len(raw) // (self._channels * PCM_TYPE.itemsize)
        self._digest.update(raw)
        self._bytes += len(raw)
        self._paths.add(clip.path)
        self._clips.append(
            Clip(clip.path, clip.label, clip.split, clip.group, clip.recorder, clip.parent, samples / self._sample_rate)
        )

    def _discard_left(self) -> None:
        """Remove the clips of an earlier writer that were not reused."""
        self._journal.truncate(len(self._clips))
        self._audio.seek(self._bytes)
        self._audio.truncate()

    def _keeps_clips(self) -> bool:
        """Whether a later writer can reuse clips."""
        journal = self._folder / JOURNAL_FILE
        return (
            bool(self._request) and (self._folder / NEW).exists() and journal.is_file() and journal.stat().st_size > 0
        )

    def _remove_unless_kept(self) -> None:
        if not self._keeps_clips():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _sync(self) -> None:
        """Wait until the audio is on the disk."""
        self._audio.flush()
        os.fsync(self._audio.fileno())
        self._synced = self._bytes

    def _verify_written(self) -> None:
        try:
            ClipStore.open(self._folder / NEW).verify()
        except InputError:
            raise InputError(
                f"{self.path}: the disk does not hold what was written to it; check the disk, then run the same"
                " command again or choose another --out"
            ) from None

    def _rename(self) -> None:
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
    """Check that a store can be written at a path: nothing is there, an empty folder or, with `force`, a store.

    Raises:
        InputError: names what is there.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    inside = {child.name for child in path.iterdir()}
    if not inside:
        return
    foreign = sorted(inside - STORE_FILES)
    if INFO_FILE not in inside or not _is_store(path):
        raise InputError(
            f"{path} exists and is not an edgekd store; choose another --out (--force replaces stores only)"
        )
    if foreign:
        raise InputError(
            f"{path} holds files that are not part of a store ({listing(foreign)}); move them away or choose another"
            " --out"
        )
    if not force:
        raise InputError(f"{path} exists; replace it with --force or choose another --out")


def _sibling(path: Path, kind: str) -> Path:
    """A new hidden folder of a kind next to a store."""
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.{kind}-", dir=path.parent))


def _siblings(path: Path, kind: str) -> list[Path]:
    """The hidden folders of a kind next to a store that hold only files of a writer."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{kind}-\w{{8}}")  # the suffix of mkdtemp
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
    except OSError:  # another process removed it
        return False


def _clean_up(path: Path, request: str) -> Path | None:
    """Remove what killed writers of a store left, and put back a store that one of them was about to replace.

    Returns:
        the folder with the clips left for `request`, None where there is none.

    Raises:
        InputError: a running process writes the same store.
    """
    partial = _siblings(path, PARTIAL)
    if any(in_use(each, unknown=False) for each in partial):
        raise _busy(path)
    if any(in_use(each, unknown=True) for each in partial):
        return None
    kept = None
    with suppress(OSError):  # what cannot be removed matters only where it blocks the new store, which raises then
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
    """Whether a folder is a store, perhaps a damaged one: its store.json names the format."""
    try:
        return FORMAT.encode() in (path / INFO_FILE).read_bytes()
    except OSError:
        return False


def _busy(path: Path) -> InputError:
    return InputError(f"{path} is being written by another process; wait for it or choose another --out")


def _unwritable(path: Path, error: OSError, hint: str = "") -> InputError:
    return InputError(f"{path} cannot be written ({error.strerror}); free space or choose another --out{hint}")
