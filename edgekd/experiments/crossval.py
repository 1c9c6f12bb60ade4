"""`edgekd crossval`: the accuracy of a recipe, and whether it is better than another one, with every fold tested once
and with intervals.

Every run is trained for all its epochs and scored with its last weights. Nothing is chosen on the test side. With
`choose`, the choice between two recipes is made in each fold on a part of its training side, and the fold's test side
only scores that choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.experiments import tables
from edgekd.experiments.crossval_report import CrossvalReport, FinishedRuns
from edgekd.experiments.folder import experiment_folder
from edgekd.experiments.jobs import Workers
from edgekd.experiments.plan import (
    Plan,
    PlannedRun,
    Setting,
    cross_folds,
    load_resolved,
    seed_list,
    setting_hash,
    teacher_recipes,
)
from edgekd.experiments.runs import failed_runs, require_done, train_runs
from edgekd.train.recipe.recipe import Recipe, without_teachers

NO_TEACHERS = "none"
"""Value of --against-teach with which the other recipe learns from labels alone."""


@dataclass(frozen=True)
class CrossvalOptions:
    """The options of `edgekd crossval`.

    Attributes:
        recipe: name or path.
        settings: "key=value" of both recipes.
        teachers: teacher recipes of both.
        teacher_settings: "key=value" of all teachers.
        against: the other recipe; None is the same one where other `against_` options are given.
        against_settings: "key=value" of the other recipe, after `settings`.
        against_teachers: teacher recipes of the other recipe instead of `teachers`.
        folds: splits, with commas; None takes those of the recipe.
        seeds: with commas.
        cross_fit: number of cross-fitted copies of each teacher.
        choose: also choose between the two recipes in each fold.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    teacher_settings: tuple[str, ...] = ()
    against: str | None = None
    against_settings: tuple[str, ...] = ()
    against_teachers: tuple[str, ...] = ()
    folds: str | None = None
    seeds: str = "0,1,2"
    cross_fit: int | None = None
    choose: bool = False


def crossval(
    options: CrossvalOptions, data: Path, out: Path, workers: Workers, log: Callable[[str], None]
) -> CrossvalReport:
    """Train and test every fold, seed and recipe. The same call continues an interrupted one.

    Args:
        options: of the command.
        data: a store.
        out: folder of runs and results.
        workers: how many runs are trained at a time, and where.
        log: called with one line for each run that ends.

    Raises:
        InputError: a wrong option, found before the first run.
        GateError: a run has failed; the others are done.
        KeyboardInterrupt: the message says how to continue.
    """
    settings = chosen_settings(options)
    store = ClipStore.open(data)
    folds, seeds = cross_folds(settings[0].recipe, store, options.folds), seed_list(options.seeds)
    plan = Plan(store, out, options.cross_fit)

    def planned(*, inner: bool) -> dict[tuple[str, str, int], PlannedRun]:
        return {
            (setting.label, fold.name, seed): plan.add(setting, fold, seed, inner=inner)
            for fold in folds
            for setting in settings
            for seed in seeds
        }

    outer = planned(inner=False)
    inner = planned(inner=True) if options.choose else {}
    plan.check()
    identity = {
        "command": "crossval",
        "store": store.hash,
        "recipe": setting_hash(settings[0]),
        "--cross-fit": str(options.cross_fit),
    }
    if len(settings) > 1:
        identity["--against"] = setting_hash(settings[1])
    with experiment_folder(out, identity):
        results = train_runs(plan, settings, workers, log)
        failed = failed_runs(results)
        if failed:
            for outdated in (tables.MARKDOWN_FILE, tables.JSON_FILE):
                (out / outdated).unlink(missing_ok=True)
        require_done(out, failed, len(results))
        report = FinishedRuns(plan, settings, folds, seeds, outer, inner).report()
        tables.write(out, tables.MARKDOWN_FILE, report.markdown)
        tables.write(out, tables.JSON_FILE, report.to_json())
    return report


def chosen_settings(options: CrossvalOptions) -> list[Setting]:
    """The setting of the recipe, and that of the other one where the options name one.

    Raises:
        InputError: see `load_resolved`; `choose` without another recipe, or two recipes that are the same.
    """
    first = load_resolved(
        options.recipe, options.settings, teacher_settings=() if options.teachers else options.teacher_settings
    )
    _check_student(first, options.teachers, "--teach")
    if options.cross_fit is not None and options.cross_fit < 2:
        raise InputError(f"--cross-fit {options.cross_fit}: give at least 2 fits")
    if options.cross_fit is not None and not options.teachers:
        raise InputError(f"--cross-fit {options.cross_fit} is for teachers; name them with --teach")
    teachers = teacher_recipes(first, options.teachers, options.teacher_settings)
    settings = [Setting(first.name, first, teachers)]
    if options.against is None and not options.against_settings and not options.against_teachers:
        if options.choose:
            raise InputError("--choose chooses between two recipes; name the other with --against")
        return settings
    names = options.against_teachers or options.teachers
    other = load_resolved(
        options.against or options.recipe,
        (*options.settings, *options.against_settings),
        teacher_settings=() if names else options.teacher_settings,
    )
    _check_student(other, options.against_teachers, "--against-teach")
    label = " ".join([other.name, *options.against_settings, *(f"--teach {name}" for name in options.against_teachers)])
    none = names == (NO_TEACHERS,)
    second = Setting(
        label if label != first.name else f"{label} (against)",
        without_teachers(other) if none else other,
        () if none else teacher_recipes(other, names, options.teacher_settings),
    )
    if setting_hash(settings[0]) == setting_hash(second):
        raise InputError(
            f"--against: recipe {other.name} with the same settings and teachers; there is nothing to compare"
        )
    return [*settings, second]


def _check_student(recipe: Recipe, teachers: tuple[str, ...], option: str) -> None:
    """Raise where teachers are named for a recipe that is itself a teacher's."""
    if teachers and recipe.role != "student":
        raise InputError(
            f"{option} {teachers[0]}: recipe {recipe.name} is a teacher's and learns from labels alone; leave it out"
        )
