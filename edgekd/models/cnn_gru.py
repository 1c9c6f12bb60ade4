"""The residual CNN on spectrograms and the CNN-GRU of Heo et al. 2019 (teacher-student learning with soft labels).

The paper's input is 256 coefficients x 249 frames of 10 s of 48 kHz stereo (windows of 100 ms each 40 ms, padding
"end"). The CNN is trained first, without GRU, then the CNN-GRU from its weights: layers have the same names in both.
The paper's table has 120 channels in the last block, but the GRU reads 480 values, a mean and a maximum of 240
channels: 240 here. The paper names neither the activation nor
the place of the pools: here ReLU, and a pool after each block.

Parameters at 10 labels: 2,496,954, without GRU 1,111,674; with `channels = 1, stem = 8, widths = [8, 16, 24, 32]`
61,298 and 36,338.
"""

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import Block, ConvNormAct, HiddenClassifier, MaxPool, MeanPool, basic_block


class CnnGruConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cnn_gru"):
    """Stem, and for each block its width and pooling; with or without GRU."""

    gru: bool = True
    """Whether a GRU reads the frames and its last state is classified; else the mean of the frames is."""
    channels: int = 2
    """Input channels."""
    stem: int = 30
    """Channels of the stem."""
    stem_kernel: int = 7
    """Kernel size of the stem, odd."""
    stem_stride: tuple[int, int] = (1, 1)
    """(mel, frame)."""
    widths: tuple[int, ...] = (30, 60, 120, 240)
    """Channels of each block."""
    pools: tuple[int, ...] = (1, 2, 2, 3)
    """Size, in mel bins and in frames, of the max pool at the end of each block; 1 is none."""
    embedding: int = 64
    """Units of the hidden dense layer."""
    dropout: float = 0.0
    """Probability, before each dense layer."""

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.pools):
            raise InputError(
                f"cnn_gru: widths {self.widths} and pools {self.pools} must have one entry per block; "
                "give both the same length"
            )


class MeanMaxPool(Block):
    """Mean over mel, then maximum over mel, as channels: (B, C, F, T) -> (B, 2 C, 1, T). No integer form."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=2, keepdim=True), x.amax(dim=2, keepdim=True)], dim=1)


class Gru(Block):
    """The last state of a gated recurrent unit over frames: (B, C, 1, T) -> (B, C, 1, 1). No integer form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, channels, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor = self.gru(x.flatten(1, 2).transpose(1, 2))[1]  # (B, T, C) -> (1, B, C)
        return state[0][..., None, None]


class CnnGru(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.hidden"

    def __init__(self, config: CnnGruConfig, labels: int) -> None:
        super().__init__()
        channels = config.stem
        self.stem = ConvNormAct(
            config.channels, channels, config.stem_kernel, stride=config.stem_stride, padding=config.stem_kernel // 2
        )
        blocks: list[nn.Module] = []
        for width, size in zip(config.widths, config.pools, strict=True):
            block = basic_block(channels, width, (3, 3))
            blocks.append(block if size == 1 else nn.Sequential(block, MaxPool(size)))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = MeanMaxPool()
        over_frames = Gru(2 * channels) if config.gru else MeanPool()
        self.classifier = HiddenClassifier(over_frames, 2 * channels, config.embedding, labels, config.dropout)

    def forward(self, log_mel: Tensor) -> Tensor:
        # blocks: (B, 240, 21, 20), pool: (B, 480, 1, 20)
        return self.classifier(self.pool(self.blocks(self.stem(log_mel))))
