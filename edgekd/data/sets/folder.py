"""The user's own audio: a tree `LABEL/*.wav`, a tree `SPLIT/LABEL/*.wav`, or a CSV of
`filename,label[,split,group,recorder,parent]`.

All levels below a label's folder are read; the clips of one inner folder (LABEL/PLACE/x.wav) are one group. A tree is
SPLIT/LABEL where every top folder has the name of a split (`SPLIT_NAMES`, or "fold" and a number). Without splits,
groups are assigned to `test` and `train` by a hash of their name (`split_by_group`).
"""

import re
from pathlib import Path, PurePosixPath

from edgekd.data.audio.decode import AUDIO_SUFFIXES, is_audio
from edgekd.data.audio.tree import AudioTree, convert_hint, suffix_counts, walk
from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.names import alike, as_utf8
from edgekd.data.sets.split import TEST_FRACTION, check_test_fraction, split_by_group
from edgekd.data.sets.tables import read_table
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError, nearest
from edgekd.text import counted, listing

NAME = "folder"
SPLIT_NAMES = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluate", "evaluation"}
)
FOLD = re.compile(r"(fold|split)[ _-]?\d+")
NEEDED_COLUMNS, OPTIONAL_COLUMNS = ("filename", "label"), ("split", "group", "recorder", "parent")
WANTED_COLUMNS = f"{','.join(NEEDED_COLUMNS)}[,{','.join(OPTIONAL_COLUMNS)}]"


def read(
    path: Path,
    table: Path | None = None,
    test_fraction: float = TEST_FRACTION,
    licence: str = DATA_SETS[NAME].licence,
    skip_bad: bool = False,
) -> DataSet:
    """Find the clips of a folder, or of a CSV.

    Args:
        path: the folder that holds the label folders, or that file names in the CSV are relative to; or the CSV.
        table: a CSV; None reads the tree.
        test_fraction: share of the clips of each label that goes to `test` where the data has no splits, between 0 and
            1.
        licence: of the audio; stored only.
        skip_bad: leave out links that lead nowhere and folders that cannot be read instead of refusing.

    Raises:
        InputError: no clips, a label of which nothing can be read, a folder a level too high or too deep, a CSV without
            the needed columns or cells or whose files have other names, split names that differ in case only.
    """
    check_test_fraction(test_fraction)
    if table is None and path.is_file() and not is_audio(path):
        path, table = path.parent, path
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the folder that holds one folder per label, or a CSV")
    sources, notes = _from_table(path, table) if table else _from_tree(path, skip_bad)
    labels = {source.clip.label for source in sources}
    if len(labels) == 1:
        raise InputError(
            f"{table or path}: every clip has the label '{labels.pop()}', and a classifier needs two labels or more"
        )
    for names in alike(source.clip.split for source in sources):
        raise InputError(
            f"{table or path}: split names that differ in case only ({', '.join(names)}); give them one name"
        )
    if not any(source.clip.split for source in sources):
        sources, note = split_by_group(sources, test_fraction)
        notes.append(note)
    return DataSet(path.resolve().name, licence, sources, notes=notes)


def _from_tree(path: Path, skip_bad: bool) -> tuple[list[ClipSource], list[str]]:
    """Clips of a tree; splits are empty unless the top folders are splits."""
    tree = walk(path)
    if tree.broken and not skip_bad:
        file, reason = tree.broken[0]
        more = f" ({len(tree.broken) - 1} more like it)" if len(tree.broken) > 1 else ""
        raise InputError(f"{file}: {reason}, or leave it out with --skip-bad{more}")
    notes = [f"{file}: {reason}" for file, reason in (*tree.broken, *tree.skipped)]
    files, parts = tree.files, [_parts(file, path) for file in tree.files]
    tops = sorted({part[0] for part in (*parts, *(_parts(file, path) for file in tree.not_read)) if len(part) > 1})
    level = 1 if tops and all(_names_split(top) for top in tops) else 0
    notes += _left_out(path, tree, level)
    if not files:
        raise InputError(
            f"{path} holds no audio ({', '.join(AUDIO_SUFFIXES)}); give the folder that holds one folder per label"
        )
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        hint = (
            f"did you mean {path.resolve().parent}?"
            if len(loose) == len(files)
            else "move them into the folder of their label"
        )
        raise InputError(
            f"{path}: {counted(len(loose), 'audio file lies', 'audio files lie')} outside any label folder "
            f"({listing(loose)}); {hint}"
        )
    if level:
        misplaced = ["/".join(part) for part in parts if len(part) == 2]
        if misplaced:
            raise InputError(
                f"{path}: its folders are splits ({', '.join(tops)}), but audio lies outside any label folder "
                f"({listing(misplaced)}); wanted SPLIT/LABEL/FILE"
            )
        notes.append(f"folders read as SPLIT/LABEL: {', '.join(tops)}")
    elif len(tops) == 1:
        below = {part[1] for part in parts if len(part) > 2}
        hint = f"; did you mean {path / tops[0]}?" if len(below) > 1 else ""
        raise InputError(
            f"{path} holds one folder of audio only ('{tops[0]}'), and a classifier needs two labels or more{hint}"
        )
    return [_tree_source(file, part, level) for file, part in zip(files, parts, strict=True)], notes


def _left_out(path: Path, tree: AudioTree, level: int) -> list[str]:
    """Notes on folders without audio, and on files of formats that are not read, counted by label and suffix.

    Args:
        level: see `_tree_source`.

    Raises:
        InputError: a label has only files that are not read.
    """
    heads = {_parts(file, path)[:depth] for file in tree.files for depth in range(1, level + 2)}
    not_read: dict[tuple[str, ...], list[Path]] = {}
    for file in tree.not_read:
        not_read.setdefault(_parts(file, path)[:-1][: level + 1], []).append(file)
    counts = {
        head: f"{'/'.join(head) or 'outside any label'} ({suffix_counts(files)})"
        for head, files in sorted(not_read.items())
    }
    nothing = [text for head, text in counts.items() if head not in heads and (head or not tree.files)]
    if nothing:
        raise InputError(
            f"{path}: no audio that can be read is left in {listing(nothing)}; {convert_hint(tree.not_read)}"
        )
    folders = (_parts(folder, path) for folder in tree.folders)
    empty = ["/".join(head) for head in folders if 0 < len(head) <= level + 1 and head not in heads]
    return [
        *([f"folders without audio are no labels: {listing(empty)}"] if empty else []),
        *([f"not read: {', '.join(counts.values())}; {convert_hint(tree.not_read)}"] if counts else []),
    ]


def _parts(file: Path, path: Path) -> tuple[str, ...]:
    return file.relative_to(path).parts


def _tree_source(file: Path, parts: tuple[str, ...], level: int) -> ClipSource:
    """The clip of a file whose label is its folder number `level`; the folder before that, if any, is the split."""
    parts = tuple(as_utf8(part) for part in parts)
    group = "/".join(parts[level:-1]) if len(parts) > level + 2 else ""
    return ClipSource(file, Clip("/".join(parts), parts[level], parts[0] if level else "", group=group))


def _names_split(name: str) -> bool:
    return name.lower() in SPLIT_NAMES or FOLD.fullmatch(name.lower()) is not None


def _from_table(path: Path, table: Path) -> tuple[list[ClipSource], list[str]]:
    """Clips of a CSV, in its order."""
    columns, rows = read_table(table)
    for name in NEEDED_COLUMNS:
        if name not in columns:
            raise InputError(f"{table} has no column '{name}'{nearest(name, columns)}; wanted {WANTED_COLUMNS}")
    unread = [name for name in columns if name and name not in NEEDED_COLUMNS + OPTIONAL_COLUMNS]
    notes = [f"{table.name}: columns not read: {listing(unread)}"] if unread else []
    sources = []
    filled = (*NEEDED_COLUMNS, "split") if any(row.get("split") for row in rows) else NEEDED_COLUMNS
    for number, row in enumerate(rows, start=2):
        for name in filled:
            if not row[name]:
                raise InputError(f"{table}, row {number}: no {name}; fill it in or remove the row")
        optional = {name: row.get(name, "") for name in OPTIONAL_COLUMNS}
        file = PurePosixPath(row["filename"])  # ./x.wav and x.wav are one clip
        if ("\\" in row["filename"] or not file.suffix) and not (path / file).exists():
            _suggest_name(path, table, number, row["filename"])
        clip = Clip(
            str(file), row["label"], optional["split"], optional["group"], optional["recorder"], optional["parent"]
        )
        sources.append(ClipSource(path / file, clip))
    return sources, notes


def _suggest_name(path: Path, table: Path, number: int, name: str) -> None:
    """Refuse the name of a file that is not there if the file is there under a name with / for \\ or with a suffix.

    Raises:
        InputError: it is.
    """
    slashes = name.replace("\\", "/")
    for suffix in ("", *AUDIO_SUFFIXES, *(suffix.upper() for suffix in AUDIO_SUFFIXES)):
        if (path / (slashes + suffix)).is_file():
            what = " and ".join([*(["/ for \\"] if "\\" in name else []), *(["the suffix"] if suffix else [])])
            raise InputError(
                f"{table}, row {number}: {path} has no file '{name}'; did you mean '{slashes + suffix}'? Write {what} "
                "in every row"
            )
    if "\\" in name:
        raise InputError(
            f"{table}, row {number}: {path} has no file '{name}'; write names relative to that folder, with / for \\"
        )
