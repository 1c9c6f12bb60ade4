"""A run folder: what a training leaves behind, and how it is opened again.

RUN/recipe.json is the resolved recipe, RUN/run.json what came out, RUN/model.pt the float weights, RUN/qat.pt those of the
quantization-aware network; beside them metrics.csv (one row an epoch), train.log, last.ckpt and tensorboard/.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from edgekd import quant
from edgekd.distill.recipe import Recipe, check_keys, decode
from edgekd.errors import InputError, nearest
from edgekd.frontend import FrontEnd
from edgekd.models import MODELS, ModelConfig, build

RUN_FORMAT = "edgekd-run"
RUN_VERSION = 1
RUN_FILE, RECIPE_FILE = "run.json", "recipe.json"
MODEL_FILE, QAT_FILE, CHECKPOINT_FILE = "model.pt", "qat.pt", "last.ckpt"


class DataInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store that a run was trained on."""

    name: str
    hash: str
    licence: str
    synthetic: bool


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """run.json. frontend: with the mean and standard deviation of the training clips. window: samples heard at a time.
    teachers: hash of each teacher's soft labels. metrics: name -> value, e.g. "float_clip_accuracy". seconds: of training, all resumes
    together. created: ISO 8601 UTC."""

    format: str = RUN_FORMAT
    version: int = RUN_VERSION
    status: Literal["training", "finished"]
    name: str
    recipe_hash: str
    data: DataInfo
    labels: tuple[str, ...]
    frontend: FrontEnd
    window: int
    teachers: tuple[str, ...] = ()
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    created: str
    edgekd_version: str


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
        return weights_hash(torch.load(self.path / MODEL_FILE, map_location="cpu", weights_only=True))

    def summary(self) -> str:
        """One line: where the run is, its accuracies, and its time."""
        shown = {"float_clip_accuracy": "float", "qat_clip_accuracy": "int8-aware"}
        scores = [f"{name} {100 * self.info.metrics[key]:.1f} %" for key, name in shown.items() if key in self.info.metrics]
        return f"{self.path}: test clips {', '.join(scores)}; trained in {self.info.seconds:.0f} s"

    def float_model(self) -> nn.Module:
        """The trained float network, in eval mode, on the CPU."""
        model = build(self.config, len(self.labels))
        return self._loaded(model, MODEL_FILE)

    def qat_model(self) -> nn.Module:
        """The trained quantization-aware network, in eval mode, on the CPU.

        Raises:
            InputError: the run has no such phase.
        """
        if not (self.path / QAT_FILE).is_file():
            raise InputError(f"{self.path} has no quantization-aware weights ({QAT_FILE}); train it with qat.epochs above 0")
        return self._loaded(quant.to_qat(self.float_model()), QAT_FILE)

    def _loaded(self, model: nn.Module, file: str) -> nn.Module:
        try:
            model.load_state_dict(torch.load(self.path / file, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError, KeyError) as error:
            raise InputError(f"{self.path / file}: cannot be loaded ({str(error).splitlines()[0]}); train the run again") from None
        return model.eval()


def load_run(path: Path | str) -> Run:
    """Open a finished run.

    Raises:
        InputError: no run folder, damaged, or not finished.
    """
    path = Path(path)
    info = read_info(path)
    if info.status != "finished":
        raise InputError(f"{path}: this run is not finished; go on with --resume")
    return Run(path, read_recipe(path), info)


def read_info(path: Path) -> RunInfo:
    """run.json of a folder, finished or not.

    Raises:
        InputError: no run folder, or damaged.
    """
    try:
        return msgspec.json.decode((path / RUN_FILE).read_bytes(), type=RunInfo)
    except OSError:
        what = "is not an edgekd run folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; make one with: edgekd teach or edgekd distill") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path / RUN_FILE}: damaged ({error}); train the run again") from None


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
    options = {key: value for key, value in recipe.model.items() if key != "kind"}
    check_keys(options, kinds[kind], where)
    try:
        return msgspec.convert(recipe.model, kinds[kind])
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from None


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


def claim(path: Path, info: RunInfo, recipe: Recipe, *, force: bool, resume: bool) -> Literal["new", "resumed", "finished"]:
    """Make a run folder, or make sure that the one there can be gone on with.

    Raises:
        InputError: the folder is in the way, is no run (never deleted), or was begun with another recipe, store or teacher.
    """
    if force and resume:
        raise InputError("--force begins anew and --resume goes on; give one of them")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    if path.exists() and any(path.iterdir()):
        if not (path / RUN_FILE).is_file():
            raise InputError(f"{path} is not empty and not an edgekd run folder; choose another --out")
        if resume:
            state = _resumable(path, info)
            write_recipe(path, recipe)  # of the same hash, but its export table may be another
            return state
        if not force:
            raise InputError(f"{path} exists; go on with --resume, begin anew with --force, or choose another --out")
        read_info(path)
        shutil.rmtree(path)
    elif resume:
        raise InputError(f"{path}: nothing to resume; leave out --resume to begin")
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_recipe(path, recipe)
        write_info(path, info)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --out") from None
    return "new"


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write recipe.json in one step."""
    write_atomic(path / RECIPE_FILE, msgspec.json.format(msgspec.json.encode(recipe), indent=2) + b"\n")


def write_info(path: Path, info: RunInfo) -> None:
    """Write run.json in one step."""
    write_atomic(path / RUN_FILE, msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")


def write_atomic(path: Path, raw: bytes) -> None:
    """Write a file that is there in full or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(raw)
    part.replace(path)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a state dict in one step."""
    part = path.with_name(path.name + ".part")
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items()}, part)
    part.replace(path)


def _resumable(path: Path, info: RunInfo) -> Literal["resumed", "finished"]:
    there = read_info(path)
    for what, old, new in (("recipe", there.recipe_hash, info.recipe_hash), ("store", there.data.hash, info.data.hash),
                           ("list of teachers", there.teachers, info.teachers)):
        if old != new:
            raise InputError(f"{path}: begun with another {what} ({_short(old)}, now {_short(new)}); "
                             "resume with the same, or begin anew with --force")
    return "finished" if there.status == "finished" else "resumed"


def _short(value: str | tuple[str, ...]) -> str:
    return value[:8] if isinstance(value, str) else ", ".join(each[:8] for each in value) or "none"
