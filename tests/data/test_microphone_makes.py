"""Microphones split by make: the table that comes with edgekd, a folder's own, and what is refused."""

from pathlib import Path

import pytest

from edgekd.data.audio.microphone_makes import MICIRP, Makes, mic_split, of_split
from edgekd.errors import InputError
from edgekd.resources import read_toml

TABLE = '[train]\nAcme = ["a1", "a2"]\n[test]\nBell = ["b"]\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "makes.toml").write_text(TABLE)
    return tmp_path


def files(folder, *names):
    return [folder / f"{name}.wav" for name in names]


def test_the_shipped_table_keeps_a_third_of_the_makes_or_more_for_tests_and_none_on_both_sides():
    makes = read_toml(MICIRP, Makes)
    assert len(makes.test) >= (len(makes.train) + len(makes.test)) / 3
    assert not makes.train.keys() & makes.test.keys()
    named = [name for side in (makes.train, makes.test) for files in side.values() for name in files]
    assert len(named) == len(set(named)) == 45


def test_a_folder_without_a_table_is_split_by_that_of_micirp(tmp_path):
    given = files(tmp_path, "IR_AKGD12", "Reslo_RV")
    assert of_split(given, tmp_path, "test") == [(given[0], "AKG")]
    assert of_split(given, tmp_path, "train") == [(given[1], "Reslo")]


def test_a_folders_own_table_counts_and_all_takes_also_what_nobody_named(folder):
    given = files(folder, "a1", "a2", "b", "c")
    assert of_split(given[:3], folder, "train") == [(given[0], "Acme"), (given[1], "Acme")]
    assert of_split(given, folder, "all") == [*zip(given, ("Acme", "Acme", "Bell", "c"), strict=True)]
    with pytest.raises(InputError, match=r"c\.wav is of no make in makes\.toml; name it in .*makes\.toml"):
        of_split(given, folder, "test")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[train]\nAcme = ["a1"]\n[test]\nAcme = ["a2"]\n', r"make 'Acme' is in \[train\] and in \[test\]"),
        ('[train]\nAcme = ["a1"]\n[test]\nBell = ["a1"]\n', "'a1' is there twice"),
        ('[train]\nAcme = "a1"\n[test]\n', "train"),
        ("[train]\n[tets]\n", "unknown key 'tets'; did you mean 'test'"),
    ],
)
def test_a_table_that_is_no_split_is_refused(folder, table, message):
    (folder / "makes.toml").write_text(table)
    with pytest.raises(InputError, match=message):
        of_split(files(folder, "a1"), Path(folder), "train")


def test_an_unknown_split_names_the_nearest():
    assert mic_split("train") == "train"
    with pytest.raises(InputError, match="'tests' is no split of microphones; did you mean 'test'"):
        mic_split("tests")
