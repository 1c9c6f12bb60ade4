"""A stand-in for a GPU on machines without one: torch's `meta` device, whose tensors have shapes and types but no
values.

`torch._subclasses.FakeTensorMode` would let tensors claim to be on "cuda", but in torch's CPU builds the first forward
pass with gradients ends the process (2.13: "PyTorch is not linked with support for cuda devices", raised where autograd
asks for the device's guard). The meta device needs public torch alone. It is also the stricter one: what reads values
(`.item()`, `.cpu()`, `.numpy()`, a boolean mask as an index, `if tensor:`) fails there, where a GPU would make the host
wait for it. Added here is what it lacks: an error where one operator gets tensors of both devices, which some
operators accept on the meta device, and autocast.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CPU, META = torch.device("cpu"), torch.device("meta")
COPY, READ = torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense.default
MOVES = (torch.ops.aten.to, torch.ops.aten._to_copy)
LOWER = {"matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "linear", "conv1d", "conv2d"}
LOWER |= {"conv_transpose2d", "scaled_dot_product_attention", "gru", "lstm"}
"""Functions that compute in the lower precision under a GPU's autocast."""
FLOAT32 = {"softmax", "log_softmax", "logsumexp", "layer_norm", "group_norm", "cross_entropy", "kl_div", "nll_loss"}
FLOAT32 |= {"mse_loss", "cosine_similarity", "norm", "exp", "log", "log10", "log1p", "pow", "__pow__", "rsqrt"}
FLOAT32 |= {"softplus", "sum", "prod", "cumsum"}
"""Functions that compute in float32 there. Both sets are those of torch's documentation of autocast, as far as networks
and losses use them."""


class MixedDevicesError(AssertionError):
    """An operator was given a tensor on the accelerator and one that was left on the CPU."""


class MetaDevice(TorchDispatchMode):
    """Refuses operators on tensors of both devices.

    As on a GPU, numbers (tensors without dimensions) may be on the CPU. Indices may be too, but in each step they would
    be copied while the host waits, so they are refused here.
    """

    device = META
    reads = False
    """Whether values may be read; they are zeros."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        given = [
            each for value in (*args, *kwargs.values()) for each in (value if isinstance(value, list) else [value])
        ]
        tensors = [each for each in given if isinstance(each, Tensor)]
        devices = {each.device for each in tensors if each.dim() or each.is_meta}
        if len(devices) > 1 and func is not COPY:
            shapes = ", ".join(f"{each.device} {tuple(each.shape)}" for each in tensors)
            raise MixedDevicesError(f"{func} gets tensors of two devices: {shapes}")
        if self.reads and META in devices and func is READ:
            return 0
        if self.reads and META in devices and func.overloadpacket in MOVES and CPU in given:
            dtype = next((each for each in given if isinstance(each, torch.dtype)), args[0].dtype)
            return torch.zeros(args[0].shape, dtype=dtype)
        with torch._C.DisableTorchFunction():  # autocast ends where an operator begins
            return func(*args, **kwargs)


class _Autocast(TorchFunctionMode):
    """Casts tensors on the meta device as a GPU's autocast does, while `dtype` is set."""

    dtype: torch.dtype | None = None
    of_torch = torch.autocast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if self.dtype is None or name not in LOWER | FLOAT32:
            return func(*args, **kwargs)
        dtype = self.dtype if name in LOWER else torch.float32
        args, kwargs = tree_map(lambda value: _cast(value, dtype), (args, kwargs))
        return func(*args, **kwargs)

    @contextmanager
    def switched(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Context of another precision; None is no autocast."""
        before, self.dtype = self.dtype, dtype
        try:
            # the CPU's autocast leaves the meta device alone, but recurrent networks ask whether there is any
            with self, self.of_torch("cpu", dtype, enabled=dtype is not None):
                yield
        finally:
            self.dtype = before

    def context(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **options: Any
    ) -> AbstractContextManager[object]:
        """In place of `torch.autocast`, which refuses the meta device."""
        if device_type != META.type:
            return self.of_torch(device_type, dtype, enabled, **options)
        return self.switched((dtype or torch.bfloat16) if enabled else None)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_meta and value.is_floating_point() else value


def _unfused(optimizer: Any) -> Any:
    """The optimiser without its fused form, which torch refuses on the meta device."""
    return lambda parameters, *, fused, **options: optimizer(parameters, foreach=fused, **options)


@contextmanager
def meta_device() -> Iterator[MetaDevice]:
    """Context in which the meta device behaves as a GPU."""
    autocast = _Autocast()
    with pytest.MonkeyPatch.context() as patch, MetaDevice() as accelerator:
        patch.setattr(torch, "autocast", autocast.context)
        for name in ("Adam", "AdamW"):
            patch.setattr(torch.optim, name, _unfused(getattr(torch.optim, name)))
        yield accelerator
