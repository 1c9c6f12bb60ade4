"""Base classes of modules and networks, typed where `nn.Module` is not."""

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

InputKind = Literal["log_mel", "waveform"]
"""What a network reads. A config that reads waveforms has it as its class attribute `input_kind`."""


class TensorModule(nn.Module):
    """A module that computes one tensor from tensors."""

    if TYPE_CHECKING:  # at run time `nn.Module.__call__`, which runs `forward` and the hooks

        def __call__(self, *inputs: Tensor) -> Tensor: ...


class AudioNetwork(TensorModule):
    """A student or a teacher: log_mel (batch, channels, mel, frame) or waveform (batch, channels, time), float32, to
    logits (batch, labels)."""

    HEAD: ClassVar[str]
    """Path of the module that belongs to the labels; all else is the backbone."""
    EMBEDDING: ClassVar[str]
    """Path of the module whose output is the embedding."""


def in_head(model: nn.Module, name: str) -> bool:
    """Whether a parameter, buffer or module of this name is part of the head and not of the backbone."""
    head = str(model.HEAD)
    return name == head or name.startswith(f"{head}.")


def freeze_backbone(model: nn.Module) -> None:
    """Train the head alone: all else gets no gradients, and normalises and drops out as in eval mode.

    Call it in each epoch after `model.train()`.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(in_head(model, name))
    for name, module in model.named_modules():
        if not in_head(model, name):
            module.training = False


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that an optimiser may change."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
