"""`edgekd distill`: trains one student from teachers and labels."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.data.store import ClipStore
from edgekd.distill.processes import joined
from edgekd.distill.recipe import load_recipe
from edgekd.distill.run import Run
from edgekd.distill.training import DEFAULT_OPTIONS, Options, train
from edgekd.errors import InputError


def distill(recipe: str, data: Path, out: Path, teachers: Sequence[Path] = (), overrides: Sequence[str] = (),
            options: Options = DEFAULT_OPTIONS) -> Run:
    """Train a student: the float phase, then the quantization-aware one.

    Args:
        recipe: name or path of a recipe with a [student] table.
        data: a store.
        out: the run folder.
        teachers: finished run folders; none means labels alone.
        overrides: "key=value" settings.
        options: how to run.

    Raises:
        InputError: the recipe is a teacher's, or anything that `edgekd.distill.training.train` refuses.
    """
    with joined(options.accelerator):
        loaded = load_recipe(recipe, overrides)
        if loaded.role != "student":
            raise InputError(f"recipe {loaded.name} has a [teacher] table; train it with: edgekd teach {recipe}")
        return train(loaded, ClipStore.open(data), out, teachers, options)
