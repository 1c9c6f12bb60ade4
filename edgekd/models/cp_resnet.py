"""CP-ResNet: a residual CNN with a limited receptive field (Koutini et al. 2019 and 2021). A teacher, or a
student when it is small.

The published networks differ by rho, a rule for which convolutions are 3x3 and which 1x1; here the kernels are listed
in the config. The default is the small DCASE 2023 variant (rho 8): 127,674 parameters at 10 labels, ten fewer than
published, where the classifier has a batch norm instead of a bias.
"""

import msgspec
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import ConvNormAct, MaxPool, PooledClassifier, Pooling, basic_block


class CpResNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cp_resnet"):
    """Stem, and for each block (one entry per block in every tuple) its width, kernels, groups and pooling."""

    channels: int = 1
    """Input channels; a network that is exported has one."""
    stem: int = 32
    """Channels of the stem."""
    stem_kernel: int = 5
    """Kernel size of the stem, odd."""
    stem_stride: tuple[int, int] = (2, 2)
    """(mel, frame)."""
    widths: tuple[int, ...] = (32, 32, 64, 92)
    """Channels of each block."""
    kernels: tuple[tuple[int, int], ...] = ((3, 1), (3, 3), (3, 3), (3, 1))
    """Kernel sizes of the two convolutions of each block, odd."""
    groups: tuple[int, ...] = (1, 1, 2, 1)
    """Groups of the convolutions of each block, its shortcut included."""
    pools: tuple[int, ...] = (0, 2, 3)
    """Numbers, from 1, of the blocks followed by a 2x2 max pool; 0 is the stem."""
    dropout: float = 0.0
    """Probability, before the dense layer."""
    pooling: Pooling = "mean"
    """Pooling over mel and frame before the dense layer. Attention is for teachers: it has no integer form."""
    heads: int = 1
    """Attention heads: parts of the channels, each with frame weights of its own."""

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.kernels) == len(self.groups):
            raise InputError(
                f"cp_resnet: widths {self.widths}, kernels {self.kernels} and groups {self.groups} must have one entry"
                " per block; give all three the same length"
            )


class CpResNet(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: CpResNetConfig, labels: int) -> None:
        super().__init__()
        channels = config.stem
        stem = ConvNormAct(
            config.channels, channels, config.stem_kernel, stride=config.stem_stride, padding=config.stem_kernel // 2
        )
        layers: list[nn.Module] = [stem, *_pool(config, 0)]
        for number, (width, kernels, groups) in enumerate(
            zip(config.widths, config.kernels, config.groups, strict=True), start=1
        ):
            layers += [basic_block(channels, width, kernels, groups), *_pool(config, number)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = PooledClassifier(channels, labels, config.dropout, config.pooling, config.heads)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))


def _pool(config: CpResNetConfig, number: int) -> list[nn.Module]:
    return [MaxPool(2)] if number in config.pools else []
