"""The integer graph as a .tflite flatbuffer, written directly: no TensorFlow, milliseconds, weights and scales
bit-exact.

int8 NHWC in and out, in the forms that XNNPACK takes as one partition: an average over whole axes is MEAN, any other
average pool a depthwise convolution, the stem is slices and a 1x1 convolution (`tune`). Padding is SAME where that is
exactly the padding asked for, otherwise PAD and VALID (XNNPACK folds the PAD into the convolution).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from edgekd import rounding
from edgekd.qgraph.flatbuffer import FlatbufferWriter
from edgekd.qgraph.graph import Add, AvgPool, Constant, Conv, Edge, MaxPool, Mul, Op, QGraph, Sigmoid, Taps, op_inputs
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
    return _Emitter(graph if float_twin else split_stem(pools_as_convolutions(graph, is_reduction)), float_twin).model()


class _Emitter:
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
            if isinstance(op, Constant):
                self.index[op.output] = self._constant(op)
                continue
            self.index[op.output] = self._tensor(self.graph.edges[op.output])
            self._op(op, [self.index[name] for name in op_inputs(op)], self.index[op.output])
        output = self.graph.edges[self.graph.output]
        shape = [-1, output.shape[0]]
        logits = self._tensor(output, "logits", (1, output.shape[0]))
        sources = self.index[self.graph.output], self.file.constant("logits_shape", np.array(shape, np.int32))
        self.file.operator("RESHAPE", sources, logits, "Reshape", newShape=shape)
        return self.file.pack([self.index[self.graph.input]], [logits])

    def _op(self, op: Op, sources: list[int], output: int) -> None:
        if isinstance(op, Conv):
            self._conv(op, sources[0])
        elif isinstance(op, AvgPool):
            self._avg_pool(op, sources[0], output)
        elif isinstance(op, MaxPool):
            self._pool("MAX_POOL_2D", op, sources[0], output)
        elif isinstance(op, Taps):
            self._taps(op, sources[0], output)
        elif isinstance(op, Sigmoid):
            self.file.operator("LOGISTIC", sources, output)
        elif isinstance(op, Mul):
            self.file.operator("MUL", sources, output, "Mul")
        elif isinstance(op, Add):
            self._activated("ADD", sources, op, "Add")

    def _conv(self, op: Conv, source: int) -> None:
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
            self._activated(
                "DEPTHWISE_CONV_2D", (source, *constants), op, "DepthwiseConv2D", depthMultiplier=multiplier, **options
            )
        else:
            self._activated("CONV_2D", (source, *constants), op, "Conv2D", **options)

    def _constant(self, op: Constant) -> int:
        """A trained edge as a constant tensor, NHWC."""
        edge, value = self.graph.edges[op.output], np.ascontiguousarray(op.value.transpose(1, 2, 0)[None])
        if self.float_twin:
            return self.file.constant(op.name, rounding.dequantize(value, edge.scale, edge.zero_point))
        return self.file.constant(op.name, value, [edge.scale], zero_point=edge.zero_point)

    def _pad(self, op: Conv | AvgPool, edge: Edge, source: int) -> int:
        """Pad with the zero point; the padded tensor."""
        before_mel, after_mel, before_frame, after_frame = op.padding
        paddings = np.array([[0, 0], [before_mel, after_mel], [before_frame, after_frame], [0, 0]], np.int32)
        shape = (1, edge.shape[1] + before_mel + after_mel, edge.shape[2] + before_frame + after_frame, edge.shape[0])
        padded = self._tensor(edge, f"{op.name}/padded", shape)
        self.file.operator("PAD", (source, self.file.constant(f"{op.name}/paddings", paddings)), padded, "Pad")
        return padded

    def _taps(self, op: Taps, source: int, output: int) -> None:
        """Fold both axes by their strides, so that what a kernel position sees is a rectangle, and cut out one after
        the other."""
        edge, (_, mels, frames) = self.graph.edges[op.input], self.graph.edges[op.output].shape
        mel, frame = (_fold(op, axis, edge.shape[axis + 1], size) for axis, size in enumerate((mels, frames)))
        padded = (mel.stride * mel.length, frame.stride * frame.length)
        paddings = np.array(
            [[op.padding[2 * axis], padded[axis] - edge.shape[axis + 1] - op.padding[2 * axis]] for axis in (0, 1)]
        )
        plane = self._moved(op, "RESHAPE", source, edge.shape[1:], edge.shape[1:])
        if paddings.any():
            plane = self._moved(op, "PAD", plane, padded, paddings)
        folded = (mel.length, mel.stride, frame.length, frame.stride)
        if folded[1::2] != (1, 1):
            plane = self._moved(op, "RESHAPE", plane, folded, folded)
            plane = self._moved(
                op, "TRANSPOSE", plane, (mel.stride, mel.length, frame.stride, frame.length), (1, 0, 3, 2)
            )
            plane = self._moved(op, "RESHAPE", plane, padded, padded)
        rows = mels * op.kernel[0]
        plane = self._stacked(
            op, [self._cut(op, plane, (start, 0), (mels, padded[1])) for start in mel.starts], (mels, padded[1])
        )
        plane = self._stacked(
            op, [self._cut(op, plane, (0, start), (rows, frames)) for start in frame.starts], (rows, frames)
        )
        by_tap = (op.kernel[0] * op.kernel[1], mels * frames)
        plane = self._moved(op, "RESHAPE", plane, by_tap, by_tap)
        plane = self._moved(op, "TRANSPOSE", plane, by_tap[::-1], (1, 0))
        shape = (1, mels, frames, by_tap[0])
        self.file.operator(
            "RESHAPE",
            (plane, self.file.constant(f"{op.name}/shape", np.array(shape, np.int32))),
            output,
            "Reshape",
            newShape=list(shape),
        )

    def _moved(self, op: Taps, name: str, source: int, shape: Sequence[int], argument: Any) -> int:
        """The tensor of an operator that moves values and computes none; its argument is a constant."""
        moved = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", tuple(shape))
        constant = self.file.constant(f"{op.name}/{self.file.tensors}", np.array(argument, np.int32))
        options = {"newShape": list(shape)} if name == "RESHAPE" else {}
        self.file.operator(name, (source, constant), moved, name.capitalize(), **options)
        return moved

    def _cut(self, op: Taps, source: int, start: tuple[int, int], shape: tuple[int, int]) -> int:
        """A rectangle of a plane."""
        cut = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", shape)
        constants = [
            self.file.constant(f"{op.name}/{self.file.tensors}", np.array(values, np.int32))
            for values in (start, shape)
        ]
        self.file.operator("SLICE", (source, *constants), cut, "Slice")
        return cut

    def _stacked(self, op: Taps, parts: list[int], shape: tuple[int, int]) -> int:
        """Planes of one shape, one below the other; at most `MAX_CONCATENATED` at a time."""
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

    def _concatenated(self, op: Taps, parts: list[int], shape: tuple[int, int]) -> int:
        if len(parts) == 1:
            return parts[0]
        stacked = self._tensor(self.graph.edges[op.input], f"{op.name}/{self.file.tensors}", shape)
        self.file.operator("CONCATENATION", parts, stacked, "Concatenation", axis=0)
        return stacked

    def _avg_pool(self, op: AvgPool, source: int, output: int) -> None:
        edge = self.graph.edges[op.input]
        if is_reduction(op, edge):
            axes = [
                axis for axis, size, whole in zip(MAP_AXES, op.kernel, edge.shape[1:], strict=True) if size == whole
            ]
            constant = self.file.constant(f"{op.name}/axes", np.array(axes, np.int32))
            self.file.operator("MEAN", (source, constant), output, "Reducer", keepDims=True)
        else:
            self._pool("AVERAGE_POOL_2D", op, self._pad(op, edge, source) if any(op.padding) else source, output)

    def _pool(self, name: str, op: MaxPool | AvgPool, source: int, output: int) -> None:
        self.file.operator(
            name,
            (source,),
            output,
            "Pool2D",
            padding=self.padding.VALID,
            filterHeight=op.kernel[0],
            filterWidth=op.kernel[1],
            strideH=op.stride[0],
            strideW=op.stride[1],
        )

    def _activated(self, name: str, sources: Sequence[int], op: Conv | Add, kind: str, **options: int) -> None:
        """An operator and its activation: saturation in int8, fused in the float twin.

        XNNPACK does not take RELU_0_TO_1, but the same as a fused clamp to -1..1 and a RELU.
        """
        output, kinds = self.index[op.output], self.file.schema.ActivationFunctionType
        if self.float_twin and op.activation == "clip01":
            raw = self._tensor(self.graph.edges[op.output], f"{op.name}/raw")
            self.file.operator(name, sources, raw, kind, fusedActivationFunction=kinds.RELU_N1_TO_1, **options)
            self.file.operator("RELU", (raw,), output)
        else:
            fused = kinds.RELU if self.float_twin and op.activation == "relu" else kinds.NONE
            self.file.operator(name, sources, output, kind, fusedActivationFunction=fused, **options)

    def _tensor(self, edge: Edge, name: str | None = None, shape: tuple[int, ...] | None = None) -> int:
        """An activation tensor with the quantisation of an edge; by default also with its name and its shape, NHWC."""
        channel, mel, frame = edge.shape
        name, shape = name or edge.name, shape or (1, mel, frame, channel)
        if self.float_twin:
            return self.file.tensor(name, shape, np.float32)
        return self.file.tensor(name, shape, np.int8, scale=[edge.scale], zero_point=edge.zero_point)


class _Fold(NamedTuple):
    """One axis as (length, stride) instead of length * stride values; starts: of each kernel position once that is
    (stride, length)."""

    stride: int
    length: int
    starts: tuple[int, ...]


def _fold(op: Taps, axis: int, size: int, out: int) -> _Fold:
    """size: of the axis without padding. out: of what the kernel gives."""
    stride, padded = op.stride[axis], size + op.padding[2 * axis] + op.padding[2 * axis + 1]
    at = [position * op.dilation[axis] for position in range(op.kernel[axis])]
    length = max(at[-1] // stride + out, -(-padded // stride))
    return _Fold(stride, length, tuple(each % stride * length + each // stride for each in at))


def _is_same(op: Conv, shape: tuple[int, int, int]) -> bool:
    """Whether SAME gives exactly this padding: its zeros before the map and its output size; what follows is then equal
    too."""
    for axis in (0, 1):
        size, stride = shape[axis + 1], op.stride[axis]
        span = op.dilation[axis] * (op.weight.shape[axis + 2] - 1) + 1
        before, after = op.padding[2 * axis : 2 * axis + 2]
        out = -(-size // stride)
        if (
            before != max((out - 1) * stride + span - size, 0) // 2
            or (size + before + after - span) // stride + 1 != out
        ):
            return False
    return True
