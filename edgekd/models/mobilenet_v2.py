"""MobileNetV2 on one log-mel channel (Sandler et al. 2018), at any width; ReLU for ReLU6."""

import msgspec
from torch import Tensor, nn

from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import ConvNormAct, PooledClassifier, Pooling, Residual, eights

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage of the paper's Table 2."""


class MobileNetV2Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mobilenet_v2"):
    """Width and head."""

    channels: int = 1
    """Input channels; a network that is exported has one."""
    width: float = 1.0
    """Multiplier of every stage's channels."""
    stages: int = len(_STAGES)
    """How many of the seven stages of the paper are kept."""
    last_width: int = 1280
    """Channels of the 1x1 convolution before the classifier."""
    dropout: float = 0.2
    """Probability, before the dense layer."""
    pooling: Pooling = "mean"
    """Pooling over mel and frame before the dense layer. Attention is for teachers: it has no integer form."""
    heads: int = 1
    """Attention heads: parts of the channels, each with frame weights of its own."""


class MobileNetV2(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: MobileNetV2Config, labels: int) -> None:
        super().__init__()
        channels = eights(32 * config.width)
        layers: list[nn.Module] = [ConvNormAct(config.channels, channels, 3, stride=2, padding=1)]
        for expansion, base, depth, stride in _STAGES[: config.stages]:
            width = eights(base * config.width)
            for index in range(depth):
                layers.append(_inverted_residual(channels, width, expansion, stride if index == 0 else 1))
                channels = width
        layers.append(ConvNormAct(channels, config.last_width))
        self.features = nn.Sequential(*layers)
        self.classifier = PooledClassifier(config.last_width, labels, config.dropout, config.pooling, config.heads)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))


def _inverted_residual(inputs: int, outputs: int, expansion: int, stride: int) -> nn.Module:
    hidden = inputs * expansion
    expand = [] if expansion == 1 else [ConvNormAct(inputs, hidden)]
    body = nn.Sequential(
        *expand,
        ConvNormAct(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
        ConvNormAct(hidden, outputs, activation="none"),
    )
    return Residual(body, activation="none") if stride == 1 and inputs == outputs else body
