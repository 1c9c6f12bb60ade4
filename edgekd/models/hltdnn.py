"""HLTDNN, a time delay network with a parallel histogram layer (Ritu et al. 2023), the student of SSATKD (2025).

Taps: `features.block1` to `features.block4`, after their pools; SSATKD uses `features.block2`. 14,914 parameters (10
labels, 64 mels). The batch norms are an addition of edgekd.
"""

from collections import OrderedDict

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork, TensorModule
from edgekd.models.blocks import Block, ConvNormAct, Dropout, Flatten, MaxPool, MeanPool

BLOCK_POOL = 2
_TOP = 3.0
"""Centre of the last bin: activations after a batch norm are seldom higher."""


class HLTdnnConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hltdnn"):
    """Widths and kernels of the blocks, of the temporal layer and of the histogram."""

    channels: int = 1
    """Input channels."""
    mels: int = 64
    """Mel bins of the front end; the temporal layer spans all of them."""
    widths: tuple[int, ...] = (16, 16, 16, 4)
    """Channels of each block."""
    kernels: tuple[int, ...] = (11, 3, 3, 3)
    """Kernel size of each block, odd; each ends in a 2x2 max pool."""
    temporal: int = 256
    """Channels of the temporal layer."""
    bins: int = 16
    """Bins of the histogram of each channel of the last block; 0 leaves the histogram out (TDNN)."""
    dropout: float = 0.0
    """Probability, before the dense layer."""

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.kernels):
            raise InputError(
                f"hltdnn: widths {self.widths} and kernels {self.kernels} must have one entry per block; "
                "give both the same length"
            )
        if self.mels < BLOCK_POOL ** len(self.widths):
            raise InputError(
                f"hltdnn: {self.mels} mels are too few for {len(self.widths)} blocks that halve them; "
                f"give {BLOCK_POOL ** len(self.widths)} or more"
            )
        if self.bins == 1:
            raise InputError("hltdnn: a histogram of one bin is constant; give bins = 2 or more, or 0 for none")


class HistogramLayer(Block):
    """Soft histogram of each channel over the map: (B, C, F, T) -> (B, C * bins, 1, 1), sums of 1 over the bins. No
    integer form.

    A value counts in each bin by exp(-(width * (value - centre))^2), and its counts are scaled to a sum of 1. Centres
    and widths of every channel are learned; they begin evenly spread over the range of a ReLU after a batch norm.
    """

    def __init__(self, channels: int, bins: int, eps: float = 1e-6) -> None:
        super().__init__()
        centres = torch.linspace(0, _TOP, bins)
        self.centre = nn.Parameter(centres.repeat(channels, 1))  # (C, bins)
        self.width = nn.Parameter(torch.full((channels, bins), 1 / float(centres[1])))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        distance = x.flatten(2)[:, :, None] - self.centre[..., None]  # (B, C, bins, F * T)
        # a value far from all bins counts in all
        counts = torch.exp(-(self.width[..., None] * distance).square()) + self.eps
        return (counts / counts.sum(dim=2, keepdim=True)).mean(dim=3).flatten(1)[..., None, None]


class Concatenate(Block):
    """Channels of one map, then those of another map of the same size. No integer form."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], dim=1)


class _TemporalAndHistogram(TensorModule):
    """The temporal layer's mean over frames, then the histogram: (B, C, F, T) -> (B, temporal + C * bins, 1, 1)."""

    def __init__(self, config: HLTdnnConfig) -> None:
        super().__init__()
        channels, mels = config.widths[-1], config.mels // BLOCK_POOL ** len(config.widths)
        self.temporal = ConvNormAct(channels, config.temporal, (mels, 1), norm="none", activation="sigmoid")
        self.pool = MeanPool()
        self.histogram = HistogramLayer(channels, config.bins) if config.bins else None
        self.join = Concatenate()
        self.width = config.temporal + channels * config.bins

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pool(self.temporal(x))  # (B, 256, 1, 1)
        return mean if self.histogram is None else self.join(mean, self.histogram(x))  # (B, 320, 1, 1)


class _Classifier(TensorModule):
    """(B, C, F, T) -> logits (B, labels)."""

    def __init__(self, config: HLTdnnConfig, labels: int) -> None:
        super().__init__()
        self.pool = _TemporalAndHistogram(config)
        self.dropout = Dropout(config.dropout)
        self.dense = ConvNormAct(self.pool.width, labels, norm="none", activation="none")
        self.flatten = Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.dense(self.dropout(self.pool(x))))


class HLTdnn(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: HLTdnnConfig, labels: int) -> None:
        super().__init__()
        blocks = OrderedDict[str, nn.Module]()
        channels = config.channels
        for number, (width, kernel) in enumerate(zip(config.widths, config.kernels, strict=True), start=1):
            blocks[f"block{number}"] = nn.Sequential(
                ConvNormAct(channels, width, kernel, padding=kernel // 2), MaxPool(BLOCK_POOL)
            )
            channels = width
        self.features = nn.Sequential(blocks)
        self.classifier = _Classifier(config, labels)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))  # features: (B, 4, 4, T / 16) at 64 mels
