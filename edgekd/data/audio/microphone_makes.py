"""Splits impulse responses of microphones by make: some for training, those of other makes for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from edgekd.errors import InputError, nearest
from edgekd.resources import read_toml
from edgekd.text import listing

MicSplit = Literal["all", "train", "test"]

DEFAULT_SPLIT: MicSplit = "test"
"""What an evaluation uses by default."""
TABLE = "makes.toml"
"""File in a folder of impulse responses that names their makes."""
MICIRP = Path(__file__).with_name("micirp.toml")
"""The makes of the data set MicIRP, for a folder without such a file."""


class MakesTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of makes.toml: make -> names of its files without suffix, for each split. No make is in both."""

    train: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]


class MicrophoneFile(NamedTuple):
    """An impulse response and the make of its microphone; the name of the file where the make is not known."""

    path: Path
    make: str


def parse_mic_split(name: str) -> MicSplit:
    """The split with this name.

    Raises:
        InputError: there is none.
    """
    splits: tuple[MicSplit, ...] = get_args(MicSplit)
    for split in splits:
        if split == name:
            return split
    raise InputError(f"'{name}' is no split of microphones{nearest(name, splits)}")


def files_of_split(files: Sequence[Path], folder: Path, split: MicSplit) -> list[MicrophoneFile]:
    """The files of a split, by `folder`/makes.toml or, without that, by the table of MicIRP.

    Args:
        files: in the folder.
        folder: of impulse responses.
        split: "all" returns every file, also those without a make.

    Raises:
        InputError: a damaged table, one that names a file or make twice, or a file without a make.
    """
    own_table = folder / TABLE
    table = own_table if own_table.is_file() else MICIRP
    makes = read_toml(table, MakesTable)
    known: dict[str, tuple[str, str]] = {}  # file -> split and make
    for name, files_of_make in (("train", makes.train), ("test", makes.test)):
        for make, named in files_of_make.items():
            if name == "test" and make in makes.train:
                raise InputError(f"{table}: make '{make}' is in [train] and in [test]; keep it in one of them")
            for file in named:
                if file in known:
                    raise InputError(f"{table}: '{file}' is there twice; name each file once")
                known[file] = name, make
    if split == "all":
        return [MicrophoneFile(path, known[path.stem][1] if path.stem in known else path.stem) for path in files]
    unknown = [path.name for path in files if path.stem not in known]
    if unknown:
        raise InputError(
            f"{folder}: {listing(unknown)} has no make in {table.name}; name it in {own_table}, with tables [train] and"
            ' [test] of make = ["file name without suffix", ...], or use all microphones'
        )
    return [MicrophoneFile(path, known[path.stem][1]) for path in files if known[path.stem][0] == split]
