"""What `edgekd data` does: prepare a store from audio files, synthesise one, tell what is inside."""

import hashlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from edgekd.data import esc50
from edgekd.data.decode import decode_all
from edgekd.data.source import DataSet, Source
from edgekd.data.store import Clip, ClipStore, listing
from edgekd.data.writer import StoreWriter, check_free
from edgekd.errors import InputError, nearest

SAMPLE_RATES = range(1000, 384001)
CHANNELS = range(1, 33)

Say = Callable[[str], None]
"""Takes one line for the user."""


@dataclass(frozen=True)
class Prepared:
    """A finished store and what was met on the way.

    Attributes:
        store: opened.
        notes: facts and warnings, one line each.
        bad: (file, reason) of each clip that is not in the store.
    """

    store: ClipStore
    notes: list[str]
    bad: list[tuple[str, str]] = field(default_factory=list)


def prepare(dataset: str, path: Path, out: Path, *, sample_rate: int = 16000, channels: int = 1, skip_bad: bool = False,
            force: bool = False, say: Say) -> Prepared:
    """Decode a data set into a store.

    Args:
        dataset: a name of `ADAPTERS`.
        path: where the data set lies.
        out: the store to make.
        sample_rate: Hz of the store.
        channels: channels of the store.
        skip_bad: leave out clips that cannot be used instead of refusing.
        force: replace a store that is at `out`.
        say: told of each bad clip as it is met.

    Raises:
        InputError: bad usage, a data set that is not there, or clips that cannot be used; no store is left then.
    """
    if sample_rate not in SAMPLE_RATES:
        raise InputError(f"--sample-rate {sample_rate}: wanted {SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz")
    if channels not in CHANNELS:
        raise InputError(f"--channels {channels}: wanted {CHANNELS.start} to {CHANNELS.stop - 1}")
    check_free(out.resolve(), force)
    found = esc50.read(path)
    with _interruptible(), StoreWriter(out, name=found.name, licence=found.licence, official_folds=found.official_folds,
                                       sample_rate=sample_rate, channels=channels, force=force) as writer:
        return _fill(writer, found, sample_rate, channels, skip_bad, say)


def _fill(writer: StoreWriter, found: DataSet, sample_rate: int, channels: int, skip_bad: bool, say: Say) -> Prepared:
    bad: list[tuple[str, str]] = []
    same = _SameAudio()
    seen: set[str] = set()
    with _progress(len(found.sources)) as step:
        for source, pcm in decode_all(found.sources, _file, sample_rate, channels):
            step()
            name = source.clip.path
            if isinstance(pcm, InputError):
                bad.append((name, str(pcm)))
            elif name in seen:
                bad.append((name, f"{name}: is listed more than once"))
            else:
                writer.add(source.clip, pcm)
                same.add(source.clip, pcm)
                seen.add(name)
                continue
            say(f"bad clip: {bad[-1][1]}")
    if bad and not skip_bad:
        raise InputError(f"{len(bad)} of {len(found.sources)} clips cannot be used (named above); nothing was written; "
                         "mend them or leave them out with --skip-bad")
    store = writer.finish()
    notes = [*found.notes, *same.notes()]
    if bad:
        notes.append(f"{len(bad)} of {len(found.sources)} clips were left out: {listing([name for name, _ in bad])}")
    return Prepared(store, notes, bad)


def _file(source: Source) -> Path:
    return source.file


class _SameAudio:
    """Finds clips of equal audio that have different labels or splits. Silence is equal to silence and not counted."""

    def __init__(self) -> None:
        self._first: dict[bytes, Clip] = {}
        self._pairs: list[tuple[Clip, Clip]] = []

    def add(self, clip: Clip, pcm: NDArray[np.int16]) -> None:
        if not pcm.any():
            return
        first = self._first.setdefault(hashlib.blake2b(pcm.tobytes(), digest_size=16).digest(), clip)
        if (first.label, first.split) != (clip.label, clip.split):
            self._pairs.append((first, clip))

    def notes(self) -> list[str]:
        pairs = [f"{a.path} ({a.label}, {a.split}) = {b.path} ({b.label}, {b.split})" for a, b in self._pairs]
        return [f"{len(pairs)} clips repeat the audio of a clip with another label or split: {listing(pairs)}"] if pairs else []


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where that is a terminal; yields what to call after each clip."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("decoding", total=total)
        yield lambda: progress.advance(task)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a polite kill or a lost terminal clean up as Ctrl-C does."""
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
