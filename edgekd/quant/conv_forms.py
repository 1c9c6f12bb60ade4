"""Quantization-aware forms of convolutions and norms, and their lowering.

Batch norm is folded into the convolution before QAT starts, and biases are rounded to their int32 grid (input scale x
weight scale) in every forward pass: the trained network is the exported one. With float biases 39 % of SERFR-CNN-32's
logits differed by a step or more.
"""

import brevitas.nn as qnn
import numpy as np
import torch
import torch.nn.functional as F
from brevitas.quant import Int8WeightPerChannelFloat
from torch import Tensor, nn

from edgekd import rounding
from edgekd.errors import InputError
from edgekd.models import blocks
from edgekd.qgraph import graph as q
from edgekd.quant.activation import ActQuant, Kind, range_quantiser
from edgekd.quant.block import QuantBlock
from edgekd.quant.builder import GraphBuilder

_OUTPUT_KINDS: dict[blocks.Activation, Kind] = {
    "none": "signed",
    "relu": "unsigned",
    "hard_sigmoid": "hard_gate",
    "silu": "signed",
    "hard_swish": "shifted",
    "sigmoid": "signed",
}
"""Activation -> kind of the edge that a convolution writes."""
HARD_SWISH_ZERO, HARD_SWISH_LEAST = -3.0, -0.375
"""Hard swish is 0 below the first, and never below the second."""


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset (channels,) of a batch norm in eval mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise InputError("a batch norm without running statistics cannot be folded; train with track_running_stats")
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals `norm(conv(x))` in eval mode."""
    factor, bias = _affine(norm)  # (out,)
    return conv.weight * factor[:, None, None, None], bias if conv.bias is None else bias + conv.bias * factor


class QuantConv(QuantBlock):
    """Convolution with folded norm, int8 weights per channel, activation and output quantiser."""

    def __init__(self, block: blocks.ConvNormAct, inputs: list[ActQuant]) -> None:
        super().__init__()
        conv, norm = block.conv, block.norm
        weight, bias = _fold(conv, norm) if isinstance(norm, nn.BatchNorm2d) else (conv.weight, conv.bias)
        self._build(conv, weight, bias, block.activation, inputs[0])

    def _build(
        self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: blocks.Activation, source: ActQuant
    ) -> None:
        self.conv = qnn.QuantConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=True,
            weight_quant=Int8WeightPerChannelFloat,
            return_quant_tensor=False,
        )
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            self.conv.bias.copy_(torch.zeros_like(self.conv.bias) if bias is None else bias)
        self.activation = activation
        self._source = (source,)  # in a tuple, so that it is no submodule: it belongs to another block
        self.output = ActQuant(_OUTPUT_KINDS[activation], HARD_SWISH_ZERO if activation == "hard_swish" else 0.0)
        """Quantiser of the convolution's output; with "silu", "hard_swish" and "sigmoid" of the value before the
        gate."""
        self.gate: ActQuant | nn.Identity = nn.Identity()
        self.product: ActQuant | nn.Identity = nn.Identity()
        if activation in ("silu", "sigmoid"):
            self.gate = ActQuant("soft_gate")
        if activation == "hard_swish":
            self.gate = ActQuant("hard_gate")
            self.product = ActQuant("shifted", HARD_SWISH_LEAST)
        if activation == "silu":
            self.product = ActQuant("signed")

    @property
    def edge(self) -> ActQuant:
        return next(edge for edge in (self.product, self.gate, self.output) if isinstance(edge, ActQuant))

    def forward(self, *inputs: Tensor) -> Tensor:
        weight, conv = self.conv.quant_weight(), self.conv
        bias = conv.bias
        if not self._source[0].calibrating:  # rounded, with the gradient of the float bias
            step = (self._source[0].step() * weight.scale.flatten()).detach()  # (out,)
            bias = bias + (torch.round(bias / step) * step - bias).detach()
        x = F.conv2d(inputs[0], weight.value, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if isinstance(self.gate, ActQuant):
            x = self.output(x)
            gate = self.gate(F.hardsigmoid(x) if self.activation == "hard_swish" else torch.sigmoid(x))
            return self.product(x * gate) if isinstance(self.product, ActQuant) else gate
        return self.output(blocks.activate(x, self.activation))

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        quantised = self.conv.quant_weight()
        weight = quantised.int().numpy().astype(np.int8)
        scale = quantised.scale.detach().numpy().astype(np.float32).reshape(-1)
        # value of one accumulator unit, (out,)
        step = np.float64(build.edges[inputs[0]].scale) * scale.astype(np.float64)
        if not np.all(step > 0):
            raise InputError(
                f"{name}: weight scale of channel {int(np.argmin(scale))} is {scale.min():.3g}; the channel is dead, "
                "retrain or prune it"
            )
        bias = np.rint(self.conv.bias.detach().numpy().astype(np.float64) / step)
        fused: q.Activation = "relu" if self.activation == "relu" else "none"
        if self.activation == "hard_sigmoid":  # clip(x / 6 + 1 / 2): add 3, then a sixth of the scale
            fused, bias, scale = "clip01", bias + np.rint(3 / step), (scale / np.float32(6)).astype(np.float32)
        # QGraph.validate refuses saturated biases by name
        saturated = np.clip(bias, np.iinfo(np.int32).min, np.iinfo(np.int32).max).astype(np.int32)
        (mel, frame), conv = self.conv.padding, self.conv
        padding = (mel, mel, frame, frame)
        size = q.slide(build.edges[inputs[0]].shape, conv.kernel_size, conv.stride, padding, conv.dilation)
        output = build.edge(name, (conv.out_channels, *size), self.output)
        build.ops.append(
            q.ConvOp(
                name,
                inputs[0],
                output,
                weight,
                scale,
                saturated,
                conv.stride,
                padding,
                conv.dilation,
                conv.groups,
                fused,
            )
        )
        if isinstance(self.gate, ActQuant):
            gate = build.edge(f"{name}.gate", build.edges[output].shape, self.gate)
            build.ops.append(
                _hard_sigmoid(f"{name}.gate", build.edges[output], gate)
                if self.activation == "hard_swish"
                else q.SigmoidOp(f"{name}.gate", output, gate)
            )
            if not isinstance(self.product, ActQuant):
                return gate
            product = build.edge(f"{name}.product", build.edges[output].shape, self.product)
            build.ops.append(q.MulOp(f"{name}.product", (output, gate), product))
            return product
        return output


def _hard_sigmoid(name: str, source: q.Edge, output: str) -> q.ConvOp:
    """clip(x / 6 + 1 / 2, 0, 1) of an edge, as a depthwise 1x1 convolution."""
    channels, step = source.shape[0], source.scale / 6 / q.INT8_MAX
    return q.ConvOp(
        name,
        source.name,
        output,
        np.full((channels, 1, 1, 1), q.INT8_MAX, np.int8),
        np.full(channels, 1 / 6 / q.INT8_MAX, np.float32),
        np.full(channels, round(0.5 / step), np.int32),
        (1, 1),
        q.NO_PADDING,
        (1, 1),
        channels,
        "clip01",
    )


class QuantNorm(QuantConv):
    """A batch norm on its own, as a depthwise 1x1 convolution."""

    def __init__(self, block: blocks.Norm, inputs: list[ActQuant]) -> None:
        nn.Module.__init__(self)
        channels = block.norm.num_features
        unit = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        nn.init.ones_(unit.weight)
        weight, bias = _fold(unit, block.norm)
        self._build(unit, weight, bias, "none", inputs[0])


class QuantBandedConv(QuantConv):
    """Convolution with a sub-spectral norm: an int8 convolution, then a factor and an offset per channel and mel bin.

    The largest factor of a channel is folded into its weights: the remaining factors are at most 1 and lose little in 8
    bits.
    """

    def __init__(self, block: blocks.ConvNormAct, inputs: list[ActQuant]) -> None:
        nn.Module.__init__(self)
        assert isinstance(block.norm, blocks.SubSpectralNorm)  # conv_form
        if block.activation not in ("none", "relu"):
            raise InputError(
                f"a sub-spectral norm followed by '{block.activation}' has no integer form; use none or relu there"
            )
        norm, bands = block.norm.norm, block.norm.bands
        factor, offset = (part.detach().reshape(-1, bands) for part in _affine(norm))  # (out, bands)
        peak = factor.abs().amax(dim=1)  # (out,)
        self._build(
            block.conv,
            block.conv.weight * peak[:, None, None, None],
            None if block.conv.bias is None else block.conv.bias * peak,
            "none",
            inputs[0],
        )
        self.gain = nn.Parameter(factor / peak.clamp_min(torch.finfo(peak.dtype).tiny)[:, None])
        self.offset = nn.Parameter(offset.clone())
        self.gain_edge, self.scaled, self.offset_edge = (
            ActQuant("constant"),
            range_quantiser(signed=True),
            ActQuant("constant"),
        )
        self.after: blocks.Activation = block.activation
        self.sum = range_quantiser(signed=self.after == "none")

    @property
    def edge(self) -> ActQuant:
        return self.sum

    def forward(self, *inputs: Tensor) -> Tensor:
        x = super().forward(*inputs)  # (B, C, F, T)
        gain, offset = (
            edge(_spread(each, x.shape[2]))
            for edge, each in ((self.gain_edge, self.gain), (self.offset_edge, self.offset))
        )
        return self.sum(blocks.activate(self.scaled(x * gain) + offset, self.after))

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        source = super().lower(build, name, inputs)
        shape = build.edges[source].shape
        gain = self._constant(build, f"{name}.gain", self.gain_edge, self.gain, shape[1])
        scaled = build.edge(f"{name}.scaled", shape, self.scaled)
        build.ops.append(q.MulOp(f"{name}.scaled", (source, gain), scaled))
        offset = self._constant(build, f"{name}.offset", self.offset_edge, self.offset, shape[1])
        total = build.edge(f"{name}.sum", shape, self.sum)
        build.ops.append(q.AddOp(f"{name}.sum", (scaled, offset), total, "relu" if self.after == "relu" else "none"))
        return total

    @staticmethod
    def _constant(build: GraphBuilder, name: str, quantiser: ActQuant, values: Tensor, mels: int) -> str:
        spread = _spread(values.detach(), mels).numpy()  # (C, F, 1)
        edge = build.edges[build.edge(name, spread.shape, quantiser)]
        build.ops.append(q.ConstantOp(name, name, rounding.quantize(spread, edge.scale, edge.zero_point, np.int8)))
        return name


def _spread(values: Tensor, mels: int) -> Tensor:
    """Values per band (channel, bands) as (channel, mel, 1)."""
    if mels % values.shape[1]:
        raise InputError(
            f"{mels} mel bins cannot be split into {values.shape[1]} bands; choose n_mels or bands so that they divide"
        )
    return values.repeat_interleave(mels // values.shape[1], dim=1)[..., None]


def conv_form(block: blocks.ConvNormAct, inputs: list[ActQuant]) -> QuantConv:
    """The form of a convolution, by its norm."""
    return (QuantBandedConv if isinstance(block.norm, blocks.SubSpectralNorm) else QuantConv)(block, inputs)
