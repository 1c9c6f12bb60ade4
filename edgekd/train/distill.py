"""`edgekd distill`: trains one student from teachers and labels, and before it the stages of its recipe."""

import logging
from collections.abc import Sequence
from pathlib import Path

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.train.loop.environment import check_accelerator
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe, alone, load_recipe, with_teacher_settings
from edgekd.train.run.folder import BESIDE_FOLDER, PAIRS_FILE, STAGES_FILE, SVM_FILE, SVM_SCORES_FILE, Run
from edgekd.train.run.report import write_report
from edgekd.train.stages.specialists import check_specialists, report_pairs, train_specialists
from edgekd.train.stages.stages import going_on, stage_recipe, staged, teaching, train_teachers, trained, with_init
from edgekd.train.stages.svm import judged

log = logging.getLogger(__name__)

NO_TEACHER = "none"
"""In the place of a teacher's folder: labels alone, also where the recipe has teachers of its own."""


def distill(
    recipe: str,
    data: Path,
    out: Path,
    teachers: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    options: Options = DEFAULT_OPTIONS,
    teacher_overrides: Sequence[str] = (),
) -> Run:
    """Train a student: the float phase, then the quantization-aware one. The run folder gets a page for people,
    report.html.

    A recipe with teachers, specialists or a back-end of its own trains these too, inside the run folder, unless
    teachers are given.

    Args:
        recipe: name or path of a recipe with a [student] table.
        data: a store.
        out: the run folder.
        teachers: finished run folders in the place of the recipe's stages; `NO_TEACHER` means labels alone.
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
    with processes.joined(options.accelerator):
        loaded = load_recipe(recipe, overrides)
        if loaded.role != "student":
            raise InputError(f"recipe {loaded.name} has a [teacher] table; train it with: edgekd teach {recipe}")
        store = ClipStore.open(data)
        if teachers or not (loaded.teachers or loaded.backend):
            if teacher_overrides:
                why = (
                    "with --teacher none is trained" if teachers else f"recipe {loaded.name} has no teachers of its own"
                )
                raise InputError(f"--teach-set {teacher_overrides[0]}: {why}; leave it out")
            run = train(alone(loaded), store, out, () if none else teachers, options)
            processes.first(lambda: write_report(run, store, () if none else teachers))
            return run
        return _with_stages(loaded, store, out, options, teacher_overrides)


def _with_stages(
    recipe: Recipe, store: ClipStore, out: Path, options: Options, teacher_overrides: Sequence[str]
) -> Run:
    """Teachers, specialists and systems beside it, then the student, and what judges them all."""
    recipe = with_teacher_settings(recipe, teacher_overrides)
    check_accelerator(options.accelerator)  # before the folder is made, which a second try would have to replace
    special = recipe.specialists is not None and recipe.specialists.pairs > 0
    if special:
        check_specialists(recipe)
    beside = (
        [(each.name, stage_recipe(each, recipe, "student")) for each in recipe.backend.beside] if recipe.backend else []
    )
    with staged(out, options):
        made = train_teachers(recipe, store, out, options)
        teachers = teaching(recipe, made)
        specialists = train_specialists(recipe, store, out, teachers[0], options) if special else []
        others = []
        for name, system in beside:
            path = out / BESIDE_FOLDER / (name or system.name)
            log.info("beside it: %s", system.name)
            others.append(_with_stages(system, store, path, going_on(path, options, STAGES_FILE), teacher_overrides))
    run = trained(with_init(recipe, made), store, out, [*teachers, *specialists], options)
    if specialists and not processes.first((out / PAIRS_FILE).is_file):
        report_pairs(run, store, teachers[0], specialists, [*teachers, *specialists])
    if recipe.backend and not processes.first((out / SVM_FILE).is_file):
        processes.first(lambda: _judged([run, *others], store, recipe.backend.kernels))
    processes.first(lambda: write_report(run, store, [*teachers, *specialists]))
    return run


def _judged(runs: Sequence[Run], store: ClipStore, kernels: Sequence[str]) -> None:
    """Write svm.json of the first run, and before it the scores that it sums up."""
    report, scores = judged(runs, store, kernels)
    for line in report.to_text().splitlines():
        log.info("%s", line)
    atomic_write(runs[0].path / SVM_SCORES_FILE, scores.to_npz())
    atomic_write(runs[0].path / SVM_FILE, report.to_json() + b"\n")
