"""Reading and writing of a run folder, which holds all files of one training.

RUN/recipe.json is the resolved recipe, RUN/run.json the results (`RunInfo`), RUN/model.pt the float weights and
RUN/qat.pt those of the quantization-aware network. metrics.csv has a row for each epoch. train.log, last.ckpt and
tensorboard/ are written during the training; test-float.npz and test-qat.npz are both networks' logits of the test
windows; report.html is a page for people. softlabels/ belongs to a teacher, export/ to a student.

A cross-fitted teacher has no network of its own: its folder holds run.json, recipe.json and one ordinary run for each
fit, fit0/ and so on. A student whose recipe has stages holds them: stages.json marks such a folder before there is a
run.json, teachers/ and beside/ hold run folders, pairs.json counts the confusions of the specialists' pairs, svm.json
is the report of a back-end and test-svm.npz its scores of the test clips.
"""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch
from torch import nn

from edgekd import quant
from edgekd.errors import InputError, nearest
from edgekd.files import atomic_write
from edgekd.frontend import FrontEnd
from edgekd.models import MODELS, ModelConfig, build
from edgekd.resources import convert
from edgekd.text import json_bytes
from edgekd.train.recipe.recipe import Recipe, decode

Network = TypeVar("Network", bound=nn.Module)

RUN_FORMAT, STAGES_FORMAT = "edgekd-run", "edgekd-stages"
RUN_VERSION = 2
"""Of run.json and stages.json. Version 1 had other rules for the hash of a recipe."""
RUN_FILE, RECIPE_FILE = "run.json", "recipe.json"
MODEL_FILE, QAT_FILE, CHECKPOINT_FILE = "model.pt", "qat.pt", "last.ckpt"
METRICS_FILE, LOG_FILE, REPORT_FILE = "metrics.csv", "train.log", "report.html"
TEST_FILES = {"float": "test-float.npz", "qat": "test-qat.npz"}
"""Network -> its predictions of the windows of the test side, of `edgekd.metrics.predictions.Predictions`."""
TENSORBOARD_FOLDER, SOFT_LABELS_FOLDER, EXPORT_FOLDER = "tensorboard", "softlabels", "export"
STAGES_FILE, PAIRS_FILE, SVM_FILE, SVM_SCORES_FILE = "stages.json", "pairs.json", "svm.json", "test-svm.npz"
TEACHERS_FOLDER, SYSTEMS_FOLDER = "teachers", "beside"
RUN_FILES = frozenset(
    {
        RUN_FILE,
        RECIPE_FILE,
        MODEL_FILE,
        QAT_FILE,
        CHECKPOINT_FILE,
        METRICS_FILE,
        LOG_FILE,
        TENSORBOARD_FOLDER,
        SOFT_LABELS_FOLDER,
        EXPORT_FOLDER,
        STAGES_FILE,
        PAIRS_FILE,
        SVM_FILE,
        SVM_SCORES_FILE,
        REPORT_FILE,
        *TEST_FILES.values(),
    }
)
"""Names in a run folder that --force removes, in addition to folders of fits and of stages."""
STAGE_FOLDERS = frozenset({TEACHERS_FOLDER, SYSTEMS_FOLDER})
"""Folders of stages in a run with `STAGES_FILE`; elsewhere, folders of these names are the user's."""
FIT_NAME = re.compile(r"fit\d+")


class DataInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store that a run was trained on."""

    name: str
    hash: str
    licence: str
    synthetic: bool


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """run.json: what a run is of, and its results.

    frontend: with the mean and standard deviation of the training clips. window: samples of the network's input.
    spectrum: (mel,) mean natural log-mel of the training clips, as in a model file; empty where it was not measured.
    teachers: key of each teacher's soft labels. init: hash of the initial weights from another run, "" without.
    impulse_responses: hash of those that clips were convolved with, "" without. metrics: name -> value, e.g.
    "float_clip_accuracy". seconds: of training, all resumes together. created: ISO 8601 UTC. cross_fit: number of fits
    of a cross-fitted teacher, 0 for any other run. fits: hash of each fit's weights.
    """

    format: str = RUN_FORMAT
    version: int = RUN_VERSION
    status: Literal["training", "finished"]
    name: str
    recipe_hash: str
    data: DataInfo
    labels: tuple[str, ...]
    frontend: FrontEnd
    window: int
    spectrum: tuple[float, ...] = ()
    teachers: tuple[str, ...] = ()
    init: str = ""
    impulse_responses: str = ""
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    created: str
    edgekd_version: str
    cross_fit: int = 0
    fits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    recipe: Recipe
    info: RunInfo

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes in the order of the logits."""
        return self.info.labels

    @property
    def frontend(self) -> FrontEnd:
        """With the mean and standard deviation of the training clips."""
        return self.info.frontend

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return model_config(self.recipe)

    @property
    def weights_hash(self) -> str:
        """64 hex digits of the float weights."""
        return weights_hash(load_saved(self.path / MODEL_FILE))

    def summary(self) -> str:
        """One line: the run's folder, accuracies and training time."""
        shown = {
            "out_of_fold_clip_accuracy": "training clips out of fold",
            "fits_clip_accuracy": "test clips by the mean of the fits",
            "float_clip_accuracy": "test clips float",
            "qat_clip_accuracy": "int8-aware",
        }
        scores = [
            f"{name} {100 * self.info.metrics[key]:.1f} %" for key, name in shown.items() if key in self.info.metrics
        ]
        return f"{self.path}: {', '.join(scores)}; trained in {self.info.seconds:.0f} s"

    def float_model(self) -> nn.Module:
        """The trained float network, in eval mode, on the CPU.

        Raises:
            InputError: a cross-fitted teacher, or damage.
        """
        if self.info.cross_fit:
            raise InputError(
                f"{self.path}: a cross-fitted teacher is {self.info.cross_fit} networks; open one, e.g."
                f" {self.path / 'fit0'}"
            )
        model = build(self.config, len(self.labels))
        return self._loaded(model, MODEL_FILE)

    def qat_model(self) -> quant.QuantNetwork:
        """The trained quantization-aware network, in eval mode, on the CPU.

        Raises:
            InputError: the run has no quantization-aware phase.
        """
        if not (self.path / QAT_FILE).is_file():
            raise InputError(
                f"{self.path} has no quantization-aware weights ({QAT_FILE}); train it with qat.epochs above 0"
            )
        return self._loaded(quant.to_qat(self.float_model()), QAT_FILE)

    def _loaded(self, model: Network, file: str) -> Network:
        try:
            model.load_state_dict(load_saved(self.path / file))
        except RuntimeError:  # its text has a line for each tensor
            raise InputError(
                f"{self.path / file}: these weights do not fit the network in {RECIPE_FILE}; train the run again"
            ) from None
        return model.eval()


def load_run(path: Path | str) -> Run:
    """Open a finished run.

    Raises:
        InputError: no run folder, damaged, or not finished.
    """
    path = Path(path)
    info = read_info(path)
    if info.status != "finished":
        raise InputError(f"{path}: this run is not finished; run its command again with --resume")
    return Run(path, read_recipe(path), info)


def read_info(path: Path) -> RunInfo:
    """run.json of a folder, finished or not, brought from an earlier version to this one.

    Raises:
        InputError: no run folder, of an unknown version, or damaged.
    """
    document = _run_document(path)
    for version in range(document["version"], RUN_VERSION):
        document = MIGRATIONS[version](document, path)
    try:
        return msgspec.convert(document, RunInfo)
    except msgspec.ValidationError as error:
        raise _damaged(path, error) from None


def run_version(path: Path) -> int:
    """The version of run.json in a folder, before `read_info` brings it to this one.

    Raises:
        InputError: see `read_info`.
    """
    version: int = _run_document(path)["version"]
    return version


def _run_document(path: Path) -> dict[str, Any]:
    """run.json as it is written, of a version that this edgekd reads."""
    try:
        document = msgspec.json.decode((path / RUN_FILE).read_bytes(), type=dict[str, Any])
    except OSError:
        what = "is not an edgekd run folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; make one with: edgekd teach or edgekd distill") from None
    except msgspec.DecodeError as error:
        raise _damaged(path, error) from None
    version = document.get("version")
    if type(version) is not int or version not in {*MIGRATIONS, RUN_VERSION}:
        raise InputError(
            f"{path / RUN_FILE}: run version {version!r} is unknown (this edgekd reads 1 to {RUN_VERSION}); update"
            " edgekd or train it again with --force"
        )
    return document


def _from_1(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Version 2: the hash of the recipe by today's rules, so that no hashes of different rules are compared."""
    return {**document, "version": 2, "recipe_hash": read_recipe(path).hash}


MIGRATIONS: dict[int, Callable[[dict[str, Any], Path], dict[str, Any]]] = {1: _from_1}
"""Version of run.json -> what makes a document of the next one, given the run folder."""


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path / RUN_FILE}: damaged ({error}); train it again with --force")


def read_recipe(path: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        InputError: missing or damaged.
    """
    try:
        raw = msgspec.json.decode((path / RECIPE_FILE).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path / RECIPE_FILE}: cannot be read ({error}); train the run again") from None
    return decode(raw, str(path / RECIPE_FILE))


def model_config(recipe: Recipe) -> ModelConfig:
    """The configuration of the architecture that a recipe names.

    Raises:
        InputError: an unknown architecture, an unknown or mistyped key of it.
    """
    kinds = {str(config.__struct_config__.tag): config for config in MODELS}
    kind = recipe.model.get("kind")
    where = f"recipe {recipe.name}: [{recipe.role}]"
    if kind not in kinds:
        raise InputError(f"{where}: unknown kind '{kind}'{nearest(str(kind), kinds)}")
    return convert(recipe.model, kinds[kind], where)


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with all fields of its architecture, defaults included.

    Raises:
        InputError: see `model_config`.
    """
    table = msgspec.json.decode(msgspec.json.encode(model_config(recipe)))
    return msgspec.structs.replace(recipe, **{recipe.role: table})


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """64 hex digits of the names and values of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def write_info(path: Path, info: RunInfo) -> None:
    """Write run.json atomically."""
    atomic_write(path / RUN_FILE, json_bytes(info))


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a state dict atomically, on the CPU."""
    buffer = io.BytesIO()  # torch's own writer does not name the cause when the disk is full
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, buffer)
    atomic_write(path, buffer.getvalue())


def load_saved(path: Path) -> dict[str, Any]:
    """The tensors and plain values of a file that torch wrote; tensors are mapped from disk.

    Raises:
        InputError: missing or damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged bytes are instructions to unpickle, and may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be loaded ({reason}); train it again with --force") from None
    return saved
