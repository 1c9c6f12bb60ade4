"""CP-Mobile (Schmid et al. 2023, first place of DCASE 2023 Task 1; in 2024 without global response norm the task's
baseline).

The default is the 2024 baseline: 61,148 parameters and 29,419,156 MACs (10 labels, 256 mels x 65 frames, batch norm
counted as torchinfo does, one MAC per parameter).
"""

from typing import Literal

import msgspec
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import (
    AvgPool,
    ConvNormAct,
    GlobalResponseNorm,
    MapClassifier,
    Residual,
    accept_old_head,
    eights,
)


class CpMobileConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cp_mobile"):
    """Widths, expansion and strides. Every width is rounded to a multiple of eight."""

    width: int = 32
    """Channels of stage 1, at least 8; the stem has a quarter of them, then all of them."""
    growth: float = 1.8
    """Width of a stage as a multiple of the one before."""
    expansion: float = 2.1
    """Channels inside a block as a multiple of its input channels."""
    depths: tuple[int, ...] = (3, 2, 1)
    """Blocks of each stage."""
    strides: tuple[tuple[int, int], ...] = ((1, 1), (1, 1), (1, 2), (2, 1), (1, 1), (1, 1))
    """(mel, frame) of each block, through all stages."""
    norm: Literal["none", "global_response"] = "none"
    """Norm at the end of each block. Global response norm is for teachers: it has no integer form."""

    def __post_init__(self) -> None:
        if self.width < 8 or len(self.strides) != sum(self.depths):
            raise InputError(
                f"cp_mobile: width {self.width} must be at least 8, and strides {self.strides} must have one entry for"
                f" each of the {sum(self.depths)} blocks of depths {self.depths}"
            )


class CpMobile(AudioNetwork):
    """log_mel (batch, 1, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "features"

    def __init__(self, config: CpMobileConfig, labels: int) -> None:
        super().__init__()
        channels = eights(config.width)
        layers: list[nn.Module] = [
            ConvNormAct(1, channels // 4, 3, stride=2, padding=1),
            # (B, W, 64, 17) at 256 x 65
            ConvNormAct(channels // 4, channels, 3, stride=2, padding=1),
        ]
        strides = iter(config.strides)
        for stage, depth in enumerate(config.depths):
            outputs = eights(eights(config.width) * config.growth**stage)
            for _ in range(depth):
                layers.append(_block(channels, outputs, config.expansion, next(strides), config.norm))
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = MapClassifier(channels, labels, norm="batch")
        accept_old_head(self)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))


def _block(inputs: int, outputs: int, expansion: float, stride: tuple[int, int], norm: str) -> nn.Module:
    """Expand, depthwise, project. Parallel to them a shortcut where the width stays the same, averaged over 3x3 where
    the size changes."""
    hidden, dynamic, skips = eights(inputs * expansion), norm == "global_response", inputs == outputs
    body = nn.Sequential(
        ConvNormAct(inputs, hidden),
        ConvNormAct(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
        ConvNormAct(hidden, outputs, activation="none" if skips or dynamic else "relu"),
    )
    shortcut = AvgPool(3, stride, 1) if stride != (1, 1) else None
    block = Residual(body, "none" if dynamic else "relu", shortcut) if skips else body
    return nn.Sequential(block, GlobalResponseNorm("relu")) if dynamic else block
