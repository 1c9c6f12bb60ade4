"""Writes a clip store: into a hidden sibling folder first, renamed at the end, so that nobody ever sees half a store.

The sibling is locked while its process lives. What a killed process left is cleared, or put back, by the next writer of the same store.
"""

import hashlib
import os
import re
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.lock import held, in_use
from edgekd.data.store import AUDIO_FILE, FORMAT, INFO_FILE, PCM_TYPE, TABLE_FILE, Clip, ClipStore, StoreInfo, encode_table, listing
from edgekd.errors import InputError

STORE_FILES = frozenset({AUDIO_FILE, TABLE_FILE, INFO_FILE})
PARTIAL, OLD = "partial", "old"
"""Kinds of hidden siblings: a store in the making, and one that is being replaced."""


class StoreWriter:
    """A store in the making, a context manager: leaving it without `finish` removes all that was written.

    Args:
        path: where the store shall be; its parent is made.
        force: replace a store that is there. A folder that is anything else is never touched.
        name, licence, synthetic, official_folds, sample_rate, channels: as in `StoreInfo`.

    Raises:
        InputError: something is in the way, or the place cannot be written.
    """

    def __init__(self, path: Path, *, name: str, licence: str, sample_rate: int, channels: int, synthetic: bool = False,
                 official_folds: bool = False, force: bool = False) -> None:
        self.path = path.resolve()
        _clear_leftovers(self.path)
        check_free(self.path, force)
        self._force = force
        self._info = {"name": name, "licence": licence, "synthetic": synthetic, "official_folds": official_folds,
                      "sample_rate": sample_rate, "channels": channels}
        self._sample_rate, self._channels = sample_rate, channels
        self._clips: list[Clip] = []
        self._paths: set[str] = set()
        self._digest = hashlib.sha256()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = _sibling(self.path, PARTIAL)
            self._lock = ExitStack()
            self._lock.enter_context(held(self._folder))
            self._audio: BinaryIO = (self._folder / AUDIO_FILE).open("wb")
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._audio.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def add(self, clip: Clip, pcm: NDArray[np.int16]) -> None:
        """Append a clip.

        Args:
            clip: its row; `seconds` is replaced by the length of `pcm`.
            pcm: (time, channels) int16, at least one sample.

        Raises:
            InputError: the path is in the store already, or the disk is full.
        """
        if clip.path in self._paths:
            raise InputError(f"{clip.path} is listed twice; remove one of its rows")
        if pcm.ndim != 2 or pcm.shape[0] == 0 or pcm.shape[1] != self._channels:
            raise ValueError(f"pcm of {clip.path} has shape {pcm.shape}, wanted (time, {self._channels})")
        raw = np.ascontiguousarray(pcm, dtype=PCM_TYPE).tobytes()
        try:
            self._audio.write(raw)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self._digest.update(raw)
        self._paths.add(clip.path)
        self._clips.append(Clip(clip.path, clip.label, clip.split, clip.group, clip.recorder, clip.parent, len(pcm) / self._sample_rate))

    def finish(self) -> ClipStore:
        """Write the table, move the store to its place and open it.

        Raises:
            InputError: no clip was added, or the place cannot be written.
        """
        if not self._clips:
            raise InputError(f"{self.path}: no clip is left to store")
        table = encode_table(self._clips)
        info = msgspec.convert({**self._info, "table_sha256": hashlib.sha256(table).hexdigest(),
                                "audio_sha256": self._digest.hexdigest()}, StoreInfo)
        try:
            self._audio.flush()
            os.fsync(self._audio.fileno())
            self._audio.close()
            (self._folder / TABLE_FILE).write_bytes(table)
            (self._folder / INFO_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")
            self._folder.chmod(0o777 & ~_umask())
            self._move()
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return ClipStore.open(self.path)

    def _move(self) -> None:
        check_free(self.path, self._force)
        if not self.path.exists() or not any(self.path.iterdir()):
            self._folder.replace(self.path)
            return
        old = _sibling(self.path, OLD)
        self.path.replace(old)
        try:
            self._folder.replace(self.path)
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
        raise InputError(f"{path} exists and is not an edgekd store; choose another --out (--force replaces stores only)")
    if strange:
        raise InputError(f"{path} holds files that are not part of a store ({listing(strange)}); move them away or choose another --out")
    if not force:
        raise InputError(f"{path} exists; replace it with --force or choose another --out")


def _sibling(path: Path, kind: str) -> Path:
    """A new hidden folder beside a store."""
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.{kind}-", dir=path.parent))


def _siblings(path: Path, kind: str) -> list[Path]:
    """The hidden folders of a kind that lie beside a store and hold nothing but files of a store."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{kind}-\w{{8}}")  # as mkdtemp ends it
    if not path.parent.is_dir():
        return []
    return [each for each in path.parent.iterdir()
            if name.fullmatch(each.name) and each.is_dir() and {child.name for child in each.iterdir()} <= STORE_FILES]


def _clear_leftovers(path: Path) -> None:
    """Remove what killed writers of a store left half made, and put back a store that one was about to replace."""
    partial = _siblings(path, PARTIAL)
    if any(in_use(each, unknown=True) for each in partial):
        return
    old = _siblings(path, OLD)
    with suppress(OSError):  # clearing is a courtesy; whatever is really in the way is told later
        for each in old:
            if not path.exists() and _is_store(each):
                each.replace(path)
        for each in (*partial, *(each for each in old if each.exists() and (_is_store(path) or not any(each.iterdir())))):
            shutil.rmtree(each)


def _is_store(path: Path) -> bool:
    """A store, perhaps damaged: its store.json names the format."""
    try:
        return FORMAT.encode() in (path / INFO_FILE).read_bytes()
    except OSError:
        return False


def _umask() -> int:
    """The process's file mode mask (mkdtemp ignores it; a store follows it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be written ({error.strerror}); free space or choose another --out")
