"""`data fetch`, against a server on this machine."""

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd import cli
from edgekd.data import fetch
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.errors import InputError, MissingExtraError

pytest.importorskip("pooch")
NAME = "tau19"


@pytest.fixture
def server(file_server):
    return file_server


@pytest.fixture
def remotes(server, monkeypatch):
    """Two archives: a zip and a tar, of one top folder."""
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("scenes/meta.csv", "filename\n")
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        info = tarfile.TarInfo("scenes/audio/a.wav")
        info.size = 4000
        archive.addfile(info, io.BytesIO(bytes(range(250)) * 16))
    listed = [server.add("meta.zip", zipped.getvalue()), server.add("audio.1.tar.gz", tarred.getvalue())]
    monkeypatch.setattr(fetch, "files_of_record", lambda _: listed)
    return listed


def get(out, lines=None):
    return fetch.fetch(NAME, out, lambda _: True, (lines if lines is not None else []).append)


@pytest.mark.usefixtures("remotes")
def test_archives_are_downloaded_checked_unpacked_and_not_again(server, tmp_path):
    lines = []
    folder = get(tmp_path / "out", lines)
    assert folder == tmp_path / "out" / "scenes"
    assert (folder / "audio" / "a.wav").stat().st_size == 4000
    assert (folder / "meta.csv").read_text() == "filename\n"
    assert [line.partition(",")[0] for line in lines] == ["1 of 2: meta.zip", "2 of 2: audio.1.tar.gz"]
    assert sorted(path.name for path in (tmp_path / "out" / "archives").iterdir()) == [
        "audio.1.tar.gz.done",
        "meta.zip.done",
    ]
    requests = len(server.requests)
    assert get(tmp_path / "out") == folder
    assert len(server.requests) == requests


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.usefixtures("remotes")
def test_a_broken_connection_keeps_the_part_and_the_next_try_resumes(server, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(fetch, "BLOCK", 20)
    server.limit = 60
    with pytest.raises(InputError, match=r"meta.zip: the connection broke"):
        get(tmp_path / "out")
    part = tmp_path / "out" / "archives" / "meta.zip.part"
    assert part.stat().st_size == 60
    server.limit, server.ranges = None, ranges
    get(tmp_path / "out")
    assert ("/meta.zip", "bytes=60-") in server.requests
    assert not part.exists()


@pytest.mark.usefixtures("remotes")
def test_an_interrupt_and_a_second_process_are_reported(server, tmp_path, monkeypatch):
    def stop(*_):
        (tmp_path / "out" / "archives" / "meta.zip.part").write_bytes(server.files["/meta.zip"][:60])
        with pytest.raises(InputError, match="out is being filled"):
            get(tmp_path / "out")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetch, "download", stop)
        with pytest.raises(KeyboardInterrupt, match="out: interrupted"):
            get(tmp_path / "out")
    assert get(tmp_path / "out").name == "scenes"
    assert ("/meta.zip", "bytes=60-") in server.requests


@pytest.mark.usefixtures("remotes")
def test_a_complete_part_is_used(server, tmp_path):
    archives = tmp_path / "out" / "archives"
    archives.mkdir(parents=True)
    (archives / "meta.zip.part").write_bytes(server.files["/meta.zip"])
    assert get(tmp_path / "out").name == "scenes"


def test_a_file_with_a_wrong_checksum_is_discarded(server, remotes, tmp_path):
    right = server.files["/meta.zip"]
    server.files["/meta.zip"] = b"x" * len(right)
    with pytest.raises(
        InputError,
        match=f"meta.zip: .*{remotes[0].hash}",
    ):
        get(tmp_path / "out")
    assert list((tmp_path / "out" / "archives").iterdir()) == []
    server.files["/meta.zip"] = right
    assert get(tmp_path / "out").name == "scenes"


@pytest.mark.usefixtures("remotes")
def test_too_little_space_is_reported_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"GB are needed and 0.0 GB are free"):
        get(tmp_path / "out")
    assert server.requests == []


@pytest.mark.usefixtures("remotes")
def test_a_full_disk_keeps_the_part(tmp_path, monkeypatch):
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", **more: Full() if self.suffix == ".part" else opened(self, mode, **more)
    )
    with pytest.raises(InputError, match="the disk is full"):
        get(tmp_path / "out")


@pytest.mark.usefixtures("remotes")
def test_an_unreachable_server_is_reported(tmp_path, monkeypatch):
    gone = fetch.RemoteFile("gone.zip", "http://127.0.0.1:9/gone.zip", "md5:0")
    monkeypatch.setattr(fetch, "files_of_record", lambda _: [gone])
    with pytest.raises(InputError, match=r"gone.zip .*ConnectionError"):
        get(tmp_path / "out")


def test_the_record_is_read_through_its_doi(monkeypatch):
    class Record:
        def populate_registry(self, downloads):
            downloads.registry["meta.zip"] = "md5:12"

        def download_url(self, name):
            return f"http://127.0.0.1/{name}"

    def no_record(_):
        raise ValueError("no such record")

    dois = []
    monkeypatch.setattr("pooch.downloaders.doi_to_repository", lambda doi: dois.append(doi) or Record())
    assert fetch.files_of_record("10.5281/zenodo.1") == [
        fetch.RemoteFile("meta.zip", "http://127.0.0.1/meta.zip", "md5:12")
    ]
    assert dois == ["10.5281/zenodo.1"]
    monkeypatch.setattr("pooch.downloaders.doi_to_repository", no_record)
    with pytest.raises(InputError, match=r"doi 10.5281/zenodo.1 "):
        fetch.files_of_record("10.5281/zenodo.1")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[datasets\]"):
        fetch.files_of_record("10.5281/zenodo.1")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["edgekd", "data", "fetch", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, *capsys.readouterr()


@pytest.mark.usefixtures("remotes")
def test_a_licence_that_is_not_accepted_stops_before_the_network(server, tmp_path, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, NAME, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "licence: free for academic use, no commercial use" in err
    assert "was not accepted; nothing was downloaded" in err
    assert server.requests == []
    assert not (tmp_path / "out").exists()
    status, out, err = run(monkeypatch, capsys, NAME, "--out", tmp_path / "out", "--accept-licence")
    assert (status, "edgekd data prepare tau19" in out) == (0, True)
    assert "licence: free for academic use" in err


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 2)])
@pytest.mark.usefixtures("remotes")
def test_on_a_terminal_the_licence_is_asked_for(tmp_path, monkeypatch, capsys, answer, status):
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert run(monkeypatch, capsys, NAME, "--out", tmp_path / "out")[0] == status
    assert (tmp_path / "out").exists() == (status == 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "deepship",
            (
                "DeepShip cannot be downloaded from here: it comes from Muhammad Irfan et al., .*doi"
                " 10.1016/j.eswa.2021.115270"
            ),
        ),
        ("vtuad", "IEEE DataPort .*doi 10.21227/msg0-ag12.*edgekd data prepare vtuad FOLDER"),
        ("esc50", "Karol J. Piczak"),
        ("folder", "there is nothing to download"),
        ("tau", "no data set 'tau'; did you mean"),
    ],
)
def test_what_cannot_be_downloaded_is_refused_with_where_it_is(monkeypatch, capsys, tmp_path, name, message):
    status, out, err = run(monkeypatch, capsys, name, "--out", tmp_path / "out", "--accept-licence")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err)


def test_what_is_free_has_a_record():
    assert all(known.doi.startswith("10.5281/zenodo.") for known in DATA_SETS.values() if known.free)
