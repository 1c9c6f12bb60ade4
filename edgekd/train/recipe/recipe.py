"""Recipes: everything that decides a training run, read from TOML and refused when a key is unknown. No torch here.

A student recipe has a [student] table, a teacher recipe a [teacher] table; both name an architecture by `kind`
(`edgekd.models`).
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

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
    Seed,
    Specialists,
    Table,
    Taught,
    Train,
    View,
)

NAME = re.compile(r"\w[\w.-]*")
"""Of recipes; it begins the names of exported files."""
Role = Literal["student", "teacher"]
UNTRAINED = frozenset({"export", "teachers", "specialists", "backend"})
"""Tables that say what happens before and after a run's own training; the soft labels of its teachers are part of the
run by their hash."""


class Recipe(Table, frozen=True, kw_only=True):
    """One training run. Exactly one of `student` and `teacher`."""

    name: str
    seed: Seed = 0
    data: Data
    frontend: FrontEnd = FrontEnd()
    normalize: bool = True
    """Set the front end's mean and standard deviation from the training clips; false keeps those given."""
    student: dict[str, Any] | None = None
    """`kind`, an architecture of `edgekd.models`, and that architecture's fields."""
    teacher: dict[str, Any] | None = None
    """As `student`; a teacher has no quantization-aware phase."""
    init: Init = Init()
    view: View = View()
    augment: Augment = Augment()
    distill: Distill = Distill()
    train: Train = Train()
    qat: Qat = Qat()
    export: Export = Export()
    teachers: tuple[Taught, ...] = ()
    """Trained before a student by `edgekd distill`, inside its run folder, where no --teacher is given."""
    specialists: Specialists | None = None
    """Further teachers of a student, one for each pair of labels that the first teacher confuses most."""
    backend: Backend | None = None
    """What judges the embeddings of the run and of others trained beside it."""

    @property
    def role(self) -> Role:
        """Which of the two tables it has."""
        return "student" if self.student is not None else "teacher"

    @property
    def model(self) -> dict[str, Any]:
        """The architecture's table, with its `kind`."""
        table = self.student if self.student is not None else self.teacher
        assert table is not None  # decode refuses a recipe with neither
        return table

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any value that decides what is trained: all but the `UNTRAINED`
        tables and the place of the run to begin with, whose weights have a hash of their own in run.json."""
        trained = {name: value for name, value in msgspec.to_builtins(placeless(self)).items() if name not in UNTRAINED}
        if not self.data.recorders:  # keys that came later: runs made before them stay the same runs
            del trained["data"]["recorders"]
        if not self.data.mixed_folds:
            del trained["data"]["mixed_folds"]
        if self.augment.ir_split == "all":
            del trained["augment"]["ir_split"]
        if not self.distill.repeat:
            del trained["distill"]["repeat"]
        later = {
            "speed": self.augment.speed > 1,
            **dict.fromkeys(("filter_p", "filter_db", "filter_bands"), self.augment.filter_p > 0),
        }
        for key in (key for key, used in later.items() if not used):
            del trained["augment"][key]
        return hashlib.sha256(msgspec.json.encode(trained, order="sorted")).hexdigest()[:16]


def placeless(recipe: Recipe) -> Recipe:
    """The recipe without the place of the run that it begins with: a run folder that is moved with its stages stays the
    same run."""
    return msgspec.structs.replace(recipe, init=msgspec.structs.replace(recipe.init, run=""))


def decided(recipe: Recipe) -> str:
    """All that decides what a recipe's own training and that of its stages (teachers, specialists, back-end) give, what
    the recipes of stages say now among it; its hash without any and without a run to begin with.

    Raises:
        InputError: a stage's recipe that cannot be read.
    """
    stages = (recipe.teachers, recipe.specialists, recipe.backend)
    staged = [msgspec.json.encode(stages, order="sorted").decode()] if any(stages) else []
    special, beside = (
        (recipe.specialists,) if recipe.specialists else (),
        recipe.backend.beside if recipe.backend else (),
    )
    within = [decided(load_recipe(each.recipe, each.set)) for each in (*recipe.teachers, *special, *beside)]
    return "\n".join([recipe.hash, *([recipe.init.run] if recipe.init.run else []), *staged, *within])


def alone(recipe: Recipe) -> Recipe:
    """The recipe of a student without teachers of its own: given others, or none, it trains no more than itself."""
    return msgspec.structs.replace(recipe, teachers=(), specialists=None)


def with_teacher_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings on top for each teacher that it trains first, specialists among them.

    Args:
        recipe: of a student.
        settings: "key=value", as of `load_recipe`.
    """
    teachers = tuple(msgspec.structs.replace(each, set=(*each.set, *settings)) for each in recipe.teachers)
    special = recipe.specialists and msgspec.structs.replace(
        recipe.specialists, set=(*recipe.specialists.set, *settings)
    )
    return msgspec.structs.replace(recipe, teachers=teachers, specialists=special)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any by path (.toml, or the .json of a run folder).

    Args:
        name_or_path: e.g. "esc50-serfr32".
        overrides: "key=value" with a dotted key, e.g. "train.epochs=20"; the value is read as TOML, or else as a
            string.

    Raises:
        InputError: no such recipe, damaged, unknown or mistyped keys, a value out of range.
    """
    path = find(name_or_path, "recipes", "teachers")
    raw = read_table(path)
    for override in overrides:
        _override(raw, override)
    return decode(raw, f"{path} with --set" if overrides else str(path))


def decode(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check keys and values of a recipe.

    Args:
        raw: tables as TOML or JSON gives them.
        where: named in errors.

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
            f"{where}: split '{both[0]}' is in data.train and in data.test; a model is not tested on what it was"
            " trained on"
        )
    if recipe.augment.ir_p and not recipe.augment.ir_folder:
        raise InputError(
            f"{where}: augment.ir_p is {recipe.augment.ir_p:g} but augment.ir_folder is not set; name the folder of the"
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
        raise InputError(f"{where}: [specialists] begin as the first of [[teachers]], and there is none; add one")
    for split in recipe.export.calibrate:
        if split in recipe.data.train:
            raise InputError(
                f"{where}: split '{split}' is in export.calibrate and in data.train; fit the temperature on clips that"
                " the model was not trained on"
            )
    return recipe


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
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: write key=value, e.g. train.epochs=20")
    *tables, last = key.strip().split(".")
    place: Any = raw
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {override!r}: '{table}' is a value, not a table")
    try:
        place[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        place[last] = text


def _refuse_infinite(value: Any, where: str) -> None:
    """Refuse numbers that are infinite or none, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}; give a finite number")
    for key, each in (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    ):
        _refuse_infinite(each, f"{where}: {key}")
