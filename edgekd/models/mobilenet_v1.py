"""MobileNet on one log-mel channel (Howard et al. 2017): a stem and separable convolutions. With the first layers of
YAMNet it is a student pretrained on AudioSet.

The default is sized for 50 labels: 126,024 bytes of int8 weights and int32 biases, 21.9 MMAC on 97 frames of 64 mels.
YAMNet's features are those of `FrontEnd(n_fft=512, win_length=400, hop_length=160, n_mels=64, f_min=125, f_max=7500,
mel_scale="htk", log_floor=1e-6, mean=0, std=2)` except for details. Half the logarithm of a power is the logarithm of
a magnitude. But the magnitude of a wide band is larger than the root of its power, by up to 0.9 in natural logarithm; a
mean of -0.9 removes half of that.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import ConvNormAct, PooledClassifier
from edgekd.models.yamnet import published_layers


class MobileNetV1Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mobilenet_v1"):
    """Widths and strides."""

    channels: int = 1
    """Input channels; a network that is exported has one."""
    stem: int = 32
    """Channels of the stem, a 3x3 convolution of stride 2."""
    layers: tuple[tuple[int, int], ...] = ((64, 1), (128, 2), (128, 1), (256, 2), (112, 1), (152, 2))
    """Channels and stride of each separable convolution."""
    norm: Literal["batch", "none"] = "batch"
    """After each convolution; "none" gives it a bias, as `weights` has."""
    weights: str = ""
    """YAMNet's .tflite file, "yamnet" or the path of a copy: training begins with its first layers, and narrower layers
    use their first channels. "" begins at random."""
    frozen: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Number of first convolutions, the stem included, that keep the weights of the file while the float network is
    trained."""
    dropout: float = 0.0
    """Probability, before the dense layer."""

    def __post_init__(self) -> None:
        if self.weights and self.norm != "none":
            raise InputError(
                "mobilenet_v1: YAMNet's file has its batch norms folded into its convolutions; set norm = 'none' for"
                " weights"
            )
        if self.frozen and not self.weights:
            raise InputError(f"mobilenet_v1: frozen = {self.frozen} would keep random convolutions; give weights")
        if self.frozen > 1 + 2 * len(self.layers):
            raise InputError(
                f"mobilenet_v1: frozen = {self.frozen}, but there are {1 + 2 * len(self.layers)} convolutions; freeze"
                " fewer"
            )


class MobileNetV1(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: MobileNetV1Config, labels: int) -> None:
        super().__init__()
        norm, channels = config.norm, config.stem
        layers: list[nn.Module] = [ConvNormAct(config.channels, channels, 3, stride=2, padding=1, norm=norm)]
        for width, stride in config.layers:
            layers += [
                ConvNormAct(channels, channels, 3, stride=stride, padding=1, groups=channels, norm=norm),
                ConvNormAct(channels, width, norm=norm),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.features[: config.frozen].requires_grad_(False)
        self.classifier = PooledClassifier(channels, labels, config.dropout)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))


def load_first_layers(model: MobileNetV1, path: Path | str) -> None:
    """Load YAMNet's published weights into all convolutions of a network, in place; a narrower layer takes the first
    channels. The dense layer stays as it is.

    Args:
        model: without norms, each layer at most as wide as YAMNet's.
        path: of YAMNet's .tflite file, or its name; see `edgekd.data.weights.find`.

    Raises:
        InputError: the file is missing or not YAMNet, or a layer is wider than YAMNet's.
        MissingExtraError: LiteRT is not installed.
    """
    for number, (layer, (weight, bias)) in enumerate(
        zip(model.features, published_layers(path, len(model.features)), strict=False)
    ):
        assert isinstance(layer, ConvNormAct)
        assert layer.conv.bias is not None  # norm = "none", which the config asks for with weights
        outputs, inputs = layer.conv.weight.shape[:2]
        if outputs > weight.shape[0] or inputs > weight.shape[1]:
            raise InputError(
                f"mobilenet_v1: convolution {number} has {inputs} to {outputs} channels, more than the"
                f" {weight.shape[1]} to {weight.shape[0]} of YAMNet; use widths up to YAMNet's"
            )
        with torch.no_grad():
            layer.conv.weight.copy_(weight[:outputs, :inputs])
            layer.conv.bias.copy_(bias[:outputs])
