"""`edgekd distill`: trains one student from teachers and labels, after the stages of its recipe."""

import logging
from collections.abc import Sequence
from pathlib import Path

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.train.loop.device import check_accelerator
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe, load_recipe, with_teacher_settings, without_teachers
from edgekd.train.run.folder import PAIRS_FILE, STAGES_FILE, SVM_FILE, SVM_SCORES_FILE, SYSTEMS_FOLDER, Run
from edgekd.train.run.report import write_report
from edgekd.train.stages.specialists import check_specialists, report_pairs, train_specialists
from edgekd.train.stages.stages import (
    held_for_stages,
    resume_options,
    runs_that_teach,
    stage_recipe,
    train_or_resume,
    train_teachers,
    with_initial_run,
)
from edgekd.train.stages.svm import fit_systems

log = logging.getLogger(__name__)

NO_TEACHER = "none"
"""Instead of a teacher's folder: train on labels alone, even where the recipe has teachers of its own."""


def distill(
    recipe: str,
    data: Path,
    out: Path,
    teachers: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    options: Options = DEFAULT_OPTIONS,
    teacher_overrides: Sequence[str] = (),
) -> Run:
    """Train a student, first in float, then quantization-aware, and write report.html into its run folder.

    Where no teachers are given, the teachers, specialists and systems of the recipe are trained too, inside the run
    folder.

    Args:
        recipe: name or path of a recipe with a [student] table.
        data: a store.
        out: the run folder.
        teachers: finished run folders instead of the recipe's stages; `NO_TEACHER` means labels alone.
        overrides: "key=value" settings.
        options: how to run.
        teacher_overrides: "key=value" settings of all teachers that the recipe trains.

    Raises:
        InputError: the recipe is a teacher's, settings of teachers where none is trained, or anything that
            `edgekd.train.loop.training.train` refuses.
    """
    none = [str(path) for path in teachers] == [NO_TEACHER]
    if not none and NO_TEACHER in map(str, teachers):
        raise InputError(f"--teacher {NO_TEACHER} means labels alone; leave out the other teachers")
    with processes.in_process_group(options.accelerator):
        loaded = load_recipe(recipe, overrides)
        if loaded.role != "student":
            raise InputError(f"recipe {loaded.name} has a [teacher] table; train it with: edgekd teach {recipe}")
        store = ClipStore.open(data)
        if teachers or not (loaded.teachers or loaded.backend):
            if teacher_overrides:
                why = (
                    "with --teacher no teacher is trained"
                    if teachers
                    else f"recipe {loaded.name} has no teachers of its own"
                )
                raise InputError(f"--teach-set {teacher_overrides[0]}: {why}; leave it out")
            run = train(without_teachers(loaded), store, out, () if none else teachers, options)
            processes.first(lambda: write_report(run, store, () if none else teachers))
            return run
        return _with_stages(loaded, store, out, options, teacher_overrides)


def _with_stages(
    recipe: Recipe, store: ClipStore, out: Path, options: Options, teacher_overrides: Sequence[str]
) -> Run:
    """Train teachers, specialists and systems, then the student, then the back-end."""
    recipe = with_teacher_settings(recipe, teacher_overrides)
    check_accelerator(options.accelerator)  # now: an error after the folder is made would ask for --force
    backend = recipe.backend
    with_specialists = recipe.specialists is not None and recipe.specialists.pairs > 0
    if with_specialists:
        check_specialists(recipe)
    systems = [(each.name, stage_recipe(each, recipe, "student")) for each in backend.systems] if backend else []
    with held_for_stages(out, options):
        made = train_teachers(recipe, store, out, options)
        teachers = runs_that_teach(recipe, made)
        specialists = train_specialists(recipe, store, out, teachers[0], options) if with_specialists else []
        others = []
        for name, system in systems:
            path = out / SYSTEMS_FOLDER / (name or system.name)
            log.info("system %s", system.name)
            system_options = resume_options(path, options, STAGES_FILE)
            others.append(_with_stages(system, store, path, system_options, teacher_overrides))
    run = train_or_resume(with_initial_run(recipe, made), store, out, [*teachers, *specialists], options)
    if specialists and not processes.first((out / PAIRS_FILE).is_file):
        report_pairs(run, store, teachers[0], specialists, [*teachers, *specialists])
    if backend and not processes.first((out / SVM_FILE).is_file):
        processes.first(lambda: _write_svm([run, *others], store, backend.kernels))
    processes.first(lambda: write_report(run, store, [*teachers, *specialists]))
    return run


def _write_svm(runs: Sequence[Run], store: ClipStore, kernels: Sequence[str]) -> None:
    """Fit the back-end and write its scores and then svm.json into the folder of the first run."""
    report, scores = fit_systems(runs, store, kernels)
    for line in report.to_text().splitlines():
        log.info("%s", line)
    atomic_write(runs[0].path / SVM_SCORES_FILE, scores.to_npz())
    atomic_write(runs[0].path / SVM_FILE, report.to_json() + b"\n")
