"""Microphones split by make: the table that comes with edgekd, a folder's own, and what is refused."""

from pathlib import Path

import pytest

from edgekd.data.audio.microphone_makes import MICIRP, MakesTable, files_of_split, parse_mic_split
from edgekd.errors import InputError
from edgekd.resources import read_toml

TABLE = '[train]\nAcme = ["a1", "a2"]\n[test]\nBell = ["b"]\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "makes.toml").write_text(TABLE)
    return tmp_path


def files(folder, *names):
    return [folder / f"{name}.wav" for name in names]


def test_the_shipped_table_has_a_third_of_the_makes_or_more_for_tests_and_none_in_both_splits():
    makes = read_toml(MICIRP, MakesTable)
    assert len(makes.test) >= (len(makes.train) + len(makes.test)) / 3
    assert not makes.train.keys() & makes.test.keys()
    named = [name for side in (makes.train, makes.test) for files in side.values() for name in files]
    assert len(named) == len(set(named)) == 45


def test_a_folder_without_a_table_is_split_by_that_of_micirp(tmp_path):
    given = files(tmp_path, "IR_AKGD12", "Reslo_RV")
    assert files_of_split(given, tmp_path, "test") == [(given[0], "AKG")]
    assert files_of_split(given, tmp_path, "train") == [(given[1], "Reslo")]


def test_the_table_of_the_folder_is_used_and_all_includes_files_without_a_make(folder):
    given = files(folder, "a1", "a2", "b", "c")
    assert files_of_split(given[:3], folder, "train") == [(given[0], "Acme"), (given[1], "Acme")]
    assert files_of_split(given, folder, "all") == [*zip(given, ("Acme", "Acme", "Bell", "c"), strict=True)]
    with pytest.raises(InputError, match=r"c\.wav .*makes\.toml"):
        files_of_split(given, folder, "test")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[train]\nAcme = ["a1"]\n[test]\nAcme = ["a2"]\n', r"'Acme' is in \[train\] and in \[test\]"),
        ('[train]\nAcme = ["a1"]\n[test]\nBell = ["a1"]\n', "'a1' is there twice"),
        ('[train]\nAcme = "a1"\n[test]\n', "train"),
        ("[train]\n[tets]\n", "unknown key 'tets'; did you mean 'test'"),
    ],
)
def test_a_wrong_table_of_makes_is_refused(folder, table, message):
    (folder / "makes.toml").write_text(table)
    with pytest.raises(InputError, match=message):
        files_of_split(files(folder, "a1"), Path(folder), "train")


def test_an_unknown_split_names_the_nearest():
    assert parse_mic_split("train") == "train"
    with pytest.raises(InputError, match=r"'tests' .*'test'"):
        parse_mic_split("tests")
