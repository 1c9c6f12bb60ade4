"""Counts of a float network by torchinfo and ptflops: their own figures, module by module, for the manifest.

ptflops counts by its `aten` backend. That backend sees every convolution and matrix product that runs, as nn module or
as function, with a bias at each output. Its `pytorch` backend also counts activations, pools and norms, by other rules
for modules than for functions; its figure therefore depends on how the same network is written.
"""

import importlib.metadata
from collections.abc import Iterable

import torch
from torch import nn

from edgekd.errors import MissingExtraError
from edgekd.modelfile.manifest import FloatCount, ModuleCount

FUNCTIONAL = "function"
"""Kind of the part that belongs to no module."""


def float_counts(network: nn.Module, shape: tuple[int, ...]) -> dict[str, FloatCount]:
    """Count a float network.

    Args:
        network: in eval mode, on the CPU.
        shape: of its input, with a batch of 1.

    Raises:
        MissingExtraError: torchinfo or ptflops is not installed.
    """
    return {"torchinfo": _torchinfo(network, shape), "ptflops": _ptflops(network, shape)}


def _torchinfo(network: nn.Module, shape: tuple[int, ...]) -> FloatCount:
    try:
        from torchinfo import summary
    except ImportError:
        raise MissingExtraError("torchinfo", "train") from None
    statistics = summary(network, input_data=torch.zeros(shape), verbose=0)
    names = {id(module): name for name, module in network.named_modules()}
    modules = [
        ModuleCount(names[info.layer_id], info.class_name, info.macs, 0 if info.is_recursive else info.num_params)
        for info in statistics.summary_list
        if info.is_leaf_layer
    ]
    return _count("torchinfo", modules, statistics.total_mult_adds, statistics.total_params)


def _ptflops(network: nn.Module, shape: tuple[int, ...]) -> FloatCount:
    try:
        from ptflops import get_model_complexity_info
    except ImportError:
        raise MissingExtraError("ptflops", "train") from None

    def measure(module: nn.Module, size: tuple[int, ...]) -> tuple[int, int]:
        with torch.no_grad():
            macs, params = get_model_complexity_info(
                module, size[1:], as_strings=False, print_per_layer_stat=False, backend="aten"
            )
        return int(macs), int(params)

    sizes: dict[str, list[tuple[int, ...]]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: sizes.setdefault(name, []).append(tuple(inputs[0].shape))
        )
        for name, module in network.named_modules()
        if not any(module.children()) and any(True for _ in module.parameters())
    ]
    with torch.no_grad():
        network(torch.zeros(shape))
    for hook in hooks:
        hook.remove()
    modules = []
    for name, calls in sizes.items():
        module = network.get_submodule(name)
        counted = [measure(module, size) for size in calls]
        modules.append(ModuleCount(name, type(module).__name__, sum(macs for macs, _ in counted), counted[0][1]))
    return _count("ptflops", modules, *measure(network, shape))


def _count(counter: str, modules: Iterable[ModuleCount], macs: int, params: int) -> FloatCount:
    """The counter's totals. The part that its modules do not add up to is a row without a name."""
    counted = [module for module in modules if module.macs or module.params]
    rest = macs - sum(module.macs for module in counted), params - sum(module.params for module in counted)
    if any(rest):
        counted.append(ModuleCount("", FUNCTIONAL, *rest))
    return FloatCount(f"{counter} {importlib.metadata.version(counter)}", macs, params, tuple(counted))
