"""Atomic writing: a file appears complete or not at all, and unfinished files are recognised and removed."""

import errno
import os
import stat
import tomllib
from pathlib import Path

import pytest

from edgekd import files
from edgekd.errors import InputError
from edgekd.files import PART, atomic_path, atomic_write, finished_name, output_file, remove_unfinished


@pytest.fixture
def umask():
    """A umask that takes all permissions from others, restored after the test."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def fail(path, content):
    """Write to `path` as on a full disk."""
    with atomic_path(path) as part:
        part.write_bytes(content)
        raise OSError(28, "No space left on device")


def fail_output(path):
    with output_file(path, "--csv") as part:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("durable", [False, True])
def test_a_written_file_is_alone_in_its_folder(tmp_path, durable):
    path = tmp_path / "run.json"
    for content in (b"first", b"second"):
        atomic_write(path, content, durable=durable)
        assert path.read_bytes() == content
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.usefixtures("umask")
def test_permissions_are_those_of_the_umask_or_the_mode_given(tmp_path):
    atomic_write(tmp_path / "plain", b"")
    atomic_write(tmp_path / "secret", b"", mode=0o600)
    atomic_write(tmp_path / "public", b"", mode=0o644)
    assert [permissions(tmp_path / name) for name in ("plain", "secret", "public")] == [0o640, 0o600, 0o644]


@pytest.mark.usefixtures("umask")
def test_the_new_file_has_its_own_permissions_not_those_of_the_old(tmp_path):
    path = tmp_path / "run.json"
    atomic_write(path, b"first", mode=0o600)
    atomic_write(path, b"second")
    assert permissions(path) == 0o640


def test_a_file_is_unchanged_until_the_block_ends(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b"before")
    with atomic_path(path) as part:
        part.write_bytes(b"after")
        assert part.parent == tmp_path
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"


def test_a_failing_write_keeps_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left") as raised:
        fail(path, b"half")
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_an_error_of_the_block_removes_the_unfinished_file(tmp_path):
    with pytest.raises(KeyError), atomic_path(tmp_path / "run.json"):
        raise KeyError
    assert [*tmp_path.iterdir()] == []


def test_a_missing_folder_and_a_folder_of_that_name_are_errors(tmp_path):
    for path in (tmp_path / "none" / "run.json", tmp_path):
        with pytest.raises(OSError) as raised:  # noqa: PT011 the system chooses the words
            atomic_write(path, b"")
        assert raised.value.filename == str(path)
    assert [*tmp_path.iterdir()] == []


def test_a_symbolic_link_at_the_name_of_the_unfinished_file_is_not_followed(tmp_path, monkeypatch):
    other, path = tmp_path / "other", tmp_path / "run.json"
    other.write_bytes(b"other")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "00000000")
    link = tmp_path / f".run.json.00000000{PART}"
    link.symlink_to(other)
    with pytest.raises(FileExistsError) as raised:
        atomic_write(path, b"content")
    assert raised.value.filename == str(path)
    assert other.read_bytes() == b"other"
    assert link.is_symlink()
    assert not path.exists()


def test_a_symbolic_link_at_the_name_of_the_file_is_replaced(tmp_path):
    other, path = tmp_path / "other", tmp_path / "run.json"
    other.write_bytes(b"other")
    path.symlink_to(other)
    atomic_write(path, b"content")
    assert not path.is_symlink()
    assert (path.read_bytes(), other.read_bytes()) == (b"content", b"other")


@pytest.mark.parametrize(
    ("name", "final"),
    [
        (f".run.json.1f2e3d4c{PART}", "run.json"),
        (f"run.json{PART}", "run.json"),  # of early versions
        ("run.json", "run.json"),
        (".hidden", ".hidden"),
        (f"a{PART}.json", f"a{PART}.json"),
    ],
)
def test_an_unfinished_file_is_recognised_by_its_name(name, final):
    assert finished_name(name) == final


def test_unfinished_files_are_removed_and_no_others(tmp_path):
    with atomic_path(tmp_path / "run.json") as part:
        unfinished = part.name
    for name in (unfinished, f"old.json{PART}", ".hidden"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"run.json", ".hidden"}


def test_an_output_file_appears_complete_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with output_file(path, "--csv") as part:
        part.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [*path.parent.iterdir()] == [path]


def test_a_failing_output_file_keeps_the_old_one_and_names_the_option(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match=r"table\.csv .*No space left .*--csv"):
        fail_output(path)
    assert path.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [path]


def test_an_output_file_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.json .* --csv"):
        fail_output(tmp_path / "file" / "a.json")


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with output_file(pipe, "--csv") as path:
            path.write_bytes(b"table")
        assert os.read(reader, 100) == b"table"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_the_wheel_has_every_package():
    root = Path(__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {".".join(path.parent.relative_to(root).parts) for path in (root / "edgekd").rglob("__init__.py")}
    assert packages <= set(listed)


def test_an_output_file_follows_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with output_file(tmp_path / "link", "--csv") as path:
        path.write_bytes(b"table")
    assert (tmp_path / "file").read_bytes() == b"table"
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_keeps_its_permissions(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(pipe, b"content", mode=0o644)
    os.close(reader)
    assert permissions(pipe) == 0o600


def test_a_folder_that_cannot_be_waited_for_is_no_error(tmp_path, monkeypatch):
    def fail(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    atomic_write(tmp_path / "model", b"content", durable=True)
    assert (tmp_path / "model").read_bytes() == b"content"
