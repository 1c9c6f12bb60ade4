"""Recipes: everything that decides a training run, read from TOML and refused when a key is unknown. No torch here.

A student recipe has a [student] table, a teacher recipe a [teacher] table; both name an architecture by `kind` (`edgekd.models`).
"""

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.resources import convert, find, read_table

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
BlendName = Literal["mean_prob", "mean_logit", "sum_kl"]
PrecisionName = Literal["float32", "bf16", "auto"]
DEFAULT_WINDOW = 1.0
"""Seconds that the classifier sees at a time."""
NAME = re.compile(r"\w[\w.-]*")
"""Of recipes; it begins the names of exported files."""
Role = Literal["student", "teacher"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a recipe."""


class Data(_Table, frozen=True, kw_only=True):
    """Which splits of the store train the model and which test it."""

    train: tuple[str, ...]
    """Names of splits, e.g. ["fold1", "fold2", "fold3"]."""
    test: tuple[str, ...]
    """Names of splits, disjoint from `train`; only with `held_out` may there be none."""
    allow_leaks: bool = False
    """Accept a group or parent clip that is on both sides."""
    held_out: tuple[Count, ...] = ()
    """[k, K]: test on part k (from 0) of K parts of the training clips instead of on `test`, and train on the other parts. Parts share
    no recording and are alike in labels. Clips of `test`, which then may be [], are heard on neither side. Further pairs divide what
    remains."""


class View(_Table, frozen=True, kw_only=True):
    """What a model hears at a time."""

    span: Literal["crop", "clip"] = "crop"
    """"crop": a window of `seconds`, drawn anew each epoch; a clip's prediction is the mean over its windows. "clip": the whole clip."""
    seconds: Positive | None = None
    """Length of the window; None is `DEFAULT_WINDOW`. For "clip" the common length, shorter clips being repeated and longer ones cropped;
    None is the longest clip."""


class Augment(_Table, frozen=True, kw_only=True):
    """Random changes to what is heard in training; the defaults change nothing."""

    mixup_alpha: Positive = 0.2
    """Both parameters of the beta distribution of mixup's lambda."""
    mixup_p: Fraction = 0.0
    """Probability that a clip is mixed with another of the training clips."""
    mixup_domain: Literal["waveform", "loudness", "log_mel"] = "waveform"
    """Where the mix happens; "loudness" mixes waveforms so that lambda is the share of sound pressure (Tokozume et al. 2018)."""
    roll: NonNegative = 0.0
    """Seconds: the largest circular shift in either direction."""
    gain_db: NonNegative = 0.0
    """Decibels: the largest change of gain in either direction."""
    time_masks: Count = 0
    """Masks along frames (SpecAugment)."""
    time_mask_frames: Count = 0
    """Frames: the widest time mask."""
    mel_masks: Count = 0
    """Masks along mel bins."""
    mel_mask_bins: Count = 0
    """Mel bins: the widest mel mask."""
    skip_silence: bool = True
    """Choose crops that are not digital silence, where the clip has any."""
    ir_p: Fraction = 0.0
    """Probability that a clip is heard through an impulse response, e.g. of another microphone."""
    ir_folder: str = ""
    """Folder of the impulse responses: audio files of any rate, the mean of their channels is taken."""
    ir_include: tuple[str, ...] = ()
    """Patterns of the file names to take, e.g. ["IR_*"]; none takes all."""
    ir_exclude: tuple[str, ...] = ()
    """Patterns of the file names to leave out, e.g. those kept for a test."""
    ir_recorders: tuple[str, ...] = ()
    """Recorders of the store whose clips are heard through impulse responses; none is all."""
    mixstyle_p: Fraction = 0.0
    """Probability that a clip takes on the mean and deviation of each mel bin of another (Freq-MixStyle, Schmid et al. 2022). Drawn for
    each clip, where the original draws for each batch."""
    mixstyle_alpha: Positive = 0.3
    """Both parameters of the beta distribution of a clip's own share in them."""
    time_stretch: Annotated[float, Meta(ge=1, le=4)] = 1.0
    """Largest factor by which sound is made faster or slower, pitch kept: frames are read at another hop. A mix of waveforms goes at the
    pace of its first clip."""


class Distill(_Table, frozen=True, kw_only=True):
    """How teachers' soft labels are used. The term is KL(teacher || student) at the temperature, times temperature squared, batch mean."""

    temperature: Positive = 2.0
    kd_weight: NonNegative = 0.98
    """Factor of the distillation term; 0 where a run has no teacher."""
    label_weight: NonNegative = 0.02
    """Factor of the label cross-entropy; 1 where a run has no teacher."""
    blend: BlendName = "mean_prob"
    """Mean of the teachers' probabilities, softmax of their mean logits, or the sum of one divergence per teacher."""


class Train(_Table, frozen=True, kw_only=True):
    """The float phase."""

    epochs: AtLeastOne = 100
    batch_size: AtLeastOne = 64
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-3
    """On weights of two dimensions or more; decoupled with "adamw"."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    precision: PrecisionName = "float32"
    """In which the network computes while it trains; weights, statistics, the loss and all tests stay in float32. "bf16" is autocast,
    "auto" is bf16 where the processor or GPU multiplies it natively and float32 elsewhere. The quantization-aware phase is in float32."""
    warmup_epochs: NonNegative = 5.0
    """Epochs of rise: linear with "cosine", exponential with "vivo"."""
    schedule: Literal["cosine", "vivo"] = "cosine"
    """After the rise: a cosine, or a straight line (Cai et al. 2023), down to `lr * min_lr_ratio`."""
    min_lr_ratio: Fraction = 0.01
    label_smoothing: Fraction = 0.0
    """Share of a label's probability spread over all labels."""
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights that is tested and kept; 0 keeps the last weights."""
    test_every: Count = 10
    """Epochs between tests during training; 0 tests at the end only."""


class Qat(_Table, frozen=True, kw_only=True):
    """The quantization-aware phase, which goes on from the float weights with the same terms, the float network teaching beside them."""

    epochs: Count = 10
    """0 leaves the phase out."""
    lr: Positive = 1e-4
    float_weight: Fraction = 1.0
    """Share of the loss that is the divergence from the run's own float network at the distillation temperature; the terms of the float
    phase have the rest. 1 keeps the quantised network nearest to the float one, 0 lets it drift as far as its data lead it."""
    batch_size: AtLeastOne = 64
    weight_decay: NonNegative = 0.0
    freeze_epochs: Count = 2
    """Last epochs, in which scales no longer learn."""
    calibration_clips: AtLeastOne = 512
    """Training clips that set the first scales."""


class Export(_Table, frozen=True, kw_only=True):
    """What `edgekd export --data` demands of the files over held-out windows. Not part of the training, nor of `Recipe.hash`."""

    calibrate: tuple[str, ...] = ()
    """Splits whose windows fit the temperature, disjoint from `data.train`; none leaves it at 1."""
    max_steps: Count | None = None
    """Largest difference of a logit from the integer reference, in steps; None is 1 in LiteRT and 2 in ONNX Runtime."""
    min_label_agreement: Fraction = 0.999
    """Share of windows with the reference's label."""
    max_accuracy_drop: Fraction = 0.02
    """How far the window accuracy of a file may be below that of the float network."""


class Recipe(_Table, frozen=True, kw_only=True):
    """One training run. Exactly one of `student` and `teacher`."""

    name: str
    seed: Seed = 0
    data: Data
    frontend: FrontEnd = FrontEnd()
    normalize: bool = True
    """Set the front end's mean and standard deviation from the training clips; false keeps those given."""
    student: dict[str, Any] | None = None
    """`kind`, an architecture of `edgekd.models`, and that architecture's fields."""
    teacher: dict[str, Any] | None = None
    """As `student`; a teacher has no quantization-aware phase."""
    view: View = View()
    augment: Augment = Augment()
    distill: Distill = Distill()
    train: Train = Train()
    qat: Qat = Qat()
    export: Export = Export()

    @property
    def role(self) -> Role:
        """Which of the two tables it has."""
        return "student" if self.student is not None else "teacher"

    @property
    def model(self) -> dict[str, Any]:
        """The architecture's table, with its `kind`."""
        table = self.student if self.student is not None else self.teacher
        assert table is not None  # decode refuses a recipe with neither
        return table

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any value that decides what is trained: all but the `export` table."""
        trained = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "export"}
        return hashlib.sha256(msgspec.json.encode(trained, order="sorted")).hexdigest()[:16]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any by path (.toml, or the .json of a run folder).

    Args:
        name_or_path: e.g. "esc50-serfr32".
        overrides: "key=value" with a dotted key, e.g. "train.epochs=20"; the value is read as TOML, or else as a string.

    Raises:
        InputError: no such recipe, damaged, unknown or mistyped keys, a value out of range.
    """
    path = find(name_or_path, "recipes", "teachers")
    raw = read_table(path)
    for override in overrides:
        _override(raw, override)
    return decode(raw, f"{path} with --set" if overrides else str(path))


def decode(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check keys and values of a recipe.

    Args:
        raw: tables as TOML or JSON gives them.
        where: named in errors.

    Raises:
        InputError: see `load_recipe`.
    """
    _refuse_infinite(raw, where)
    recipe = convert(raw, Recipe, where)
    if not NAME.fullmatch(recipe.name):
        raise InputError(f"{where}: name '{recipe.name}' begins the names of files; use letters, digits, '.', '_' and '-'")
    if (recipe.student is None) == (recipe.teacher is None):
        got = "neither" if recipe.student is None else "both"
        raise InputError(f"{where}: a recipe has either a [student] or a [teacher] table; this one has {got}")
    if "kind" not in recipe.model:
        raise InputError(f"{where}: [{recipe.role}] has no 'kind', the name of its architecture")
    both = sorted(set(recipe.data.train) & set(recipe.data.test))
    if both:
        raise InputError(f"{where}: split '{both[0]}' is in data.train and in data.test; a model is not tested on what it was trained on")
    if recipe.augment.ir_p and not recipe.augment.ir_folder:
        raise InputError(f"{where}: augment.ir_p is {recipe.augment.ir_p:g} but augment.ir_folder is not set; name the folder of the "
                         "impulse responses")
    _check_held_out(recipe.data.held_out, where)
    for split in recipe.export.calibrate:
        if split in recipe.data.train:
            raise InputError(f"{where}: split '{split}' is in export.calibrate and in data.train; fit the temperature on clips that the "
                             "model was not trained on")
    return recipe


def _check_held_out(pairs: tuple[int, ...], where: str) -> None:
    if len(pairs) % 2:
        raise InputError(f"{where}: data.held_out = {list(pairs)}: write [k, K], part k (from 0) of K, e.g. [0, 4]")
    for part, count in zip(pairs[::2], pairs[1::2], strict=True):
        if count < 2 or part >= count:
            raise InputError(f"{where}: data.held_out = {list(pairs)}: there is no part {part} of {count} to hold out; "
                             "give at least 2 parts, counted from 0")


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: write key=value, e.g. train.epochs=20")
    *tables, last = key.strip().split(".")
    place: Any = raw
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {override!r}: '{table}' is a value, not a table")
    try:
        place[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        place[last] = text


def _refuse_infinite(value: Any, where: str) -> None:
    """Refuse numbers that are infinite or none, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}; give a finite number")
    for key, each in value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ():
        _refuse_infinite(each, f"{where}: {key}")
