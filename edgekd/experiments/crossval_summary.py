"""`edgekd export --crossval`: reads the accuracies of a finished cross-validation of a run's recipe."""

import csv
from pathlib import Path
from typing import Literal

import msgspec

from edgekd.errors import InputError
from edgekd.experiments.folder import RECIPES_FOLDER, RUNS_FOLDER, read_identity
from edgekd.experiments.plan import without_fold
from edgekd.experiments.tables import CSV_FILE, JSON_FILE
from edgekd.export.graph_manifest import Precision
from edgekd.modelfile.manifest import CrossValidation, Estimate
from edgekd.resources import read_table
from edgekd.text import listing
from edgekd.train.recipe.recipe import Recipe, decode
from edgekd.train.run.folder import RUN_FILE, load_run

Network = Literal["float", "qat"]
NETWORKS: dict[Precision, Network] = {"int8": "qat", "float": "float"}
"""Precision of a file -> the network whose figures it carries."""


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
    """The part of summary.json that is needed here."""

    store: _Store
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    networks: dict[str, dict[Network, _Network]]


def crossval_summary(folder: Path, run_path: Path, precision: Precision) -> CrossValidation:
    """The accuracies that a cross-validation measured for the recipe of a run.

    Args:
        folder: of a finished `edgekd crossval`, with its runs.
        run_path: a finished run of the same recipe; splits, seed and precision of training may differ.
        precision: of the exported file; "int8" takes the figures of the quantization-aware networks.

    Raises:
        InputError: no such folder or run, a folder of an earlier version, another store, another recipe, another number
            of teachers, or no network of that precision.
    """
    run, network = load_run(run_path), NETWORKS[precision]
    try:
        summary = msgspec.json.decode((folder / JSON_FILE).read_bytes(), type=_Summary)
        with (folder / CSV_FILE).open(newline="", encoding="utf-8") as file:
            run_of = {row["setting"]: row["run"] for row in csv.DictReader(file)}  # any fold and seed
    except (OSError, KeyError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InputError(f"--crossval {folder}: is no folder of a finished 'edgekd crossval' ({error})") from None
    read_identity(folder, "--crossval")  # refuses a folder of an earlier version
    if summary.store.hash != run.info.data.hash:
        raise InputError(
            f"--crossval {folder}: is of the store {summary.store.name} ({summary.store.hash[:16]}), and {run.path} was"
            f" trained on {run.info.data.name} ({run.info.data.hash[:16]}); give one of the same"
        )
    wanted = _training_key(run.recipe, len(run.info.teachers))
    keys = {label: _run_key(folder, run_of[label]) for label in summary.networks if label in run_of}
    matching = [label for label, key in keys.items() if key == wanted]
    if not matching:
        raise InputError(
            f"--crossval {folder}: is of {listing([*keys])}, none of which is {run.recipe.name} of {run.path} with its"
            f" settings and number of teachers ({len(run.info.teachers)}); cross-validate what is exported"
        )
    if network not in summary.networks[matching[0]]:
        raise InputError(
            f"--crossval {folder}: has no {network} network of {matching[0]}; export --float, or cross-validate with"
            " qat.epochs above 0"
        )
    mean = summary.networks[matching[0]][network].mean
    return CrossValidation(
        summary.store.name,
        summary.store.hash,
        summary.folds,
        summary.seeds,
        network,
        mean.clips.accuracy,
        mean.windows.accuracy,
    )


def _training_key(recipe: Recipe, teachers: int) -> tuple[str, int]:
    """What a cross-validation and a run must have in common: the hash of the recipe without splits, seed and precision
    of training, and the number of teachers."""
    bare = without_fold(recipe)
    bare = msgspec.structs.replace(bare, train=msgspec.structs.replace(bare.train, precision="auto"))
    return bare.hash, teachers


def _run_key(folder: Path, name: str) -> tuple[str, int]:
    """`_training_key` of a run of a cross-validation."""
    recipe = folder / RECIPES_FOLDER / f"{name}.json"
    info = read_table(folder / RUNS_FOLDER / name / RUN_FILE)
    return _training_key(decode(read_table(recipe), str(recipe)), len(info.get("teachers", ())))
