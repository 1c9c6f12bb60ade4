"""A file is seen whole or not at all."""

import pytest

from edgekd.errors import InputError
from edgekd.files import output_file


def test_it_takes_its_place_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with output_file(path, "--csv") as whole:
        whole.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert [*path.parent.iterdir()] == [path]


def failing(path):
    with output_file(path, "--csv") as whole:
        whole.write_bytes(b"half")
        raise OSError(28, "No space left on device")


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"before")
    with pytest.raises(
        InputError, match=r"table\.csv cannot be written \(No space left on device\); choose another --csv"
    ):
        failing(path)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_above_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.json cannot be written \(.*\); choose another --csv"):
        failing(tmp_path / "file" / "a.json")
