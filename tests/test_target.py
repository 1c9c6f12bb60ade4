"""Targets, and the locator of TOML that ships with edgekd."""

import tomllib
from pathlib import Path

import pytest

from edgekd import resources
from edgekd.errors import InputError
from edgekd.target import load_target

ROOT = Path(__file__).parents[1]

GOOD = """
name = "board"
description = "a board"
source = "its data sheet"
[budgets]
macs = 5
"""


def test_the_challenge_target():
    target = load_target("dcase2023")
    assert target.budgets.param_bytes == 128_000
    assert target.budgets.macs == 30_000_000
    assert target.budgets.file_bytes is None


@pytest.mark.parametrize("name", resources.names("targets"))
def test_every_shipped_target_reads_and_is_named_as_its_file(name):
    assert load_target(name).name == name


def test_a_path_is_read_as_it_is(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_target(path).budgets.macs == 5


@pytest.mark.parametrize(("text", "message"), [
    (GOOD + "mac = 7", r"\[budgets\]: unknown key 'mac'; did you mean 'macs'"),
    (GOOD.replace("macs = 5", "macs = 0"), "macs"),
    (GOOD.replace("macs = 5", 'macs = "5"'), "macs"),
    (GOOD.replace('name = "board"', ""), "missing required field `name`"),
    (GOOD.replace("macs = 5", ""), "sets no budget, so every model would pass; give one of: param_bytes, macs"),
    ("name = ", "not valid TOML"),
])
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_target(path)


def test_a_name_or_path_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="did you mean 'dcase2023'"):
        load_target("dcase2032")
    with pytest.raises(InputError, match=r"no/such\.toml: no such file"):
        load_target("no/such.toml")


def test_the_wheel_carries_every_package_and_data_folder():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "edgekd").rglob("*.py")}
    data = {"edgekd.recipes", *(name for name in setup["package-dir"] if name != "edgekd")}
    assert set(setup["packages"]) == packages | data
    assert set(setup["package-data"]) == data
    for name, folder in setup["package-dir"].items():
        assert (ROOT / folder).is_dir(), name
