"""SERFR-CNN, the student of Fei et al. 2023 (vivo, DCASE 2023 Task 1), in the variant that fits the DCASE budget.

Table 1 of the paper read literally (stride-1 stem, constant width) costs 46 MMAC at width 32. The default here (stem
stride (2, 1), widths W, 2W, 2W) has 114,068 parameters and 27.3 MMAC at width 32, 69,185 and 15.9 MMAC at 24 (10
labels, 256 mels x 28 frames).
"""

import msgspec
from torch import Tensor, nn

from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import AvgPool, ConvNormAct, MaxPool, PooledClassifier, Pooling, Residual, SqueezeExcite


class SerfrCnnConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="serfr_cnn"):
    """Width, stem and growth of SERFR-CNN."""

    width: int = 32
    """Channels of the stem and of stage 1."""
    stem_stride: tuple[int, int] = (2, 1)
    """(mel, frame)."""
    stem_pool: tuple[int, int] = (3, 2)
    """(mel, frame) of the average pool after the stem."""
    growth: tuple[float, float, float] = (1.0, 2.0, 2.0)
    """Width of each stage as a multiple of `width`."""
    groups: int = 1
    """Groups of the 3x3 convolutions of stage 1."""
    se_reduction: int = 16
    """Channels of a squeeze-excitation layer divided by its hidden units."""
    last_width: int = 256
    """Channels of the 1x1 convolution before the classifier."""
    dropout: float = 0.0
    """Probability, before the dense layer."""
    pooling: Pooling = "mean"
    """Pooling over mel and frame before the dense layer. Attention is for teachers: it has no integer form."""
    heads: int = 1
    """Attention heads: parts of the channels, each with frame weights of its own."""


class SerfrCnn(AudioNetwork):
    """log_mel (batch, 1, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: SerfrCnnConfig, labels: int) -> None:
        super().__init__()
        widths = [round(config.width * growth) for growth in config.growth]
        self.stem = ConvNormAct(1, widths[0], 5, stride=config.stem_stride, padding=2)
        self.pool = AvgPool(config.stem_pool)
        stages: list[nn.Module] = []
        for index, width in enumerate(widths):
            following = widths[min(index + 1, len(widths) - 1)]
            kernel, groups = (3, config.groups) if index == 0 else (1, 1)
            stages += [_block(width, kernel, groups) for _ in range(3)]
            stages += [SqueezeExcite(width, config.se_reduction), ConvNormAct(width, following), MaxPool(2)]
        self.stages = nn.Sequential(*stages)
        self.last = ConvNormAct(widths[-1], config.last_width)
        self.classifier = PooledClassifier(config.last_width, labels, config.dropout, config.pooling, config.heads)

    def forward(self, log_mel: Tensor) -> Tensor:
        x = self.pool(self.stem(log_mel))  # (B, W, 42, 14) at 256 x 28
        return self.classifier(self.last(self.stages(x)))  # stages: (B, 2W, 5, 1)


def _block(width: int, kernel: int, groups: int) -> Residual:
    second = ConvNormAct(width, width, kernel, padding=kernel // 2, groups=groups, activation="none")
    return Residual(nn.Sequential(ConvNormAct(width, width), second))
