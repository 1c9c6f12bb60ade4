"""What a network is before its training, and how much of it is trained."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.modelfile.black_box import labels_of
from edgekd.models.black_box import BlackBoxConfig
from edgekd.text import listing
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import MODEL_FILE, Run, load_run, load_saved, model_config

log = logging.getLogger(__name__)

FIRST_TEACHER = "teacher"
"""`init.run` of a student that begins as its first teacher."""


def source(recipe: Recipe, teachers: Sequence[Path]) -> Run | None:
    """The run whose weights a training begins with, None without one.

    Args:
        recipe: its [init] table.
        teachers: run folders of the student's teachers.

    Raises:
        InputError: the run is not there, not finished, of another architecture, or has several networks.
    """
    wanted = recipe.init.run
    if not wanted:
        return None
    if wanted == FIRST_TEACHER and not teachers:
        log.info("init.run is the first teacher, but there is no teacher: the network begins at random")
        return None
    run = load_run(teachers[0] if wanted == FIRST_TEACHER else Path(wanted))
    if run.info.cross_fit:
        raise InputError(
            f"init.run = {wanted!r}: {run.path} is a cross-fitted teacher without a network of its own; name one of its"
            f" fits, e.g. {run.path / 'fit0'}"
        )
    check_kind(recipe, run.recipe, str(run.path))
    return run


def lineage(run: Run) -> Iterator[Run]:
    """A run, and those that its weights began with one after the other, as far as their folders are still there."""
    found: set[Path] = set()
    with suppress(InputError):
        while run.path.resolve() not in found:
            yield run
            found.add(run.path.resolve())
            if run.recipe.init.run in {"", FIRST_TEACHER}:
                return
            run = load_run(Path(run.recipe.init.run))


def check_kind(recipe: Recipe, begun: Recipe, where: str) -> None:
    """Compare the architecture of a network with that of the run that it begins with, of whose tensors some may fit
    another by chance.

    Raises:
        InputError: they differ; `where`, the run, is named.
    """
    if begun.model["kind"] != recipe.model["kind"]:
        raise InputError(
            f"init.run = {recipe.init.run!r}: {where} is a {begun.model['kind']}, but [{recipe.role}] of {recipe.name}"
            f" is a {recipe.model['kind']}; begin with a run of the same kind"
        )


def begin(model: nn.Module, run: Run, labels: tuple[str, ...]) -> None:
    """Give a network the weights of a finished run: all tensors of the same name and shape, the head only where the
    labels are the same.

    Raises:
        InputError: not one tensor fits.
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


def in_head(model: nn.Module, name: str) -> bool:
    """Whether a parameter, buffer or module of this name belongs to the labels rather than to the backbone."""
    head = str(model.HEAD)
    return name == head or name.startswith(f"{head}.")


def freeze_backbone(model: nn.Module) -> None:
    """Take all but the head out of training: no gradients, statistics and dropout as in a test. For each epoch, after
    `model.train()`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(in_head(model, name))
    for name, module in model.named_modules():
        if not in_head(model, name):
            module.training = False


def brings_weights(recipe: Recipe) -> bool:
    """Whether a network has something to keep or to adapt before it is trained."""
    return bool(recipe.init.run or recipe.model.get("weights") or recipe.model.get("file"))


def check(recipe: Recipe) -> None:
    """Refuse an [init] table that makes no sense.

    Raises:
        InputError: "none" or "head" with random weights, or in a student.
    """
    adapt = recipe.init.adapt
    if adapt == "full":
        return
    if recipe.role == "student":
        raise InputError(
            f'recipe {recipe.name}: init.adapt = "{adapt}" is for teachers; a student is trained as a whole'
        )
    if not brings_weights(recipe):
        raise InputError(
            f'recipe {recipe.name}: init.adapt = "{adapt}" would keep random weights; name a run in init.run, or'
            " weights or a file in [teacher]"
        )
    if adapt == "none" and not recipe.init.run and recipe.model.get("head", True):
        own = (
            "set teacher.head = false, so that the labels of the file itself count, or"
            if "head" in recipe.model
            else "set"
        )
        raise InputError(
            f'recipe {recipe.name}: init.adapt = "none" would keep a random head; {own} init.adapt = "head"'
        )


def check_trains(recipe: Recipe, model: nn.Module) -> None:
    """Refuse to train what has nothing to learn.

    Raises:
        InputError: no parameter may change.
    """
    adapt = recipe.init.adapt
    if adapt == "none" or any(adapt == "full" or in_head(model, name) for name, _ in trainable(model)):
        return
    raise InputError(
        f'recipe {recipe.name}: init.adapt = "{adapt}" has nothing to train in this {recipe.model["kind"]}; set '
        'teacher.head = true, or init.adapt = "none" to test and keep it as it is'
    )


def check_own_labels(recipe: Recipe, store: ClipStore) -> None:
    """Compare the labels of a black box that judges without a head with those of the store, where the file names them.

    Raises:
        InputError: others, or in another order.
    """
    config = model_config(recipe)
    if not isinstance(config, BlackBoxConfig) or config.head:
        return
    labels = labels_of(config.file)
    if labels not in (None, store.labels):
        raise InputError(
            f"{config.file}: its labels {listing(labels)} are not those of {store.path}, {listing(store.labels)}, in"
            " this order; train a head on it (teacher.head = true)"
        )


def trainable(model: nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters that an optimiser may change, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
