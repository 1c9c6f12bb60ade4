"""`edgekd data prepare` and `edgekd data synth`: make a store from audio files, or from synthetic scenes."""

import signal
import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.decode import Decoded, decode_all, decode_one, decoders, source_key
from edgekd.data.audio.read import loud_note
from edgekd.data.audio.source_facts import SourceFacts
from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets import deepship, esc50, folder, tau19, tau20, tau22, tau22_evaluation, tut18, urbansound8k, vtuad
from edgekd.data.sets import synth as scenes
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.names import as_utf8
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter, check_free
from edgekd.errors import InputError, nearest
from edgekd.rates import require_rate
from edgekd.text import counted, listing

CHANNELS = range(1, 33)
MIN_SYNTH_CLIPS = len(scenes.SCENES) * scenes.TEST_EVERY
"""The least number of clips with which each label is in train and in test."""
SYNTHETIC_NOTE = (
    "these are synthetic scenes for smoke tests, not recordings: scores on them say nothing about real audio"
)
SYNTH_SECONDS = (1.0, 600.0)
ADAPTERS: dict[str, Callable[..., DataSet]] = {
    "esc50": esc50.read,
    "tau22": tau22.read,
    "tau22-evaluation": tau22_evaluation.read,
    "tau20": tau20.read,
    "tau19": tau19.read,
    "tut18": tut18.read,
    "urbansound8k": urbansound8k.read,
    "deepship": deepship.read,
    "vtuad": vtuad.read,
    "folder": folder.read,
}
"""Name of a data set -> the function that finds its clips; `DataSetInfo.options` are its arguments without the
folder."""
SKIP_BAD = "skip_bad"
FLAGS = {"table": "csv", "test_fraction": "test-fraction"}
"""Argument of an adapter -> its option on the command line, where that has another name."""

Log = Callable[[str], None]
"""Shows one line to the user."""


@dataclass(frozen=True)
class PreparedStore:
    """A finished store, with notes for the user.

    Attributes:
        store: opened.
        notes: facts and warnings, one line each.
        bad: (file, reason) of each clip that is not in the store.
    """

    store: ClipStore
    notes: list[str]
    bad: list[tuple[str, str]] = field(default_factory=list)


def prepare(
    dataset: str,
    path: Path,
    out: Path,
    *,
    sample_rate: int = 16000,
    channels: int = 1,
    table: Path | None = None,
    test_fraction: float | None = None,
    licence: str | None = None,
    subset: int | None = None,
    fold: int | None = None,
    segment: float | None = None,
    skip_bad: bool = False,
    force: bool = False,
    log: Log,
) -> PreparedStore:
    """Decode a data set into a store.

    Args:
        dataset: one of `ADAPTERS`.
        path: folder of the data set.
        out: the store to write.
        sample_rate: Hz of the store.
        channels: channels of the store.
        table, test_fraction, licence, subset, fold, segment: as in the adapter; only for data sets that take them.
        skip_bad: leave out clips that cannot be used instead of refusing.
        force: replace a store at `out`.
        log: receives a line for each clip that cannot be used.

    Raises:
        InputError: bad usage, a data set that is not there, or clips that cannot be used.

    When it is stopped, also by SIGKILL, an error or a full disk, it leaves no store, but keeps the decoded clips in a
    hidden folder next to `out`. Called again with the same `out`, rate and channels, it checks and reuses them; the
    store is the same as that of a single run. A file that is new or has changed is decoded, and so are all after it.
    """
    require_rate(sample_rate, "--sample-rate")
    if channels not in CHANNELS:
        raise InputError(f"--channels {channels}: wanted {CHANNELS.start} to {CHANNELS.stop - 1}")
    check_free(out.resolve(), force)
    found = _read_data_set(
        dataset,
        path,
        skip_bad,
        {
            "table": table,
            "test_fraction": test_fraction,
            "licence": licence,
            "subset": subset,
            "fold": fold,
            "segment": segment,
        },
    )
    request = f"{sample_rate} Hz, {channels} channels, {decoders()}"
    with (
        _interruptible(),
        StoreWriter(
            out,
            name=found.name,
            licence=found.licence,
            official_folds=found.official_folds,
            sample_rate=sample_rate,
            channels=channels,
            force=force,
            request=request,
        ) as writer,
    ):
        try:
            return _fill(writer, found, sample_rate=sample_rate, channels=channels, skip_bad=skip_bad, log=log)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out}: interrupted{writer.hint}") from None


def synth(
    out: Path, *, clips: int = 600, seconds: float = 3.0, seed: int = 0, sample_rate: int = 16000, force: bool = False
) -> PreparedStore:
    """Make a store of synthetic scenes.

    Args:
        out: the store to write.
        clips, seconds, seed, sample_rate: as in `scenes.clips`.
        force: replace a store at `out`.

    Raises:
        InputError: bad usage, or `out` cannot be written.
    """
    require_rate(sample_rate, "--sample-rate")
    if clips < MIN_SYNTH_CLIPS:
        raise InputError(
            f"--clips {clips}: wanted {MIN_SYNTH_CLIPS} or more, so that each label is in train and in test"
        )
    if not SYNTH_SECONDS[0] <= seconds <= SYNTH_SECONDS[1]:
        raise InputError(f"--seconds {seconds}: wanted {SYNTH_SECONDS[0]:g} to {SYNTH_SECONDS[1]:g}")
    if seed < 0:
        raise InputError(f"--seed {seed}: wanted 0 or more")
    with (
        _interruptible(),
        StoreWriter(
            out,
            name=scenes.NAME,
            licence=scenes.LICENCE,
            synthetic=True,
            sample_rate=sample_rate,
            channels=1,
            force=force,
        ) as writer,
        progress("synthesising", clips) as step,
    ):
        for clip, pcm in scenes.clips(clips, seconds, seed, sample_rate):
            writer.add(clip, pcm)
            step()
        return PreparedStore(writer.finish(), [SYNTHETIC_NOTE])


def _read_data_set(dataset: str, path: Path, skip_bad: bool, options: Mapping[str, Any]) -> DataSet:
    """The clips of a data set. options: arguments of its adapter, None where not given."""
    if dataset not in ADAPTERS:
        raise InputError(f"no data set '{dataset}'{nearest(dataset, ADAPTERS)}")
    given = {name: value for name, value in options.items() if value is not None}
    takes = DATA_SETS[dataset].options
    for name in given:
        if name not in takes:
            owners = ", ".join(owner for owner, known in DATA_SETS.items() if name in known.options)
            raise InputError(f"--{FLAGS.get(name, name)} belongs to 'data prepare {owners}'; leave it out")
    return ADAPTERS[dataset](path, **given, **({SKIP_BAD: skip_bad} if SKIP_BAD in takes else {}))


def _fill(
    writer: StoreWriter, found: DataSet, *, sample_rate: int, channels: int, skip_bad: bool, log: Log
) -> PreparedStore:
    bad: list[tuple[str, str]] = []
    peaks: dict[str, float] = {}
    repeated = _RepeatedAudio()
    facts = SourceFacts()
    added: set[str] = set()
    if writer.left:
        log(f"resuming with {counted(writer.left, 'clip')} that an earlier run left")
    with _noted_if_stopped(peaks, log), progress("decoding", len(found.sources)) as step:
        for decoded in _write_clips(writer, found.sources, added, sample_rate, channels):
            step()
            clip, pcm = decoded.source.clip, decoded.pcm
            if decoded.peak is not None:
                peaks[clip.path] = decoded.peak
            if isinstance(pcm, InputError):
                bad.append((clip.path, str(pcm)))
                log(f"bad clip: {pcm}")
            else:
                added.add(clip.path)
                repeated.add(clip, pcm, writer.last_digest)
                facts.add(decoded.source, pcm)
        if bad and not skip_bad:
            raise InputError(
                f"{len(bad)} of {counted(len(found.sources), 'clip')} cannot be used (named above); no store was made; "
                f"repair them or leave them out with --skip-bad{writer.hint}"
            )
    store = writer.finish(facts.rates, list(map(as_utf8, facts.cancelled)))
    notes = [*found.notes, *([loud_note(peaks)] if peaks else []), *repeated.notes()]
    if bad:
        notes.append(
            f"{len(bad)} of {counted(len(found.sources), 'clip')} left out: {listing([name for name, _ in bad])}"
        )
    return PreparedStore(store, notes, bad)


@contextmanager
def _noted_if_stopped(peaks: Mapping[str, float], log: Log) -> Iterator[None]:
    """Log the note on loud clips when the work ends early: the run that resumes it does not decode them again."""
    try:
        yield
    except BaseException:
        if peaks:
            log(f"note: {loud_note(peaks)}")
        raise


def _write_clips(
    writer: StoreWriter, sources: Sequence[ClipSource], added: Container[str], sample_rate: int, channels: int
) -> Iterator[Decoded]:
    """Add each source to the store: first from the clips that an earlier run left, while they are unchanged, then by
    decoding.

    Args:
        added: paths of the clips added so far; the caller adds that of each clip yielded.

    Yields:
        each clip: with the PCM that was added, or the reason why it was not.
    """
    done = 0
    while writer.left and done < len(sources):
        source = sources[done]
        done += 1
        key = source_key(source)
        pcm = writer.reuse(source.clip, key) if source.clip.path not in added else None
        if pcm is None:
            yield _write_decoded(writer, decode_one(source, sample_rate, channels), added)
        else:
            yield Decoded(source, key, pcm)
    for decoded in decode_all(sources[done:], sample_rate, channels):
        yield _write_decoded(writer, decoded, added)


def _write_decoded(writer: StoreWriter, decoded: Decoded, added: Container[str]) -> Decoded:
    clip, pcm = decoded.source.clip, decoded.pcm
    if isinstance(pcm, InputError):
        return decoded
    if clip.path in added:
        return Decoded(decoded.source, decoded.key, InputError(f"{clip.path}: is listed more than once"))
    writer.add(clip, pcm, decoded.key)
    return decoded


class _RepeatedAudio:
    """Finds clips of equal audio that have different labels or splits; digital silence is ignored."""

    def __init__(self) -> None:
        self._first: dict[bytes, Clip] = {}
        self._pairs: list[tuple[Clip, Clip]] = []

    def add(self, clip: Clip, pcm: NDArray[np.int16], digest: bytes) -> None:
        if not pcm.any():
            return
        first = self._first.setdefault(digest, clip)
        if (first.label, first.split) != (clip.label, clip.split):
            self._pairs.append((first, clip))

    def notes(self) -> list[str]:
        pairs = [f"{a.path} ({a.label}, {a.split}) = {b.path} ({b.label}, {b.split})" for a, b in self._pairs]
        repeat = counted(len(pairs), "clip repeats", "clips repeat")
        return [f"{repeat} the audio of a clip with another label or split: {listing(pairs)}"] if pairs else []


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where that is a terminal; yields the function to call after each step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt, as Ctrl-C does, also for SIGTERM and SIGHUP, so that files are cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
