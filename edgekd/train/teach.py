"""`edgekd teach`: trains one teacher, or cross-fits one."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel.processes import first, in_process_group
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import Run
from edgekd.train.run.report import write_report
from edgekd.train.teachers.cross_fit import cross_fit
from edgekd.train.teachers.soft_labels import soft_labels


def teach(
    recipe: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    options: Options = DEFAULT_OPTIONS,
    fits: int | None = None,
) -> Run:
    """Train a teacher, compute its soft labels for every clip of the store, and write report.html. All of it lies in
    the run folder.

    Args:
        recipe: name or path of a recipe with a [teacher] table.
        data: a store.
        out: the run folder.
        overrides: "key=value" settings.
        options: how to run.
        fits: number of fits of a cross-fitted teacher, see `edgekd.train.teachers.cross_fit`; None trains one ordinary
            teacher.

    Raises:
        InputError: the recipe is a student's, or anything that `edgekd.train.loop.training.train` refuses.
    """
    with in_process_group(options.accelerator):
        loaded = load_recipe(recipe, overrides)
        if loaded.role != "teacher":
            raise InputError(f"recipe {loaded.name} has a [student] table; train it with: edgekd distill {recipe}")
        store = ClipStore.open(data)
        if fits is not None:
            return cross_fit(loaded, store, out, fits, options)
        run = train(loaded, store, out, options=options)
        soft_labels(run, store)
        first(lambda: write_report(run, store))
        return run
