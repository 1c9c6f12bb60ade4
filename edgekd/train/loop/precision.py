"""In which precision and form the float network computes while it trains. Weights, loss, tests and the quantised
network are float32."""

from contextlib import AbstractContextManager

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.modelfile.engine import cpu_flags
from edgekd.train.recipe.recipe import Recipe

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Of x86 processors that multiply bf16 natively. Elsewhere it is emulated, slower than float32."""


def training_device(accelerator: str) -> str:
    """Type of the torch device that "auto", "cpu" or "gpu" stands for."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def native_bf16(device: str) -> bool:
    """Whether a type of device multiplies bf16 in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and not BF16_FLAGS.isdisjoint(cpu_flags())


def with_precision(recipe: Recipe, device: str) -> Recipe:
    """The recipe with "auto" replaced by what the device is to compute in, so that a run goes on in the precision that
    it began in."""
    if recipe.train.precision != "auto":
        return recipe
    chosen = "bf16" if native_bf16(device) else "float32"
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, precision=chosen))


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a training network's forward pass. Convolutions in float32 use TF32 on GPUs that have it, as torch
    does by default."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compile_in_place(model: nn.Module, example: Tensor) -> None:
    """Let torch.compile generate the network's code; its state dict keeps its names.

    Args:
        model: in training mode.
        example: log-mel (batch, 1, mel, frame) that it is tried on, in eval mode and without gradient, so that nothing
            of it changes.

    Raises:
        InputError: the machine cannot compile.
    """
    model.compile(dynamic=False)
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as error:  # the compiler's own tree of errors is private to torch
        raise InputError(
            f"--compile: torch cannot compile this network here ({str(error).splitlines()[0]}); leave it out, "
            "or install a C++ compiler (GPU: Triton)"
        ) from None
    finally:
        model.train()
