"""Recipes shortened so that all their stages train within seconds, and made-up data sets in official layouts. No torch
here.

The figures of such a run mean nothing. It shows that a whole command works.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekd.data.sets import toy_sets
from edgekd.errors import InputError
from edgekd.train.recipe.recipe import Recipe, load_recipe
from edgekd.train.recipe.schema import Stage

BATCH = 6
SECONDS = 1.0
"""Length of made-up clips, and of the part of longer clips that is used."""
SLICES = 2
"""Clips of each made-up recording in data sets of sliced recordings."""

NARROWED: Mapping[str, Mapping[str, Any]] = {
    "cnn14": {"weights": "", "widths": [8, 16, 32, 64, 64, 64], "hidden": 64},
    "ast": {"weights": "", "hidden": 24, "layers": 2, "heads": 2},
}
"""Kind of network -> small sizes instead of the default ones or of published weights. Those have 80 million parameters:
writing them takes longer than the training, and they may have to be downloaded."""

TREES: Mapping[str, Callable[[Path], Path]] = {
    "tau22": lambda path: toy_sets.scenes(
        path, slices=SLICES, recorders=("a", "s4"), rate=44100, channels=1, seconds=SECONDS
    ),
    "tau19": lambda path: toy_sets.scenes(path, seconds=SECONDS),
    "tut18": lambda path: toy_sets.tut18(path, SECONDS),
    "esc50": lambda path: toy_sets.esc50(path, SECONDS),
    "urbansound8k": lambda path: toy_sets.urbansound8k(path, SECONDS),
    "deepship": lambda path: toy_sets.deepship(path, SECONDS),
    "vtuad": lambda path: toy_sets.vtuad(path, seconds=SECONDS),
}
"""Data set -> function that makes a small one in a folder."""


def make_tree(name: str, options: Mapping[str, Any], path: Path) -> Path:
    """Make a small data set in its official layout.

    Args:
        name: of the data set.
        options: of its adapter; "subset" adds the training list that it asks for.
        path: the folder to make.

    Raises:
        InputError: no data set of this name can be made up.
    """
    if name not in TREES:
        raise InputError(f"no {name} can be made up for --smoke (but {', '.join(TREES)}); give one with --data")
    tree = TREES[name](path)
    if "subset" in options:
        toy_sets.subset(tree, options["subset"])
    return tree


def stages(recipe: Recipe) -> dict[str, list[Stage]]:
    """Key of a recipe's table -> recipes that are trained for it as stages."""
    found = {"teachers": list(recipe.teachers)}
    if recipe.specialists:
        found["specialists"] = [Stage(recipe=recipe.specialists.recipe, set=recipe.specialists.set)]
    if recipe.backend and recipe.backend.systems:
        found["backend.beside"] = list(recipe.backend.systems)
    return {key: listed for key, listed in found.items() if listed}


def narrowed(recipe: Recipe) -> Mapping[str, Any]:
    """The sizes of a recipe's network in a short training. Empty where the recipe names its own sizes, unless those are
    of published weights."""
    sizes = NARROWED.get(recipe.model["kind"], {})
    return {} if sizes.keys() & recipe.model.keys() and not recipe.model.get("weights") else sizes


def few_steps(recipe: Recipe, *, qat: bool = True) -> list[str]:
    """The settings that shorten a recipe and all its stages to a few steps of one epoch on short clips. Networks except
    those of `NARROWED`, views, augmentation, loss terms and ways of teaching stay as they are.

    Args:
        recipe: as it would be trained.
        qat: whether its quantization-aware phase stays, with one epoch; stages keep theirs.

    Raises:
        InputError: a stage's recipe that cannot be read.
    """
    settings = ["train.epochs=1", f"train.batch_size={BATCH}", "train.test_every=0", "train.warmup_epochs=0"]
    if recipe.qat.epochs:
        settings += [
            f"qat.epochs={int(qat)}",
            f"qat.batch_size={BATCH}",
            "qat.freeze_epochs=0",
            f"qat.calibration_clips={BATCH}",
        ]
    settings += [f"{recipe.role}.{key}={json.dumps(size)}" for key, size in narrowed(recipe).items()]
    if recipe.view.seconds:
        settings.append(f"view.seconds={SECONDS}")
    for key, listed in stages(recipe).items():
        shortened = [json.dumps([*each.set, *few_steps(load_recipe(each.recipe, each.set))]) for each in listed]
        if key == "specialists":
            settings += ["specialists.pairs=1", f"specialists.set={shortened[0]}"]
            continue
        tables = [
            f"{{recipe={json.dumps(each.recipe)}, name={json.dumps(each.name)}, teaches={json.dumps(each.teaches)},"
            f" set={own_settings}}}"
            for each, own_settings in zip(listed, shortened, strict=True)
        ]
        settings.append(f"{key}=[{', '.join(tables)}]")
    return settings
