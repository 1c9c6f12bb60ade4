"""What tests of the shipped recipes share: what a recipe needs, and a small store of the right kind for it."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.experiments.smoke import NARROWED, SECONDS, stages
from edgekd.train.recipe.recipe import Recipe, load_recipe

SEGMENTS = 2
"""Segments of each recording, where a teacher's view is a recording."""
TONES = {"high": 3000.0, "low": 300.0, "mid": 1000.0}


def reached(name: str) -> set[str]:
    """The recipe, and all that are trained with it."""
    return {name}.union(*(reached(each.recipe) for listed in stages(load_recipe(name)).values() for each in listed))


def missing(name: str, *, weights: bool = True) -> str:
    """A file or extra that a recipe or one of its stages needs and that is missing here; "" where nothing is.

    weights: whether the recipe needs the published weights that it names.
    """
    models = [load_recipe(each).model for each in reached(name)]
    if find_spec("transformers") is None and any(model["kind"] == "ast" for model in models):
        return "the extra 'hub'"
    files = {model.get("file", "") for model in models}
    if weights:  # short trainings of the kinds in NARROWED take none
        files |= {model.get("weights", "") for model in models if model["kind"] not in NARROWED}
    return next((file for file in sorted(files - {""}) if not is_here(file)), "")


def is_here(weights: str) -> bool:
    """Whether a file of weights that a recipe names is on this machine."""
    try:
        return find(weights).is_file()
    except InputError:
        return False


@pytest.fixture(scope="session")
def store_of(tmp_path_factory):
    """`store_of(recipe)`: a store of noisy tones with the recipe's rate, channels and splits, made once for all that
    have the same."""
    made: dict[tuple[object, ...], Path] = {}

    def store_of(recipe: Recipe) -> Path:
        channels = 2 if recipe.view.channels == "all" else 1
        segments = SEGMENTS if any(load_recipe(name).view.span == "parent" for name in reached(recipe.name)) else 1
        clips = 6 if recipe.specialists else 3  # of a label; a part is held out for specialists
        splits = (
            *((split, clips // len(recipe.data.train)) for split in recipe.data.train),
            *((split, 1) for split in recipe.data.test),
        )
        key = (recipe.frontend.sample_rate, channels, splits, segments)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tones") / "store"
            write_tones(made[key], *key)
        return made[key]

    return store_of


def write_tones(path: Path, rate: int, channels: int, splits: tuple[tuple[str, int], ...], segments: int) -> None:
    rng, time = np.random.default_rng(0), np.arange(round(SECONDS * rate)) / rate
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=rate, channels=channels, synthetic=True) as writer:
        for split, count in splits:
            for label, hertz in TONES.items():
                for number in range(count):
                    for segment in range(segments):
                        wave = 6000 * np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time)[:, None]
                        pcm = (wave + rng.normal(0, 3000, (len(time), channels))).astype(np.int16)
                        parent = f"{split}-{label}{number}" if segments > 1 else ""
                        writer.add(Clip(f"{split}/{label}{number}-{segment}.wav", label, split, parent=parent), pcm)
        writer.finish()
