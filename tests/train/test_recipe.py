"""Recipes: defaults, overrides, hashes, and refused values."""

import hashlib
import json
import tomllib

import msgspec
import pytest

from edgekd.errors import InputError
from edgekd.resources import names
from edgekd.train.recipe.recipe import Recipe, decode, load_recipe
from edgekd.train.run.folder import model_config, resolved

MINIMAL = """
name = "mine"
[data]
train = ["a"]
test = ["b"]
[student]
kind = "serfr_cnn"
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL)
    return str(file)


def test_a_minimal_recipe_gets_defaults(path):
    recipe = load_recipe(path)
    assert (recipe.role, recipe.view.seconds, recipe.distill.temperature, recipe.distill.kd_weight) == (
        "student",
        None,
        2.0,
        0.98,
    )


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path, suffix):
    text = MINIMAL if suffix == ".toml" else json.dumps(tomllib.loads(MINIMAL))
    path = tmp_path / f"marked{suffix}"
    path.write_text(f"\ufeff{text}", encoding="utf-8")
    assert load_recipe(str(path)).role == "student"


def test_overrides_are_typed_by_their_field(path):
    recipe = load_recipe(
        path,
        [
            "train.epochs=7",
            "student.width=24",
            'data.train=["x", "y"]',
            "name=other",
            "distill.blend=sum_kl",
            "train.lr=1",
        ],
    )
    assert (recipe.train.epochs, recipe.model["width"], recipe.data.train) == (7, 24, ("x", "y"))
    assert (recipe.name, recipe.distill.blend, recipe.train.lr) == ("other", "sum_kl", 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=7", "'epoch'; did you mean 'epochs'"),
        ("trian.epochs=7", "'trian'; did you mean 'train'"),
        ("frontend.nmels=7", r"\[frontend\]: .*'nmels'; .*'n_mels'"),
        ("train.epochs=0", r"mine\.toml with --set: .*>= 1, got 0$"),
        ("train.epochs=many", r"train\.epochs: .*`int`, .*'many'$"),
        ("view.span=clips", r"view\.span: invalid enum value 'clips'$"),
        ("data.train=[1]", r"data\.train\.0: .*`str`, .*`int` 1$"),
        ("train.epochs", "write key=value"),
        ("name.first=x", "'name' is a value"),
        ("view.seconds=0", "seconds"),
        ('data.test=["a"]', "'a' is in data.train and in data.test"),
        ("data.held_out=[0]", r"data\.held_out = \[0\]: write \[k, K\]"),
        ("data.held_out=[4, 4]", "there is no part 4 of 4 to hold out"),
        ("data.held_out=[0, 1]", "give at least 2 parts"),
        ('export.calibrate=["a"]', r"'a' is in export\.calibrate"),
        ("export.max_stps=1", "'max_stps'; did you mean 'max_steps'"),
        ("export.min_label_agreement=99.9", "min_label_agreement"),
        ('teacher={kind="cp_resnet"}', r"either a \[student\] or a \[teacher\]"),
        ("frontend.win_length=4096", "win_length 4096 is longer"),
        ("train.lr=inf", "train: lr is inf; give a finite number"),
        ("view.seconds=inf", "seconds is inf"),
        ("student.growth=[1, nan, 2]", "growth: 1 is nan"),
        ("seed=99999999999999999999", "seed"),
        ("seed=9999999999999999999", "seed"),
        ("name=../mine", r"name '\.\./mine'"),
        ("name=", "name ''"),
        ("augment.ir_p=0.5", r"ir_p is 0\.5 but augment\.ir_folder"),
        ("augment.time_stretch=0.9", "time_stretch"),
        ("augment.speed=0.9", "speed"),
        ("augment.filter_bands=[5, 2]", r"filter_bands = \[5, 2\]"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(path, override, message):
    with pytest.raises(InputError, match=message):
        load_recipe(path, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.kind=serf_cnn", "'serf_cnn'; did you mean 'serfr_cnn'"),
        ("student.widht=8", "'widht'; did you mean 'width'"),
        ("student.width=wide", "width"),
    ],
)
def test_a_bad_architecture_is_refused_with_the_reason(path, override, message):
    with pytest.raises(InputError, match=message):
        model_config(load_recipe(path, [override]))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean 'esc50-serfr32'"):
        load_recipe("esc50-serfr23")


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("bad.toml", b"name = "),
        ("bad.toml", b"name = '\xff'"),
        ("bad.json", b"{"),
        ("bad.json", b"[1]"),
        ("bad.json", b"[" * 100_000),
    ],
)
def test_a_damaged_recipe_is_refused_in_one_line(tmp_path, monkeypatch, name, raw):
    (tmp_path / name).write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^bad\.{name[4:]}: [^\n]*$"):
        load_recipe(name)


def test_a_resolved_recipe_reads_back_to_the_same_hash(path):
    recipe = resolved(load_recipe(path))
    again = decode(msgspec.json.decode(msgspec.json.encode(recipe)), "again")
    assert again == recipe
    assert again.hash == recipe.hash
    assert recipe.model["last_width"] == 256


def test_the_hash_changes_with_any_value(path):
    changes = ("seed=0", "seed=1", "student.width=24", "train.lr=0.5", "augment.speed=1.5", "distill.repeat=2")
    hashes = {load_recipe(path, [change]).hash for change in changes}
    assert len(hashes) == len(changes)


def test_the_hash_is_of_all_trained_tables_defaults_included(path):
    recipe = load_recipe(path)
    stages = {"export", "teachers", "specialists", "backend"}
    tables = {name: table for name, table in msgspec.to_builtins(recipe).items() if name not in stages}
    assert recipe.hash == hashlib.sha256(msgspec.json.encode(tables, order="sorted")).hexdigest()[:16]


def test_the_hash_of_a_recipe_stays(path):
    assert load_recipe(path).hash == "70c9ce64d3ba9abe", "runs cannot be resumed across this change: raise RUN_VERSION"


def test_the_hash_leaves_the_path_of_the_initial_run_out(path):
    assert load_recipe(path, ["init.run=a"]).hash == load_recipe(path, ["init.run=b"]).hash
    assert load_recipe(path, ["init.adapt=head"]).hash != load_recipe(path).hash


@pytest.mark.parametrize("name", [*names("recipes"), *names("teachers")])
def test_every_shipped_recipe_is_valid(name):
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    model_config(recipe)


def test_the_export_table_leaves_the_hash_of_what_is_trained_alone(path):
    """Thresholds may change after the training."""
    assert load_recipe(path, ["export.max_steps=1", 'export.calibrate=["c"]']).hash == load_recipe(path).hash
    assert load_recipe(path, ["qat.epochs=1"]).hash != load_recipe(path).hash


def test_a_split_of_microphones_changes_the_hash(path):
    plain, everything, train = (
        load_recipe(path, each).hash for each in ((), ["augment.ir_split=all"], ["augment.ir_split=train"])
    )
    assert plain == everything != train
    with pytest.raises(InputError, match="ir_split"):
        load_recipe(path, ["augment.ir_split=mine"])
