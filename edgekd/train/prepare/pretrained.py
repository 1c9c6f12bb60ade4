"""The initial weights of a network, and which of its parameters train."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from torch import nn

from edgekd.data.store.store import ClipStore
from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.modelfile.black_box import labels_of
from edgekd.models.base import in_head, trainable
from edgekd.models.black_box import BlackBoxConfig
from edgekd.text import listing
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import MODEL_FILE, Run, load_run, load_saved

log = logging.getLogger(__name__)

FIRST_TEACHER = "teacher"
"""`init.run` of a student that begins with the weights of its first teacher."""


def initial_run(recipe: Recipe, teachers: Sequence[Path]) -> Run | None:
    """The run whose weights a training begins with, or None.

    Args:
        recipe: its [init] table.
        teachers: run folders of the student's teachers.

    Raises:
        InputError: the run is missing, not finished, of another architecture, or has several networks.
    """
    wanted = recipe.init.run
    if not wanted:
        return None
    if wanted == FIRST_TEACHER and not teachers:
        log.info("init.run names the first teacher, but there is no teacher: the initial weights are random")
        return None
    run = load_run(teachers[0] if wanted == FIRST_TEACHER else Path(wanted))
    if run.info.cross_fit:
        raise InputError(
            f"init.run = {wanted!r}: {run.path} is a cross-fitted teacher, which has no network itself; name one of its"
            f" fits, e.g. {run.path / 'fit0'}"
        )
    check_kind(recipe, run.recipe, str(run.path))
    return run


def lineage(run: Run) -> Iterator[Run]:
    """A run, the run that its weights began with, and so on, as far as their folders still exist."""
    found: set[Path] = set()
    with suppress(InputError):
        while run.path.resolve() not in found:
            yield run
            found.add(run.path.resolve())
            if run.recipe.init.run in {"", FIRST_TEACHER}:
                return
            run = load_run(Path(run.recipe.init.run))


def check_kind(recipe: Recipe, initial: Recipe, where: str) -> None:
    """Refuse initial weights of another architecture, of which some tensors might fit by chance.

    Args:
        recipe: of the training.
        initial: recipe of the run whose weights it begins with.
        where: names that run in the error.

    Raises:
        InputError: the kinds differ.
    """
    if initial.model["kind"] != recipe.model["kind"]:
        raise InputError(
            f"init.run = {recipe.init.run!r}: {where} is a {initial.model['kind']}, but [{recipe.role}] of"
            f" {recipe.name} is a {recipe.model['kind']}; begin with a run of the same kind"
        )


def load_initial_weights(model: nn.Module, run: Run, labels: tuple[str, ...]) -> None:
    """Load the weights of a finished run: all tensors of the same name and shape, the head only for the same labels.

    Raises:
        InputError: no tensor fits.
    """
    mine, theirs = model.state_dict(), load_saved(run.path / MODEL_FILE)
    same_labels = run.labels == labels
    taken = {
        name: value
        for name, value in theirs.items()
        if name in mine and mine[name].shape == value.shape and (same_labels or not in_head(model, name))
    }
    if not taken:
        raise InputError(
            f"init.run: no weight of {run.path} ({run.recipe.model['kind']}) has the name and shape of one of this"
            " network; begin with a run of the same sizes"
        )
    model.load_state_dict(mine | taken)
    new = [name for name in mine if name not in taken]
    log.info(
        "%d of %d tensors are those of %s%s",
        len(taken),
        len(mine),
        run.path,
        f"; new are {listing(new)}" if new else "",
    )


def has_pretrained_weights(recipe: Recipe) -> bool:
    """Whether the initial weights come from a run or a file and are not random."""
    return bool(recipe.init.run or recipe.model.get("weights") or recipe.model.get("file"))


def check_init(recipe: Recipe) -> None:
    """Refuse a contradictory [init] table.

    Raises:
        InputError: "none" or "head" with random weights, or in a student's recipe.
    """
    adapt = recipe.init.adapt
    if adapt == "full":
        return
    if recipe.role == "student":
        raise InputError(f'recipe {recipe.name}: init.adapt = "{adapt}" is for teachers; of a student all layers train')
    if not has_pretrained_weights(recipe):
        raise InputError(
            f'recipe {recipe.name}: init.adapt = "{adapt}" would keep random weights; name a run in init.run, or'
            " weights or a file in [teacher]"
        )
    if adapt == "none" and not recipe.init.run and recipe.model.get("head", True):
        own = "set teacher.head = false to use the labels of the file itself, or" if "head" in recipe.model else "set"
        raise InputError(
            f'recipe {recipe.name}: init.adapt = "none" would keep a random head; {own} init.adapt = "head"'
        )


def check_trainable(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a training without trainable parameters.

    Raises:
        InputError: there is none.
    """
    adapt = recipe.init.adapt
    if adapt == "none" or any(adapt == "full" or in_head(model, name) for name, _ in trainable(model)):
        return
    raise InputError(
        f'recipe {recipe.name}: init.adapt = "{adapt}" has nothing to train in this {recipe.model["kind"]}; set '
        'teacher.head = true, or init.adapt = "none" to test and keep it as it is'
    )


def check_black_box_labels(store: ClipStore, config: BlackBoxConfig) -> None:
    """Compare the labels of a black box without a head with those of the store, where its file names them.

    Raises:
        InputError: other labels, or in another order.
    """
    if config.head:
        return
    labels = labels_of(find(config.file))
    if labels not in (None, store.labels):
        raise InputError(
            f"{config.file}: its labels {listing(labels)} are not those of {store.path}, {listing(store.labels)}, in"
            " this order; train a head on it (teacher.head = true)"
        )
