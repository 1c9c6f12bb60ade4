"""`edgekd export --crossval`: the figures of a finished cross-validation, for a student that was trained by the same
recipe."""

import csv
from pathlib import Path
from typing import Literal

import msgspec

from edgekd.errors import InputError
from edgekd.experiments.plan import RECIPES_FOLDER, RUNS_FOLDER, anywhere
from edgekd.experiments.tables import CSV_FILE, JSON_FILE
from edgekd.export.export import Precision
from edgekd.modelfile.manifest import CrossValidation, Estimate
from edgekd.resources import read_table
from edgekd.text import listing
from edgekd.train.recipe.recipe import Recipe, decode
from edgekd.train.run.folder import RUN_FILE, load_run

Network = Literal["float", "qat"]
NETWORKS: dict[Precision, Network] = {"int8": "qat", "float": "float"}


class _Store(msgspec.Struct):
    name: str
    hash: str


class _Unit(msgspec.Struct):
    accuracy: Estimate


class _Mean(msgspec.Struct):
    clips: _Unit
    windows: _Unit


class _Network(msgspec.Struct):
    mean: _Mean


class _Summary(msgspec.Struct):
    """What is read of summary.json."""

    store: _Store
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    networks: dict[str, dict[Network, _Network]]


def crossval_summary(folder: Path, run_path: Path, precision: Precision) -> CrossValidation:
    """The accuracies of a cross-validation of the recipe of a run.

    Args:
        folder: a finished `edgekd crossval`, with its runs.
        run_path: a finished run of the same recipe; splits and seed may differ.
        precision: "int8" takes the figures of the quantization-aware networks.

    Raises:
        InputError: no such folder or run, another store, other recipes, another number of teachers, or no network of
            that precision.
    """
    run, network = load_run(run_path), NETWORKS[precision]
    try:
        summary = msgspec.json.decode((folder / JSON_FILE).read_bytes(), type=_Summary)
        with (folder / CSV_FILE).open(newline="", encoding="utf-8") as file:
            run_of = {row["setting"]: row["run"] for row in csv.DictReader(file)}  # any fold and seed
    except (OSError, KeyError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InputError(f"--crossval {folder}: is no folder of a finished 'edgekd crossval' ({error})") from None
    if summary.store.hash != run.info.data.hash:
        raise InputError(
            f"--crossval {folder}: is of the store {summary.store.name} ({summary.store.hash[:16]}), and {run.path} was"
            f" trained on {run.info.data.name} ({run.info.data.hash[:16]}); give one of the same"
        )
    wanted = _question(run.recipe, len(run.info.teachers))
    tried = {label: _asked(folder, run_of[label]) for label in summary.networks if label in run_of}
    same = [label for label, asked in tried.items() if asked == wanted]
    if not same:
        raise InputError(
            f"--crossval {folder}: is of {listing([*tried])}, none of which is {run.recipe.name} of {run.path} with its"
            f" settings and number of teachers ({len(run.info.teachers)}); cross-validate what is exported"
        )
    if network not in summary.networks[same[0]]:
        raise InputError(
            f"--crossval {folder}: has no {network} network of {same[0]}; export --float, or cross-validate with"
            " qat.epochs above 0"
        )
    mean = summary.networks[same[0]][network].mean
    return CrossValidation(
        summary.store.name,
        summary.store.hash,
        summary.folds,
        summary.seeds,
        network,
        mean.clips.accuracy,
        mean.windows.accuracy,
    )


def _question(recipe: Recipe, teachers: int) -> tuple[str, int]:
    """What a cross-validation and a run must have in common: all but where and in which precision each was trained."""
    placeless = anywhere(recipe)
    return (
        msgspec.structs.replace(placeless, train=msgspec.structs.replace(placeless.train, precision="auto")).hash,
        teachers,
    )


def _asked(folder: Path, name: str) -> tuple[str, int]:
    recipe = folder / RECIPES_FOLDER / f"{name}.json"
    info = read_table(folder / RUNS_FOLDER / name / RUN_FILE)
    return _question(decode(read_table(recipe), str(recipe)), len(info.get("teachers", ())))
