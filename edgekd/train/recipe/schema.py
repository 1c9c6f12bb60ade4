"""The tables of a recipe, one struct each: typed, frozen, unknown keys refused. `edgekd.train.recipe.recipe` reads
them. No torch here."""

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
"""Seconds that the classifier sees at a time."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a recipe."""


class Data(Table, frozen=True, kw_only=True):
    """Which splits of the store train the model and which test it."""

    train: tuple[str, ...]
    """Names of splits, e.g. ["fold1", "fold2", "fold3"]."""
    test: tuple[str, ...]
    """Names of splits, disjoint from `train`; only with `held_out` may there be none."""
    allow_leaks: bool = False
    """Accept a group or parent clip that is on both sides."""
    held_out: tuple[Count, ...] = ()
    """[k, K]: test on part k (from 0) of K parts of the training clips instead of on `test`, and train on the other
    parts. Parts share no recording and are alike in labels. Clips of `test`, which then may be [], are heard on neither
    side. Further pairs divide what remains."""
    mixed_folds: bool = False
    """Accept that `held_out` mixes all official folds and deals them anew: for a final model, whose figures are those
    of a cross-validation of its recipe."""
    recorders: tuple[str, ...] = ()
    """Recorders whose clips train the model, e.g. ["a"] for a model of one device; none is all. What is tested stays
    the same."""
    pair: tuple[str, ...] = ()
    """Two labels of a specialist (Jung et al. 2020): half of each training batch are clips of these, half of all
    others, drawn anew each epoch; an epoch has all clips of the pair once. None: all training clips once."""

    def sides(self, store: ClipStore) -> Partition:
        """The training and the test side of a store, of all recorders; see `ClipStore.partition`."""
        return store.partition(self.train, self.test, self.allow_leaks, self.held_out, self.mixed_folds)


class Init(Table, frozen=True, kw_only=True):
    """What a network is before its training."""

    run: str = ""
    """A finished run folder whose weights it begins with, by name; those of other names or shapes (a new head) stay
    new, and that is said. "teacher" is the student's first teacher. "" begins at random, or with what the
    architecture's own table names."""
    adapt: Literal["none", "head", "full"] = "full"
    """What is trained of it: all, the head alone, or nothing, so that it is tested and kept as it is."""


class View(Table, frozen=True, kw_only=True):
    """What a model hears at a time."""

    span: Literal["crop", "clip", "parent", "pair"] = "crop"
    """"crop": a window of `seconds`, drawn anew each epoch; a clip's prediction is the mean over its windows. "clip":
    the whole clip. "parent": the recording that the clip is a segment of, put together from its segments in the order
    of their names; they share what is said of it. "pair": the clip, then others of its label (Heo et al. 2019), drawn
    anew each epoch; in tests the clip repeated."""
    seconds: Positive | None = None
    """Length of the window; None is `DEFAULT_WINDOW`. Else the common length, shorter sounds being repeated and longer
    ones cropped; None is the longest clip or parent. Of "pair" the length of each clip."""
    joined: Annotated[int, Meta(ge=2)] = 2
    """Clips that "pair" joins."""
    channels: Literal["mean", "all"] = "mean"
    """Channels of the store: their mean, or each for itself."""
    segments: AtLeastOne = 1
    """Soft labels: 1 gives one for the whole clip or parent. More gives the teacher's own posteriors of so many equal
    parts of it; a crop is taught by the part that its middle lies in, a segment of a parent by its own. A "clip" or
    "parent" teacher hears the whole and says what each part is; a "crop" teacher hears a window around the middle of
    each part."""


class Augment(Table, frozen=True, kw_only=True):
    """Random changes to what is heard in training; the defaults change nothing."""

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
    """Probability that a clip is heard through an impulse response, e.g. of another microphone."""
    ir_folder: str = ""
    """Folder of the impulse responses: audio files of any rate, the mean of their channels is taken."""
    ir_split: MicSplit = "all"
    """Microphones to take by their make: "train" leaves those of other makes for 'edgekd evaluate --microphones'. Makes
    are told by makes.toml in the folder, or by the table of MicIRP that comes with edgekd."""
    ir_include: tuple[str, ...] = ()
    """Patterns of the file names to take, e.g. ["IR_*"]; none takes all."""
    ir_exclude: tuple[str, ...] = ()
    """Patterns of the file names to leave out, e.g. those kept for a test."""
    ir_recorders: tuple[str, ...] = ()
    """Recorders of the store whose clips are heard through impulse responses; none is all."""
    mixstyle_p: Fraction = 0.0
    """Probability that a clip takes on the mean and deviation of each mel bin of another (Freq-MixStyle, Schmid et al.
    2022). Drawn for each clip, where the original draws for each batch."""
    mixstyle_alpha: Positive = 0.3
    """Both parameters of the beta distribution of a clip's own share in them."""
    filter_p: Fraction = 0.0
    """Probability that a clip's mel bins are raised and lowered along a random curve, as another microphone would
    colour it (FilterAugment, Nam et al. 2022)."""
    filter_db: NonNegative = 6.0
    """Decibels: the curve's largest height in either direction."""
    filter_bands: tuple[AtLeastOne, AtLeastOne] = (2, 5)
    """Least and most straight lines that the curve consists of."""
    time_stretch: Annotated[float, Meta(ge=1, le=4)] = 1.0
    """Largest factor by which sound is made faster or slower, pitch kept: frames are read at another hop. A mix of
    waveforms goes at the pace of its first clip."""
    speed: Annotated[float, Meta(ge=1, le=4)] = 1.0
    """Largest factor by which sound is played faster or slower, pitch and all (Tokozume et al. 2018: 1.25). Teachers
    that hear what the student hears hear it too."""


class Loss(Table, frozen=True, kw_only=True):
    """One term between student and teachers, of `[[distill.terms]]`. What does not apply to a loss is refused where it
    is set."""

    loss: LossName
    """Of outputs: "kd" KL(teacher || student) times temperature squared; "cross_entropy" the same as a soft-label
    cross-entropy with the student at temperature 1 (Heo et al. 2019); "cdf" the distance of cumulative distributions
    (SSATKD); "dist" relations between and within labels (Huang et al. 2022); "dkd" decoupled distillation (Zhao et al.
    2022). Of taps: "embedding" a distance; "structural" and "statistical" texture (SSATKD). "centre": of the student's
    embedding from its label's centre (Wen et al. 2016), without teachers."""
    weight: NonNegative = 1.0
    temperature: Positive | None = None
    """Of losses of outputs; None is `distill.temperature`. But for "cross_entropy" they are times its square."""
    standardise: bool = False
    """Of losses of outputs: logits of both sides to mean 0 and deviation 1 before the temperature (Sun et al. 2024)."""
    distance: Literal["mse", "cosine"] = "mse"
    """Of "embedding"."""
    student: str = "embedding"
    """Of losses of taps: path of the student's module whose output is taken; "embedding" is what its classifier
    gets."""
    teacher: str = "embedding"
    """Likewise in the teachers."""
    project: bool = True
    """Learn a linear map: of the student's embedding to the teacher's width, of the teacher's texture to the student's
    channels (1x1 convolution and ReLU). Without, the widths must be equal."""
    teachers: tuple[Count, ...] = ()
    """Numbers of the teachers, from 0, that this loss is taken over; none is all."""
    alpha: NonNegative = 1.0
    """Of "dkd": weight of the label's own part; of "dist": of relations between labels."""
    beta: NonNegative = 1.0
    """Of "dkd": weight of the other labels' part; of "dist": of relations within labels."""


class Distill(Table, frozen=True, kw_only=True):
    """How a student learns from teachers. By default one term, KL(teacher || student) at the temperature, times
    temperature squared."""

    temperature: Positive = 2.0
    kd_weight: NonNegative = 0.98
    """Factor of the default term; 0 where a run has no teacher."""
    label_weight: NonNegative = 0.02
    """Factor of the label cross-entropy; 1 where a run has no teacher."""
    terms: tuple[Loss, ...] = ()
    """In the place of the default term."""
    weights: Literal["fixed", "learned"] = "fixed"
    """"learned": each term L, the label's among them, counts exp(-s) L + s with a learned s (Kendall et al. 2018) that
    begins at 0, times its weight."""
    blend: BlendName = "mean_prob"
    """Mean of the teachers' probabilities, softmax of their mean logits, the sum of one divergence per teacher, or a
    mean of probabilities in which each teacher counts by its cross-entropy with the label (Zhang et al. 2022)."""
    teaching: Literal["clip", "views", "live", "same"] = "clip"
    """"clip": each teacher judges each clip once, before the training. "views": as often as `views` says, each time
    augmented by its own recipe (crop, roll, gain), and an epoch takes one of these judgements. "live": in each step,
    augmented likewise. "same": in each step the teachers hear what the student hears, through their own front ends."""
    views: AtLeastOne = 1
    """Of "views"."""
    repeat: Count = 0
    """With "same": epochs after which training hears the same sounds, mixes and masks again, in another order, so that
    teachers need not judge them again: their logits are remembered. 0 never repeats. Without teachers nothing
    repeats."""


class Train(Table, frozen=True, kw_only=True):
    """The float phase."""

    epochs: AtLeastOne = 100
    batch_size: AtLeastOne = 64
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-3
    """On weights of two dimensions or more; decoupled with "adamw"."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    precision: PrecisionName = "float32"
    """In which the network computes while it trains; weights, statistics, the loss and all tests stay in float32.
    "bf16" is autocast, "auto" is bf16 where the processor or GPU multiplies it natively and float32 elsewhere. The
    quantization-aware phase is in float32."""
    warmup_epochs: NonNegative = 5.0
    """Epochs of rise: linear with "cosine", exponential with "vivo"."""
    schedule: Literal["cosine", "vivo", "steps"] = "cosine"
    """After the rise: a cosine, or a straight line (Fei et al. 2023), down to `lr * min_lr_ratio`; or steps."""
    milestones: tuple[AtLeastOne, ...] = ()
    """Of "steps": epochs after which the learning rate is multiplied by `gamma`."""
    gamma: Fraction = 0.2
    min_lr_ratio: Fraction = 0.01
    label_smoothing: Fraction = 0.0
    """Share of a label's probability spread over all labels."""
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights that is tested and kept; 0 keeps the last weights."""
    test_every: Count = 10
    """Epochs between tests during training; 0 tests at the end only."""


class Qat(Table, frozen=True, kw_only=True):
    """The quantization-aware phase, which goes on from the float weights with the same terms, the float network
    teaching beside them."""

    epochs: Count = 10
    """0 leaves the phase out."""
    lr: Positive = 1e-4
    float_weight: Fraction = 1.0
    """Share of the loss that is the divergence from the run's own float network at the distillation temperature; the
    terms of the float phase have the rest. 1 keeps the quantised network nearest to the float one, 0 lets it drift as
    far as its data lead it."""
    batch_size: AtLeastOne = 64
    weight_decay: NonNegative = 0.0
    freeze_epochs: Count = 2
    """Last epochs, in which scales no longer learn."""
    calibration_clips: AtLeastOne = 512
    """Training clips that set the first scales."""


class Export(Table, frozen=True, kw_only=True):
    """What `edgekd export --data` demands of the files over held-out windows. Not part of the training, nor of
    `Recipe.hash`."""

    calibrate: tuple[str, ...] = ()
    """Splits whose windows fit the temperature, disjoint from `data.train`; none leaves it at 1."""
    max_steps: Count | None = None
    """Largest difference of a logit from the integer reference, in steps; None is 1 in LiteRT and 2 in ONNX Runtime."""
    min_label_agreement: Fraction = 0.999
    """Share of windows with the reference's label."""
    max_accuracy_drop: Fraction = 0.02
    """How far the window accuracy of a file may be below that of the float network."""


class Taught(Table, frozen=True, kw_only=True):
    """A teacher of `[[teachers]]`."""

    recipe: str
    """Name or path of a teacher recipe."""
    name: str = ""
    """Of its run folder; "" is the recipe's name."""
    teaches: bool = True
    """false: it is only there for others to begin with ([init] run = its name)."""
    set: tuple[str, ...] = ()
    """"key=value" settings, e.g. ["seed=1"]."""


class Specialists(Table, frozen=True, kw_only=True):
    """Of a student: one more teacher for each pair of labels that a generalist confuses most (Jung et al. 2020)."""

    recipe: str
    """Teacher recipe of the specialists; the generalist's weights begin it."""
    pairs: Count
    """How many; pairs as often confused as the last of them are taken too. 0 trains no specialist."""
    held_out: tuple[Count, Count] = (0, 4)
    """[k, K]: pairs are chosen by a generalist trained without part k of K parts of the training clips, on that
    part."""
    set: tuple[str, ...] = ()
    """"key=value" settings."""


class Backend(Table, frozen=True, kw_only=True):
    """Support vector machines on embeddings, one a system, whose scores are averaged (Heo et al. 2019)."""

    beside: tuple[Taught, ...] = ()
    """Student recipes of the other systems, trained in this run's folder with teachers of their own."""
    kernels: tuple[Literal["linear", "rbf", "poly", "sigmoid"], ...] = ("linear", "rbf")
    """Tried on an inner part of the training clips; each system has its best."""
