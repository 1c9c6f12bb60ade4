"""The tables of a recipe, one frozen struct each; unknown keys are refused. `edgekd.train.recipe.recipe` reads them. No
torch here."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgekd.data.audio.microphone_makes import MicSplit
from edgekd.data.store.store import ClipStore, Partition

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
BlendName = Literal["mean_prob", "mean_logit", "sum_kl", "confidence"]
LossName = Literal["kd", "cross_entropy", "cdf", "dist", "dkd", "embedding", "structural", "statistical", "centre"]
PrecisionName = Literal["float32", "bf16", "auto"]
DEFAULT_WINDOW = 1.0
"""Seconds of the window that a classifier sees."""


class RecipeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a recipe."""


class Data(RecipeTable, frozen=True, kw_only=True):
    """Which splits of the store train the model and which test it."""

    train: tuple[str, ...]
    """Names of splits, e.g. ["fold1", "fold2", "fold3"]."""
    test: tuple[str, ...]
    """Names of splits, disjoint from `train`; only with `held_out` may there be none."""
    allow_leaks: bool = False
    """Accept a group or parent clip that is on both sides."""
    held_out: tuple[Count, ...] = ()
    """[k, K]: test on part k (from 0) of K parts of the training clips instead of on `test`, and train on the other
    parts. Parts share no recording and have similar label counts. Clips of `test`, which may then be [], are used on
    neither side. Further pairs divide the remaining training clips."""
    mixed_folds: bool = False
    """Accept that `held_out` ignores the official folds: for a final model, whose figures come from a cross-validation
    of its recipe."""
    recorders: tuple[str, ...] = ()
    """Recorders whose clips train the model, e.g. ["a"] for a model of one device; none is all. The test side stays
    the same."""
    pair: tuple[str, ...] = ()
    """Two labels of a specialist (Jung et al. 2020). Half of each training batch are clips of this pair; the other half
    are clips of other labels, drawn in each epoch. An epoch has each clip of the pair once. Empty: each training clip
    once."""

    def sides(self, store: ClipStore) -> Partition:
        """The training and the test side of a store, of all recorders; see `ClipStore.partition`."""
        return store.partition(self.train, self.test, self.allow_leaks, self.held_out, self.mixed_folds)


class Init(RecipeTable, frozen=True, kw_only=True):
    """The weights that a network has before its training, and which of them are trained."""

    run: str = ""
    """A finished run folder whose weights are copied by name. Weights of other names or shapes (a new head) stay at
    their initial values, which is logged. "teacher" is the student's first teacher. "" begins at random, or with the
    weights that the architecture's own table names."""
    adapt: Literal["none", "head", "full"] = "full"
    """Which weights are trained: all ("full"), the head alone, or none, so that the network is tested and saved as it
    is."""


class View(RecipeTable, frozen=True, kw_only=True):
    """Which part of a sound a model gets as its input."""

    span: Literal["crop", "clip", "parent", "pair"] = "crop"
    """"crop": a window of `seconds`, drawn anew each epoch; a clip's prediction is the mean over its windows. "clip":
    the whole clip. "parent": the recording that the clip is a segment of, joined from its segments in the order of
    their names; all segments get the recording's prediction. "pair": the clip, then others of its label (Heo et al.
    2019), drawn anew each epoch; in tests the clip repeated."""
    seconds: Positive | None = None
    """"crop": length of the window; None is `DEFAULT_WINDOW`. "clip", "parent": the common length, to which shorter
    sounds are repeated and longer ones cropped; None is the longest clip or parent. "pair": the length of each clip."""
    joined: Annotated[int, Meta(ge=2)] = 2
    """Clips that "pair" joins."""
    channels: Literal["mean", "all"] = "mean"
    """Channels of the store: their mean, or all of them as channels of the input."""
    segments: AtLeastOne = 1
    """Soft labels per clip or parent. 1: one for the whole. More: one for each of so many equal parts. A crop learns
    from the part that its middle lies in, a segment of a parent from its own part. A "clip" or "parent" teacher gets
    the whole sound and gives logits for each part; a "crop" teacher gets a window around the middle of each part."""


class Augment(RecipeTable, frozen=True, kw_only=True):
    """Random changes of the model's input in training; the defaults change nothing."""

    mixup_alpha: Positive = 0.2
    """Both parameters of the beta distribution of mixup's lambda."""
    mixup_p: Fraction = 0.0
    """Probability that a clip is mixed with another of the training clips."""
    mixup_domain: Literal["waveform", "loudness", "log_mel"] = "waveform"
    """Where the mix happens; "loudness" mixes waveforms so that lambda is the share of sound pressure (Tokozume et al.
    2018)."""
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
    """Probability that a clip is convolved with an impulse response, e.g. of another microphone."""
    ir_folder: str = ""
    """Folder of the impulse responses: audio files of any rate; the mean of their channels is used."""
    ir_split: MicSplit = "all"
    """Microphones to use, by their make: "train" keeps the other makes for 'edgekd evaluate --microphones'. The makes
    stand in makes.toml in the folder, or else in the table of MicIRP that comes with edgekd."""
    ir_include: tuple[str, ...] = ()
    """Patterns of the file names to use, e.g. ["IR_*"]; none uses all."""
    ir_exclude: tuple[str, ...] = ()
    """Patterns of the file names to leave out, e.g. files kept for a test."""
    ir_recorders: tuple[str, ...] = ()
    """Recorders of the store whose clips are convolved with impulse responses; none is all."""
    mixstyle_p: Fraction = 0.0
    """Probability that the mean and deviation of each mel bin of a clip are mixed with another clip's (Freq-MixStyle,
    Schmid et al. 2022). Drawn for each clip; the original draws for each batch."""
    mixstyle_alpha: Positive = 0.3
    """Both parameters of the beta distribution of the clip's own share in that mix."""
    filter_p: Fraction = 0.0
    """Probability that a random gain curve is added to a clip's mel bins, as another microphone would do
    (FilterAugment, Nam et al. 2022)."""
    filter_db: NonNegative = 6.0
    """Decibels: the curve's largest gain in either direction."""
    filter_bands: tuple[AtLeastOne, AtLeastOne] = (2, 5)
    """Fewest and most straight lines of the curve."""
    time_stretch: Annotated[float, Meta(ge=1, le=4)] = 1.0
    """Largest factor by which sound is made faster or slower at the same pitch: frames are read at another hop. A mix
    of waveforms has the factor of its first clip."""
    speed: Annotated[float, Meta(ge=1, le=4)] = 1.0
    """Largest factor by which sound is resampled to be faster or slower, which changes its pitch (Tokozume et al. 2018:
    1.25). Teachers that get the student's waveform get it too."""


class Loss(RecipeTable, frozen=True, kw_only=True):
    """One term of the loss, of `[[distill.terms]]`. A field that does not apply to the chosen loss must not be set."""

    loss: LossName
    """Of outputs: "kd" KL(teacher || student) times temperature squared; "cross_entropy" the same as a soft-label
    cross-entropy with the student at temperature 1 (Heo et al. 2019); "cdf" the distance of cumulative distributions
    (SSATKD); "dist" relations between and within labels (Huang et al. 2022); "dkd" decoupled distillation (Zhao et al.
    2022). Of taps: "embedding" a distance; "structural" and "statistical" texture (SSATKD). "centre": distance of the
    student's embedding from its label's centre (Wen et al. 2016), without teachers."""
    weight: NonNegative = 1.0
    temperature: Positive | None = None
    """Of losses of outputs; None is `distill.temperature`. The loss is multiplied by its square, except
    "cross_entropy"."""
    standardise: bool = False
    """Of losses of outputs: scale the logits of student and teacher to mean 0 and deviation 1 before the temperature
    (Sun et al. 2024)."""
    distance: Literal["mse", "cosine"] = "mse"
    """Of "embedding"."""
    student: str = "embedding"
    """Of losses of taps: path of the student's module whose output is compared; "embedding" is the input of its
    classifier."""
    teacher: str = "embedding"
    """Likewise in the teachers."""
    project: bool = True
    """Learn a linear map: of the student's embedding to the teacher's width, of the teacher's texture to the student's
    channels (1x1 convolution and ReLU). If false, the widths must be equal."""
    teachers: tuple[Count, ...] = ()
    """Numbers, from 0, of the teachers that this loss uses; none is all."""
    alpha: NonNegative = 1.0
    """Of "dkd": weight of the label's own part; of "dist": of relations between labels."""
    beta: NonNegative = 1.0
    """Of "dkd": weight of the other labels' part; of "dist": of relations within labels."""


class Distill(RecipeTable, frozen=True, kw_only=True):
    """How a student learns from teachers. By default one term, KL(teacher || student) at the temperature, times
    temperature squared."""

    temperature: Positive = 2.0
    kd_weight: NonNegative = 0.98
    """Factor of the default term; 0 where a run has no teacher."""
    label_weight: NonNegative = 0.02
    """Factor of the label cross-entropy; 1 where a run has no teacher."""
    terms: tuple[Loss, ...] = ()
    """Terms instead of the default one."""
    weights: Literal["fixed", "learned"] = "fixed"
    """"learned": each term L, that of the labels included, becomes its weight times (exp(-s) L + s), with a learned s
    (Kendall et al. 2018) that begins at 0. Only where there are several terms."""
    blend: BlendName = "mean_prob"
    """Mean of the teachers' probabilities, softmax of their mean logits, the sum of one divergence per teacher, or a
    mean of probabilities weighted by each teacher's cross-entropy with the label (Zhang et al. 2022)."""
    teaching: Literal["clip", "views", "live", "same"] = "clip"
    """When teachers compute their logits. "clip": once for each clip, before the training. "views": `views` times
    before the training, each time augmented by the teacher's recipe (crop, roll, gain); an epoch uses one of these
    views. "live": in each step, augmented likewise. "same": in each step from the student's waveforms, through the
    teachers' own front ends."""
    views: AtLeastOne = 1
    """Augmented views of each clip, of "views"."""
    repeat: Count = 0
    """With "same": after so many epochs the same crops, mixes and masks come again in another order, so that the
    teachers' logits are kept and not computed again. 0 never repeats. Without teachers nothing repeats."""


class Train(RecipeTable, frozen=True, kw_only=True):
    """The float phase."""

    epochs: AtLeastOne = 100
    batch_size: AtLeastOne = 64
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-3
    """On weights of two dimensions or more; decoupled with "adamw"."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    precision: PrecisionName = "float32"
    """Precision of the network's computation in training; weights, statistics, the loss and all tests stay in float32.
    "bf16" is autocast; "auto" is bf16 where the processor or GPU multiplies it natively and float32 elsewhere. The
    quantization-aware phase is in float32."""
    warmup_epochs: NonNegative = 5.0
    """Epochs in which the learning rate rises: linearly with "cosine", exponentially with "vivo"."""
    schedule: Literal["cosine", "vivo", "steps"] = "cosine"
    """Learning rate after the warm-up: a cosine, or a straight line (Fei et al. 2023), down to `lr * min_lr_ratio`; or
    steps."""
    milestones: tuple[AtLeastOne, ...] = ()
    """Of "steps": epochs after which the learning rate is multiplied by `gamma`."""
    gamma: Fraction = 0.2
    min_lr_ratio: Fraction = 0.01
    label_smoothing: Fraction = 0.0
    """Share of the target probability that is spread over all labels."""
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights, which is tested and saved; 0 saves the last weights."""
    test_every: Count = 10
    """Epochs between tests during training; 0 tests at the end only."""


class Qat(RecipeTable, frozen=True, kw_only=True):
    """The quantization-aware phase: it starts from the float weights, and its loss has the terms of the float phase and
    one from the run's own float network."""

    epochs: Count = 10
    """0 leaves the phase out."""
    lr: Positive = 1e-4
    float_weight: Fraction = 1.0
    """Share of the loss that is the divergence from the run's own float network at the distillation temperature; the
    rest are the terms of the float phase. 1 keeps the quantised network close to the float one, 0 leaves the float
    network out."""
    batch_size: AtLeastOne = 64
    weight_decay: NonNegative = 0.0
    freeze_epochs: Count = 2
    """Last epochs, in which scales no longer learn."""
    calibration_clips: AtLeastOne = 512
    """Training clips that set the first scales."""


class Export(RecipeTable, frozen=True, kw_only=True):
    """What `edgekd export --data` requires of the files on held-out windows. No part of the training or of
    `Recipe.hash`."""

    calibrate: tuple[str, ...] = ()
    """Splits whose windows fit the temperature, disjoint from `data.train`; none leaves it at 1."""
    max_steps: Count | None = None
    """Largest difference of a logit from the integer reference, in steps; None is 1 in LiteRT and 2 in ONNX Runtime."""
    min_label_agreement: Fraction = 0.999
    """Share of windows with the reference's label."""
    max_accuracy_drop: Fraction = 0.02
    """How far the window accuracy of a file may be below that of the float network."""


class Stage(RecipeTable, frozen=True, kw_only=True):
    """A run that a student's recipe trains too: a teacher of `[[teachers]]`, or a system of `[[backend.beside]]`."""

    recipe: str
    """Name or path of its recipe."""
    name: str = ""
    """Name of its run folder; "" is the recipe's name."""
    teaches: bool = True
    """false: the student does not learn from this teacher; others begin with its weights ([init] run = its name)."""
    set: tuple[str, ...] = ()
    """"key=value" settings, e.g. ["seed=1"]."""


class Specialists(RecipeTable, frozen=True, kw_only=True):
    """One more teacher of a student for each pair of labels that a generalist confuses most (Jung et al. 2020)."""

    recipe: str
    """Teacher recipe of the specialists, which begin with the generalist's weights."""
    pairs: Count
    """Number of pairs; pairs that tie with the last one are added. 0 trains no specialist."""
    held_out: tuple[Count, Count] = (0, 4)
    """[k, K]: pairs are chosen by the confusions on part k of K parts of the training clips, of a generalist trained
    without that part."""
    set: tuple[str, ...] = ()
    """"key=value" settings."""


class Backend(RecipeTable, frozen=True, kw_only=True):
    """Support vector machines on embeddings, one for each system, whose scores are averaged (Heo et al. 2019)."""

    systems: tuple[Stage, ...] = msgspec.field(name="beside", default=())
    """Key `beside`: student recipes of the other systems, trained in this run's folder with teachers of their own."""
    kernels: tuple[Literal["linear", "rbf", "poly", "sigmoid"], ...] = ("linear", "rbf")
    """Kernels to choose from. Each system gets the best one on an inner part of the training clips."""
