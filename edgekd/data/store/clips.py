"""A clip, what it shares with others, and clips.csv, the table of a store's clips."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields

UNLABELLED = "unlabelled"
"""Label of every clip of a data set without published labels. Such clips can be predicted, not trained on or scored."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of the table. Only path, label and split are never empty in a store.

    Attributes:
        path: name of the file in its data set, unique in a store.
        label: the true class.
        split: for instance "fold1" or "train".
        group: what clips of one origin share, for instance a source recording or a location; it must not be in
            training and in test.
        recorder: the device that recorded the clip.
        parent: the longer recording that this clip is a part of; it must not be in training and in test either.
        seconds: length, exactly samples / sample rate.
    """

    path: str
    label: str
    split: str
    group: str = ""
    recorder: str = ""
    parent: str = ""
    seconds: float = 0.0


TABLE_COLUMNS = tuple(field.name for field in fields(Clip))


def shared_origins(clips: Iterable[Clip]) -> set[str]:
    """The groups and parents of clips, as "group NAME" and "parent NAME"."""
    return {
        f"{kind} {name}" for clip in clips for kind, name in (("group", clip.group), ("parent", clip.parent)) if name
    }


def encode_table(clips: Iterable[Clip]) -> bytes:
    """The content of clips.csv. File names that are not UTF-8 pass through unchanged."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    for clip in clips:
        writer.writerow([clip.path, clip.label, clip.split, clip.group, clip.recorder, clip.parent, repr(clip.seconds)])
    return text.getvalue().encode("utf-8", "surrogateescape")


def decode_table(table: bytes) -> list[Clip]:
    """The clips of a clips.csv that `encode_table` wrote."""
    rows = csv.reader(io.StringIO(table.decode("utf-8", "surrogateescape"), newline=""))
    next(rows)
    return [
        Clip(path, label, split, group, recorder, parent, float(seconds))
        for path, label, split, group, recorder, parent, seconds in rows
    ]
