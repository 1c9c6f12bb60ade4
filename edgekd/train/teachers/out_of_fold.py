"""Soft labels of a cross-fitted teacher from those of its fits: a training clip has the logits of the fit that was not
trained on it, any other clip the mean of all fits. `edgekd.train.teachers.cross_fit` trains the fits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import Run, load_run

ALL_FITS = -1
"""Value in an assignment: the mean logits of all fits."""


def fit_paths(path: Path, count: int) -> list[Path]:
    """Folders of the fits of a cross-fitted run."""
    return [path / f"fit{fit}" for fit in range(count)]


def fit_recipe(recipe: Recipe, fit: int, count: int) -> Recipe:
    """The recipe of one fit, which is tested on part `fit` of `count` and trained on the others."""
    return msgspec.structs.replace(
        recipe, data=msgspec.structs.replace(recipe.data, held_out=(*recipe.data.held_out, fit, count))
    )


def assignment(recipe: Recipe, store: ClipStore, count: int) -> NDArray[np.int64]:
    """(clips of the store,) int64: the fit whose logits each clip has, or `ALL_FITS`.

    Raises:
        InputError: see `ClipStore.partition`.
    """
    fit_of = np.full(len(store.clips), ALL_FITS, np.int64)
    for fit in range(count):
        data = fit_recipe(recipe, fit, count).data
        fit_of[data.sides(store).test] = fit
    return fit_of


def combine(fit_of: NDArray[np.int64], logits: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float16]:
    """Soft labels of a cross-fitted teacher.

    Args:
        fit_of: (clips,) see `assignment`.
        logits: (clips, ..., labels) of each fit.

    Returns:
        float16 (clips, ..., labels).
    """
    stacked = np.stack(logits).astype(np.float64)  # (fits, clips, ..., labels)
    chosen = stacked[np.maximum(fit_of, 0), np.arange(len(fit_of))]
    by_all = (fit_of == ALL_FITS).reshape(-1, *[1] * (chosen.ndim - 1))
    mixed: NDArray[np.float16] = np.where(by_all, stacked.mean(axis=0), chosen).astype(np.float16)
    return mixed


def combined_key(fit_of: NDArray[np.int64], keys: Sequence[str]) -> str:
    """64 hex digits of an assignment and the keys of the fits' soft labels."""
    return hashlib.sha256("\n".join(keys).encode() + fit_of.tobytes()).hexdigest()


def open_fits(run: Run, store: ClipStore) -> list[Run]:
    """The fits of a cross-fitted run.

    Raises:
        InputError: another store, or a fit that is missing or whose weights have changed since the cross-fit.
    """
    if run.info.data.hash != store.hash:
        raise InputError(
            f"{run.path}: cross-fitted on another store ({run.info.data.name} {run.info.data.hash[:8]}, {store.path} is"
            f" {store.hash[:8]}), so that it is not known which fit trained on which clip; cross-fit a teacher on this"
            " store"
        )
    fits = [load_run(path) for path in fit_paths(run.path, run.info.cross_fit)]
    for fit, expected in zip(fits, run.info.fits, strict=True):
        found = fit.weights_hash
        if found != expected:
            raise InputError(
                f"{fit.path}: its weights have changed since it became part of a cross-fit ({expected[:8]}, now"
                f" {found[:8]}); run 'edgekd teach --cross-fit' again with --force"
            )
    return fits
