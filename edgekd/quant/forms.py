"""The quantization-aware form of each kind of block, and its lowering to ops of the integer graph: one class for each
kind, listed in `FORMS`."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.models import blocks
from edgekd.qgraph import graph as q
from edgekd.quant.activation import ActQuant, quantiser_like, range_quantiser
from edgekd.quant.block import QuantBlock
from edgekd.quant.builder import GraphBuilder
from edgekd.quant.conv_forms import QuantNorm, conv_form


class QuantAdd(QuantBlock):
    """Sum, activation, output quantiser."""

    def __init__(self, block: blocks.Add, inputs: list[ActQuant]) -> None:
        super().__init__()
        self.activation = block.activation
        self.output = range_quantiser(block.activation == "none" and any(edge.signed for edge in inputs))

    @property
    def edge(self) -> ActQuant:
        return self.output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output(blocks.activate(inputs[0] + inputs[1], self.activation))

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        output = build.edge(name, build.broadcast(inputs), self.output)
        negative = any(build.edges[each].zero_point != q.INT8_MIN for each in inputs)  # else a relu changes nothing
        fused: q.Activation = "relu" if self.activation == "relu" and negative else "none"
        build.ops.append(q.AddOp(name, (inputs[0], inputs[1]), output, fused))
        return output


class QuantMultiply(QuantBlock):
    """Product, output quantiser."""

    def __init__(self, block: blocks.Multiply, inputs: list[ActQuant]) -> None:
        super().__init__()
        del block
        x, gate = inputs
        self.output = range_quantiser(x.signed or gate.signed) if gate.signed else quantiser_like(x)

    @property
    def edge(self) -> ActQuant:
        return self.output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output(inputs[0] * inputs[1])

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        output = build.edge(name, build.broadcast(inputs), self.output)
        build.ops.append(q.MulOp(name, (inputs[0], inputs[1]), output))
        return output


class QuantMaxPool(QuantBlock):
    """Maximum of values that are quantised already."""

    def __init__(self, block: blocks.MaxPool, inputs: list[ActQuant]) -> None:
        super().__init__()
        self.kernel, self.stride = block.kernel, block.stride
        self._source = (inputs[0],)  # in a tuple, so that it is no submodule: it belongs to another block

    @property
    def edge(self) -> ActQuant:
        return self._source[0]

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.max_pool2d(inputs[0], self.kernel, self.stride)

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        output = build.same_scale(name, build.pooled(inputs[0], self.kernel, self.stride), inputs[0])
        build.ops.append(q.MaxPoolOp(name, inputs[0], output, self.kernel, self.stride))
        return output


class QuantAvgPool(QuantBlock):
    """Mean over windows with an output scale of its own."""

    def __init__(self, block: blocks.AvgPool, inputs: list[ActQuant]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = block.kernel, block.stride, block.padding
        self.output = quantiser_like(inputs[0])

    @property
    def edge(self) -> ActQuant:
        return self.output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output(F.avg_pool2d(inputs[0], self.kernel, self.stride, self.padding))

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        output = build.edge(name, build.pooled(inputs[0], self.kernel, self.stride, self.padding), self.output)
        mel, frame = self.padding
        build.ops.append(q.AvgPoolOp(name, inputs[0], output, self.kernel, self.stride, (mel, mel, frame, frame)))
        return output


class QuantMeanPool(QuantBlock):
    """Mean over mel, or mel and frame, with an output scale of its own."""

    def __init__(self, block: blocks.MeanPool, inputs: list[ActQuant]) -> None:
        super().__init__()
        self.axes = block.axes
        self.output = quantiser_like(inputs[0])

    @property
    def edge(self) -> ActQuant:
        return self.output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output(inputs[0].mean(dim=(2, 3) if self.axes == "both" else 2, keepdim=True))

    def elements(self, x: Tensor) -> int:
        """Number of values of (batch, channel, mel, frame) in one mean."""
        return x.shape[2] * (x.shape[3] if self.axes == "both" else 1)

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        _, mel, frame = build.edges[inputs[0]].shape
        kernel = (mel, frame) if self.axes == "both" else (mel, 1)
        output = build.edge(name, build.pooled(inputs[0], kernel, kernel), self.output)
        build.ops.append(q.AvgPoolOp(name, inputs[0], output, kernel, kernel))
        return output


class PassThrough(QuantBlock):
    """Dropout (inactive once quantised) and flatten (logits keep their (labels, 1, 1) edge)."""

    def __init__(self, block: blocks.Dropout | blocks.Flatten, inputs: list[ActQuant]) -> None:
        super().__init__()
        self.flatten = isinstance(block, blocks.Flatten)
        self._source = (inputs[0],)  # in a tuple, so that it is no submodule: it belongs to another block

    @property
    def edge(self) -> ActQuant:
        return self._source[0]

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].flatten(1) if self.flatten else inputs[0]

    def lower(self, build: GraphBuilder, name: str, inputs: list[str]) -> str:
        del build, name
        return inputs[0]


FORMS: dict[type[nn.Module], Callable[[Any, list[ActQuant]], QuantBlock]] = {
    blocks.ConvNormAct: conv_form,
    blocks.Norm: QuantNorm,
    blocks.Add: QuantAdd,
    blocks.Multiply: QuantMultiply,
    blocks.MaxPool: QuantMaxPool,
    blocks.AvgPool: QuantAvgPool,
    blocks.MeanPool: QuantMeanPool,
    blocks.Dropout: PassThrough,
    blocks.Flatten: PassThrough,
}
"""Kind of block -> its QAT form, called with (block, quantisers of its inputs). Blocks that are absent here, such as
residual norm, have no integer form."""
