"""Writes the integer graph as a .tflite flatbuffer, without TensorFlow, in milliseconds, with bit-exact weights and
scales.

int8 NHWC in and out, in the forms that XNNPACK takes as one partition: an average over complete axes is MEAN, any other
average pool a depthwise convolution, the stem is slices and a 1x1 convolution (`tune`). Padding is SAME where that is
exactly the padding asked for, otherwise PAD and VALID (XNNPACK folds the PAD into the convolution).
"""

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np

from edgekd import rounding
from edgekd.operators import Tflite
from edgekd.qgraph import unfold
from edgekd.qgraph.flatbuffer import FlatbufferWriter
from edgekd.qgraph.graph import (
    AddOp,
    AvgPoolOp,
    ConstantOp,
    ConvOp,
    Edge,
    MaxPoolOp,
    MulOp,
    Op,
    QGraph,
    Shape,
    SigmoidOp,
    UnfoldOp,
    same_padding,
)
from edgekd.qgraph.tune import is_reduction, pools_as_convolutions, split_stem

MAP_AXES = (1, 2)
"""The (mel, frame) axes of an NHWC tensor."""


def emit(graph: QGraph, float_twin: bool = False) -> bytes:
    """Write a graph as a .tflite model.

    Args:
        graph: a validated graph.
        float_twin: float32 tensors with dequantised weights instead: the honest baseline.

    Returns:
        The model: input (1, mel, frame, channel), output (1, labels), both int8 or both float32.

    Raises:
        MissingExtraError: flatbuffers or ai_edge_litert (its schema) is not installed.
    """
    return _TfliteEmitter(
        graph if float_twin else split_stem(pools_as_convolutions(graph, is_reduction)), float_twin
    ).model()


class _TfliteEmitter:
    """Writes the ops of one graph in order."""

    def __init__(self, graph: QGraph, float_twin: bool) -> None:
        self.file = FlatbufferWriter("edgekd")
        self.padding: Any = self.file.schema.Padding
        self.graph = graph
        self.float_twin = float_twin
        self.index = {graph.input: self._tensor(graph.edges[graph.input])}  # edge name -> tensor

    def model(self) -> bytes:
        """Emit every op, then flatten the logits."""
        for op in self.graph.ops:
            self._op(op, [self.index[name] for name in op.sources])
        output = self.graph.edges[self.graph.output]
        shape = [-1, output.shape[0]]
        logits = self._tensor(output, "logits", (1, output.shape[0]))
        sources = self.index[self.graph.output], self.file.constant("logits_shape", np.array(shape, np.int32))
        self.file.operator(Tflite.RESHAPE, sources, logits, newShape=shape)
        return self.file.pack([self.index[self.graph.input]], [logits])

    def _op(self, op: Op, sources: list[int]) -> None:
        """Emit an op, whose output tensor comes before those that only its form in the file needs."""
        if isinstance(op, ConstantOp):
            self.index[op.output] = self._constant(op)
            return
        output = self.index[op.output] = self._tensor(self.graph.edges[op.output])
        match op:
            case ConvOp():
                self._conv(op, sources[0])
            case AvgPoolOp():
                self._avg_pool(op, sources[0], output)
            case MaxPoolOp():
                self._pool(Tflite.MAX_POOL_2D, op, sources[0], output)
            case UnfoldOp():
                self._unfold(op, sources[0], output)
            case SigmoidOp():
                self.file.operator(Tflite.LOGISTIC, sources, output)
            case MulOp():
                self.file.operator(Tflite.MUL, sources, output)
            case AddOp():
                self._activated(Tflite.ADD, sources, op)
            case _:
                assert_never(op)

    def _conv(self, op: ConvOp, source: int) -> None:
        edge = self.graph.edges[op.input]
        depthwise = op.groups == edge.shape[0]
        same = _is_same(op, edge.shape)
        if any(op.padding) and not same:
            source = self._pad(op, edge, source)
        # (out, in / groups, mel, frame) to (out, mel, frame, in / groups) or, depthwise, to (1, mel, frame, out)
        weight = np.ascontiguousarray(op.weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        bias_scale = np.float32(edge.scale) * op.weight_scale
        if self.float_twin:
            scale = op.weight_scale if depthwise else op.weight_scale[:, None, None, None]
            constants = (
                self.file.constant(f"{op.name}/weight", weight * scale),
                self.file.constant(f"{op.name}/bias", (op.bias * bias_scale).astype(np.float32)),
            )
        else:
            constants = (
                self.file.constant(f"{op.name}/weight", weight, op.weight_scale.tolist(), 3 if depthwise else 0),
                self.file.constant(f"{op.name}/bias", op.bias, bias_scale.tolist()),
            )
        options = {
            "padding": self.padding.SAME if same else self.padding.VALID,
            "strideH": op.stride[0],
            "strideW": op.stride[1],
            "dilationHFactor": op.dilation[0],
            "dilationWFactor": op.dilation[1],
        }
        if depthwise:
            multiplier = op.weight.shape[0] // edge.shape[0]
            self._activated(Tflite.DEPTHWISE_CONV_2D, (source, *constants), op, depthMultiplier=multiplier, **options)
        else:
            self._activated(Tflite.CONV_2D, (source, *constants), op, **options)

    def _constant(self, op: ConstantOp) -> int:
        """A trained edge as a constant tensor, NHWC."""
        edge, value = self.graph.edges[op.output], np.ascontiguousarray(op.value.transpose(1, 2, 0)[None])
        if self.float_twin:
            return self.file.constant(op.output, rounding.dequantize(value, edge.scale, edge.zero_point))
        return self.file.constant(op.output, value, [edge.scale], zero_point=edge.zero_point, shared=False)

    def _pad(self, op: ConvOp | AvgPoolOp, edge: Edge, source: int) -> int:
        """The input padded with its zero point."""
        before_mel, after_mel, before_frame, after_frame = op.padding
        paddings = np.array([[0, 0], [before_mel, after_mel], [before_frame, after_frame], [0, 0]], np.int32)
        shape = (1, edge.shape[1] + before_mel + after_mel, edge.shape[2] + before_frame + after_frame, edge.shape[0])
        padded = self._tensor(edge, f"{op.name}/padded", shape)
        self.file.operator(Tflite.PAD, (source, self.file.constant(f"{op.name}/paddings", paddings)), padded)
        return padded

    def _unfold(self, op: UnfoldOp, source: int, output: int) -> None:
        """Tensors, constants and operators of `unfold.steps`, and the map that they end in."""
        edge, (positions, mels, frames) = self.graph.edges[op.input], self.graph.edges[op.output].shape
        planes: list[int] = []
        for step in unfold.steps(op, edge.shape):
            moved = self._tensor(edge, f"{op.name}/{self.file.tensors}", step.shape)
            sources = [source if number == unfold.MAP else planes[number] for number in step.sources]
            for numbers in step.arguments:
                constant = np.array(numbers, np.int32)
                constant = constant.reshape(-1, 2) if step.kind is Tflite.PAD else constant
                sources.append(self.file.constant(f"{op.name}/{self.file.tensors}", constant))
            options = {"newShape": list(step.shape)} if step.kind is Tflite.RESHAPE else {}
            self.file.operator(step.kind, sources, moved, **options)
            planes.append(moved)
        shape = (1, mels, frames, positions)
        self.file.operator(
            Tflite.RESHAPE,
            (planes[-1], self.file.constant(f"{op.name}/shape", np.array(shape, np.int32))),
            output,
            newShape=list(shape),
        )

    def _avg_pool(self, op: AvgPoolOp, source: int, output: int) -> None:
        edge = self.graph.edges[op.input]
        if is_reduction(op, edge):
            axes = [axis for axis, size, full in zip(MAP_AXES, op.kernel, edge.shape[1:], strict=True) if size == full]
            constant = self.file.constant(f"{op.name}/axes", np.array(axes, np.int32))
            self.file.operator(Tflite.MEAN, (source, constant), output, keepDims=True)
        else:
            padded = self._pad(op, edge, source) if any(op.padding) else source
            self._pool(Tflite.AVERAGE_POOL_2D, op, padded, output)

    def _pool(self, kind: Tflite, op: MaxPoolOp | AvgPoolOp, source: int, output: int) -> None:
        self.file.operator(
            kind,
            (source,),
            output,
            padding=self.padding.VALID,
            filterHeight=op.kernel[0],
            filterWidth=op.kernel[1],
            strideH=op.stride[0],
            strideW=op.stride[1],
        )

    def _activated(self, kind: Tflite, sources: Sequence[int], op: ConvOp | AddOp, **options: int) -> None:
        """An operator and its activation: saturation in int8, fused in the float twin.

        XNNPACK does not take RELU_0_TO_1; a fused clamp to -1..1 and a RELU compute the same.
        """
        output, activations = self.index[op.output], self.file.schema.ActivationFunctionType
        if self.float_twin and op.activation == "clip01":
            raw = self._tensor(self.graph.edges[op.output], f"{op.name}/raw")
            self.file.operator(kind, sources, raw, fusedActivationFunction=activations.RELU_N1_TO_1, **options)
            self.file.operator(Tflite.RELU, (raw,), output)
        else:
            fused = activations.RELU if self.float_twin and op.activation == "relu" else activations.NONE
            self.file.operator(kind, sources, output, fusedActivationFunction=fused, **options)

    def _tensor(self, edge: Edge, name: str | None = None, shape: tuple[int, ...] | None = None) -> int:
        """An activation tensor with the quantisation of an edge; by default also with its name and its shape, NHWC."""
        channel, mel, frame = edge.shape
        name, shape = name or edge.name, shape or (1, mel, frame, channel)
        if self.float_twin:
            return self.file.tensor(name, shape, np.float32)
        return self.file.tensor(name, shape, np.int8, scale=[edge.scale], zero_point=edge.zero_point)


def _is_same(op: ConvOp, shape: Shape) -> bool:
    """Whether SAME is exactly this padding."""
    return op.padding == same_padding(shape, op.kernel, op.stride, op.dilation)
