"""What adapters of published data sets share: a folder at the wrong level, tables without a column, files that are
missing or too many."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgekd.data.audio.decode import AUDIO_SUFFIXES
from edgekd.data.sets.source import Source
from edgekd.data.store.store import listing
from edgekd.errors import InputError
from edgekd.text import counted

Holds = Callable[[Path], bool]
"""Whether a folder is the one that is meant."""


def check_level(path: Path, holds: Holds, wanted: str, lacks: str) -> None:
    """Refuse a folder that is not the one meant, and name the one that is, two levels up or down.

    Args:
        path: the folder given.
        holds: told of a candidate.
        wanted: e.g. "the ESC-50 folder that holds audio/ and meta/".
        lacks: e.g. "meta/esc50.csv".

    Raises:
        InputError: as said.
    """
    if holds(path):
        return
    if not path.is_dir():
        raise InputError(f"{path} has no {lacks}: it is not a folder; give {wanted}")
    for candidate in (path.parent, path.parent.parent, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))):
        if holds(candidate):
            raise InputError(f"{path} has no {lacks}; did you mean {candidate}?")
    raise InputError(f"{path} has no {lacks}; give {wanted}")


def check_columns(table: Path, columns: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        InputError: as said.
    """
    for name in wanted:
        if name not in columns:
            raise InputError(
                f"{table} has no column '{name}' (it has {', '.join(columns)}); unpack or download it again"
            )


def audio_names(folder: Path) -> list[str]:
    """Names of the audio files right in a folder, sorted, listed once and not looked at one by one; none where there is
    no such folder."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    return [name for name in names if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")]


def present(
    sources: Sequence[Source],
    there: set[str],
    whose: str,
    skip_bad: bool,
    name_of: Callable[[Source], str] = lambda source: source.clip.path,
) -> tuple[list[Source], list[str]]:
    """Sort out what a table lists and what is there.

    Args:
        sources: all that the table lists, in order.
        there: names of the audio files that were found.
        whose: the table, for messages.
        skip_bad: leave out what is missing instead of refusing.
        name_of: the name of a source's file.

    Returns:
        the sources whose file is there, and notes on missing and extra files.

    Raises:
        InputError: files are missing; or all are, whatever `skip_bad` says.
    """
    names = [name_of(source) for source in sources]
    kept = [source for source, name in zip(sources, names, strict=True) if name in there]
    notes = []
    if len(kept) < len(sources):
        absent = [source for source, name in zip(sources, names, strict=True) if name not in there]
        listed, missing = (Counter(source.clip.split for source in some) for some in (sources, absent))
        shares = ", ".join(f"{count} of {listed[split]} of '{split}'" for split, count in sorted(missing.items()))
        if not kept:
            raise InputError(
                f"{absent[0].file.parent} holds none of the {len(sources)} clips that {whose} lists; unpack "
                "the audio there"
            )
        if not skip_bad:
            raise InputError(
                f"{len(absent)} of {counted(len(sources), 'clip')} that {whose} lists cannot be found: {shares} "
                f"(first: {absent[0].file}); download and unpack the rest, or leave them out with --skip-bad"
            )
        notes.append(f"{len(absent)} of {counted(len(sources), 'clip')} missing and left out: {shares}")
    extra = sorted(there.difference(names))
    if extra:
        notes.append(f"{counted(len(extra), 'audio file')} that {whose} does not list, ignored: {listing(extra)}")
    return kept, notes
