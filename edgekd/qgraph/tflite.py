"""Writes the integer graph as a .tflite flatbuffer, without TensorFlow, in milliseconds, with bit-exact weights and
scales.

int8 NHWC in and out, in the forms that XNNPACK takes as one partition: an average over complete axes is MEAN, any other
average pool a depthwise convolution, the stem is slices and a 1x1 convolution (`tune`). Padding is SAME where that is
exactly the padding asked for, otherwise PAD and VALID (XNNPACK folds the PAD into the convolution).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never

import numpy as np
from numpy.typing import ArrayLike

from edgekd import rounding
from edgekd.operators import Tflite
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
)
from edgekd.qgraph.tune import is_reduction, pools_as_convolutions, split_stem

MAP_AXES = (1, 2)
"""The (mel, frame) axes of an NHWC tensor."""
MAX_CONCATENATED = 4
"""Inputs of one CONCATENATION that XNNPACK takes in every LiteRT that edgekd supports."""


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
            return self.file.constant(op.name, rounding.dequantize(value, edge.scale, edge.zero_point))
        return self.file.constant(op.name, value, [edge.scale], zero_point=edge.zero_point)

    def _pad(self, op: ConvOp | AvgPoolOp, edge: Edge, source: int) -> int:
        """The input padded with its zero point."""
        before_mel, after_mel, before_frame, after_frame = op.padding
        paddings = np.array([[0, 0], [before_mel, after_mel], [before_frame, after_frame], [0, 0]], np.int32)
        shape = (1, edge.shape[1] + before_mel + after_mel, edge.shape[2] + before_frame + after_frame, edge.shape[0])
        padded = self._tensor(edge, f"{op.name}/padded", shape)
        self.file.operator(Tflite.PAD, (source, self.file.constant(f"{op.name}/paddings", paddings)), padded)
        return padded

    def _unfold(self, op: UnfoldOp, source: int, output: int) -> None:
        """Fold both axes by their strides, so that what each kernel position reads is a rectangle, and cut these out
        one by one."""
        edge, (_, mels, frames) = self.graph.edges[op.input], self.graph.edges[op.output].shape
        mel, frame = (_fold(op, axis, edge.shape[axis + 1], size) for axis, size in enumerate((mels, frames)))
        padded = (mel.stride * mel.length, frame.stride * frame.length)
        paddings = np.array(
            [[op.padding[2 * axis], padded[axis] - edge.shape[axis + 1] - op.padding[2 * axis]] for axis in (0, 1)]
        )
        plane = self._moved(op, Tflite.RESHAPE, source, edge.shape[1:], edge.shape[1:])
        if paddings.any():
            plane = self._moved(op, Tflite.PAD, plane, padded, paddings)
        folded = (mel.length, mel.stride, frame.length, frame.stride)
        if folded[1::2] != (1, 1):
            plane = self._moved(op, Tflite.RESHAPE, plane, folded, folded)
            plane = self._moved(
                op, Tflite.TRANSPOSE, plane, (mel.stride, mel.length, frame.stride, frame.length), (1, 0, 3, 2)
            )
            plane = self._moved(op, Tflite.RESHAPE, plane, padded, padded)
        rows = mels * op.kernel[0]
        plane = self._stacked(
            op, [self._cut(op, plane, (start, 0), (mels, padded[1])) for start in mel.starts], (mels, padded[1])
        )
        plane = self._stacked(
            op, [self._cut(op, plane, (0, start), (rows, frames)) for start in frame.starts], (rows, frames)
        )
        by_position = (op.kernel[0] * op.kernel[1], mels * frames)
        plane = self._moved(op, Tflite.RESHAPE, plane, by_position, by_position)
        plane = self._moved(op, Tflite.TRANSPOSE, plane, by_position[::-1], (1, 0))
        shape = (1, mels, frames, by_position[0])
        self.file.operator(
            Tflite.RESHAPE,
            (plane, self.file.constant(f"{op.name}/shape", np.array(shape, np.int32))),
            output,
            newShape=list(shape),
        )

    def _moved(self, op: UnfoldOp, kind: Tflite, source: int, shape: Sequence[int], argument: ArrayLike) -> int:
        """The tensor of an operator that only moves values. argument: int32 constant, its second input."""
        moved = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", tuple(shape))
        constant = self.file.constant(f"{op.name}/{self.file.tensors}", np.array(argument, np.int32))
        options = {"newShape": list(shape)} if kind is Tflite.RESHAPE else {}
        self.file.operator(kind, (source, constant), moved, **options)
        return moved

    def _cut(self, op: UnfoldOp, source: int, start: tuple[int, int], shape: tuple[int, int]) -> int:
        """A rectangle of a plane."""
        cut = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", shape)
        constants = [
            self.file.constant(f"{op.name}/{self.file.tensors}", np.array(values, np.int32))
            for values in (start, shape)
        ]
        self.file.operator(Tflite.SLICE, (source, *constants), cut)
        return cut

    def _stacked(self, op: UnfoldOp, parts: list[int], shape: tuple[int, int]) -> int:
        """Planes of one shape stacked along the first axis, `MAX_CONCATENATED` at a time."""
        rows = [shape[0]] * len(parts)
        while len(parts) > 1:
            groups = range(0, len(parts), MAX_CONCATENATED)
            heights = [sum(rows[start : start + MAX_CONCATENATED]) for start in groups]
            parts = [
                self._concatenated(op, parts[start : start + MAX_CONCATENATED], (height, shape[1]))
                for start, height in zip(groups, heights, strict=True)
            ]
            rows = heights
        return parts[0]

    def _concatenated(self, op: UnfoldOp, parts: list[int], shape: tuple[int, int]) -> int:
        if len(parts) == 1:
            return parts[0]
        stacked = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", shape)
        self.file.operator(Tflite.CONCATENATION, parts, stacked, axis=0)
        return stacked

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


class _Fold(NamedTuple):
    """One axis as (length, stride) in place of length * stride values. starts: where each kernel position begins once
    the axis is (stride, length)."""

    stride: int
    length: int
    starts: tuple[int, ...]


def _fold(op: UnfoldOp, axis: int, size: int, out: int) -> _Fold:
    """size: of the axis without padding. out: size of the output."""
    stride, padded = op.stride[axis], size + op.padding[2 * axis] + op.padding[2 * axis + 1]
    offsets = [position * op.dilation[axis] for position in range(op.kernel[axis])]
    length = max(offsets[-1] // stride + out, -(-padded // stride))
    return _Fold(stride, length, tuple(each % stride * length + each // stride for each in offsets))


def _is_same(op: ConvOp, shape: Shape) -> bool:
    """Whether SAME is exactly this padding: as many zeros before the map and the same output size, and so as many zeros
    after it."""
    for axis in (0, 1):
        size, stride = shape[axis + 1], op.stride[axis]
        span = op.dilation[axis] * (op.kernel[axis] - 1) + 1
        before, after = op.padding[2 * axis : 2 * axis + 2]
        out = -(-size // stride)
        if (
            before != max((out - 1) * stride + span - size, 0) // 2
            or (size + before + after - span) // stride + 1 != out
        ):
            return False
    return True
