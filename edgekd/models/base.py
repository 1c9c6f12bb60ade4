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
