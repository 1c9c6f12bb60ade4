"""Checks that the published data sets share: the right folder, the columns of a table, missing and extra files."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgekd.data.audio.decode import AUDIO_SUFFIXES
from edgekd.data.dataset import ClipSource
from edgekd.errors import InputError
from edgekd.text import counted, listing


def check_folder(path: Path, is_right: Callable[[Path], bool], wanted: str, lacks: str) -> None:
    """Refuse a folder that is not the one wanted. The error names the right one, up to two levels up or down.

    Args:
        path: the folder given.
        is_right: whether a folder is the one wanted.
        wanted: for instance "the ESC-50 folder that holds audio/ and meta/".
        lacks: for instance "meta/esc50.csv".

    Raises:
        InputError: it is not.
    """
    if is_right(path):
        return
    if not path.is_dir():
        raise InputError(f"{path} has no {lacks}: it is not a folder; give {wanted}")
    for candidate in (path.parent, path.parent.parent, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))):
        if is_right(candidate):
            raise InputError(f"{path} has no {lacks}; did you mean {candidate}?")
    raise InputError(f"{path} has no {lacks}; give {wanted}")


def check_columns(table: Path, columns: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        InputError: one is missing.
    """
    for name in wanted:
        if name not in columns:
            raise InputError(
                f"{table} has no column '{name}' (it has {', '.join(columns)}); unpack or download it again"
            )


def audio_names(folder: Path) -> list[str]:
    """Names of the audio files in a folder, without those of inner folders, sorted; empty where there is no folder.

    Files are judged by their names alone, which is fast for hundreds of thousands.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    return [name for name in names if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")]


def present_sources(
    sources: Sequence[ClipSource],
    found: set[str],
    table: str,
    skip_bad: bool,
    name_of: Callable[[ClipSource], str] = lambda source: source.clip.path,
) -> tuple[list[ClipSource], list[str]]:
    """The sources whose files were found, and notes on missing and extra files.

    Args:
        sources: all that the table lists, in order.
        found: names of the audio files that are there.
        table: name of the table, for messages.
        skip_bad: leave out missing files instead of refusing.
        name_of: the name of a source's file.

    Raises:
        InputError: files are missing; or, whatever `skip_bad`, all of them are.
    """
    names = [name_of(source) for source in sources]
    kept = [source for source, name in zip(sources, names, strict=True) if name in found]
    notes = []
    if len(kept) < len(sources):
        absent = [source for source, name in zip(sources, names, strict=True) if name not in found]
        listed, missing = (Counter(source.clip.split for source in some) for some in (sources, absent))
        shares = ", ".join(f"{count} of {listed[split]} of '{split}'" for split, count in sorted(missing.items()))
        if not kept:
            raise InputError(
                f"{absent[0].file.parent} holds none of the {len(sources)} clips that {table} lists; unpack "
                "the audio there"
            )
        if not skip_bad:
            raise InputError(
                f"{len(absent)} of {counted(len(sources), 'clip')} that {table} lists cannot be found: {shares} "
                f"(first: {absent[0].file}); download and unpack the rest, or leave them out with --skip-bad"
            )
        notes.append(f"{len(absent)} of {counted(len(sources), 'clip')} missing and left out: {shares}")
    extra = sorted(found.difference(names))
    if extra:
        notes.append(f"{counted(len(extra), 'audio file')} that {table} does not list, ignored: {listing(extra)}")
    return kept, notes
