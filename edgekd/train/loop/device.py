"""Where and how a network computes while it trains: accelerator, threads, precision and memory format.

The precision is that of the float network. Weights, loss, tests and the quantised network are float32.
"""

import os
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgekd.errors import InputError, nearest
from edgekd.modelfile.engine import cpu_flags
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe

ACCELERATORS = ("auto", "cpu", "gpu")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of x86 processors that multiply bf16 natively. On others bf16 is emulated, slower than float32."""


def check_accelerator(name: str) -> None:
    """Refuse an unknown --accelerator, and a GPU on a machine without one.

    Raises:
        InputError: the name is none of `ACCELERATORS`, or torch finds no GPU.
    """
    if name not in ACCELERATORS:
        raise InputError(f"accelerator '{name}' is unknown{nearest(name, ACCELERATORS)}")
    if name == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise InputError("accelerator 'gpu': torch finds none on this machine; use --accelerator cpu")


def set_threads(threads: int | None) -> None:
    """Set torch's threads on the CPU.

    None leaves torch's default, which is all cores of the machine. One of several processes then takes the number from
    SLURM_CPUS_PER_TASK, or 1, unless OMP_NUM_THREADS is set.
    """
    if threads is None and processes.world() > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    if threads is not None:
        torch.set_num_threads(threads)


def training_device(accelerator: str) -> str:
    """The type of torch device for --accelerator "auto", "cpu" or "gpu": "cpu", "cuda" or "mps"."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def native_bf16(device: str) -> bool:
    """Whether this type of device multiplies bf16 in hardware."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and not BF16_FLAGS.isdisjoint(cpu_flags())


def with_precision(recipe: Recipe, device: str) -> Recipe:
    """The recipe with precision "auto" replaced by that of the device, so that a resumed run keeps its precision."""
    if recipe.train.precision != "auto":
        return recipe
    chosen = "bf16" if native_bf16(device) else "float32"
    return msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, precision=chosen))


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a training network's forward pass in "float32" or "bf16". float32 convolutions use TF32 on GPUs that
    have it, as torch does by default."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def channels_last(model: nn.Module, device: torch.device | None = None) -> nn.Module:
    """The network, moved to `device` if given, with its maps in channels-last order, which convolves faster.

    The network changes in place.
    """
    settings: dict[str, Any] = {"memory_format": torch.channels_last}  # torch's type of `to` lacks it
    return model.to(**settings) if device is None else model.to(device, **settings)


def compile_in_place(model: nn.Module, example: Tensor) -> None:
    """Compile a network with torch.compile; its state dict keeps its names.

    Args:
        model: in training mode.
        example: log-mel (batch, 1, mel, frame) of a trial run, in eval mode and without gradient, so that the network
            does not change.

    Raises:
        InputError: the machine cannot compile.
    """
    model.compile(dynamic=False)
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as error:  # the compiler's error classes are private to torch
        raise InputError(
            f"--compile: torch cannot compile this network here ({str(error).splitlines()[0]}); leave it out, "
            "or install a C++ compiler (GPU: Triton)"
        ) from None
    finally:
        model.train()
