"""CNN14 of PANNs (Kong et al. 2020), a teacher pretrained on AudioSet; at other widths a small twin.

The default has 80,753,615 parameters at 527 labels and 64 mels; `widths = [16, 32, 64, 128], hidden = 128` has 311,642
at 10. Taps: `features.block1` (64 channels) to `features.block6`, after their pools.

`weights` names a checkpoint as published ("Cnn14_mAP=0.431.pth"). It was trained on decibels of 32 kHz audio with mel
filters of equal area. So the front end must be `PUBLISHED`, without changes (`normalize = false` in the recipe). Our
filters have equal height; loading corrects the first batch norm for that. One difference is left: the first and last
frame are padded with zeros here and by reflection there.
"""

from collections import OrderedDict
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, corners
from edgekd.models.base import AudioNetwork
from edgekd.models.blocks import AvgPool, Block, ConvNormAct, Dropout, HiddenClassifier

PUBLISHED = FrontEnd(
    sample_rate=32000,
    n_fft=1024,
    win_length=1024,
    hop_length=320,
    padding="center",
    n_mels=64,
    f_min=50.0,
    f_max=14000.0,
    mel_scale="slaney",
    log_floor=1e-10,
    mean=0.0,
    std=float(np.log(10) / 10),
)
"""Front end of the published weights: natural log of power divided by `std` is decibels."""


class Cnn14Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cnn14"):
    """Widths of CNN14; the defaults are the published network."""

    channels: int = 1
    """Input channels."""
    mels: int = 64
    """Mel bins of the front end; each is normalised on its own."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Channels of each block of two 3x3 convolutions; all but the last end in a 2x2 average pool."""
    hidden: int = 2048
    """Units of the hidden dense layer, the embedding."""
    block_dropout: float = 0.2
    """Probability, after each block."""
    dropout: float = 0.5
    """Probability, before each dense layer."""
    weights: str = ""
    """Path of a published checkpoint that training begins with. Its last layer is used only where the number of labels
    is the same."""

    def __post_init__(self) -> None:
        if not self.widths:
            raise InputError("cnn14: widths is empty; give the channels of one block or more")


class MelNorm(Block):
    """Batch norm per mel bin over (batch, channel, frame). No integer form."""

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(mels)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.norm.num_features:
            raise InputError(
                f"cnn14: the front end has {x.shape[2]} mel bins, but the network's mels is {self.norm.num_features};"
                " set both to the same number"
            )
        normalised: Tensor = self.norm(x.transpose(1, 2))  # (B, F, C, T)
        return normalised.transpose(1, 2)


class PeakAndMeanPool(Block):
    """Mean over mel, then the maximum plus the mean over frames: (B, C, F, T) -> (B, C, 1, 1). No integer form."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(dim=2, keepdim=True)  # (B, C, 1, T)
        return x.amax(dim=3, keepdim=True) + x.mean(dim=3, keepdim=True)


class Cnn14(AudioNetwork):
    """log_mel (batch, channels, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.hidden"

    def __init__(self, config: Cnn14Config, labels: int) -> None:
        super().__init__()
        self.norm = MelNorm(config.mels)
        blocks = OrderedDict[str, nn.Module]()
        channels = config.channels
        for number, width in enumerate(config.widths, start=1):
            layers = [ConvNormAct(channels, width, 3, padding=1), ConvNormAct(width, width, 3, padding=1)]
            pool = [AvgPool(2)] if number < len(config.widths) else []
            blocks[f"block{number}"] = nn.Sequential(*layers, *pool, Dropout(config.block_dropout))
            channels = width
        self.features = nn.Sequential(blocks)
        self.classifier = HiddenClassifier(PeakAndMeanPool(), channels, config.hidden, labels, config.dropout)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(self.norm(log_mel)))  # features: (B, 2048, 2, T / 32) at 64 mels


def load_published(model: Cnn14, path: Path | str) -> None:
    """Load a published checkpoint into a network, in place; a last layer for another number of labels stays as it is.

    Args:
        model: with the published widths, or those of the checkpoint.
        path: a torch file with a dict "model" of tensors.

    Raises:
        InputError: the file is missing, no checkpoint, or of another network.
    """
    file = find(path)
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)["model"]
    except Exception as error:  # damaged bytes are instructions to unpickle, and may raise anything
        raise InputError(
            f"cnn14: weights '{path}' is no PANNs checkpoint ({type(error).__name__}); give a torch file with a dict"
            " 'model'"
        ) from None
    state = {}
    for ours, value in model.state_dict().items():
        theirs = _published_name(ours)
        if theirs not in saved:
            raise InputError(
                f"cnn14: weights '{path}' has no '{theirs}'; it is not of CNN14 with {len(model.features)} blocks"
            )
        tensor = saved[theirs]
        if theirs.startswith("conv_block") and tensor.dim() == 4:
            tensor = tensor.transpose(2, 3)  # theirs are (frame, mel)
        elif theirs.startswith("fc") and tensor.dim() == 2:
            tensor = tensor[..., None, None]
        if tensor.shape != value.shape:
            if theirs.startswith("fc_audioset"):
                continue
            raise InputError(
                f"cnn14: '{theirs}' of weights '{path}' is {tuple(tensor.shape)} and the network's"
                f" {tuple(value.shape)}; use the default widths, mels, hidden and channels"
            )
        state[ours] = tensor
    mean = "norm.norm.running_mean"
    if len(state[mean]) == PUBLISHED.n_mels:
        state[mean] = state[mean] - torch.from_numpy(_area_normalisation()).to(state[mean].dtype)
    model.load_state_dict(state, strict=False)


def _area_normalisation() -> np.ndarray:
    """Decibels (n_mels,) by which a filter of area 1 Hz exceeds ours of height 1."""
    hz = corners(PUBLISHED)
    return 10 * np.log10(2 / (hz[2:] - hz[:-2]))


def _published_name(ours: str) -> str:
    """Name in a published checkpoint of a tensor of our network."""
    parts = ours.split(".")
    if parts[0] == "norm":
        return f"bn0.{parts[-1]}"
    if parts[0] == "classifier":
        return f"{'fc1' if parts[1] == 'hidden' else 'fc_audioset'}.{parts[-1]}"
    layer = {"conv": "conv", "norm": "bn"}[parts[3]]  # features.block1.0.conv.weight
    return f"conv_{parts[1]}.{layer}{int(parts[2]) + 1}.{parts[-1]}"
