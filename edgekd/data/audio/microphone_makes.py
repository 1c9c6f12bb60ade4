"""Microphones split by make: impulse responses that training hears through, and others, of other makes, that are kept
for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from edgekd.data.store.store import listing
from edgekd.errors import InputError, nearest
from edgekd.resources import read_toml

MicSplit = Literal["all", "train", "test"]

TEST: MicSplit = "test"
"""Which is judged where nothing else is asked for."""
TABLE = "makes.toml"
"""In a folder of impulse responses: their makes."""
MICIRP = Path(__file__).with_name("micirp.toml")
"""The makes of MicIRP, for a folder without a table of its own."""


class Makes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of makes: make -> its files, names without suffix. No make is in both."""

    train: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]


class Made(NamedTuple):
    """A file and who made its microphone; the make is the file's own name where nobody said."""

    path: Path
    make: str


def mic_split(name: str) -> MicSplit:
    """The split of a name.

    Raises:
        InputError: there is none.
    """
    splits: tuple[MicSplit, ...] = get_args(MicSplit)
    for split in splits:
        if split == name:
            return split
    raise InputError(f"'{name}' is no split of microphones{nearest(name, splits)}")


def of_split(files: Sequence[Path], folder: Path, split: MicSplit) -> list[Made]:
    """Those of some files that are in a split, by `folder`/makes.toml, or else by the table of MicIRP.

    Args:
        files: of the folder.
        folder: of impulse responses.
        split: "all" takes every file, also those that no table names.

    Raises:
        InputError: a table that is damaged or names something twice, a file that is in none.
    """
    own = folder / TABLE
    table = own if own.is_file() else MICIRP
    makes = read_toml(table, Makes)
    side: dict[str, tuple[str, str]] = {}  # file -> split and make
    for name, of_side in (("train", makes.train), ("test", makes.test)):
        for make, named in of_side.items():
            if name == "test" and make in makes.train:
                raise InputError(f"{table}: make '{make}' is in [train] and in [test]; a make is on one side")
            for file in named:
                if file in side:
                    raise InputError(f"{table}: '{file}' is there twice; name each file once")
                side[file] = name, make
    if split == "all":
        return [Made(path, side[path.stem][1] if path.stem in side else path.stem) for path in files]
    unknown = [path.name for path in files if path.stem not in side]
    if unknown:
        raise InputError(
            f"{folder}: {listing(unknown)} is of no make in {table.name}; name it in {own}, with tables [train] and"
            " [test] of "
            f'make = ["file name without suffix", ...], or take all microphones'
        )
    return [Made(path, side[path.stem][1]) for path in files if side[path.stem][0] == split]
