"""Recipes: all that decides a training run, read from TOML, unknown keys refused. No torch here.

A student recipe has a [student] table, a teacher recipe a [teacher] table. Both name an architecture of
`edgekd.models` by `kind`.
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.resources import convert, find, read_table
from edgekd.train.recipe.schema import (
    Augment,
    Backend,
    Data,
    Distill,
    Export,
    Init,
    Qat,
    RecipeTable,
    Seed,
    Specialists,
    Stage,
    Train,
    View,
)

NAME = re.compile(r"\w[\w.-]*")
"""A recipe's name, which begins the names of exported files."""
Role = Literal["student", "teacher"]
UNTRAINED = frozenset({"export", "teachers", "specialists", "backend"})
"""Tables of what happens before and after a run's own training. They are no part of `Recipe.hash`; run.json holds the
hashes of the teachers' soft labels."""


class Recipe(RecipeTable, frozen=True, kw_only=True):
    """One training run. It has either `student` or `teacher`."""

    name: str
    seed: Seed = 0
    data: Data
    frontend: FrontEnd = FrontEnd()
    normalize: bool = True
    """Set the front end's mean and standard deviation from the training clips; false keeps those given."""
    student: dict[str, Any] | None = None
    """`kind`, an architecture of `edgekd.models`, and that architecture's fields."""
    teacher: dict[str, Any] | None = None
    """As `student`. A teacher has no quantization-aware phase."""
    init: Init = Init()
    view: View = View()
    augment: Augment = Augment()
    distill: Distill = Distill()
    train: Train = Train()
    qat: Qat = Qat()
    export: Export = Export()
    teachers: tuple[Stage, ...] = ()
    """Teachers that `edgekd distill` trains before a student, inside its run folder, where no --teacher is given."""
    specialists: Specialists | None = None
    """Further teachers of a student, one for each pair of labels that the first teacher confuses most."""
    backend: Backend | None = None
    """Classifiers on the embeddings of this run and of other systems that are trained in its run folder."""

    @property
    def role(self) -> Role:
        """Which of the two tables the recipe has."""
        return "student" if self.student is not None else "teacher"

    @property
    def model(self) -> dict[str, Any]:
        """The architecture's table, with its `kind`."""
        table = self.student if self.student is not None else self.teacher
        assert table is not None  # decode refuses a recipe with neither
        return table

    @property
    def has_qat(self) -> bool:
        """Whether a quantization-aware phase follows the float one."""
        return self.student is not None and self.qat.epochs > 0

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of every value that decides what this run trains.

        Left out are the `UNTRAINED` tables and the path init.run, whose weights have a hash of their own in run.json.
        """
        tables = msgspec.to_builtins(without_init_path(self))
        trained = {name: table for name, table in tables.items() if name not in UNTRAINED}
        return hashlib.sha256(msgspec.json.encode(trained, order="sorted")).hexdigest()[:16]


def without_init_path(recipe: Recipe) -> Recipe:
    """The recipe with init.run = "": a run folder that is moved together with its stages stays the same run."""
    return msgspec.structs.replace(recipe, init=msgspec.structs.replace(recipe.init, run=""))


def identity_with_stages(recipe: Recipe) -> str:
    """A text that changes with anything that decides what a recipe and its stages (teachers, specialists, back-end)
    train. The recipes of stages are read, so that a change of their files changes the text.

    Raises:
        InputError: the recipe of a stage cannot be read.
    """
    tables = (recipe.init.run, recipe.teachers, recipe.specialists, recipe.backend)
    stages: list[Stage | Specialists] = [*recipe.teachers]
    if recipe.specialists:
        stages.append(recipe.specialists)
    if recipe.backend:
        stages += recipe.backend.systems
    return "\n".join(
        [
            recipe.hash,
            msgspec.json.encode(tables, order="sorted").decode(),
            *(identity_with_stages(load_recipe(each.recipe, each.set)) for each in stages),
        ]
    )


def without_teachers(recipe: Recipe) -> Recipe:
    """The recipe without [[teachers]] and [specialists]: trained with given teachers, or with none, it needs no
    stages of that kind."""
    return msgspec.structs.replace(recipe, teachers=(), specialists=None)


def with_teacher_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """A student's recipe with further settings for each teacher that it trains, specialists included.

    Args:
        recipe: of a student.
        settings: "key=value", as of `load_recipe`.
    """
    teachers = tuple(msgspec.structs.replace(each, set=(*each.set, *settings)) for each in recipe.teachers)
    specialists = recipe.specialists and msgspec.structs.replace(
        recipe.specialists, set=(*recipe.specialists.set, *settings)
    )
    return msgspec.structs.replace(recipe, teachers=teachers, specialists=specialists)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any recipe by path (.toml, or the .json of a run folder).

    Args:
        name_or_path: e.g. "esc50-serfr32".
        overrides: "key=value" with a dotted key, e.g. "train.epochs=20". The value is read as TOML, or as a string
            where it is not TOML.

    Raises:
        InputError: no such recipe, a damaged file, unknown or mistyped keys, a value out of range.
    """
    path = find(name_or_path, "recipes", "teachers")
    raw = read_table(path)
    for override in overrides:
        _override(raw, override)
    return decode(raw, f"{path} with --set" if overrides else str(path))


def decode(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check the keys and values of a recipe.

    Args:
        raw: tables as TOML or JSON gives them.
        where: file that errors name.

    Raises:
        InputError: see `load_recipe`.
    """
    _refuse_infinite(raw, where)
    recipe = convert(raw, Recipe, where)
    if not NAME.fullmatch(recipe.name):
        raise InputError(
            f"{where}: name '{recipe.name}' begins the names of files; use letters, digits, '.', '_' and '-'"
        )
    if (recipe.student is None) == (recipe.teacher is None):
        got = "neither" if recipe.student is None else "both"
        raise InputError(f"{where}: a recipe has either a [student] or a [teacher] table; this one has {got}")
    if "kind" not in recipe.model:
        raise InputError(f"{where}: [{recipe.role}] has no 'kind', the name of its architecture")
    both = sorted(set(recipe.data.train) & set(recipe.data.test))
    if both:
        raise InputError(
            f"{where}: split '{both[0]}' is in data.train and in data.test; test a model on clips that it was not"
            " trained on"
        )
    if recipe.augment.ir_p and not recipe.augment.ir_folder:
        raise InputError(
            f"{where}: augment.ir_p is {recipe.augment.ir_p:g} but augment.ir_folder is not set; give the folder of the"
            " impulse responses"
        )
    least, most = recipe.augment.filter_bands
    if least > most:
        raise InputError(
            f"{where}: augment.filter_bands = [{least}, {most}]: write the least and the most, e.g. [{most}, {least}]"
        )
    _check_held_out(recipe.data.held_out, where)
    if recipe.role == "teacher" and (recipe.teachers or recipe.specialists or recipe.backend):
        raise InputError(
            f"{where}: [[teachers]], [specialists] and [backend] are stages of a student; a teacher learns from labels"
            " alone"
        )
    if recipe.specialists and recipe.specialists.pairs and not recipe.teachers:
        raise InputError(
            f"{where}: [specialists] begin with the weights of the first of [[teachers]], and there is none; add one"
        )
    for split in recipe.export.calibrate:
        if split in recipe.data.train:
            raise InputError(
                f"{where}: split '{split}' is in export.calibrate and in data.train; fit the temperature on clips that"
                " the model was not trained on"
            )
    return recipe


def check_sample_rate(recipe: Recipe, store: ClipStore) -> None:
    """Refuse a store whose sample rate is not that of a recipe's front end.

    Raises:
        InputError: they differ.
    """
    if recipe.frontend.sample_rate != store.sample_rate:
        raise InputError(
            f"recipe {recipe.name}: its front end needs {recipe.frontend.sample_rate} Hz, {store.path} holds "
            f"{store.sample_rate} Hz; prepare the store at the front end's rate"
        )


def _check_held_out(pairs: tuple[int, ...], where: str) -> None:
    if len(pairs) % 2:
        raise InputError(f"{where}: data.held_out = {list(pairs)}: write [k, K], part k (from 0) of K, e.g. [0, 4]")
    for part, count in zip(pairs[::2], pairs[1::2], strict=True):
        if count < 2 or part >= count:
            raise InputError(
                f"{where}: data.held_out = {list(pairs)}: there is no part {part} of {count} to hold out; "
                "give at least 2 parts, counted from 0"
            )


def _override(raw: dict[str, Any], override: str) -> None:
    """Set one "key=value" in the tables of a recipe."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: write key=value, e.g. train.epochs=20")
    *parents, last = key.strip().split(".")
    table: Any = raw
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override!r}: '{parent}' is a value, not a table")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text


def _refuse_infinite(value: Any, where: str) -> None:
    """Refuse infinities and NaN at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}; give a finite number")
    for key, each in (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    ):
        _refuse_infinite(each, f"{where}: {key}")
