"""A cross-fitted teacher: K ordinary runs, each trained without one part of the training clips, that together judge all
of them.

A teacher that was trained on a clip is surer of it than it would be of a new one, and teaches that. Out-of-fold logits
do not have this flaw (cross-fitting, Chernozhukov et al. 2018; for distillation, Dao et al. 2021, "Knowledge
distillation as semiparametric inference").
"""

import dataclasses
import datetime
import importlib.metadata
import logging
import shutil
from pathlib import Path

import msgspec
import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.text import counted
from edgekd.train.batches.crops import Index, window_samples
from edgekd.train.loop.environment import locked_run_folder
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.loop.precision import training_device, with_precision
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.folder import RUN_FILE, DataInfo, Run, RunInfo, check_place, claim, load_run, resolved, write_info
from edgekd.train.teachers.out_of_fold import ALL_FITS, assignment, combined, fit_paths, fit_recipe
from edgekd.train.teachers.soft_labels import Logits, soft_labels, teacher_score

log = logging.getLogger(__name__)


def cross_fit(recipe: Recipe, store: ClipStore, out: Path, count: int, options: Options = DEFAULT_OPTIONS) -> Run:
    """Train the fits of a teacher, or go on with them.

    Args:
        recipe: of a teacher. Its training clips are divided by recording; its test splits are heard by no fit.
        store: the clips.
        out: the run folder; the fits are runs inside.
        count: of fits, at least 2.
        options: how.

    Returns:
        the finished run, also when it was finished before. It has no network of its own, only soft labels.

    Raises:
        InputError: fewer fits than 2 or more than recordings, or anything that `training.train` refuses.
    """
    if count < 2:
        raise InputError(f"--cross-fit {count}: give at least 2 fits, so that each can judge what another trained on")
    recipe = with_precision(resolved(recipe), training_device(options.accelerator))
    processes.first(lambda: check_place(out, (), force=options.force, resume=options.resume))
    tested = partition_clips(recipe, store).test
    judge = assignment(recipe, store, count)
    info = RunInfo(
        status="training",
        name=recipe.name,
        recipe_hash=recipe.hash,
        labels=store.labels,
        frontend=recipe.frontend,
        window=window_samples(recipe.view, store),
        data=DataInfo(store.name, store.hash, store.licence, store.synthetic),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        edgekd_version=importlib.metadata.version("edgekd"),
        cross_fit=count,
    )
    if processes.first(lambda: claim(out, info, recipe, force=options.force, resume=options.resume)) == "finished":
        log.info("%s is finished already; nothing to do", out)
        return load_run(out)
    with locked_run_folder(out):
        fits = []
        for fit, path in enumerate(fit_paths(out, count)):
            log.info(
                "fit %d of %d: without the %s of its part", fit + 1, count, counted(int((judge == fit).sum()), "clip")
            )
            fits.append(_fitted(fit_recipe(recipe, fit, count), store, path, options))
        metrics = _metrics(judge, [soft_labels(fit, store)[1] for fit in fits], tested, store)
        finished = msgspec.structs.replace(
            info,
            status="finished",
            metrics=metrics,
            fits=tuple(fit.weights_hash for fit in fits),
            seconds=round(sum(fit.info.seconds for fit in fits), 1),
        )
        processes.first(lambda: write_info(out, finished))
    run = load_run(out)
    log.info(run.summary())
    return run


def _fitted(recipe: Recipe, store: ClipStore, path: Path, options: Options) -> Run:
    """One fit, new or resumed; a folder that was killed before it became a run is made anew."""
    begun = processes.first(lambda: _begun(path))
    try:
        return train(recipe, store, path, options=dataclasses.replace(options, force=False, resume=begun))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path.parent}: interrupted; go on with --resume") from None


def _begun(path: Path) -> bool:
    """Whether a fit is there to go on with; what is there without being a run is removed."""
    begun = (path / RUN_FILE).is_file()
    if path.exists() and not begun:
        shutil.rmtree(path)
    return begun


def _metrics(judge: Index, logits: list[Logits], tested: Index, store: ClipStore) -> dict[str, float]:
    """Accuracy on training clips, each by the fit that does not know it, and on test clips by the mean of all fits."""
    mixed = combined(judge, logits)
    return {
        "out_of_fold_clip_accuracy": teacher_score(mixed, store, np.flatnonzero(judge != ALL_FITS)).clip_accuracy,
        "fits_clip_accuracy": teacher_score(mixed, store, tested).clip_accuracy,
    }
