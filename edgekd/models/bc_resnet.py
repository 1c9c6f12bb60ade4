"""BC-ResNet (Kim et al. 2021, broadcasted residual learning) and its scene variant BC-ResNet-ASC, at any width.

BC-ResNet at tau 1 (40 mels x 101 frames, 12 labels) has 9,232 parameters and 2.48 MMAC; BC-ResNet-ASC at width 80 with
residual norm and 4 bands has 314,650 (10 labels), as a student at width 24 32,314 and 5.6 MMAC (256 x 28), at width 48,
the widest multiple of eight within 128,000 bytes, 116,170 and 17.2 MMAC. Students use `norm = "batch"`: residual norm
has no integer form. One band folds into the convolutions; more become two ops each.
"""

from typing import Literal

import msgspec
from torch import Tensor, nn

from edgekd.models.base import AudioNetwork, TensorModule
from edgekd.models.blocks import (
    Activation,
    Add,
    ConvNormAct,
    Dropout,
    MapClassifier,
    MaxPool,
    MeanPool,
    Norm,
    PooledClassifier,
    Pooling,
    ResidualNorm,
    accept_old_head,
)


class BcResNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bc_resnet"):
    """The keyword-spotting form: four stages of 2, 2, 4, 4 blocks, dilated in time."""

    width: int = 8
    """Channels c of stage 1; 8 tau in the paper."""
    bands: int = 5
    """Bands of the sub-spectral norm; mel bins must be divisible at every stage. 1 is batch norm."""
    dropout: float = 0.1
    """Probability inside each block."""
    pooling: Pooling = "mean"
    """Pooling over mel and frame before the dense layer. Attention is for teachers: it has no integer form."""
    heads: int = 1
    """Attention heads: parts of the channels, each with frame weights of its own."""


class BcResNetAscConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bc_resnet_asc"):
    """The scene form: stages of 2, 2, 2, 3 blocks with a norm after each, no dilation."""

    channels: int = 1
    """Input channels; a network that is exported has one."""
    width: int = 24
    """Channels c of stage 1."""
    bands: int = 1
    """Bands of the sub-spectral norm, which must divide the mel bins of every stage; 1 is batch norm, the fastest as
    integers."""
    norm: Literal["batch", "residual"] = "batch"
    """Norm between stages: "residual" for teachers, "batch" for students."""
    activation: Literal["silu", "relu"] = "silu"
    """Activation of the temporal branch."""
    dropout: float = 0.1
    """Probability inside each block."""


class BroadcastBlock(TensorModule):
    """Broadcasted residual block: a 2-D frequency branch plus a 1-D temporal branch broadcast over mel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bands: int = 1,
        activation: Activation = "silu",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.transition = inputs != outputs
        self.expand = ConvNormAct(inputs, outputs) if self.transition else nn.Sequential()
        self.frequency = ConvNormAct(
            outputs,
            outputs,
            (3, 1),
            stride=(stride, 1),
            padding=(1, 0),
            groups=outputs,
            activation="none",
            norm="batch" if bands == 1 else "sub_spectral",
            bands=bands,
        )
        self.mean = MeanPool("mel")
        self.temporal = ConvNormAct(
            outputs,
            outputs,
            (1, 3),
            padding=(0, dilation),
            dilation=(1, dilation),
            groups=outputs,
            activation=activation,
        )
        self.pointwise = ConvNormAct(outputs, outputs, norm="none", activation="none", bias=False)
        self.dropout = Dropout(dropout)
        self.broadcast = Add("relu" if self.transition else "none")
        self.add = Add("relu")

    def forward(self, x: Tensor) -> Tensor:
        auxiliary = self.frequency(self.expand(x))  # (B, C, F, T)
        temporal = self.dropout(self.pointwise(self.temporal(self.mean(auxiliary))))  # (B, C, 1, T)
        broadcast = self.broadcast(auxiliary, temporal)
        return broadcast if self.transition else self.add(broadcast, x)


class BcResNet(AudioNetwork):
    """log_mel (batch, 1, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: BcResNetConfig, labels: int) -> None:
        super().__init__()
        width = config.width
        channels = 2 * width
        layers: list[nn.Module] = [ConvNormAct(1, channels, 5, stride=(2, 1), padding=2)]
        for stage, (depth, growth) in enumerate(((2, 1), (2, 1.5), (4, 2), (4, 2.5))):
            outputs = int(width * growth)
            for index in range(depth):
                stride = 2 if stage in (1, 2) and index == 0 else 1
                layers.append(
                    BroadcastBlock(
                        channels, outputs, stride=stride, dilation=2**stage, bands=config.bands, dropout=config.dropout
                    )
                )
                channels = outputs
        layers.append(
            ConvNormAct(
                channels, channels, 5, padding=(0, 2), groups=channels, norm="none", activation="none", bias=False
            )
        )
        layers.append(MeanPool("mel"))
        layers.append(ConvNormAct(channels, 4 * width))
        self.features = nn.Sequential(*layers)
        self.classifier = PooledClassifier(4 * width, labels, pooling=config.pooling, heads=config.heads)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))


class BcResNetAsc(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "features"

    def __init__(self, config: BcResNetAscConfig, labels: int) -> None:
        super().__init__()
        channels = 2 * config.width
        stem_norm: Literal["batch", "none"] = (
            "batch" if config.norm == "batch" else "none"
        )  # else a ResidualNorm follows
        layers: list[nn.Module] = [
            ConvNormAct(config.channels, channels, 5, stride=2, padding=2, norm=stem_norm, bias=False)
        ]
        if config.norm == "residual":
            layers.append(ResidualNorm())
        for stage, (depth, growth) in enumerate(((2, 1), (2, 1.5), (2, 2), (3, 2.5))):
            outputs = int(config.width * growth)
            for _ in range(depth):
                layers.append(
                    BroadcastBlock(
                        channels, outputs, bands=config.bands, activation=config.activation, dropout=config.dropout
                    )
                )
                channels = outputs
            layers.append(ResidualNorm() if config.norm == "residual" else Norm(channels))
            if stage < 2:
                layers.append(MaxPool(2))
        self.features = nn.Sequential(*layers)
        self.classifier = MapClassifier(channels, labels)
        accept_old_head(self)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))
