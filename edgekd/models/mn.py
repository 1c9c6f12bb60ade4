"""MobileNetV3 at any width (Howard et al. 2019), as EfficientAT trained it on AudioSet (Schmid, Koutini and Widmer
2023, arXiv 2211.04772): a teacher, or with its first blocks a student.

At the published width 0.4 the 15 blocks and the last convolution have 516,128 parameters and 12.3 MMAC on 100 frames of
128 mels; the stem and the first 11 blocks have 74,288 and 7.1. `weights` names a published state dict. Its labels are
AudioSet's, so the dense layers after the pool are not used. `PUBLISHED` is its front end.
"""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models.base import AudioNetwork, InputKind
from edgekd.models.blocks import Activation, Block, ConvNormAct, PooledClassifier, Residual, SqueezeExcite, eights
from edgekd.models.logmel import LogMel

PUBLISHED = FrontEnd(
    sample_rate=32000,
    pre_emphasis=0.97,
    ahead=True,
    n_fft=1024,
    win_length=800,
    symmetric=True,
    hop_length=320,
    padding="reflect",
    n_mels=128,
    f_max=15000.0,
    mel_scale="kaldi",
    log_floor=1e-30,
    log_offset=1e-5,
    mean=-4.5,
    std=5.0,
)
"""The front end of the published networks."""
BATCH_NORM_EPS = 1e-3
LEAST_WIDTH = 0.9
"""Rounding to a multiple of eight must leave this share of a width, otherwise the next multiple is taken."""


class _Row(NamedTuple):
    """A block at width 1. expanded, outputs: channels. squeezes: whether it has squeeze-excitation. is_late: whether
    its activation is hard swish and not ReLU."""

    kernel: int
    expanded: int
    outputs: int
    squeezes: bool
    is_late: bool
    stride: int


_STEM, _LAST = 16, 960
_ROWS = (
    _Row(3, 16, 16, False, False, 1),
    _Row(3, 64, 24, False, False, 2),
    _Row(3, 72, 24, False, False, 1),
    _Row(5, 72, 40, True, False, 2),
    _Row(5, 120, 40, True, False, 1),
    _Row(5, 120, 40, True, False, 1),
    _Row(3, 240, 80, False, True, 2),
    _Row(3, 200, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 480, 112, True, True, 1),
    _Row(3, 672, 112, True, True, 1),
    _Row(5, 672, 160, True, True, 2),
    _Row(5, 960, 160, True, True, 1),
    _Row(5, 960, 160, True, True, 1),
)
"""Table 1 of the paper, "large"."""


AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class MnConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mn"):
    """Widths, depth, activations and initial weights."""

    channels: AtLeastOne = 1
    """Input channels; a network that is exported has one."""
    width: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.4
    """Multiplier of all channels of the paper: that of the published weights."""
    blocks: Annotated[int, msgspec.Meta(ge=1, le=len(_ROWS))] = len(_ROWS)
    """How many of the 15 blocks are kept, the stem not counted."""
    last: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Channels of the 1x1 convolution behind the blocks; 0 is none. None is that of the published network."""
    outputs: tuple[AtLeastOne, ...] = ()
    """Output channels of the first blocks, in place of those of the width; the others follow the width. Channels of
    blocks that are added must be equal."""
    expanded: tuple[AtLeastOne, ...] = ()
    """Channels inside the first blocks, likewise."""
    strides: tuple[AtLeastOne, ...] = ()
    """Strides of the first blocks, likewise."""
    activation: Literal["hard_swish", "silu", "relu"] = "hard_swish"
    """Of the later blocks and the last convolution; the first six blocks have ReLU."""
    stem_activation: Literal["hard_swish", "silu", "relu"] = "hard_swish"
    stem_stride: tuple[AtLeastOne, AtLeastOne] = (2, 2)
    """Over mel and frame."""
    gate: Literal["sigmoid", "hard_sigmoid", "none"] = "sigmoid"
    """Of squeeze-excitation; "none" leaves it out."""
    weights: str = ""
    """Name (`edgekd weights list`) or path of the published state dict that training begins with; "" begins at random.
    Narrower layers take its strongest channels."""
    frozen: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Number of first parts (1 is the stem, 2 also the first block) that keep these weights while the float network
    trains."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Probability, before the dense layer."""
    front: Literal["recipe", "published"] = "recipe"
    """What computes the log-mel: the recipe's front end, or that of the published network inside this one, which then
    takes waveforms and resamples them. "published" is for teachers."""
    rate: int = 16000
    """Hz of the waveforms of `front = "published"`: 32,000 or a whole fraction of it."""

    def __post_init__(self) -> None:
        if self.frozen and not self.weights:
            raise InputError(f"mn: frozen = {self.frozen} would keep random convolutions; give weights")
        if self.frozen > 1 + self.blocks:
            raise InputError(
                f"mn: frozen = {self.frozen}, but the stem and {self.blocks} blocks are {1 + self.blocks} parts; freeze"
                " fewer"
            )
        for name in ("outputs", "expanded", "strides"):
            if len(getattr(self, name)) > self.blocks:
                raise InputError(f"mn: {name} has {len(getattr(self, name))} values for {self.blocks} blocks")
        if self.rate < 1 or PUBLISHED.sample_rate % self.rate:
            raise InputError(f"mn: rate = {self.rate} is no whole fraction of {PUBLISHED.sample_rate} Hz")

    @property
    def input_kind(self) -> InputKind:
        """What the network reads."""
        return "waveform" if self.front == "published" else "log_mel"


def _scaled(channels: float) -> int:
    """The nearest multiple of eight that keeps `LEAST_WIDTH`."""
    near = eights(channels)
    return near + 8 if near < LEAST_WIDTH * channels else near


class PublishedFeatures(Block):
    """waveform (B, 1, T) -> log-mel (B, 1, mel, frame) of `PUBLISHED`. No integer form."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.factor = PUBLISHED.sample_rate // rate
        self.log_mel = LogMel(PUBLISHED)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] != 1:
            raise InputError(f"mn: reads one channel, got {waveform.shape[1]}; set view.channels = 'mean'")
        with torch.autocast(waveform.device.type, enabled=False):
            if self.factor > 1:
                samples = waveform.shape[-1] * self.factor
                waveform = torch.fft.irfft(torch.fft.rfft(waveform.float()) * self.factor, samples)
            features: Tensor = self.log_mel(waveform)
        return features


class Mn(AudioNetwork):
    """log_mel (batch, channels, mel, frame), or a waveform (batch, 1, time), to logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: MnConfig, labels: int) -> None:
        super().__init__()
        self.frozen = config.frozen
        self.log_mel: nn.Module = PublishedFeatures(config.rate) if config.front == "published" else nn.Sequential()
        channels = _scaled(_STEM * config.width)
        layers: list[nn.Module] = [
            _conv(config.channels, channels, 3, stride=config.stem_stride, padding=1, activation=config.stem_activation)
        ]
        for row in _rows(config):
            layers.append(_block(row, channels, config))
            channels = row.outputs
        last = _scaled(_LAST * config.width) if config.last is None else config.last
        if last:
            layers.append(_conv(channels, last, activation=config.activation))
        self.features = nn.Sequential(*layers)
        self.features[: self.frozen].requires_grad_(False)
        self.classifier = PooledClassifier(last or channels, labels, config.dropout)

    def train(self, mode: bool = True) -> "Mn":
        """As of `nn.Module`; the batch norms of frozen parts keep their statistics."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(self.log_mel(x)))


def _rows(config: MnConfig) -> list[_Row]:
    """The blocks at the config's width, with the sizes that it replaces."""
    rows = [
        row._replace(expanded=_scaled(row.expanded * config.width), outputs=_scaled(row.outputs * config.width))
        for row in _ROWS[: config.blocks]
    ]
    for number, value in enumerate(config.outputs):
        rows[number] = rows[number]._replace(outputs=value)
    for number, value in enumerate(config.expanded):
        rows[number] = rows[number]._replace(expanded=value)
    for number, value in enumerate(config.strides):
        rows[number] = rows[number]._replace(stride=value)
    return rows


def _conv(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> ConvNormAct:
    return ConvNormAct(inputs, outputs, kernel, eps=BATCH_NORM_EPS, **options)


def _block(row: _Row, inputs: int, config: MnConfig) -> nn.Module:
    """An inverted residual: expansion where the width grows, depthwise convolution, squeeze-excitation, projection."""
    activation: Activation = config.activation if row.is_late else "relu"
    width = row.expanded
    parts: dict[str, nn.Module] = {}
    if width != inputs:
        parts["expand"] = _conv(inputs, width, activation=activation)
    parts["depthwise"] = _conv(
        width, width, row.kernel, stride=row.stride, padding=row.kernel // 2, groups=width, activation=activation
    )
    if row.squeezes and config.gate != "none":
        parts["excite"] = SqueezeExcite(width, gate=config.gate, hidden=_scaled(width / 4))
    parts["project"] = _conv(width, row.outputs, activation="none")
    body = nn.Sequential(OrderedDict(parts))
    return Residual(body, activation="none") if row.stride == 1 and inputs == row.outputs else body


Tensors = Mapping[str, Tensor]


def load_mn(model: Mn, weights: str) -> None:
    """Load published weights into a network, in place; the dense layer is for other labels and stays as it is. A
    narrower layer takes the strongest channels: those that the blocks' norms weigh most.

    Args:
        model: the network.
        weights: name or path of a state dict.

    Raises:
        InputError: the file is missing, damaged or of another network, or a layer is wider than the published one.
    """
    path = find(weights)
    tensors = _read(path)
    try:
        _copy_all(model.features, tensors)
    except (KeyError, IndexError):
        raise InputError(f"mn: {path} is not a state dict of EfficientAT's MobileNet; give another file") from None
    except _WidthError as error:
        raise InputError(f"mn: {path}: {error}; set width to that of the file, or narrow the layers") from None


class _WidthError(Exception):
    """A layer is wider than the published one."""


def _read(path: Path) -> Tensors:
    """The tensors of a state dict; code in it is not run."""
    try:
        with path.open("rb") as file:
            content = io.BytesIO(file.read())
    except OSError as error:
        raise InputError(f"mn: {path} cannot be read ({error.strerror}); give a readable file") from None
    try:
        found = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes are instructions to unpickle, and may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"mn: {path} is damaged or holds more than tensors ({reason}); fetch it again") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"mn: {path} holds no state dict; give a file of 'edgekd weights list'")
    return found


@torch.no_grad()
def _copy_all(features: nn.Sequential, tensors: Tensors) -> None:
    """Copy the weights of all parts."""
    bodies = [part.body if isinstance(part, Residual) else part for part in features]
    inputs = torch.arange(_only_conv(bodies[0]).conv.in_channels)
    channels = _strongest(tensors["features.0.1.weight"].abs(), _only_conv(bodies[0]).conv.out_channels)
    _copy_conv(_only_conv(bodies[0]), tensors, "features.0.0", "features.0.1", channels, inputs)
    for number, body in enumerate(bodies[1:], start=1):
        if isinstance(body, ConvNormAct):  # the last convolution
            published = len({name.split(".")[1] for name in tensors if name.startswith("features.")}) - 1
            scale = tensors[f"features.{published}.1.weight"].abs()
            outputs = _strongest(scale, body.conv.out_channels)
            if tensors[f"features.{published}.0.weight"].shape[1] == len(channels):
                _copy_conv(body, tensors, f"features.{published}.0", f"features.{published}.1", outputs, channels)
            continue
        assert isinstance(body, nn.Sequential)
        channels = _copy_block(
            body, tensors, f"features.{number}.block", channels, isinstance(features[number], Residual)
        )


def _copy_block(body: nn.Sequential, tensors: Tensors, prefix: str, inputs: Tensor, is_residual: bool) -> Tensor:
    """Copy the weights of a block that reads the published channels `inputs`; the channels that it writes."""
    parts = dict(body.named_children())
    published = sorted({name.removeprefix(f"{prefix}.").split(".")[0] for name in tensors if name.startswith(prefix)})
    squeezes = any(".conc_se_layers." in name for name in tensors if name.startswith(prefix))
    expand = published[: len(published) - 2 - squeezes]
    depthwise, project = f"{prefix}.{published[len(expand)]}", f"{prefix}.{published[-1]}"
    inside_width = _only_conv(parts["depthwise"]).conv.out_channels
    if expand:
        strength = tensors[f"{depthwise}.1.weight"].abs() * tensors[f"{project}.0.weight"].flatten(1).norm(dim=0)
        inside = _strongest(strength, inside_width)
    else:
        inside = inputs
    if "expand" in parts:
        _copy_conv(_only_conv(parts["expand"]), tensors, f"{prefix}.0.0", f"{prefix}.0.1", inside, inputs)
    everything = torch.zeros(1, dtype=torch.int64)
    _copy_conv(_only_conv(parts["depthwise"]), tensors, f"{depthwise}.0", f"{depthwise}.1", inside, everything)
    if "excite" in parts:
        excite = parts["excite"]
        assert isinstance(excite, SqueezeExcite)
        _copy_excite(excite, tensors, f"{prefix}.{published[-2]}.conc_se_layers.0", inside)
    last = _only_conv(parts["project"])
    scale = tensors[f"{project}.1.weight"].abs()
    outputs = inputs if is_residual else _strongest(scale, last.conv.out_channels)
    _copy_conv(last, tensors, f"{project}.0", f"{project}.1", outputs, inside)
    return outputs


def _copy_excite(excite: SqueezeExcite, tensors: Tensors, prefix: str, inside: Tensor) -> None:
    hidden = _strongest(tensors[f"{prefix}.fc1.weight"].norm(dim=1), excite.squeeze.conv.out_channels)
    for block, name, outputs, inputs in (
        (excite.squeeze, "fc1", hidden, inside),
        (excite.excite, "fc2", inside, hidden),
    ):
        assert block.conv.bias is not None
        block.conv.weight.copy_(tensors[f"{prefix}.{name}.weight"][outputs][:, inputs, None, None])
        block.conv.bias.copy_(tensors[f"{prefix}.{name}.bias"][outputs])


def _copy_conv(block: ConvNormAct, tensors: Tensors, conv: str, norm: str, outputs: Tensor, inputs: Tensor) -> None:
    block.conv.weight.copy_(tensors[f"{conv}.weight"][outputs][:, inputs])
    for name, own in block.norm.state_dict().items():
        if name in ("weight", "bias", "running_mean", "running_var"):
            own.copy_(tensors[f"{norm}.{name}"][outputs])


def _strongest(strength: Tensor, count: int) -> Tensor:
    """The positions of the `count` largest values, in order."""
    if count > len(strength):
        raise _WidthError(f"a layer of {count} channels is wider than the published one of {len(strength)}")
    return strength.topk(count).indices.sort().values


def _only_conv(module: nn.Module) -> ConvNormAct:
    assert isinstance(module, ConvNormAct)
    return module
