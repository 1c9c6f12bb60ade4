"""Reads the integer graph in a .tflite file that edgekd wrote, as it is in the file: stems are unfolded, pools are
convolutions. Standard library and numpy only.

Whatever edgekd does not write is refused, so that no other model is taken for one of its own.
"""

from math import prod

import numpy as np

from edgekd.operators import Tflite
from edgekd.qgraph.graph import (
    NO_PADDING,
    AddOp,
    AvgPoolOp,
    ConstantOp,
    ConvOp,
    Edge,
    MaxPoolOp,
    MulOp,
    Op,
    Padding,
    QGraph,
    SigmoidOp,
    same_padding,
)
from edgekd.qgraph.tflite_file import Operator, TfliteFile
from edgekd.qgraph.unfold import MAP, Step, unfolded
from edgekd.tflite_tables import (
    DEPTHWISE_DILATIONS,
    DILATIONS,
    FILTER,
    FLOAT32,
    INT8,
    INT32,
    KEEP_DIMS,
    PADDING,
    SAME,
    STRIDES,
    VALID,
)

FUSED_ACTIVATION = {
    Tflite.CONV_2D: 3,
    Tflite.DEPTHWISE_CONV_2D: 4,
    Tflite.MAX_POOL_2D: 5,
    Tflite.ADD: 0,
    Tflite.MUL: 0,
    Tflite.CONCATENATION: 1,
}
"""Operator -> field number in its options. edgekd fuses none in int8."""
DEPTH_MULTIPLIER, CONCATENATION_AXIS = 3, 0
"""Field numbers in options."""
MOVES = frozenset({Tflite.RESHAPE, Tflite.PAD, Tflite.TRANSPOSE, Tflite.SLICE, Tflite.CONCATENATION})
MAP_RANK = 4


def read(content: bytes) -> QGraph:
    """The graph in the bytes of a .tflite file.

    Raises:
        ValueError, LookupError, struct.error: edgekd did not write it, or it is damaged.
    """
    return _TfliteReader(TfliteFile(content)).graph()


class _TfliteReader:
    """Reads operators in their order.

    names: tensor -> edge. padded: tensor -> the tensor that it holds with padding, and the padding. unfolding: tensor
    that is being unfolded. steps: of that, so far. moved: tensor -> the step that wrote it, or `MAP`.
    """

    def __init__(self, file: TfliteFile) -> None:
        self.file = file
        self.edges: dict[str, Edge] = {}
        self.ops: list[Op] = []
        self.names: dict[int, str] = {}
        self.padded: dict[int, tuple[int, Padding]] = {}
        self.unfolding = -1
        self.steps: list[Step] = []
        self.moved: dict[int, int] = {}

    def graph(self) -> QGraph:
        """Read every operator; the last one flattens the logits."""
        if self.file.type(self.file.input) == FLOAT32:
            raise ValueError("it computes in float32; give the int8 file")
        source, last = self._edge(self.file.input), self.file.operators - 1
        for index in range(last):
            self._operator(self.file.operator(index))
        flatten = self.file.operator(last)
        output = self._read(flatten.inputs[0])
        if (
            flatten.kind is not Tflite.RESHAPE
            or flatten.output != self.file.output
            or self.file.shape(flatten.output) != (1, prod(output.shape))
        ):
            raise ValueError("its last operator does not flatten the logits")
        self._check_same(flatten.output, output)
        return QGraph(self.edges, tuple(self.ops), source.name, output.name)

    def _operator(self, op: Operator) -> None:
        """Read one operator, whose output becomes an edge where it is not part of another op."""
        number = FUSED_ACTIVATION.get(op.kind)
        if number is not None and self.file.option(op, number, "b"):
            raise ValueError(f"{op.kind.name} '{self.file.name(op.output)}' has a fused activation")
        if op.kind is Tflite.PAD and len(self.file.shape(op.output)) == MAP_RANK:
            self._pad(op)
        elif op.kind in MOVES:
            self._move(op)
        else:
            self.ops.append(self._computed(op))

    def _computed(self, op: Operator) -> Op:
        if op.kind in (Tflite.CONV_2D, Tflite.DEPTHWISE_CONV_2D):
            return self._conv(op)
        if op.kind in (Tflite.ADD, Tflite.MUL):
            first, second = (self._read(tensor).name for tensor in op.inputs)
            name = self._edge(op.output).name
            return (AddOp if op.kind is Tflite.ADD else MulOp)(name, (first, second), name)
        source = self._read(op.inputs[0])
        name = self._edge(op.output).name
        if op.kind is Tflite.LOGISTIC:
            return SigmoidOp(name, source.name, name)
        if op.kind is Tflite.MEAN:
            return self._mean(op, source, name)
        if op.kind is Tflite.MAX_POOL_2D and self.file.option(op, PADDING, "b") == VALID:
            return MaxPoolOp(name, source.name, name, self._pair(op, FILTER), self._pair(op, STRIDES))
        raise ValueError(f"{op.kind.name} '{name}' is none that edgekd writes in int8")

    def _conv(self, op: Operator) -> ConvOp:
        depthwise = op.kind is Tflite.DEPTHWISE_CONV_2D
        tensor, padding = self.padded.get(op.inputs[0], (op.inputs[0], NO_PADDING))
        source, (_, weights, biases) = self._read(tensor), op.inputs
        output, axis = self._edge(op.output), 3 if depthwise else 0
        # (out, mel, frame, in / groups) or, depthwise, (1, mel, frame, out) to (out, in / groups, mel, frame)
        stored = self.file.values(weights, INT8)
        weight = np.ascontiguousarray(stored.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
        out, in_group, mel, frame = weight.shape
        scale = self._scales(weights, out, axis)
        bias = self.file.values(biases, INT32).astype(np.int32)
        if not np.array_equal(self._scales(biases, out, 0), np.float32(source.scale) * scale):
            raise ValueError(f"the bias of '{output.name}' has another scale than input times weights")
        if depthwise and self.file.option(op, DEPTH_MULTIPLIER) * source.shape[0] != out:
            raise ValueError(f"'{output.name}' has another depth multiplier than its weights")
        stride = self._pair(op, STRIDES)
        dilation = self._pair(op, DEPTHWISE_DILATIONS if depthwise else DILATIONS, 1)
        if self.file.option(op, PADDING, "b") == SAME:
            if padding != NO_PADDING:
                raise ValueError(f"'{output.name}' is padded twice")
            padding = same_padding(source.shape, (mel, frame), stride, dilation)
        groups = source.shape[0] if depthwise else source.shape[0] // in_group
        return ConvOp(output.name, source.name, output.name, weight, scale, bias, stride, padding, dilation, groups)

    def _mean(self, op: Operator, source: Edge, name: str) -> AvgPoolOp:
        """A pool over complete axes, whose stride is not in the file: the kernel's size, as of every such pool that
        lowering makes."""
        axes = self.file.values(op.inputs[1], INT32).reshape(-1).tolist()
        if not self.file.option(op, KEEP_DIMS, "B") or not axes or not {*axes} <= {1, 2}:
            raise ValueError(f"MEAN '{name}' over axes {axes}")
        kernel = (source.shape[1] if 1 in axes else 1, source.shape[2] if 2 in axes else 1)
        return AvgPoolOp(name, source.name, name, kernel, kernel)

    def _pad(self, op: Operator) -> None:
        """Padding, which is part of the convolution that reads it."""
        source = self._read(op.inputs[0])
        pads = self.file.values(op.inputs[1], INT32).reshape(-1).tolist()
        if len(pads) != 2 * MAP_RANK or any(pads[:2] + pads[6:]):
            raise ValueError(f"PAD '{self.file.name(op.output)}' with {pads}")
        self._check_same(op.output, source)
        self.padded[op.output] = op.inputs[0], (pads[2], pads[3], pads[4], pads[5])

    def _move(self, op: Operator) -> None:
        """One step of an unfolded kernel. It begins with a map that becomes a plane and ends with a plane that becomes
        a map."""
        shape = self.file.shape(op.output)
        ends = self.steps and op.kind is Tflite.RESHAPE and self.steps[-1].kind is Tflite.TRANSPOSE
        if ends and len(shape) == MAP_RANK:
            if self.moved.get(op.inputs[0]) != len(self.steps) - 1:
                raise ValueError(f"'{self.file.name(op.output)}' leaves out a step of an unfolded kernel")
            self._check_same(op.output, source := self._read(self.unfolding))
            self.ops.append(unfolded(source, self._edge(op.output), self.steps))
            self.steps, self.moved = [], {}
            return
        if not self.steps:
            self.unfolding, self.moved = op.inputs[0], {op.inputs[0]: MAP}
        self._check_same(op.output, self._read(self.unfolding))
        sources = len(op.inputs) if op.kind is Tflite.CONCATENATION else 1
        if not self.moved.keys() >= {*op.inputs[:sources]}:
            raise ValueError(f"'{self.file.name(op.output)}' is no step of an unfolded kernel")
        if op.kind is Tflite.CONCATENATION and self.file.option(op, CONCATENATION_AXIS):
            raise ValueError(f"'{self.file.name(op.output)}' is stacked along another axis than the first")
        arguments = tuple(tuple(self.file.values(tensor, INT32).reshape(-1).tolist()) for tensor in op.inputs[sources:])
        self.steps.append(Step(op.kind, tuple(self.moved[each] for each in op.inputs[:sources]), shape, arguments))
        self.moved[op.output] = len(self.steps) - 1

    def _pair(self, op: Operator, numbers: tuple[int, int], default: int = 0) -> tuple[int, int]:
        """Two options: (mel, frame)."""
        mel, frame = (self.file.option(op, number, default=default) for number in numbers)
        if min(mel, frame) < 1:
            raise ValueError(f"{op.kind.name} '{self.file.name(op.output)}' has a stride, window or dilation below 1")
        return mel, frame

    def _read(self, tensor: int) -> Edge:
        """The edge of a tensor that an operator reads. A constant becomes an op right before its first reader."""
        if tensor not in self.names and self.file.is_constant(tensor):
            edge, value = self._edge(tensor), self.file.values(tensor, INT8)[0]  # (mel, frame, channel)
            self.ops.append(ConstantOp(edge.name, edge.name, np.ascontiguousarray(value.transpose(2, 0, 1))))
        if tensor not in self.names:
            raise ValueError(f"'{self.file.name(tensor)}' is read and not written")
        return self.edges[self.names[tensor]]

    def _edge(self, tensor: int) -> Edge:
        """Add the edge of a tensor (1, mel, frame, channel)."""
        name, (batch, mel, frame, channel) = self.file.name(tensor), self.file.shape(tensor)
        scales, zero_points, _ = self.file.quantisation(tensor)
        if name in self.edges or batch != 1 or self.file.type(tensor) != INT8 or len(scales) != 1:
            raise ValueError(f"'{name}' has a name twice, a batch of {batch}, another type than int8 or no one scale")
        self.names[tensor] = name
        self.edges[name] = Edge(name, (channel, mel, frame), scales[0], zero_points[0])
        return self.edges[name]

    def _scales(self, tensor: int, channels: int, axis: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Scales of a constant without zero points, one for each channel along an axis."""
        scales, zero_points, along = self.file.quantisation(tensor)
        if len(scales) != channels or any(zero_points) or (along != axis and channels > 1):
            raise ValueError(f"'{self.file.name(tensor)}' has not one scale for each of {channels} channels")
        return np.array(scales, np.float32)

    def _check_same(self, tensor: int, edge: Edge) -> None:
        """Refuse a tensor of moved values with another quantisation than theirs."""
        scales, zero_points, _ = self.file.quantisation(tensor)
        if (scales, zero_points) != ((edge.scale,), (edge.zero_point,)) or self.file.type(tensor) != INT8:
            raise ValueError(f"'{self.file.name(tensor)}' has another quantisation than '{edge.name}'")
