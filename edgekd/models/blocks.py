"""The blocks that students are composed of, each declared once, in its float form.

`edgekd.quant` maps every leaf (`Block`) to its quantization-aware form and to integer ops. A student calls blocks and
nothing else, so that tracing it yields a list of known blocks. All maps are (batch, channel, mel, frame) float32.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import TensorModule

Activation = Literal["none", "relu", "silu", "hard_swish", "sigmoid", "hard_sigmoid"]
Pooling = Literal["mean", "attention"]
Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """(mel, frame) of a size given as one number or as two."""
    return size if isinstance(size, tuple) else (size, size)


def eights(channels: float) -> int:
    """The nearest multiple of eight, at least eight: a width that fills the vector registers of every engine."""
    return max(8, int(channels + 4) // 8 * 8)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by name; hard sigmoid is clip(x / 6 + 1 / 2, 0, 1), and hard swish x times that (Howard et
    al. 2019)."""
    if activation == "relu":
        return F.relu(x)
    if activation == "silu":
        return F.silu(x)
    if activation == "hard_swish":
        return F.hardswish(x)
    if activation == "sigmoid":
        return torch.sigmoid(x)
    return F.hardsigmoid(x) if activation == "hard_sigmoid" else x


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x). Grouped convolutions with strides run in float32 even under a CPU's bfloat16 autocast, where their
    backward pass is slow: 17 ms in place of 3 (torch 2.13, Zen 4, 16 maps of 64 x 32 x 49, one core)."""
    if (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and conv.groups > 1
        and max(conv.stride) > 1
        and torch.is_autocast_enabled("cpu")
    ):
        with torch.autocast("cpu", enabled=False):
            x = conv(x.float())
    else:
        x = conv(x)
    return x


class Block(TensorModule):
    """A leaf of the vocabulary: one entry in `edgekd.quant`'s table. Abstract; its subclasses are final."""


class SubSpectralNorm(TensorModule):
    """Batch normalisation per channel and band of mel bins: (B, C, F, T) as (B, C * bands, F / bands, T) (Chang et al.
    2021)."""

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.norm = nn.BatchNorm2d(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, mel, frame = x.shape
        banded = x.reshape(batch, channels * self.bands, mel // self.bands, frame)  # (B, C * S, F / S, T)
        normalised: Tensor = self.norm(banded)
        return normalised.reshape(batch, channels, mel, frame)


class ConvNormAct(Block):
    """Convolution (also depthwise, grouped, dilated), batch or sub-spectral norm, activation.

    norm: "batch" (folds into the convolution), "none" (the convolution then has a bias if `bias`) or "sub_spectral"
    with `bands` > 1. eps: of batch norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size = 1,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        norm: Literal["batch", "none", "sub_spectral"] = "batch",
        bands: int = 1,
        activation: Activation = "relu",
        bias: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            pair(kernel),
            pair(stride),
            pair(padding),
            pair(dilation),
            groups,
            bias=bias and norm == "none",
        )
        self.norm: nn.Module = nn.Identity()
        if norm == "batch":
            self.norm = nn.BatchNorm2d(outputs, eps)
        elif norm == "sub_spectral":
            self.norm = SubSpectralNorm(outputs, bands)
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.norm(convolve(self.conv, x)), self.activation)


class Norm(Block):
    """Batch norm that follows no convolution; as integers a depthwise 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x)
        return normalised


class ResidualNorm(Block):
    """weight * x + instance norm per mel bin over (channel, frame) (Kim et al. 2021). Dynamic, for teachers: no integer
    form."""

    def __init__(self, weight: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True, correction=0)  # (B, 1, F, 1)
        return self.weight * x + (x - mean) * torch.rsqrt(variance + self.eps)


class GlobalResponseNorm(Block):
    """x + gamma * x * n + beta, n the L2 norm of each channel's map over the mean of these norms, then an activation
    (Woo et al. 2023, with one gamma and one beta in all as in CP-Mobile). Dynamic, for teachers: no integer form."""

    def __init__(self, activation: Activation = "none", eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))
        self.activation: Activation = activation
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        return activate(
            x + self.gamma * x * norms / (norms.mean(dim=1, keepdim=True) + self.eps) + self.beta, self.activation
        )


class Add(Block):
    """Sum of two maps, an axis of size 1 broadcasts; then an activation."""

    def __init__(self, activation: Literal["none", "relu"] = "none") -> None:
        super().__init__()
        self.activation: Activation = activation

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return activate(x + y, self.activation)


class Multiply(Block):
    """Product of a map and a gate, an axis of size 1 broadcasts."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate


class MaxPool(Block):
    """Maximum over windows, floor mode, no padding."""

    def __init__(self, kernel: Size, stride: Size | None = None) -> None:
        super().__init__()
        self.kernel = pair(kernel)
        self.stride = pair(kernel if stride is None else stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride)


class AvgPool(Block):
    """Mean over windows, floor mode; the zeros of the padding count."""

    def __init__(self, kernel: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel = pair(kernel)
        self.stride = pair(kernel if stride is None else stride)
        self.padding = pair(padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding)


class MeanPool(Block):
    """Mean over the mel axis (B, C, 1, T), or over mel and frame (B, C, 1, 1)."""

    def __init__(self, axes: Literal["mel", "both"] = "both") -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3) if self.axes == "both" else 2, keepdim=True)


class AttentionPool(Block):
    """Self multi-head attention pooling (Jung et al. 2020): mean over mel, then a weighted sum over frames, (B, C, F,
    T) -> (B, C, 1, 1).

    Each of `heads` parts h_t of the channels has weights softmax_t(h_t . u / sqrt(C / heads)) with a learned u that
    begins at 0, where all frames have equal weight. Dynamic, for teachers: no integer form.

    Raises:
        InputError: heads do not divide the channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise InputError(
                f"attention pooling: {channels} channels cannot be split into {heads} heads; choose heads that divide"
                " them"
            )
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(heads, channels // heads))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.unflatten(x.mean(dim=2), 1, (self.heads, -1))  # (B, H, C / H, T)
        scores = torch.einsum("bhct,hc->bht", parts, self.query) / self.query.shape[1] ** 0.5
        return torch.einsum("bhct,bht->bhc", parts, scores.softmax(dim=-1)).flatten(1)[..., None, None]


class Dropout(Block):
    """Dropout while the float model trains; absent from the quantised one."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class Flatten(Block):
    """(B, C, 1, 1) -> (B, C): the end of every classifier."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Residual(TensorModule):
    """activation(body(x) + shortcut(x)); no shortcut is the identity."""

    def __init__(
        self, body: nn.Module, activation: Literal["none", "relu"] = "relu", shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential() if shortcut is None else shortcut
        self.add = Add(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.body(x), self.shortcut(x))


def basic_block(inputs: int, outputs: int, kernels: tuple[Size, Size], groups: int = 1) -> Residual:
    """Two convolutions with odd kernels, parallel to a shortcut, which is a 1x1 convolution where the width changes (He
    et al. 2016)."""
    paddings = [(mel // 2, frame // 2) for mel, frame in map(pair, kernels)]
    first = ConvNormAct(inputs, outputs, kernels[0], padding=paddings[0], groups=groups)
    second = ConvNormAct(outputs, outputs, kernels[1], padding=paddings[1], groups=groups, activation="none")
    shortcut = None if inputs == outputs else ConvNormAct(inputs, outputs, groups=groups, activation="none")
    return Residual(nn.Sequential(first, second), shortcut=shortcut)


class SqueezeExcite(TensorModule):
    """Channel gate: mean -> 1x1 to channels / reduction (or `hidden` channels), ReLU -> 1x1, gate (Hu et al. 2018). A
    hard sigmoid costs no integer op."""

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        gate: Literal["sigmoid", "hard_sigmoid"] = "hard_sigmoid",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction) if hidden is None else hidden
        self.pool = MeanPool()
        self.squeeze = ConvNormAct(channels, hidden, norm="none")
        self.excite = ConvNormAct(hidden, channels, norm="none", activation=gate)
        self.scale = Multiply()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x, self.excite(self.squeeze(self.pool(x))))


class PooledClassifier(TensorModule):
    """Dropout, global pooling and a dense layer as a 1x1 convolution: (B, C, F, T) -> logits (B, labels). heads: of
    attention pooling."""

    def __init__(
        self, channels: int, labels: int, dropout: float = 0.0, pooling: Pooling = "mean", heads: int = 1
    ) -> None:
        super().__init__()
        self.pool: Block = MeanPool() if pooling == "mean" else AttentionPool(channels, heads)
        self.dropout = Dropout(dropout)
        self.dense = ConvNormAct(channels, labels, norm="none", activation="none")
        self.flatten = Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.dense(self.dropout(self.pool(x))))


class MapClassifier(TensorModule):
    """A 1x1 convolution to the labels, then the mean over the map: (B, C, F, T) -> logits (B, labels)."""

    def __init__(self, channels: int, labels: int, norm: Literal["batch", "none"] = "none") -> None:
        super().__init__()
        self.dense = ConvNormAct(channels, labels, norm=norm, activation="none")
        self.pool = MeanPool()
        self.flatten = Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.pool(self.dense(x)))


class HiddenClassifier(TensorModule):
    """A pool to (B, channels, 1, 1), a hidden dense layer with ReLU, whose output is the embedding, and a dense layer,
    dropout before each: (B, C, F, T) -> logits (B, labels)."""

    def __init__(self, pool: nn.Module, channels: int, hidden: int, labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = pool
        self.pooled_dropout = Dropout(dropout)
        self.hidden = ConvNormAct(channels, hidden, norm="none")
        self.dropout = Dropout(dropout)
        self.dense = ConvNormAct(hidden, labels, norm="none", activation="none")
        self.flatten = Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.dense(self.dropout(self.hidden(self.pooled_dropout(self.pool(x))))))


def accept_old_head(model: nn.Module) -> None:
    """Let a network with `features` and a `MapClassifier` load weights of older runs, in which the dense layer was the
    last of `features`."""
    model.register_load_state_dict_pre_hook(_rename_old_head)  # type: ignore[no-untyped-call]


def _rename_old_head(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    features = model.get_submodule("features")
    old, new = f"{prefix}features.{len(list(features.children()))}.", f"{prefix}classifier.dense."
    for name in [name for name in state if name.startswith(old)]:
        state[new + name.removeprefix(old)] = state.pop(name)
