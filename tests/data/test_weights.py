"""Published weights: `edgekd weights` against a server on this machine, and what recipes find by a name."""

import hashlib
import json
import re

import pytest

from edgekd.data import fetch, weights
from edgekd.data.weights import CACHE, FOLDER
from edgekd.resources import folder, read_table

CONTENT = bytes(range(256)) * 40
TOML = """
[{name}]
file = "{file}"
address = "{address}"
sha256 = "{sha256}"
bytes = {bytes}
licence = "MIT"
lineage = "ImageNet, then AudioSet"
use = "a toy"
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache folder of weights, which does not exist yet; no other folder is searched."""
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekd" / "weights"


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """`rows(name=(file, address, content))`: the table of published weights; content None is an unknown checksum."""
    table = tmp_path / "weights.toml"
    monkeypatch.setattr(weights, "TABLE", table)

    def rows(**published):
        table.write_text(
            "".join(
                TOML.format(
                    name=name,
                    file=file,
                    address=address,
                    sha256="" if content is None else hashlib.sha256(content).hexdigest(),
                    bytes=0 if content is None else len(content),
                )
                for name, (file, address, content) in published.items()
            )
        )

    return rows


@pytest.fixture
def toy(rows, file_server, cache):
    """The published file `toy.pt` of the name "toy" on the server, and where it is kept."""
    rows(toy=("toy.pt", file_server.add("toy.pt", CONTENT).url, CONTENT))
    return cache / "toy.pt"


def refused(result):
    """The line of a command that is refused."""
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("edgekd: "), err
    return err.splitlines()[-1]


def test_a_file_is_fetched_once_with_its_licence_and_lineage(edgekd, file_server, toy):
    status, out, err = edgekd("weights", "fetch", "toy", "--accept-licence")
    assert (status, out) == (0, f"{toy}\n")
    assert "Licence: MIT" in err
    assert "ImageNet, then AudioSet" in err
    assert toy.read_bytes() == CONTENT
    requests = len(file_server.requests)
    assert edgekd("weights", "fetch", "toy")[:2] == (0, f"{toy}\n")
    assert len(file_server.requests) == requests
    assert edgekd("weights", "path", "toy") == (0, f"{toy}\n", "")


def test_a_licence_that_is_not_accepted_stops_before_the_network(edgekd, file_server, toy):
    line = refused(edgekd("weights", "fetch", "toy"))
    assert "nothing was downloaded" in line
    assert line.endswith("edgekd weights fetch toy --accept-licence")
    assert file_server.requests == []
    assert not toy.parent.exists()


def test_a_broken_connection_keeps_the_part_and_the_same_command_resumes(edgekd, file_server, toy, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK", 1000)
    file_server.limit = 4000
    assert "toy.pt: the connection broke" in refused(edgekd("weights", "fetch", "toy", "--accept-licence"))
    assert "toy.pt is not on this machine" in refused(edgekd("weights", "path", "toy"))
    file_server.limit = None
    assert edgekd("weights", "fetch", "toy", "--accept-licence")[0] == 0
    assert ("/toy.pt", "bytes=4000-") in file_server.requests
    assert toy.read_bytes() == CONTENT


def test_an_altered_download_is_discarded(edgekd, file_server, toy):
    file_server.files["/toy.pt"] = CONTENT[::-1]
    line = refused(edgekd("weights", "fetch", "toy", "--accept-licence"))
    assert hashlib.sha256(CONTENT).hexdigest() in line
    assert list(toy.parent.iterdir()) == []


def test_a_file_without_a_known_checksum_is_refused_unless_the_user_insists(edgekd, file_server, rows, cache):
    rows(toy=("toy.pt", file_server.add("toy.pt", CONTENT).url, None))
    line = refused(edgekd("weights", "fetch", "toy", "--accept-licence"))
    assert line.endswith("edgekd weights fetch toy --unverified")
    assert file_server.requests == []
    assert line.rpartition(": ")[2] in refused(edgekd("weights", "path", "toy"))
    status, out, err = edgekd("weights", "fetch", "toy", "--accept-licence", "--unverified")
    assert (status, out) == (0, f"{cache / 'toy.pt'}\n")
    assert hashlib.sha256(CONTENT).hexdigest() in err


def test_no_network_and_a_file_that_is_gone_are_one_line(edgekd, file_server, rows, cache):
    rows(
        dead=("dead.pt", "http://127.0.0.1:9/dead.pt", CONTENT),
        gone=("gone.pt", f"http://127.0.0.1:{file_server.server_port}/gone.pt", CONTENT),
    )
    for name in ("dead", "gone"):
        line = refused(edgekd("weights", "fetch", name, "--accept-licence"))
        assert f"{name}.pt cannot be reached" in line
        assert "check the network" in line
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_one_line(edgekd, toy, tmp_path, monkeypatch, place):
    assert not toy.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / place))
    line = refused(edgekd("weights", "fetch", "toy", "--accept-licence"))
    assert f"{tmp_path / place}/edgekd/weights cannot be written" in line
    assert f"set {CACHE} " in line


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"x" + CONTENT[1:]], ids=["truncated", "altered"])
def test_a_damaged_file_is_reported_and_a_download_replaces_it(edgekd, toy, tmp_path, monkeypatch, damaged):
    toy.parent.mkdir(parents=True)
    toy.write_bytes(damaged)
    line = refused(edgekd("weights", "path", "toy"))
    assert str(toy) in line
    assert "damaged" in line
    assert line.endswith("edgekd weights fetch toy")
    assert edgekd("weights", "fetch", "toy", "--accept-licence")[:2] == (0, f"{toy}\n")
    assert toy.read_bytes() == CONTENT
    own = tmp_path / "own"
    own.mkdir()
    (own / "toy.pt").write_bytes(damaged)
    monkeypatch.setenv(FOLDER, str(own))
    for verb in ("path", "fetch"):  # a file of the user's is never replaced
        assert f"{own / 'toy.pt'}: damaged" in refused(edgekd("weights", verb, "toy"))


def test_the_folder_of_the_environment_comes_before_the_cache(edgekd, toy, tmp_path, monkeypatch):
    assert edgekd("weights", "fetch", "toy", "--accept-licence")[0] == 0
    own = tmp_path / "own"
    monkeypatch.setenv(FOLDER, str(own))
    assert f"'{own}' is not a folder" in refused(edgekd("weights", "path", "toy"))
    own.mkdir()
    assert edgekd("weights", "path", "toy")[1] == f"{toy}\n"
    (own / "toy.pt").write_bytes(CONTENT)
    assert edgekd("weights", "path", "toy")[1] == f"{own / 'toy.pt'}\n"
    assert edgekd("weights", "fetch", "toy")[1] == f"{own / 'toy.pt'}\n"


def test_the_list_tells_where_each_file_is(edgekd, toy):
    toy.parent.mkdir(parents=True)
    toy.write_bytes(CONTENT)
    with weights.TABLE.open("a") as table:
        table.write(TOML.format(name="other", file="other.pt", address="http://x/other.pt", sha256="", bytes=0))
    status, out, _ = edgekd("weights", "list")
    assert status == 0
    assert re.search(rf"^toy +{len(CONTENT):,} +MIT +a toy +{re.escape(str(toy))}$", out, re.M)
    assert re.search(r"^other .*not here$", out, re.M)
    listed = {each["name"]: each for each in json.loads(edgekd("weights", "list", "--json")[1])}
    assert listed["toy"]["path"] == str(toy)
    assert listed["toy"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (listed["other"]["path"], listed["other"]["bytes"]) == (None, 0)


@pytest.mark.usefixtures("toy")
def test_an_unknown_name_gets_the_nearest_one(edgekd):
    for verb in ("path", "fetch"):
        assert "did you mean 'toy'" in refused(edgekd("weights", verb, "tyo"))


def test_the_shipped_table_is_complete():
    table = weights.table()
    assert {"mn04-as", "yamnet"} <= table.keys()
    for known in table.values():
        assert known.address.startswith("https://") or (known.source and known.sha256)
        assert known.address.endswith(known.file) or not known.address
        assert re.fullmatch(r"([0-9a-f]{64})?", known.sha256)
        assert bool(known.sha256) == bool(known.bytes)
        assert known.licence
        assert known.lineage
        assert known.use
    assert len({known.file for known in table.values()}) == len(table)


def test_no_shipped_recipe_names_a_path():
    """Weights of a recipe are in the table of published ones, or on the hub."""
    recipes = [*folder("recipes").glob("*.toml"), *folder("teachers").glob("*.toml")]
    models = [read_table(path).get(role, {}) for path in recipes for role in ("student", "teacher")]
    named = {model.get(key, "") for model in models if model.get("kind") != "ast" for key in ("weights", "file")}
    assert named - {""} == named & weights.table().keys()
    assert "yamnet" in named
