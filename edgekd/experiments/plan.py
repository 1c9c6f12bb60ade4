"""Many trainings of one question: which runs it takes, the folder that holds them, and the jobs that make them.

DIR/plan.json says what the folder belongs to, DIR/recipes/ holds the recipe of every run, DIR/runs/ the run folders,
DIR/jobs/ what they printed. A run's name ends in a hash of all that decides it, so that nothing is trained twice and
nothing stale is read.
"""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.experiments.jobs import Job, Outcome, Workers, chosen_workers, edgekd_command
from edgekd.experiments.predictions import TestSide
from edgekd.files import PART, atomic_write, held, in_use
from edgekd.text import counted
from edgekd.train.recipe.recipe import (
    Recipe,
    Role,
    identity_with_stages,
    load_recipe,
    with_teacher_settings,
    without_teachers,
)
from edgekd.train.recipe.schema import Data
from edgekd.train.run.folder import RUN_FILE, STAGES_FILE, resolved
from edgekd.train.teachers.out_of_fold import assignment

PLAN_FILE, RECIPES_FOLDER, RUNS_FOLDER, JOBS_FOLDER = "plan.json", "recipes", "runs", "jobs"
FORMAT, VERSION = "edgekd-experiment", 2
"""Of plan.json. Version 1, which wrote no number, named runs by other hashes of their recipes."""
DIGITS = 8
"""Of the hash that ends a run's name."""
INNER = (0, 4)
"""data.held_out of the runs that a choice is made on."""


@dataclass(frozen=True)
class Setting:
    """One answer to the question: a recipe with its settings. label: unique. teachers: recipes of the student's
    teachers."""

    label: str
    recipe: Recipe
    teachers: tuple[Recipe, ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """Those that a run of it leaves and is judged by."""
        return ("float", "qat") if self.recipe.role == "student" and self.recipe.qat.epochs > 0 else ("float",)


@dataclass(frozen=True)
class Fold:
    """Splits to train and to test on; held_out as in the [data] table."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    held_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Planned:
    """One run. name: of its folder. setting: its label, "" for a teacher. teachers: run folders that come first, by the
    name of the run or as RUN/teachers/NAME for one that was trained in it."""

    name: str
    setting: str
    fold: str
    seed: int
    recipe: Recipe
    teachers: tuple[str, ...] = ()


@dataclass
class Plan:
    """All runs. teachers: by name of the run. cross_fit: of the teachers, None for ordinary ones. sides: what is
    tested, computed once."""

    store: ClipStore
    out: Path
    cross_fit: int | None = None
    runs: list[Planned] = field(default_factory=list)
    teachers: dict[str, Planned] = field(default_factory=dict)
    sides: dict[Data, TestSide] = field(default_factory=dict)

    def add(
        self, setting: Setting, fold: Fold, seed: int, *, inner: bool = False, taught_by: Sequence[str] = ()
    ) -> Planned:
        """Plan a run and the teachers it needs, which all runs of a fold share; `inner` tests on a part of the training
        side. taught_by: further teachers, which other runs of this plan train inside themselves, as in
        `Planned.teachers`."""
        if inner:
            fold = Fold(f"{fold.name}-inner", fold.train, fold.test, (*fold.held_out, *INNER))
        taught = list(taught_by)
        for teacher in setting.teachers:
            recipe = _placed(teacher, fold, teacher.seed)
            name = self._name(recipe, fold, () if self.cross_fit is None else (str(self.cross_fit),))
            self.teachers.setdefault(name, Planned(name, "", fold.name, recipe.seed, recipe))
            taught.append(name)
        recipe = _placed(without_teachers(setting.recipe) if taught else setting.recipe, fold, seed)
        run = Planned(self._name(recipe, fold, taught), setting.label, fold.name, seed, recipe, tuple(taught))
        self.runs.append(run)
        return run

    def path(self, run: str) -> Path:
        """Folder of a run."""
        return self.out / RUNS_FOLDER / run

    def check(self) -> None:
        """Divide the clips as each run and fit will.

        Raises:
            InputError: see `ClipStore.partition`.
        """
        for run in (*self.teachers.values(), *self.runs):
            self.tested(run)
        if self.cross_fit is not None:
            for teacher in self.teachers.values():
                assignment(teacher.recipe, self.store, self.cross_fit)

    def tested(self, run: Planned) -> TestSide:
        """What a run is tested on."""
        data = run.recipe.data
        if data not in self.sides:
            self.sides[data] = TestSide.of(self.store, data.sides(self.store).test)
        return self.sides[data]

    def jobs(self, workers: Workers) -> list[Job]:
        """Write the recipes; a job for each run, teachers first."""
        (self.out / RECIPES_FOLDER).mkdir(exist_ok=True)
        found = []
        for run in {each.name: each for each in (*self.teachers.values(), *self.runs)}.values():
            path = (self.out / RECIPES_FOLDER / f"{run.name}.json").resolve()
            atomic_write(path, msgspec.json.format(msgspec.json.encode(run.recipe), indent=2) + b"\n")
            folder = self.path(run.name).resolve()
            options = [
                "--data",
                str(self.store.path.resolve()),
                "--out",
                str(folder),
                "--threads",
                str(workers.threads),
            ]
            if run.recipe.role == "teacher":
                fits = (
                    ["--cross-fit", str(self.cross_fit)]
                    if self.cross_fit is not None and run.name in self.teachers
                    else []
                )
                command = edgekd_command("teach", str(path), *options, *fits)
            else:
                teachers = itertools.chain.from_iterable(
                    ("--teacher", str(self.path(name).resolve())) for name in run.teachers
                )
                command = edgekd_command("distill", str(path), *options, *teachers)
            staged = not run.teachers and bool(run.recipe.teachers or run.recipe.backend)
            found.append(
                Job(
                    run.name,
                    command,
                    tuple(dict.fromkeys(name.partition("/")[0] for name in run.teachers)),
                    folder / (STAGES_FILE if staged else RUN_FILE),
                )
            )
        return found

    def _name(self, recipe: Recipe, fold: Fold, more: Iterable[str]) -> str:
        all_of_it = "\n".join([identity_with_stages(recipe), self.store.hash, *more])
        place = re.sub(r"[^\w.-]+", "_", fold.name)
        return f"{recipe.name}-{place}-seed{recipe.seed}-{hashlib.sha256(all_of_it.encode()).hexdigest()[:DIGITS]}"


def _placed(recipe: Recipe, fold: Fold, seed: int) -> Recipe:
    """The recipe on the splits of a fold."""
    data = msgspec.structs.replace(
        recipe.data, train=fold.train, test=fold.test, held_out=fold.held_out, mixed_folds=False
    )
    return msgspec.structs.replace(
        recipe, data=data, seed=seed, export=msgspec.structs.replace(recipe.export, calibrate=())
    )


def anywhere(recipe: Recipe) -> Recipe:
    """The recipe on no splits, with seed 0: equal for all its runs of an experiment."""
    return _placed(recipe, Fold("", (), ()), 0)


def workers_here(jobs: int | None, threads: int | None, engine: str) -> Workers:
    """Where runs are trained; see `jobs.chosen_workers`."""
    return chosen_workers(jobs, threads, engine, torch.cuda.device_count())


def load(
    name_or_path: str, settings: Sequence[str], role: Role | None = None, teacher_settings: Sequence[str] = ()
) -> Recipe:
    """A recipe with its architecture checked. teacher_settings: on top for all teachers of its own.

    Raises:
        InputError: see `load_recipe`; an unknown architecture, or the other role.
    """
    recipe = with_teacher_settings(resolved(load_recipe(name_or_path, settings)), teacher_settings)
    if role is not None and recipe.role != role:
        raise InputError(f"recipe {recipe.name} has a [{recipe.role}] table; give one with a [{role}] table here")
    return recipe


def with_teachers(recipe: Recipe, teachers: Sequence[str], settings: Sequence[str]) -> tuple[Recipe, ...]:
    """Recipes of a student's teachers; a teacher has none.

    Raises:
        InputError: see `load`.
    """
    loaded = tuple(load(name, settings, "teacher") for name in teachers)
    return loaded if recipe.role == "student" else ()


def cross_folds(recipe: Recipe, store: ClipStore, names: str | None) -> list[Fold]:
    """Folds that take turns at being tested, the others being trained on.

    Args:
        recipe: its train and test splits are the folds, where none are named.
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


def split_list(text: str, option: str) -> list[str]:
    """What commas separate.

    Raises:
        InputError: nothing, or something twice.
    """
    found = [each.strip() for each in text.split(",")]
    if not all(found):
        raise InputError(f"{option} {text!r}: write values with commas between them, e.g. a,b")
    for each in found:
        if found.count(each) > 1:
            raise InputError(f"{option} {text!r}: '{each}' is there twice; name it once")
    return found


def seed_list(text: str) -> list[int]:
    """Seeds that commas separate.

    Raises:
        InputError: something else than whole numbers from 0, or one twice.
    """
    found = split_list(text, "--seeds")
    for each in found:
        if not (each.isascii() and each.isdigit()) or int(each) >= 2**63:
            raise InputError(f"--seeds {text!r}: '{each}' is not a whole number from 0 to 2^63 - 1")
    return [int(each) for each in split_list(",".join(str(int(each)) for each in found), "--seeds")]


def digest(setting: Setting) -> str:
    """16 hex digits of a recipe and its teachers, wherever they are trained and with whatever seed."""
    parts = [identity_with_stages(anywhere(recipe)) for recipe in (setting.recipe, *setting.teachers)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextmanager
def claimed(out: Path, identity: Mapping[str, str]) -> Iterator[None]:
    """Hold a folder that is new or was made for the same.

    Args:
        out: the folder.
        identity: what must not change between two commands, by name, e.g. {"store": HASH}.

    Raises:
        InputError: something else is there, it belongs to something else, another process works in it, or it cannot be
            written.
    """
    check_place(out, identity)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if in_use(out, unknown=False):
            raise InputError(f"{out} is in use by another edgekd process; wait for it or choose another --out")
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another --out") from None
    with held(out):
        try:
            document = {"format": FORMAT, "version": VERSION, **identity}
            atomic_write(out / PLAN_FILE, json.dumps(document, indent=2).encode() + b"\n")
        except OSError as error:
            raise InputError(
                f"{out} cannot be written ({error.strerror}); free space or choose another --out"
            ) from None
        yield


def check_place(out: Path, identity: Mapping[str, str]) -> None:
    """Find out whether a folder can be claimed; nothing is changed.

    Raises:
        InputError: see `claimed`.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    if not out.is_dir() or all(child.name.endswith(PART) for child in out.iterdir()):
        return
    there = read_identity(out)
    for name in [*identity, *there]:
        if there.get(name) != identity.get(name):
            old, new = there.get(name, "none")[:16], identity.get(name, "none")[:16]
            raise InputError(
                f"{out}: begun with another {name} ({old}, now {new}); give what it was begun with, remove it, "
                "or choose another --out"
            )


def read_identity(out: Path) -> dict[str, str]:
    """What a folder belongs to, by name, as `claimed` wrote it.

    Raises:
        InputError: no such folder, or one of another version.
    """
    try:
        raw: Any = json.loads((out / PLAN_FILE).read_bytes())
        if raw.pop("format") != FORMAT:
            raise ValueError
        version = raw.pop("version", 1)
        identity = {str(name): str(value) for name, value in raw.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        raise InputError(f"{out} is not empty and no folder of a crossval or sweep; choose another --out") from None
    if version == 1:
        command = identity.get("command", "crossval")
        raise InputError(
            f"{out}: begun by an earlier version of edgekd, whose runs do not go with new ones; remove the folder and"
            f" make it anew with: edgekd {command} ... --out {shlex.quote(str(out))}"
        )
    if version != VERSION:
        raise InputError(
            f"{out / PLAN_FILE}: version {version!r} is unknown (this edgekd reads {VERSION}); update edgekd or choose"
            " another --out"
        )
    return identity


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A line for each run that is not done."""
    return [
        f"{name}: {outcome.error} (see {outcome.log})" for name, outcome in outcomes.items() if outcome.state != "done"
    ]


def require_done(out: Path, failed: Sequence[str]) -> None:
    """Refuse results that lack runs. failed: their lines, as `failures` gives them.

    Raises:
        GateError: there are some.
    """
    if failed:
        raise GateError(
            "\n".join([f"{out}: {counted(len(failed), 'run')} not done; the same command tries again", *failed])
        )
