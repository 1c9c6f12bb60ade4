"""Training of a cross-fitted teacher: K ordinary runs (fits), each without one of K parts of the training clips.
`edgekd.train.teachers.out_of_fold` combines their soft labels.

A teacher is more confident on clips that it was trained on than on new ones, and its soft labels pass that on. The
out-of-fold logits of fits do not have this flaw (cross-fitting, Chernozhukov et al. 2018; for distillation, Dao et al.
2021, "Knowledge distillation as semiparametric inference").
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
from edgekd.train.loop.device import training_device, with_precision
from edgekd.train.loop.training import DEFAULT_OPTIONS, Options, train
from edgekd.train.parallel import processes
from edgekd.train.prepare.checks import check_test_sound
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.run.claim import check_run_folder, claim, locked_run_folder
from edgekd.train.run.folder import RUN_FILE, DataInfo, Run, RunInfo, load_run, resolved, write_info
from edgekd.train.teachers.out_of_fold import ALL_FITS, assignment, combine, fit_paths, fit_recipe
from edgekd.train.teachers.soft_labels import Logits, clip_probabilities, soft_labels, teacher_scores

log = logging.getLogger(__name__)


def cross_fit(recipe: Recipe, store: ClipStore, out: Path, count: int, options: Options = DEFAULT_OPTIONS) -> Run:
    """Train or resume the fits of a teacher.

    Args:
        recipe: of a teacher. Its training clips are divided by recording; no fit is trained on its test splits.
        store: the clips.
        out: the run folder, in which the fits are run folders.
        count: number of fits, at least 2.
        options: how to run.

    Returns:
        the finished run, also where it was finished before. It has no network of its own, only soft labels.

    Raises:
        InputError: fewer fits than 2 or more than recordings, or anything that `training.train` refuses.
    """
    if count < 2:
        raise InputError(f"--cross-fit {count}: give at least 2 fits; each labels the clips that another trains on")
    recipe = with_precision(resolved(recipe), training_device(options.accelerator))
    processes.first(lambda: check_run_folder(out, (), force=options.force, resume=options.resume))
    tested = partition_clips(recipe, store).test
    check_test_sound(recipe, store, tested)
    fit_of = assignment(recipe, store, count)
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
            left_out = counted(int((fit_of == fit).sum()), "clip")
            log.info("fit %d of %d: trained without the %s of its part", fit + 1, count, left_out)
            fits.append(_fitted(fit_recipe(recipe, fit, count), store, path, options))
        metrics = _metrics(fit_of, [soft_labels(fit, store)[1] for fit in fits], tested, store)
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
    """Train or resume one fit."""
    resume = processes.first(lambda: _can_resume(path))
    try:
        return train(recipe, store, path, options=dataclasses.replace(options, force=False, resume=resume))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path.parent}: interrupted; go on with --resume") from None


def _can_resume(path: Path) -> bool:
    """Whether a fit's folder holds a run. A folder that was made before a kill and holds none is removed."""
    is_run = (path / RUN_FILE).is_file()
    if path.exists() and not is_run:
        shutil.rmtree(path)
    return is_run


def _metrics(fit_of: Index, logits: list[Logits], tested: Index, store: ClipStore) -> dict[str, float]:
    """Accuracy of training clips, each by the fit that was not trained on it, and of test clips by the mean of all
    fits."""
    probabilities = clip_probabilities(combine(fit_of, logits))
    return {
        "out_of_fold_clip_accuracy": teacher_scores(probabilities, store, np.flatnonzero(fit_of != ALL_FITS)).accuracy,
        "fits_clip_accuracy": teacher_scores(probabilities, store, tested).accuracy,
    }
