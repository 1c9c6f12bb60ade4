"""The residual CNN on waveforms of Heo et al. 2019 (teacher-student learning with soft labels).

The default is the paper's, for 10 s of 48 kHz stereo with a pre-emphasis of 0.97: 479,999 samples become 39,999 frames
of 64 channels, and after the blocks 13,333, 4,444, 1,481, 493, 164, 54 and 18; 612,170 parameters (10 labels). A small
one for 1 s of 16 kHz mono is `channels = 1, stem = 16, widths = [16, 32, 32, 64, 64]`: 63,914. ReLU where the paper
names no activation.
"""

from typing import ClassVar, Literal

import msgspec
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork, InputKind
from edgekd.models.blocks import AttentionPool, Block, ConvNormAct, HiddenClassifier, MaxPool, MeanPool, basic_block


class RawCnnConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="raw_cnn"):
    """Stem, and the width of each block."""

    input_kind: ClassVar[InputKind] = "waveform"

    channels: int = 2
    """Input channels."""
    stem: int = 64
    """Channels of the stem."""
    stem_kernel: int = 12
    """Kernel size of the stem in samples, and its stride."""
    widths: tuple[int, ...] = (64, 128, 128, 128, 128, 128, 128)
    """Channels of each block."""
    pool: int = 3
    """Frames of the max pool at the end of each block."""
    embedding: int = 64
    """Units of the hidden dense layer."""
    pooling: Literal["max", "mean", "attention"] = "max"
    """Pooling over frames before the hidden layer."""
    heads: int = 1
    """Attention heads: parts of the channels, each with frame weights of its own."""
    dropout: float = 0.0
    """Probability, before each dense layer."""

    def __post_init__(self) -> None:
        if not self.widths:
            raise InputError("raw_cnn: widths is empty; give the channels of one block or more")


class AsMap(Block):
    """waveform (B, C, T) -> a map of one row (B, C, 1, T)."""

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.unsqueeze(2)


class GlobalMaxPool(Block):
    """Maximum over mel and frame: (B, C, F, T) -> (B, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3), keepdim=True)


class RawCnn(AudioNetwork):
    """waveform (batch, channels, time) -> logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.hidden"

    def __init__(self, config: RawCnnConfig, labels: int) -> None:
        super().__init__()
        self.as_map = AsMap()
        self.stem = ConvNormAct(config.channels, config.stem, (1, config.stem_kernel), stride=(1, config.stem_kernel))
        blocks: list[nn.Module] = []
        channels = config.stem
        for width in config.widths:
            blocks.append(nn.Sequential(basic_block(channels, width, ((1, 3), (1, 3))), MaxPool((1, config.pool))))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        pool: Block
        if config.pooling == "attention":
            pool = AttentionPool(channels, config.heads)
        else:
            pool = MeanPool() if config.pooling == "mean" else GlobalMaxPool()
        self.classifier = HiddenClassifier(pool, channels, config.embedding, labels, config.dropout)

    def forward(self, waveform: Tensor) -> Tensor:
        # stem: (B, 64, 1, 39999), blocks: (B, 128, 1, 18)
        return self.classifier(self.blocks(self.stem(self.as_map(waveform))))
