"""Audio Spectrogram Transformer (Gong et al. 2021) from the library `transformers`: a teacher, with pretrained or
random weights.

The published one (12 layers of width 768, patches of 16 every 10 mels and frames) has 86.2 million parameters before
the head. It was trained on 128 mels of 10 s at 16 kHz; for another number of mels or frames its position
embeddings are interpolated.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import InputError, MissingExtraError
from edgekd.models.base import AudioNetwork

POSITIONS = "embeddings.position_embeddings"
"""Name of the parameter with the position embeddings."""
TOKENS = 2
"""Class and distillation token, in front of the patches."""
LIBRARIES = ("transformers", "huggingface_hub")
"""Libraries whose loggers are silenced while weights are loaded."""
MLP_RATIO = 4
"""Hidden width of a layer's dense part as a multiple of the layer's width."""
AtLeastOne = Annotated[int, Meta(ge=1)]


class AstConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ast"):
    """Pretrained weights, or the sizes of random ones, which are those of the tiny published transformer."""

    weights: str = ""
    """A folder that `save_pretrained` wrote, or a name on the Hugging Face hub, e.g.
    "MIT/ast-finetuned-audioset-10-10-0.4593"; all sizes below are then those of the weights. "" is random weights."""
    hidden: AtLeastOne = 192
    """Width of the layers."""
    layers: AtLeastOne = 12
    heads: AtLeastOne = 3
    """Attention heads of each layer; they divide `hidden`."""
    patch: AtLeastOne = 16
    """Mels and frames of a patch."""
    strides: tuple[AtLeastOne, AtLeastOne] = (10, 10)
    """(mel, frame) from patch to patch."""
    mels: AtLeastOne = 128
    """Mel bins of the grid of position embeddings."""
    frames: AtLeastOne = 100
    """Frames of the grid of position embeddings."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Probability, before the dense layer of the head."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise InputError(f"ast: {self.heads} heads do not divide hidden = {self.hidden}; change one of them")
        if self.patch > min(self.mels, self.frames):
            raise InputError(
                f"ast: a patch of {self.patch} is larger than the grid of {self.mels} mels x {self.frames} frames; make"
                " it smaller"
            )


class AstNetwork(AudioNetwork):
    """log_mel (batch, 1, mel, frame) -> logits (batch, labels)."""

    HEAD = "classifier"
    EMBEDDING = "pool"

    def __init__(self, config: AstConfig, labels: int) -> None:
        super().__init__()
        self.transformer = _transformer(config)
        sizes = self.transformer.config
        # (mel, frame) patches that the position embeddings are for
        self.grid = self.transformer.embeddings.get_shape(sizes)
        self.pool = nn.Identity()
        self.classifier = nn.Sequential(
            nn.LayerNorm(sizes.hidden_size), nn.Dropout(config.dropout), nn.Linear(sizes.hidden_size, labels)
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        if log_mel.shape[1] != 1:
            raise InputError(f"ast reads one channel, got {log_mel.shape[1]}; set view.channels = 'mean'")
        x = log_mel[:, 0].transpose(1, 2)  # (B, frame, mel)
        sizes = self.transformer.config
        if min(x.shape[1:]) < sizes.patch_size:
            raise InputError(
                f"ast: {x.shape[2]} mels x {x.shape[1]} frames are less than a patch of {sizes.patch_size}; use longer"
                " windows or set a smaller patch"
            )
        grid = tuple(
            (size - sizes.patch_size) // stride + 1
            for size, stride in ((x.shape[2], sizes.frequency_stride), (x.shape[1], sizes.time_stride))
        )
        if grid == self.grid:
            encoded = self.transformer(x)
        else:
            encoded = torch.func.functional_call(self.transformer, {POSITIONS: self.interpolated_positions(grid)}, (x,))
        logits: Tensor = self.classifier(self.pool(encoded.pooler_output))
        return logits

    def interpolated_positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, tokens + patches, D) for another grid, by bilinear interpolation."""
        learned = self.transformer.get_parameter(POSITIONS)
        tokens, patches = learned[:, :TOKENS], learned[:, TOKENS:]
        patches = patches.transpose(1, 2).unflatten(2, self.grid)  # (1, D, mel, frame)
        patches = F.interpolate(patches.float(), grid, mode="bilinear", align_corners=False).to(learned.dtype)
        return torch.cat([tokens, patches.flatten(2).transpose(1, 2)], dim=1)


def _transformer(config: AstConfig) -> Any:
    """The network of the library `transformers`, without its own head."""
    try:
        from transformers import ASTConfig, ASTModel
    except ImportError:
        raise MissingExtraError("transformers", "hub") from None
    if not config.weights:
        return ASTModel(
            ASTConfig(
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=MLP_RATIO * config.hidden,
                patch_size=config.patch,
                frequency_stride=config.strides[0],
                time_stride=config.strides[1],
                max_length=config.frames,
                num_mel_bins=config.mels,
            )
        )
    local = Path(config.weights)
    if not local.is_dir() and (
        local.is_absolute() or config.weights.startswith((".", "~")) or config.weights.count("/") > 1
    ):
        raise InputError(
            f"ast: there is no folder {config.weights}; give one that save_pretrained wrote, or a name on the hub"
        )
    try:
        with _quiet():
            kind = ASTConfig.get_config_dict(config.weights)[0].get("model_type")
            network, found = ASTModel.from_pretrained(config.weights, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # errors of the hub and of file formats have no common base
        reason = " ".join(str(error).split())
        what = "cannot be loaded" if local.is_dir() else "is no folder here and cannot be fetched from the hub"
        raise InputError(
            f"ast: {config.weights} {what} ({reason}); give the folder of a complete copy, or the network"
        ) from None
    missing = sorted(found["missing_keys"])
    if kind != ASTConfig.model_type or missing:
        raise InputError(
            f"ast: {config.weights} has no weights of an '{ASTConfig.model_type}' but is a '{kind}'"
            f"{f' without {missing[0]}' if missing else ''}; give other weights"
        )
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings about the head that is left out."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    loggers = {logger: logger.level for logger in map(logging.getLogger, LIBRARIES)}
    bars.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()
