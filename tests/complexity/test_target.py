"""Targets: found by name, read, checked for contradictions, and complete in the wheel."""

import tomllib
from pathlib import Path

import pytest

from edgekd import resources
from edgekd.complexity.target import load_target
from edgekd.errors import InputError

ROOT = Path(__file__).parents[2]

GOOD = """
name = "board"
description = "a board"
source = "its data sheet"
[budgets]
macs = 5
"""

BOARD = """
[latency]
board = "A board"
engines = ["litert"]
threads = 1
limit_ms = 5
"""


def test_the_challenge_target():
    target = load_target("dcase2023")
    assert target.budgets.param_bytes == 128_000
    assert target.budgets.macs == 30_000_000
    assert target.budgets.file_bytes is None


@pytest.mark.parametrize("name", resources.names("targets"))
def test_every_shipped_target_is_valid_and_named_as_its_file(name):
    assert load_target(name).name == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("4", "pi-4"),
        ("Pi 4", "pi-4"),
        ("rpi4", "pi-4"),
        ("raspberry-pi-5", "pi-5"),
        ("zero-2w", "pi-zero-2w"),
        ("Zero 2 W", "pi-zero-2w"),
        ("3", "pi-3"),
        ("DCASE2022", "dcase2022"),
        ("dcase-2025", "dcase2025"),
        ("dcase2024", "dcase2023"),
        ("STM32F746", "cortex-m7"),
    ],
)
def test_a_target_is_found_by_what_users_type(typed, name):
    assert load_target(typed).name == name


def test_no_two_shipped_targets_share_a_name():
    targets = [load_target(name) for name in resources.names("targets")]
    typed = [(each.name, name) for each in targets for name in {*map(plain_name, (each.name, *each.aliases))}]
    assert len({name for _, name in typed}) == len(typed)


def plain_name(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


@pytest.mark.parametrize("name", resources.names("targets"))
def test_every_number_of_a_shipped_target_has_a_source(name):
    target = load_target(name)
    assert len(target.source) > 20
    for key in target.sources:
        assert len(target.source_of(key)) > 20


def test_the_rules_of_the_challenges():
    old, new = load_target("dcase2022"), load_target("dcase2025")
    assert (old.budgets.params, old.budgets.param_bytes, old.budgets.macs) == (128_000, None, 30_000_000)
    assert "float32" not in old.rules.dtypes
    assert new.budgets == load_target("dcase2023").budgets


def test_operators_of_the_microcontroller_are_builtins_of_the_format():
    from ai_edge_litert import schema_py_generated as schema

    builtins = {name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    operators = load_target("cortex-m7").rules.operators
    assert set(operators) <= builtins
    assert {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "MEAN",
        "ADD",
        "MUL",
        "LOGISTIC",
        "MAX_POOL_2D",
        "PAD",
    } <= set(operators)
    assert not {"CUSTOM", "RFFT2D", "CONV_3D"} & set(operators)


@pytest.mark.parametrize("name", ["pi-zero-2w", "pi-3", "pi-4", "pi-5"])
def test_latencies_of_boards_name_board_engine_and_threads(name):
    latency = load_target(name).latency
    assert latency.board.startswith("Raspberry Pi")
    assert latency.engines
    assert latency.threads == 1
    assert latency.limit_ms < 250  # the shortest hop of `edgekd listen`


def test_a_target_may_begin_with_a_byte_order_mark(tmp_path, edgekd):
    (tmp_path / "board.toml").write_text(f"\ufeff{GOOD}", encoding="utf-8")
    status, out, _ = edgekd("check", "esc50-small", "--target", tmp_path / "board.toml")
    assert status == 1
    assert "board" in out


def test_a_target_may_be_given_by_path(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_target(path).budgets.macs == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "mac = 7", r"\[budgets\]: .*'mac'; .*'macs'"),
        (GOOD.replace("macs = 5", "macs = 0"), "macs"),
        (GOOD.replace("macs = 5", 'macs = "5"'), "macs"),
        (GOOD.replace('name = "board"', ""), "missing required field `name`"),
        (
            GOOD.replace("macs = 5", ""),
            "no budget, .*param_bytes, params, macs",
        ),
        (GOOD.replace("macs = 5", "macs = -5"), "macs"),
        (GOOD.replace("macs = 5", "macs = 99999999999999999999"), "macs"),
        (GOOD.replace('source = "its data sheet"', 'source = ""'), "source"),
        ("name = ", "not valid TOML"),
        (f'convention = "exat"\n{GOOD}', "convention: 'exat' .*'exact'"),
        (GOOD + '[rules]\nformats = ["tflit"]', r"formats: 'tflit' .*'tflite'"),
        (GOOD + '[rules]\nengines = ["litret"]', r"engines: 'litret' .*'litert'"),
        (
            GOOD + '[rules]\noperators = ["ADD", "MUL"]\nforbidden_operators = ["MUL"]',
            "MUL is both",
        ),
        (GOOD + "[rules]\noperators = []", "operators"),
        (GOOD + '[rules]\nformats = ["onnx"]\nengines = ["litert"]', "litert .*onnx"),
        (f'convention = "nessi_tflite"\n{GOOD}[rules]\nformats = ["onnx"]', "'nessi_tflite' .*onnx"),
        (
            GOOD + '[latency]\nengines = ["litert"]\nthreads = 1\nlimit_ms = 5',
            "latency: .*`board`",
        ),
        (GOOD + BOARD.replace("limit_ms = 5", "limit_ms = 0"), "limit_ms"),
        (GOOD + BOARD.replace("limit_ms = 5", "limit_ms = nan"), "limit_ms"),
        (GOOD + BOARD.replace("limit_ms = 5", "limit_ms = inf"), "limit_ms"),
        (GOOD + BOARD.replace("threads = 1", "threads = 0"), "threads"),
        (GOOD + BOARD + 'stage = "all"', "stage"),
        (GOOD + BOARD + "limit = 3", "limit"),
        (GOOD + BOARD.replace("litert", "litret"), r"\[latency\] engines: 'litret'"),
        (
            GOOD + BOARD + '[rules]\nengines = ["onnxruntime"]',
            r"engines: 'litert' .*\[rules\]",
        ),
        (
            GOOD + '[sources]\nmac = "a sheet"',
            r"\[sources\]: 'mac' .*'macs'",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_target(path)


def test_a_name_or_path_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="did you mean 'dcase2023'"):
        load_target("dcase20233")
    with pytest.raises(InputError, match=r"no/such\.toml: no such file"):
        load_target("no/such.toml")


def test_the_wheel_carries_every_package_and_data_folder():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = [path for path in (ROOT / "edgekd").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [path for name in ("targets", "teachers") for path in (ROOT / name).iterdir()]
    named = {folder: name for name, folder in setup["package-dir"].items() if folder != name}
    contents: dict[str, set[Path]] = {}
    for path in files:
        if path.suffix != ".md" or path.parent.name == "zoo":
            folder = path.parent.relative_to(ROOT)
            package = named.get(str(folder), ".".join(folder.parts))
            if path.suffix == ".py":
                assert package in setup["packages"], path
            if package not in setup["packages"]:  # a folder of data inside a package
                package = package.rpartition(".")[0]
            contents.setdefault(package, set()).add(path)
    assert set(setup["packages"]) == contents.keys()
    for package, files_of in contents.items():
        left = {
            path
            for path in files_of
            if path.suffix != ".py"
            and not any(path.match(pattern) for pattern in setup["package-data"].get(package, ()))
        }
        assert not left, package
    assert setup["package-data"].keys() <= contents.keys()
    for name, folder in setup["package-dir"].items():
        assert (ROOT / folder).is_dir(), name
