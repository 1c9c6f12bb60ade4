"""DeepShip (Irfan et al. 2021, doi 10.1016/j.eswa.2021.115270): 47 h of 265 ships of four kinds, wav files of seconds
to minutes.

There is one folder for each kind: Cargo, Passengership (or Passenger), Tanker (or Tank), Tug. The complete set has a
folder for each passage of a ship, KIND/DATE-NUMBER/TIME.wav; the part in the authors' public repository has
KIND/NUMBER.wav. KIND/*-metafile has one line for each passage, without header: number, AIS type, ship, date, time,
seconds, distances. The numbers restart several times, so they identify no passage. Date and time do, and date and
number where only one ship has them. The ship of a recording is therefore known in the complete set only. The format of
the metafiles was read from that repository; the layout of the complete set is known from its users.
"""

import re
from dataclasses import replace
from pathlib import Path

from edgekd.data.audio.decode import file_seconds
from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import audio_names, check_folder
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.split import TEST_FRACTION, check_test_fraction, split_by_group
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError
from edgekd.text import counted, listing

NAME = "deepship"
LABELS = {
    "cargo": "cargo",
    "passenger": "passengership",
    "passengership": "passengership",
    "tank": "tanker",
    "tanker": "tanker",
    "tug": "tug",
}
"""Folder in small letters -> label."""
METAFILES = "*-metafile*"
NUMBER_FIELD, SHIP_FIELD, DATE_FIELD, TIME_FIELD = 0, 2, 3, 4
PASSAGE = re.compile(r"(\d{8})[a-z]*-(\d+)")
"""Folder of a passage: date and number."""
SEGMENT_SECONDS = 5.0
"""As Ritu et al. (SSATKD); the authors of DeepShip and others cut 3 s."""
ROUNDING = 1e-6
"""By how much the quotient of two lengths may be below a whole number of segments."""

Ships = dict[tuple[str, str], str]
"""(date YYYYMMDD, time HHMMSS or number) -> ship; "" where two ships have that key."""


def read(
    path: Path, skip_bad: bool = False, segment: float = SEGMENT_SECONDS, test_fraction: float = TEST_FRACTION
) -> DataSet:
    """Find the recordings of DeepShip and cut them into segments. No split is published: groups are assigned to train
    and test (`split_by_group`).

    The group is the ship where it is known, else the recording; the parent is the recording.

    Args:
        path: the folder that holds one folder per kind of ship.
        skip_bad: leave out recordings that cannot be read instead of refusing.
        segment: seconds; a shorter remainder is dropped, a shorter recording is one clip.
        test_fraction: share of each label's clips for test.

    Raises:
        InputError: another folder, an empty one, or damaged recordings.
    """
    if not segment > 0:
        raise InputError(f"--segment {segment}: wanted more than 0 seconds")
    check_test_fraction(test_fraction)
    check_folder(
        path,
        lambda folder: len(_kinds(folder)) > 1,
        "the DeepShip folder that holds them",
        "folders of two kinds of ships (Cargo, Passengership, Tanker, Tug)",
    )
    sources: list[ClipSource] = []
    bad, recordings, known = [], 0, 0
    for folder in _kinds(path):
        ships = _ships(folder)
        for name in _recordings(folder):
            try:
                seconds = file_seconds(folder / name)
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}; download it again, or leave such out with --skip-bad") from None
                bad.append(f"{folder.name}/{name}")
                continue
            ship = _ship(ships, name)
            recordings, known = recordings + 1, known + bool(ship)
            sources += _segments(folder, name, seconds, segment, ship)
    if not sources:
        raise InputError(
            f"{path} holds no recordings below {', '.join(folder.name for folder in _kinds(path))}; unpack them there"
        )
    sources, note = split_by_group(sources, test_fraction)
    notes = [
        note,
        (
            f"{counted(recordings, 'recording')} in {counted(len(sources), 'segment')} of {segment:g} s; the ship of "
            f"{counted(known, 'recording')} is known"
        ),
    ]
    if known < recordings:
        notes.append(
            f"{counted(recordings - known, 'recording')} of a ship that is not known, each a group of its own: a ship"
            " may be in train and in test"
        )
    absent = sorted(set(LABELS.values()) - {source.clip.label for source in sources})
    notes += [f"no clips of {', '.join(absent)}"] if absent else []
    notes += [f"{counted(len(bad), 'recording')} that cannot be read left out: {listing(bad)}"] if bad else []
    return DataSet(NAME, DATA_SETS[NAME].licence, sources, notes=notes)


def _kinds(path: Path) -> list[Path]:
    """The folders of kinds of ships in a folder."""
    return sorted(folder for folder in path.glob("*/") if folder.name.lower() in LABELS)


def _recordings(folder: Path) -> list[Path]:
    """Audio files in a folder and in the folders below it, relative to it."""
    inside = [Path(below.name) / name for below in sorted(folder.glob("*/")) for name in audio_names(below)]
    return [*map(Path, audio_names(folder)), *inside]


def _ships(folder: Path) -> Ships:
    """The ships of a folder's metafile. Damaged lines are skipped: a recording whose ship is unknown is a group of its
    own."""
    ships: Ships = {}
    for file in (file for file in sorted(folder.glob(METAFILES)) if file.is_file()):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = [field.strip() for field in line.split(",")]
            if len(fields) > TIME_FIELD and fields[SHIP_FIELD]:
                for key in ((fields[DATE_FIELD], fields[TIME_FIELD]), (fields[DATE_FIELD], fields[NUMBER_FIELD])):
                    ships[key] = fields[SHIP_FIELD] if ships.get(key, fields[SHIP_FIELD]) == fields[SHIP_FIELD] else ""
    return ships


def _ship(ships: Ships, name: Path) -> str:
    """The ship of a recording, found by date and time, else by date and number; "" where it is not known."""
    passage = PASSAGE.fullmatch(name.parent.name)
    if passage is None:
        return ""
    date, number = passage.groups()
    return ships.get((date, name.stem)) or ships.get((date, number), "")


def _segments(folder: Path, name: Path, seconds: float, segment: float, ship: str) -> list[ClipSource]:
    recording = f"{folder.name}/{name.as_posix()}"
    complete = ClipSource(
        folder / name, Clip(recording, LABELS[folder.name.lower()], "", ship or recording, parent=recording)
    )
    if seconds <= segment:
        return [complete]
    return [
        replace(complete, clip=replace(complete.clip, path=f"{recording}#{number}"), cut=(number * segment, segment))
        for number in range(int(seconds / segment + ROUNDING))
    ]
