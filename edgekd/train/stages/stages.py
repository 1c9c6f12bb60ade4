"""The runs that a student's recipe trains before the student, in the student's run folder: RUN/teachers/NAME is an
ordinary run of a teacher of `[[teachers]]`.

All stages use the student's splits, so that no teacher is trained on the student's test clips. One command trains all
of them. With --resume it continues where it stopped and keeps finished runs; with --force it trains everything anew,
stages included. To train another student of the same teachers, give them by --teacher RUN/teachers/NAME.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.prepare.checks import build_network, check_tap_paths
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.prepare.pretrained import FIRST_TEACHER, check_kind
from edgekd.train.recipe.recipe import NAME, Recipe, Role, check_sample_rate, decode, load_recipe
from edgekd.train.recipe.schema import Data, Stage
from edgekd.train.run.claim import check_run_folder, locked_run_folder, older_version_error, report_disk_errors
from edgekd.train.run.folder import (
    RUN_FILE,
    RUN_VERSION,
    STAGES_FILE,
    STAGES_FORMAT,
    TEACHERS_FOLDER,
    Run,
    model_config,
    resolved,
)

log = logging.getLogger(__name__)

CHOOSER, SPECIALIST = "chooser", "specialist-"
"""Run folders of `edgekd.train.stages.specialists` among the teachers: the name of one, and the prefix of the
others."""


def resume_options(path: Path, options: Options, file: str = RUN_FILE) -> Options:
    """The options of a stage: with `resume` where its folder holds a run already.

    Args:
        path: the stage's run folder.
        options: of the whole command.
        file: in the folder once the stage has begun; `STAGES_FILE` for a stage that has stages of its own.
    """
    resume = processes.first((path / file).is_file)
    return dataclasses.replace(options, force=False, resume=resume)


def train_or_resume(
    recipe: Recipe, store: ClipStore, path: Path, teachers: Sequence[Path] = (), options: Options = DEFAULT_OPTIONS
) -> Run:
    """Train a run, resume it, or open it where it is finished.

    Args:
        recipe: of the run.
        store: the clips.
        path: the run folder.
        teachers: finished runs to distil from.
        options: how to run; `force` and `resume` are ignored.

    Raises:
        InputError: the folder holds a run of another recipe, or anything that `training.train` refuses.
    """
    return train(recipe, store, path, teachers, resume_options(path, options))


@contextmanager
def held_for_stages(out: Path, options: Options = DEFAULT_OPTIONS) -> Iterator[None]:
    """Make and lock a run folder while its stages are trained. `train_or_resume` then trains the run itself.

    Raises:
        InputError: the folder cannot be made or replaced, there is nothing to resume, or another process uses it.
    """
    processes.first(lambda: _claim(out, options))
    with locked_run_folder(out, STAGES_FILE):
        try:
            yield
        except KeyboardInterrupt as stop:  # its message names the folder of the stage
            raise KeyboardInterrupt(
                f"{out}: {str(stop).partition(';')[0] or 'interrupted'}; go on with --resume"
            ) from None


def teacher_recipes(recipe: Recipe, out: Path) -> list[tuple[str, Recipe]]:
    """Names and recipes of a student's `[[teachers]]`, in order, on the student's splits. A teacher that sets no seed
    has the student's.

    Args:
        recipe: of the student. Paths of its teachers' recipes are relative to the current directory.
        out: the student's run folder, which holds the earlier teachers that [init] names.

    Raises:
        InputError: a recipe that cannot be read or is a student's, two teachers of one name, a name that cannot be a
            folder's, or a teacher that begins with the weights of a later one.
    """
    found: dict[str, Recipe] = {}
    listed = [stage_recipe(each, recipe) for each in recipe.teachers]
    names = [each.name or teacher.name for each, teacher in zip(recipe.teachers, listed, strict=True)]
    for name, teacher in zip(names, listed, strict=True):
        where = f"recipe {recipe.name}: [[teachers]]"
        if not NAME.fullmatch(name):
            raise InputError(f"{where}: name '{name}' cannot name a folder; use letters, digits, '.', '_' and '-'")
        if name in found:
            raise InputError(f"{where}: two are called '{name}'; give one of them another name = \"...\"")
        if recipe.specialists is not None and (name == CHOOSER or name.startswith(SPECIALIST)):
            raise InputError(f"{where}: [specialists] uses the name '{name}'; give it another name = \"...\"")
        if teacher.init.run in names and teacher.init.run not in found:
            raise InputError(
                f"{where}: '{name}' has init.run = '{teacher.init.run}', a teacher that comes later; change their order"
            )
        found[name] = with_initial_run(teacher, {earlier: teacher_path(out, earlier) for earlier in found})
    return list(found.items())


def train_teachers(recipe: Recipe, store: ClipStore, out: Path, options: Options = DEFAULT_OPTIONS) -> dict[str, Path]:
    """Train or resume a student's `[[teachers]]`, inside `held_for_stages`.

    Returns:
        name -> finished run folder, in order; `runs_that_teach` selects those that teach.

    Raises:
        InputError: see `teacher_recipes`; a student that cannot be trained on this store, before its teachers are
            trained; or anything that `training.train` refuses.
    """
    teachers = teacher_recipes(recipe, out)
    student = resolved(recipe)
    partition = partition_clips(student, store)
    for each in (student, *(teacher for _, teacher in teachers)):
        check_sample_rate(each, store)
        build_network(each, store, partition, model_config(each))
    listed = [each for taught, (_, each) in zip(recipe.teachers, teachers, strict=True) if taught.teaches]
    if student.init.run == FIRST_TEACHER and listed:
        check_kind(student, listed[0], listed[0].name)
    check_tap_paths(student, store, [*listed, *[None] * (recipe.specialists.pairs if recipe.specialists else 0)])
    made = {}
    for number, (name, teacher) in enumerate(teachers, 1):
        log.info("teacher %d of %d: %s", number, len(teachers), name)
        made[name] = train_or_resume(teacher, store, teacher_path(out, name), options=options).path
    return made


def runs_that_teach(recipe: Recipe, made: Mapping[str, Path]) -> list[Path]:
    """Those of the folders from `train_teachers` that the student learns from."""
    return [path for taught, path in zip(recipe.teachers, made.values(), strict=True) if taught.teaches]


def teacher_path(out: Path, name: str) -> Path:
    """Run folder of the stage `name` of the run at `out`."""
    return out / TEACHERS_FOLDER / name


def with_initial_run(recipe: Recipe, made: Mapping[str, Path]) -> Recipe:
    """The recipe with init.run replaced by the run folder of the stage that it names; unchanged where it names none."""
    path = made.get(recipe.init.run)
    if path is None:
        return recipe
    return msgspec.structs.replace(recipe, init=msgspec.structs.replace(recipe.init, run=str(path.resolve())))


def stage_recipe(stage: Stage, owner: Recipe, role: Role = "teacher") -> Recipe:
    """The recipe of a stage on the splits of its owner, with the owner's seed where the stage sets none.

    Args:
        stage: entry in the owner's recipe.
        owner: the recipe that the stage belongs to.
        role: that the stage must have.

    Raises:
        InputError: see `load_recipe`; an unknown architecture, another role, or settings of [data] other than its pair.
    """
    keys = [setting.partition("=")[0].strip() for setting in stage.set]
    for key in keys:
        if key == "data" or (key.startswith("data.") and key != "data.pair"):
            raise InputError(
                f"recipe {owner.name}: '{stage.recipe}' with {key}: a stage uses the splits of the run that it belongs"
                f" to; take it out of set, or change [data] of {owner.name}"
            )
    loaded = load_recipe(stage.recipe, stage.set)
    if loaded.role != role:
        raise InputError(
            f"recipe {owner.name}: '{stage.recipe}' has a [{loaded.role}] table; name a recipe with a [{role}] table"
            " here"
        )
    seed = loaded.seed if "seed" in keys else owner.seed
    return on_splits(
        resolved(msgspec.structs.replace(loaded, seed=seed)), owner.data, f"{stage.recipe} for {owner.name}"
    )


def on_splits(recipe: Recipe, data: Data, where: str) -> Recipe:
    """The recipe on the splits of `data`, with its own pair of labels; errors name `where`.

    Raises:
        InputError: see `recipe.decode`.
    """
    splits = msgspec.structs.replace(data, pair=recipe.data.pair)
    changed = msgspec.structs.replace(recipe, data=splits, export=msgspec.structs.replace(recipe.export, calibrate=()))
    return decode(msgspec.to_builtins(changed), where)


def _claim(out: Path, options: Options) -> None:
    """Make a run folder with `STAGES_FILE`, or make sure that the one there can be resumed."""
    check_run_folder(out, (), force=options.force, resume=options.resume)
    has_stages = (out / STAGES_FILE).is_file()
    if has_stages and not options.force and not options.resume:
        raise InputError(f"{out} exists; go on with --resume, begin anew with --force, or choose another --out")
    if options.resume and not has_stages:
        raise InputError(
            f"{out}: this run does not train its own teachers; resume it with the same --teacher, or begin anew with"
            " --force"
        )
    if options.resume and (version := _stages_version(out)) != RUN_VERSION:
        raise older_version_error(out, version, "distill RECIPE --data DATA")
    try:
        with report_disk_errors(out):
            if options.force and out.exists():
                shutil.rmtree(out)
            out.mkdir(parents=True, exist_ok=True)
            atomic_write(out / STAGES_FILE, _stages_content())
            (out / TEACHERS_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another --out") from None


def _stages_content() -> bytes:
    return msgspec.json.encode({"format": STAGES_FORMAT, "version": RUN_VERSION}) + b"\n"


def _stages_version(out: Path) -> int:
    """The version in `STAGES_FILE`; version 1 wrote none."""
    try:
        document = msgspec.json.decode((out / STAGES_FILE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{out / STAGES_FILE}: cannot be read ({error}); replace the run with --force") from None
    version: object = document.get("version", 1)
    if type(version) is not int or not 1 <= version <= RUN_VERSION:
        raise InputError(
            f"{out / STAGES_FILE}: version {version!r} is unknown (this edgekd reads 1 to {RUN_VERSION}); update edgekd"
            " or replace the run with --force"
        )
    return version
