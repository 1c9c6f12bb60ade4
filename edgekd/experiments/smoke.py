"""Recipes made so short that all their stages train within seconds, and data sets made up in their official layouts. No
torch here.

Nothing that such a run measures means anything; it shows that a path goes through to its end.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekd.data.sets import toy_sets
from edgekd.errors import InputError
from edgekd.train.recipe.recipe import Recipe, load_recipe
from edgekd.train.recipe.schema import Taught

BATCH = 6
SECONDS = 1.0
"""Of made-up clips, and what is heard of longer ones."""
SLICES = 2
"""Of each made-up recording of a sliced edition."""

NARROWED: Mapping[str, Mapping[str, Any]] = {
    "cnn14": {"weights": "", "widths": [8, 16, 32, 64, 64, 64], "hidden": 64},
    "ast": {"weights": "", "hidden": 24, "layers": 2, "heads": 2},
}
"""Kind -> sizes in the place of its default ones or of published weights, whose 80 million parameters take longer to
write than to train and may have to be fetched."""

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
"""Data set -> makes it in a folder."""


def make_tree(name: str, options: Mapping[str, Any], path: Path) -> Path:
    """Make a small data set in its official layout, with what the options of its adapter want of it.

    Raises:
        InputError: none is made up of this data set.
    """
    if name not in TREES:
        raise InputError(f"no {name} can be made up for --smoke (but {', '.join(TREES)}); give one with --data")
    tree = TREES[name](path)
    if "subset" in options:
        toy_sets.subset(tree, options["subset"])
    return tree


def stages(recipe: Recipe) -> dict[str, list[Taught]]:
    """What else a recipe trains, by the key of its table."""
    found = {"teachers": list(recipe.teachers)}
    if recipe.specialists:
        found["specialists"] = [Taught(recipe=recipe.specialists.recipe, set=recipe.specialists.set)]
    if recipe.backend and recipe.backend.beside:
        found["backend.beside"] = list(recipe.backend.beside)
    return {key: listed for key, listed in found.items() if listed}


def narrowed(recipe: Recipe) -> Mapping[str, Any]:
    """Sizes of a recipe's network in a short training, where they are not its own; those of published weights are."""
    sizes = NARROWED.get(recipe.model["kind"], {})
    return {} if sizes.keys() & recipe.model.keys() and not recipe.model.get("weights") else sizes


def few_steps(recipe: Recipe, *, qat: bool = True) -> list[str]:
    """Settings that make a training of a recipe, and of all its stages, a few steps of one epoch on short sounds.
    Networks but those of `NARROWED`, views, augmentation, terms and ways of teaching stay as they are.

    Args:
        recipe: as it would be trained.
        qat: whether a quantization-aware phase stays, with one epoch; stages keep theirs.

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
        short = [json.dumps([*each.set, *few_steps(load_recipe(each.recipe, each.set))]) for each in listed]
        if key == "specialists":
            settings += ["specialists.pairs=1", f"specialists.set={short[0]}"]
            continue
        tables = [
            f"{{recipe={json.dumps(each.recipe)}, name={json.dumps(each.name)}, teaches={json.dumps(each.teaches)},"
            f" set={settled}}}"
            for each, settled in zip(listed, short, strict=True)
        ]
        settings.append(f"{key}=[{', '.join(tables)}]")
    return settings
