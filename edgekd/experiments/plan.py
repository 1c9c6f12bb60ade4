"""The plan of an experiment: which runs it takes, their recipes, and the jobs that train them.

A run's name ends in a hash of everything that decides its result. So nothing is trained twice, and no outdated run is
read.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.experiments.folder import RECIPES_FOLDER, RUNS_FOLDER
from edgekd.experiments.jobs import Job, Workers, chosen_workers, edgekd_command
from edgekd.experiments.predictions import TestSide
from edgekd.files import atomic_write
from edgekd.models import check_weights
from edgekd.text import json_bytes
from edgekd.train.recipe.recipe import (
    Recipe,
    Role,
    identity_with_stages,
    load_recipe,
    with_teacher_settings,
    without_teachers,
)
from edgekd.train.recipe.schema import Data
from edgekd.train.run.folder import RUN_FILE, STAGES_FILE, model_config, resolved
from edgekd.train.teachers.out_of_fold import assignment

RUN_HASH_DIGITS = 8
"""Hex digits of the hash that ends a run's name."""
SETTING_HASH_DIGITS = 16
INNER_PART = (0, 4)
"""data.held_out of inner runs: part 0 of 4 of the training clips is the test side."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Setting:
    """A recipe with the keys that a command sets: what one row of a result table is about.

    Attributes:
        label: unique in the experiment.
        recipe: the recipe with its settings.
        teachers: recipes of the student's teachers, which are runs of their own.
    """

    label: str
    recipe: Recipe
    teachers: tuple[Recipe, ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks that a run leaves and that are scored: "float", and "qat" where there is that phase."""
        return ("float", "qat") if self.recipe.role == "student" and self.recipe.qat.epochs > 0 else ("float",)


@dataclass(frozen=True)
class Fold:
    """Splits to train on and to test on. held_out: as in the recipe's [data] table."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    held_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One training.

    Attributes:
        name: of its folder.
        setting: label of its setting, "" for a teacher.
        fold: name of its fold.
        seed: of the training.
        recipe: with fold and seed set.
        teachers: run folders that must be trained first: the name of a run, or RUN/teachers/NAME for a teacher that was
            trained inside that run.
    """

    name: str
    setting: str
    fold: str
    seed: int
    recipe: Recipe
    teachers: tuple[str, ...] = ()


@dataclass
class Plan:
    """All runs of an experiment.

    Attributes:
        store: the clips.
        out: the experiment's folder.
        cross_fit: number of cross-fitted copies of each teacher, None for ordinary teachers.
        runs: in the order of the result table.
        teachers: name of the run -> run of a teacher.
        test_sides: test side of each [data] table, computed once.
    """

    store: ClipStore
    out: Path
    cross_fit: int | None = None
    runs: list[PlannedRun] = field(default_factory=list)
    teachers: dict[str, PlannedRun] = field(default_factory=dict)
    test_sides: dict[Data, TestSide] = field(default_factory=dict)

    def add(
        self, setting: Setting, fold: Fold, seed: int, *, inner: bool = False, more_teachers: Sequence[str] = ()
    ) -> PlannedRun:
        """Plan a run and its teachers, which all runs of a fold share.

        Args:
            setting: what to train.
            fold: where to train and test.
            seed: of the training.
            inner: test on a part of the training side instead.
            more_teachers: teachers that other runs of this plan train inside themselves, as in `PlannedRun.teachers`.
        """
        if inner:
            fold = Fold(f"{fold.name}-inner", fold.train, fold.test, (*fold.held_out, *INNER_PART))
        teachers = list(more_teachers)
        for teacher in setting.teachers:
            recipe = _on_fold(teacher, fold, teacher.seed)
            name = self._name(recipe, fold, () if self.cross_fit is None else (str(self.cross_fit),))
            self.teachers.setdefault(name, PlannedRun(name, "", fold.name, recipe.seed, recipe))
            teachers.append(name)
        recipe = _on_fold(without_teachers(setting.recipe) if teachers else setting.recipe, fold, seed)
        run = PlannedRun(self._name(recipe, fold, teachers), setting.label, fold.name, seed, recipe, tuple(teachers))
        self.runs.append(run)
        return run

    def path(self, run: str) -> Path:
        """Folder of a run."""
        return self.out / RUNS_FOLDER / run

    def check(self) -> None:
        """Divide the clips as each run and each cross-fitted teacher will, and find the published weights.

        Raises:
            InputError: see `ClipStore.partition`; weights are missing or damaged.
        """
        for run in (*self.teachers.values(), *self.runs):
            self.test_side(run)
            check_weights(model_config(run.recipe))
        if self.cross_fit is not None:
            for teacher in self.teachers.values():
                assignment(teacher.recipe, self.store, self.cross_fit)

    def test_side(self, run: PlannedRun) -> TestSide:
        """The clips that a run is tested on."""
        data = run.recipe.data
        if data not in self.test_sides:
            self.test_sides[data] = TestSide.of(self.store, data.sides(self.store).test)
        return self.test_sides[data]

    def jobs(self, workers: Workers) -> list[Job]:
        """Write the recipe of each run, and return a job for each, teachers first."""
        (self.out / RECIPES_FOLDER).mkdir(exist_ok=True)
        unique = {run.name: run for run in (*self.teachers.values(), *self.runs)}
        return [self._job(run, workers) for run in unique.values()]

    def _job(self, run: PlannedRun, workers: Workers) -> Job:
        recipe_path = (self.out / RECIPES_FOLDER / f"{run.name}.json").resolve()
        atomic_write(recipe_path, json_bytes(run.recipe))
        folder = self.path(run.name).resolve()
        options = ["--data", str(self.store.path.resolve()), "--out", str(folder), "--threads", str(workers.threads)]
        if run.recipe.role == "teacher":
            command = "teach"
            if self.cross_fit is not None and run.name in self.teachers:
                options += ["--cross-fit", str(self.cross_fit)]
        else:
            command = "distill"
            for name in run.teachers:
                options += ["--teacher", str(self.path(name).resolve())]
        has_stages = not run.teachers and bool(run.recipe.teachers or run.recipe.backend)
        return Job(
            run.name,
            edgekd_command(command, str(recipe_path), *options),
            tuple(dict.fromkeys(name.partition("/")[0] for name in run.teachers)),
            folder / (STAGES_FILE if has_stages else RUN_FILE),
        )

    def _name(self, recipe: Recipe, fold: Fold, more: Iterable[str]) -> str:
        """Name of a run. more: what else decides its result, besides recipe and store."""
        hashed = "\n".join([identity_with_stages(recipe), self.store.hash, *more])
        fold_name = re.sub(r"[^\w.-]+", "_", fold.name)
        digest = hashlib.sha256(hashed.encode()).hexdigest()[:RUN_HASH_DIGITS]
        return f"{recipe.name}-{fold_name}-seed{recipe.seed}-{digest}"


def _on_fold(recipe: Recipe, fold: Fold, seed: int) -> Recipe:
    """The recipe with the splits of a fold, a seed, and no splits for the export's calibration."""
    data = msgspec.structs.replace(
        recipe.data, train=fold.train, test=fold.test, held_out=fold.held_out, mixed_folds=False
    )
    return msgspec.structs.replace(
        recipe, data=data, seed=seed, export=msgspec.structs.replace(recipe.export, calibrate=())
    )


def without_fold(recipe: Recipe) -> Recipe:
    """The recipe without splits and with seed 0: equal for all its runs of an experiment."""
    return _on_fold(recipe, Fold("", (), ()), 0)


def workers_here(jobs: int | None, threads: int | None, engine: str) -> Workers:
    """`jobs.chosen_workers` with the GPUs of this machine."""
    return chosen_workers(jobs, threads, engine, torch.cuda.device_count())


def load_resolved(
    name_or_path: str, settings: Sequence[str], role: Role | None = None, teacher_settings: Sequence[str] = ()
) -> Recipe:
    """A recipe with its architecture checked.

    Args:
        name_or_path: of the recipe.
        settings: "key=value" of the recipe.
        role: the role that it must have; None allows both.
        teacher_settings: "key=value" of all teachers that the recipe itself names.

    Raises:
        InputError: see `load_recipe`; an unknown architecture, or the other role.
    """
    recipe = with_teacher_settings(resolved(load_recipe(name_or_path, settings)), teacher_settings)
    if role is not None and recipe.role != role:
        raise InputError(f"recipe {recipe.name} has a [{recipe.role}] table; give one with a [{role}] table here")
    return recipe


def teacher_recipes(recipe: Recipe, teachers: Sequence[str], settings: Sequence[str]) -> tuple[Recipe, ...]:
    """Recipes of a student's teachers by their names; none where `recipe` is itself a teacher's.

    Raises:
        InputError: see `load_resolved`.
    """
    loaded = tuple(load_resolved(name, settings, "teacher") for name in teachers)
    return loaded if recipe.role == "student" else ()


def cross_folds(recipe: Recipe, store: ClipStore, names: str | None) -> list[Fold]:
    """Folds of a cross-validation: each split is tested once by networks that were trained on the others.

    Args:
        recipe: its train and test splits are the folds where `names` is None.
        store: the clips.
        names: of splits, with commas.

    Raises:
        InputError: a fold that the store does not have, one that is named twice, fewer than two, or a recipe that holds
            out a part.
    """
    if recipe.data.held_out:
        raise InputError(
            f"recipe {recipe.name} has data.held_out = {list(recipe.data.held_out)}, but folds decide what is tested; "
            "take it out"
        )
    chosen = split_list(names, "--folds") if names is not None else sorted({*recipe.data.train, *recipe.data.test})
    store.indices(chosen)
    if len(chosen) < 2:
        raise InputError(
            f"--folds {chosen[0]}: one fold leaves nothing to train on; name at least two of {', '.join(store.splits)}"
        )
    return [Fold(name, tuple(other for other in chosen if other != name), (name,)) for name in chosen]


def recipe_fold(data: Data) -> Fold:
    """The splits that a recipe itself names."""
    return Fold("+".join(data.test) or "held out", data.train, data.test, data.held_out)


def split_list(text: str, option: str) -> list[str]:
    """The values that commas separate.

    Raises:
        InputError: an empty value, or one that is named twice.
    """
    values = [each.strip() for each in text.split(",")]
    if not all(values):
        raise InputError(f"{option} {text!r}: write values with commas between them, e.g. a,b")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{option} {text!r}: '{value}' is named twice; name it once")
    return values


def seed_list(text: str) -> list[int]:
    """Seeds that commas separate.

    Raises:
        InputError: a value that is no whole number from 0 to `MAX_SEED`, or one that is named twice.
    """
    values = split_list(text, "--seeds")
    for value in values:
        if not (value.isascii() and value.isdigit()) or int(value) > MAX_SEED:
            raise InputError(f"--seeds {text!r}: '{value}' is not a whole number from 0 to 2^63 - 1")
    return [int(value) for value in split_list(",".join(str(int(value)) for value in values), "--seeds")]


def setting_hash(setting: Setting) -> str:
    """16 hex digits of a recipe and its teachers, whatever their splits and seeds are."""
    parts = [identity_with_stages(without_fold(recipe)) for recipe in (setting.recipe, *setting.teachers)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:SETTING_HASH_DIGITS]
