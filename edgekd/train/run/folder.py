"""A run folder: what a training leaves behind, and how it is opened again.

RUN/recipe.json is the resolved recipe, RUN/run.json what came out, RUN/model.pt the float weights, RUN/qat.pt those of
the quantization-aware network; beside them metrics.csv (one row an epoch), train.log, last.ckpt, tensorboard/, what
both networks said of the test windows (test-float.npz, test-qat.npz), report.html for people, a teacher's softlabels/
and a student's export/. A cross-fitted teacher has no network of its own: its folder holds run.json, recipe.json and
one ordinary run a fit, fit0/ and so on. A student whose recipe trains its own teachers holds them: stages.json says so
before there is a run.json, teachers/ and beside/ are run folders, pairs.json is what specialists changed, svm.json a
back-end and test-svm.npz its scores of the test clips.
"""

import hashlib
import io
import pickle
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from edgekd import quant
from edgekd.errors import InputError, nearest
from edgekd.files import atomic_write, finished_name, in_use, remove_unfinished
from edgekd.frontend import FrontEnd
from edgekd.models import MODELS, ModelConfig, build
from edgekd.resources import convert
from edgekd.text import listing
from edgekd.train.recipe.recipe import Recipe, decode, placeless

RUN_FORMAT, STAGES_FORMAT = "edgekd-run", "edgekd-stages"
RUN_VERSION = 1
RUN_FILE, RECIPE_FILE = "run.json", "recipe.json"
MODEL_FILE, QAT_FILE, CHECKPOINT_FILE = "model.pt", "qat.pt", "last.ckpt"
METRICS_FILE, LOG_FILE, REPORT_FILE = "metrics.csv", "train.log", "report.html"
TEST_FILES = {"float": "test-float.npz", "qat": "test-qat.npz"}
"""Network -> its logits of the windows of the test side, a `score.Heard`."""
TENSORBOARD_FOLDER, SOFT_LABELS_FOLDER, EXPORT_FOLDER = "tensorboard", "softlabels", "export"
STAGES_FILE, PAIRS_FILE, SVM_FILE, SVM_SCORES_FILE = "stages.json", "pairs.json", "svm.json", "test-svm.npz"
TEACHERS_FOLDER, BESIDE_FOLDER = "teachers", "beside"
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
"""All that a run folder holds, and all that may be removed with it; besides, folders of fits and of stages."""
STAGE_FOLDERS = frozenset({TEACHERS_FOLDER, BESIDE_FOLDER})
"""Of a run with `STAGES_FILE`; elsewhere, folders of these names are the user's."""
FIT_NAME = re.compile(r"fit\d+")


class DataInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store that a run was trained on."""

    name: str
    hash: str
    licence: str
    synthetic: bool


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """run.json. frontend: with the mean and standard deviation of the training clips. window: samples heard at a time.
    spectrum: (mel,) their mean natural log-mel, as in a model file; empty for a network that hears waveforms, and in
    older runs.
    teachers: hash of each teacher's soft labels, or of the teacher where it listens live. init: hash of the weights
    that the network began with, "" for its own. impulse_responses: hash of those that clips were heard through, ""
    without.
    metrics: name -> value, e.g. "float_clip_accuracy". seconds: of training, all resumes together. created: ISO 8601
    UTC.
    cross_fit: number of fits of a cross-fitted teacher, 0 for any other run. fits: hash of each fit's weights."""

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
        """One line: where the run is, its accuracies, and its time."""
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

    def qat_model(self) -> nn.Module:
        """The trained quantization-aware network, in eval mode, on the CPU.

        Raises:
            InputError: the run has no such phase.
        """
        if not (self.path / QAT_FILE).is_file():
            raise InputError(
                f"{self.path} has no quantization-aware weights ({QAT_FILE}); train it with qat.epochs above 0"
            )
        return self._loaded(quant.to_qat(self.float_model()), QAT_FILE)

    def _loaded(self, model: nn.Module, file: str) -> nn.Module:
        try:
            model.load_state_dict(load_saved(self.path / file))
        except RuntimeError:  # its text has a line for each tensor
            raise InputError(
                f"{self.path / file}: is not of the network in {RECIPE_FILE}; train the run again"
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
    """run.json of a folder, finished or not.

    Raises:
        InputError: no run folder, of an unknown version, or damaged.
    """
    try:
        raw = (path / RUN_FILE).read_bytes()
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("version")
        if version != RUN_VERSION:
            raise InputError(
                f"{path / RUN_FILE}: run version {version!r} is unknown (this edgekd reads {RUN_VERSION}); update"
                " edgekd or train it again with --force"
            )
        return msgspec.json.decode(raw, type=RunInfo)
    except OSError:
        what = "is not an edgekd run folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; make one with: edgekd teach or edgekd distill") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path / RUN_FILE}: damaged ({error}); train it again with --force") from None


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
    """The architecture that a recipe names.

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
    """The recipe with every field of its architecture written out.

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


def check_place(path: Path, teachers: Sequence[Path], *, force: bool, resume: bool) -> None:
    """Find out whether a run can be made or gone on with at `path`, before anything slow is begun; nothing is changed.

    Raises:
        InputError: something is in the way, `force` would delete what is not a run's, or there is nothing to resume.
    """
    if force and resume:
        raise InputError("--force begins anew and --resume goes on; give one of them")
    if any(path.resolve() == teacher.resolve() for teacher in teachers):
        raise InputError(f"{path} is one of the teachers; choose another --out")
    for teacher in teachers if force else ():
        if path.resolve() in teacher.resolve().parents:
            raise InputError(f"{path}: --force would delete the teacher {teacher}; choose another --out")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    inside = {child.name for child in path.iterdir()} if path.exists() else set()
    unfinished = {name for name in inside if name != finished_name(name)}
    # nothing, or killed at the start
    if inside == unfinished and {finished_name(name) for name in inside} <= {RUN_FILE, STAGES_FILE}:
        if resume:
            raise InputError(f"{path}: nothing to resume; leave out --resume to begin")
        return
    if not _is_run(path):
        raise InputError(
            f"{path} is not empty and not an edgekd run folder; choose another --out (--force replaces runs only)"
        )
    if not force and not resume and RUN_FILE in inside:  # else its stages are there, and its own training comes now
        raise InputError(f"{path} exists; go on with --resume, begin anew with --force, or choose another --out")
    if in_use(path, unknown=False):
        raise InputError(f"{path} is being trained by another process; wait for it or choose another --out")
    known = RUN_FILES | (STAGE_FOLDERS if STAGES_FILE in inside else frozenset())
    strange = sorted(name for name in inside if finished_name(name) not in known and not FIT_NAME.fullmatch(name))
    if force and strange:
        raise InputError(
            f"{path} holds what is not part of a run ({listing(strange)}); move it away or choose another --out"
        )


def claim(
    path: Path, info: RunInfo, recipe: Recipe, *, force: bool, resume: bool
) -> Literal["new", "resumed", "finished"]:
    """Make a run folder, or make sure that the one there can be gone on with. `check_place` comes first.

    Raises:
        InputError: the run there was begun with another recipe, store or teacher, or the place cannot be written.
    """
    state: Literal["new", "resumed", "finished"] = _resumable(path, info, recipe) if resume else "new"
    if state == "finished" and read_recipe(path).export == recipe.export:
        return state
    try:
        if path.exists() and in_use(path, unknown=False):  # begun since `check_place`
            raise InputError(f"{path} is being trained by another process; wait for it or choose another --out")
        if force and path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        if not resume:
            write_info(path, info)
        # its export table may be new
        atomic_write(path / RECIPE_FILE, msgspec.json.format(msgspec.json.encode(recipe), indent=2) + b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --out") from None
    return state


def write_info(path: Path, info: RunInfo) -> None:
    """Write run.json in one step."""
    atomic_write(path / RUN_FILE, msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a state dict in one step."""
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an error that does not say so
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, buffer)
    atomic_write(path, buffer.getvalue())


def load_saved(path: Path) -> dict[str, Any]:
    """What torch wrote to a file of tensors and plain values, mapped from disk.

    Raises:
        InputError: missing or damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be loaded ({reason}); train it again with --force") from None
    return saved


def _is_run(path: Path) -> bool:
    """A run, perhaps damaged or with no more than its stages: its run.json or stages.json names the format."""
    for file, told in ((RUN_FILE, RUN_FORMAT), (STAGES_FILE, STAGES_FORMAT)):
        with suppress(OSError):
            if told.encode() in (path / file).read_bytes():
                return True
    return False


def _resumable(path: Path, info: RunInfo, recipe: Recipe) -> Literal["resumed", "finished"]:
    there = read_info(path)
    changed = there.recipe_hash != info.recipe_hash
    # 2 or 2.0: equal
    if changed and placeless(msgspec.structs.replace(read_recipe(path), export=recipe.export)) == placeless(recipe):
        there = msgspec.structs.replace(there, recipe_hash=info.recipe_hash)
    for what, old, new in (
        ("recipe", there.recipe_hash, info.recipe_hash),
        ("store", there.data.hash, info.data.hash),
        ("list of teachers", there.teachers, info.teachers),
        ("network to begin with", there.init, info.init),
        ("set of impulse responses", there.impulse_responses, info.impulse_responses),
        ("number of fits", str(there.cross_fit), str(info.cross_fit)),
    ):
        if old != new:
            raise InputError(
                f"{path}: begun with another {what} ({_short(old)}, now {_short(new)}); "
                "resume with the same, or begin anew with --force"
            )
    return "finished" if there.status == "finished" else "resumed"


def _short(value: str | tuple[str, ...]) -> str:
    return value[:8] if isinstance(value, str) else ", ".join(each[:8] for each in value) or "none"
