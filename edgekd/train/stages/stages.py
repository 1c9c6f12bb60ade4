"""Runs that are trained inside another's folder before it: RUN/teachers/NAME is an ordinary run of each teacher of
`[[teachers]]`.

All of them hear the student's splits, so that none is ever trained on what the student is tested on. One command does
everything: with --resume it goes on wherever it stopped, finished runs being kept, and with --force it begins anew with
the stages too. Who only wants another student of the same teachers gives them by --teacher RUN/teachers/NAME.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.train.loop.checks import check_network, check_tap_paths
from edgekd.train.loop.environment import locked_run_folder
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.loop.pretrained import FIRST_TEACHER, check_kind
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import NAME, Recipe, Role, decode, load_recipe
from edgekd.train.recipe.schema import Data, Taught
from edgekd.train.run.faults import disk_told
from edgekd.train.run.folder import RUN_FILE, STAGES_FILE, STAGES_FORMAT, TEACHERS_FOLDER, Run, check_place, resolved

log = logging.getLogger(__name__)

CHOOSER, SPECIALIST = "chooser", "specialist-"
"""Run folders of `edgekd.train.stages.specialists` beside the teachers: one, and the beginning of the others' names."""


def going_on(path: Path, options: Options, file: str = RUN_FILE) -> Options:
    """How to run a stage: it goes on with what is there, or begins. file: what is there once it has begun;
    `STAGES_FILE` for a stage that has stages of its own."""
    begun = processes.first((path / file).is_file)
    return dataclasses.replace(options, force=False, resume=begun)


def trained(
    recipe: Recipe, store: ClipStore, path: Path, teachers: Sequence[Path] = (), options: Options = DEFAULT_OPTIONS
) -> Run:
    """Begin a run, go on with one, or take one that is finished.

    Args:
        recipe: of the run.
        store: the clips.
        path: its folder.
        teachers: finished runs to distil from.
        options: how, force and resume apart.

    Raises:
        InputError: the run there is another recipe's, or anything that `training.train` refuses.
    """
    return train(recipe, store, path, teachers, going_on(path, options))


@contextmanager
def staged(out: Path, options: Options = DEFAULT_OPTIONS) -> Iterator[None]:
    """Make and hold a run folder while its stages are trained; the run's own training comes after, by `trained`.

    Raises:
        InputError: something is in the way, there is nothing to resume, or another process works there.
    """
    processes.first(lambda: _claim(out, options))
    with locked_run_folder(out, STAGES_FILE):
        try:
            yield
        except KeyboardInterrupt as stop:  # it names the folder of the stage
            raise KeyboardInterrupt(
                f"{out}: {str(stop).partition(';')[0] or 'interrupted'}; go on with --resume"
            ) from None


def teachers_of(recipe: Recipe, out: Path) -> list[tuple[str, Recipe]]:
    """Names and recipes of a student's `[[teachers]]`, in order: on its splits, with its seed where theirs does not set
    one.

    Args:
        recipe: of the student. Paths of its teachers' recipes are taken from the current directory.
        out: the student's run folder, in which [init] finds earlier teachers.

    Raises:
        InputError: a recipe that cannot be read or is a student's, a name that is there twice or is none of a folder,
            or a teacher that begins with one that comes later.
    """
    found: dict[str, Recipe] = {}
    listed = [stage_recipe(each, recipe) for each in recipe.teachers]
    names = [each.name or teacher.name for each, teacher in zip(recipe.teachers, listed, strict=True)]
    for name, teacher in zip(names, listed, strict=True):
        where = f"recipe {recipe.name}: [[teachers]]"
        if not NAME.fullmatch(name):
            raise InputError(f"{where}: name '{name}' is that of a folder; use letters, digits, '.', '_' and '-'")
        if name in found:
            raise InputError(f"{where}: two are called '{name}'; give one of them another name = \"...\"")
        if recipe.specialists is not None and (name == CHOOSER or name.startswith(SPECIALIST)):
            raise InputError(f"{where}: the name '{name}' is taken by [specialists]; give it another name = \"...\"")
        if teacher.init.run in names and teacher.init.run not in found:
            raise InputError(
                f"{where}: '{name}' begins with '{teacher.init.run}', which does not come before it; change their order"
            )
        found[name] = with_init(teacher, {earlier: teacher_path(out, earlier) for earlier in found})
    return list(found.items())


def train_teachers(recipe: Recipe, store: ClipStore, out: Path, options: Options = DEFAULT_OPTIONS) -> dict[str, Path]:
    """Train a student's `[[teachers]]`, or go on with them, inside `staged`.

    Returns:
        name -> finished run folder, in order; `teaching` chooses those that teach.

    Raises:
        InputError: see `teachers_of`; a student that cannot be trained on this store, found before its teachers are
            trained; or anything that `training.train` refuses.
    """
    teachers = teachers_of(recipe, out)
    student = resolved(recipe)
    partition = partition_clips(student, store)
    for each in (student, *(teacher for _, teacher in teachers)):
        if each.frontend.sample_rate != store.sample_rate:
            raise InputError(
                f"recipe {each.name}: its front end hears {each.frontend.sample_rate} Hz, {store.path} holds "
                f"{store.sample_rate} Hz; prepare the store at the front end's rate"
            )
        check_network(each, store, partition)
    listed = [each for taught, (_, each) in zip(recipe.teachers, teachers, strict=True) if taught.teaches]
    if student.init.run == FIRST_TEACHER and listed:
        check_kind(student, listed[0], listed[0].name)
    check_tap_paths(student, store, [*listed, *[None] * (recipe.specialists.pairs if recipe.specialists else 0)])
    made = {}
    for number, (name, teacher) in enumerate(teachers, 1):
        log.info("teacher %d of %d: %s", number, len(teachers), name)
        made[name] = trained(teacher, store, teacher_path(out, name), options=options).path
    return made


def teaching(recipe: Recipe, made: Mapping[str, Path]) -> list[Path]:
    """Of the folders that `train_teachers` gives, those whose teachers teach."""
    return [path for taught, path in zip(recipe.teachers, made.values(), strict=True) if taught.teaches]


def teacher_path(out: Path, name: str) -> Path:
    """Run folder of a stage of the run at `out`."""
    return out / TEACHERS_FOLDER / name


def with_init(recipe: Recipe, made: Mapping[str, Path]) -> Recipe:
    """A recipe whose [init] run is the folder of the stage that it names; one that names none is left as it is."""
    path = made.get(recipe.init.run)
    if path is None:
        return recipe
    return msgspec.structs.replace(recipe, init=msgspec.structs.replace(recipe.init, run=str(path.resolve())))


def stage_recipe(taught: Taught, owner: Recipe, role: Role = "teacher") -> Recipe:
    """The recipe of a stage: on the splits of the run that it belongs to, with its seed where the stage does not set
    one.

    Raises:
        InputError: see `load_recipe`; an unknown architecture, the other role, or settings of [data] other than its
            pair.
    """
    keys = [setting.partition("=")[0].strip() for setting in taught.set]
    for key in keys:
        if key == "data" or (key.startswith("data.") and key != "data.pair"):
            raise InputError(
                f"recipe {owner.name}: '{taught.recipe}' with {key}: a stage hears the same splits as the run that it"
                f" is for; take it out of set, or change [data] of {owner.name}"
            )
    loaded = load_recipe(taught.recipe, taught.set)
    if loaded.role != role:
        raise InputError(
            f"recipe {owner.name}: '{taught.recipe}' has a [{loaded.role}] table; name a recipe with a [{role}] table"
            " here"
        )
    seed = loaded.seed if "seed" in keys else owner.seed
    return on_splits(
        resolved(msgspec.structs.replace(loaded, seed=seed)), owner.data, f"{taught.recipe} for {owner.name}"
    )


def on_splits(recipe: Recipe, data: Data, where: str) -> Recipe:
    """The recipe on the clips that `data` names, its own pair kept; `where` is named in errors.

    Raises:
        InputError: see `recipe.decode`.
    """
    there = msgspec.structs.replace(data, pair=recipe.data.pair)
    changed = msgspec.structs.replace(recipe, data=there, export=msgspec.structs.replace(recipe.export, calibrate=()))
    return decode(msgspec.to_builtins(changed), where)


def _claim(out: Path, options: Options) -> None:
    """Make a run folder that says that it has stages, or make sure that the one there can be gone on with."""
    check_place(out, (), force=options.force, resume=options.resume)
    has_stages = (out / STAGES_FILE).is_file()
    if has_stages and not options.force and not options.resume:
        raise InputError(f"{out} exists; go on with --resume, begin anew with --force, or choose another --out")
    if options.resume and not has_stages:
        raise InputError(
            f"{out}: begun without training its own teachers; resume it with the same --teacher, or begin anew with"
            " --force"
        )
    try:
        with disk_told(out):
            if options.force and out.exists():
                shutil.rmtree(out)
            out.mkdir(parents=True, exist_ok=True)
            atomic_write(out / STAGES_FILE, msgspec.json.encode({"format": STAGES_FORMAT}) + b"\n")
            (out / TEACHERS_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
