"""Reads the integer graph in an .onnx file that edgekd wrote, as it is in the file: stems are unfolded, pools are
convolutions. Standard library and numpy only.

Activations are uint8 in the file (`onnx`) and int8 in the graph. Whatever edgekd does not write is refused, so that no
other model is taken for one of its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.operators import Onnx
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
    Shape,
    SigmoidOp,
    UnfoldOp,
)
from edgekd.qgraph.onnx import SCALE_NOTE, UINT8_OFFSET
from edgekd.qgraph.onnx_file import DTYPES, FLOAT, INT8, INT32, INT64, UINT8, Node, OnnxFile

NEAR = 1e-3
"""Largest relative difference between the scale with which an addition reads an edge and the edge's own."""
MEL_AXIS, FRAME_AXIS = 2, 3
"""Of a tensor (batch, channel, mel, frame)."""
MOVES = frozenset({Onnx.MaxPool, Onnx.Pad, Onnx.Slice, Onnx.Concat})
"""Operators whose output keeps the quantisation of their first input."""
COMPUTES = frozenset({Onnx.Conv, Onnx.Add, Onnx.Mul, Onnx.Sigmoid, Onnx.GlobalAveragePool})
"""Operators on real values, whose output a QuantizeLinear reads."""


def read(content: bytes) -> QGraph:
    """The graph in the bytes of an .onnx file.

    Raises:
        ValueError, LookupError, DamagedError: edgekd did not write it, or it is damaged.
    """
    return _OnnxReader(OnnxFile(content)).graph()


class _Cut(NamedTuple):
    """A Slice of one axis."""

    source: str
    axis: int
    start: int
    end: int
    step: int


class _Taps(NamedTuple):
    """The kernel positions of one axis of an unfolded kernel. size: of the output."""

    kernel: int
    stride: int
    dilation: int
    size: int


class _OnnxReader:
    """Reads nodes in their order.

    quantisation: scale and zero point by `_root`. reals: real values of an edge -> the DequantizeLinear. computed: real
    values -> the node that computes them. padded, cuts, rows: tensors of a kernel that is being unfolded, where rows
    are the stacked cuts of the mel axis.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.edges: dict[str, Edge] = {}
        self.ops: list[Op] = []
        self.roots: dict[str, str] = {}
        self.quantisation: dict[str, tuple[float, int]] = {}
        self.reals: dict[str, Node] = {}
        self.computed: dict[str, Node] = {}
        self.padded: dict[str, tuple[str, Padding]] = {}
        self.cuts: dict[str, _Cut] = {}
        self.rows: dict[str, tuple[str, ...]] = {}

    def graph(self) -> QGraph:
        """Read every node; the last one flattens the logits."""
        name, shape, note = self.file.input
        self._quantise(name, note)
        self._edge(name, shape)
        *nodes, flatten = self.file.nodes
        for node in nodes:
            self._node(node)
        if flatten.kind is not Onnx.Flatten or flatten.output != self.file.output or flatten.number("axis") != 1:
            raise ValueError("its last node does not flatten the logits")
        return QGraph(self.edges, tuple(self.ops), name, self._read(flatten.inputs[0]).name)

    def _quantise(self, source: str, note: str) -> None:
        """Find the quantisation of every tensor: that of its quantiser, or of its dequantisers besides those that
        additions read, or the one that its documentation keeps."""
        added = {name for node in self.file.nodes if node.kind is Onnx.Add for name in node.inputs}
        notes = {source: note} | {name: constant.note for name, constant in self.file.constants.items()}
        found: dict[str, set[tuple[float, int]]] = {}
        for node in self.file.nodes:
            if node.kind in MOVES:
                self.roots[node.output] = self._root(node.inputs[0])
            if node.kind not in (Onnx.QuantizeLinear, Onnx.DequantizeLinear) or node.attributes:
                continue
            tensor = node.output if node.kind is Onnx.QuantizeLinear else node.inputs[0]
            scale, zero_point = self._scalar(node.inputs[1], FLOAT), int(self._scalar(node.inputs[2], UINT8))
            root = self._root(tensor)
            if node.output in added:
                kept = notes.get(root, "")
                if not kept.startswith(SCALE_NOTE):
                    continue
                scale = float(kept.removeprefix(SCALE_NOTE))
            found.setdefault(root, set()).add((scale, zero_point - UINT8_OFFSET))
        for root, values in found.items():
            if len(values) != 1:
                raise ValueError(f"'{root}' is read with {len(values)} scales and zero points")
            (self.quantisation[root],) = values

    def _scalar(self, name: str, kind: int) -> float:
        """The value of a constant without axes."""
        values = self.file.values(name, kind)
        if values.shape != ():
            raise ValueError(f"'{name}' is no single number")
        return float(values)

    def _root(self, name: str) -> str:
        """The tensor whose values another one has in other places."""
        return self.roots.get(name, name)

    def _node(self, node: Node) -> None:
        if node.kind is Onnx.DequantizeLinear:
            self.reals[node.output] = node
        elif node.kind in COMPUTES:
            self.computed[node.output] = node
        elif node.kind is Onnx.QuantizeLinear:
            self._quantised(self.computed[node.inputs[0]], node.output)
        elif node.kind is Onnx.MaxPool:
            source = self._read(node.inputs[0])
            kernel, stride = node.pair("kernel_shape"), node.pair("strides")
            if any(node.attributes.get("pads", ())):
                raise ValueError(f"MaxPool '{node.output}' has pads")
            self._add(MaxPoolOp(node.output, source.name, node.output, kernel, stride))
        elif node.kind is Onnx.Pad:
            self._pad(node)
        elif node.kind is Onnx.Slice:
            start, end, axis, step = (self._one_of(name) for name in node.inputs[1:])
            self.cuts[node.output] = _Cut(node.inputs[0], axis, start, end, step)
        elif node.kind is Onnx.Concat and node.number("axis") == 1:
            self._stack(node)
        else:
            raise ValueError(f"{node.kind.name} '{node.output}' is none that edgekd writes in int8")

    def _quantised(self, node: Node, name: str) -> None:
        """Add the op of a node on real values."""
        sources = [self._real(each, node.kind) for each in node.inputs[: 1 if node.kind is Onnx.Conv else None]]
        match node.kind:
            case Onnx.Conv:
                op: Op = self._conv(node, self.edges[sources[0]], name)
            case Onnx.Sigmoid:
                op = SigmoidOp(name, sources[0], name)
            case Onnx.GlobalAveragePool:
                _, mel, frame = self.edges[sources[0]].shape
                op = AvgPoolOp(name, sources[0], name, (mel, frame), (mel, frame))
            case Onnx.Mul:
                op = MulOp(name, (sources[0], sources[1]), name)
            case _:
                op = AddOp(name, (sources[0], sources[1]), name)
        self._add(op)

    def _conv(self, node: Node, source: Edge, name: str) -> ConvOp:
        weight, scale = self._parameters(node.inputs[1], INT8)
        bias, bias_scale = self._parameters(node.inputs[2], INT32)
        if not np.array_equal(bias_scale, np.float32(source.scale) * scale):
            raise ValueError(f"the bias of '{name}' has another scale than input times weights")
        if node.pair("kernel_shape") != weight.shape[2:]:
            raise ValueError(f"Conv '{name}' has a kernel of another shape than its weights")
        return ConvOp(
            name,
            source.name,
            name,
            weight,
            scale,
            bias,
            node.pair("strides"),
            node.padding(),
            node.pair("dilations"),
            node.number("group"),
        )

    def _parameters(self, real: str, kind: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Integers of weights or biases, and their scales."""
        node = self.reals[real]
        values, scale = self.file.values(node.inputs[0], kind), self.file.values(node.inputs[1], FLOAT)
        if np.any(self.file.values(node.inputs[2], kind)) or node.number("axis") or scale.shape != values.shape[:1]:
            raise ValueError(f"'{node.inputs[0]}' has zero points, or not one scale for each output channel")
        return values.astype(DTYPES[kind][1:]), scale.astype(np.float32)

    def _pad(self, node: Node) -> None:
        source, pads = self._read(node.inputs[0]), self.file.values(node.inputs[1], INT64).reshape(-1).tolist()
        batch, channel, before_mel, before_frame, *ends = pads
        if (
            batch
            or channel
            or len(ends) != 4
            or any(ends[:2])
            or self._scalar(node.inputs[2], UINT8) != source.zero_point + UINT8_OFFSET
        ):
            raise ValueError(f"Pad '{node.output}' with {pads} or another value than zero")
        self.padded[node.output] = source.name, (before_mel, ends[2], before_frame, ends[3])

    def _stack(self, node: Node) -> None:
        """Stacked cuts: of the mel axis, then of the frame axis, which ends an unfolded kernel."""
        if self.cuts[node.inputs[0]].axis == MEL_AXIS:
            self.rows[node.output] = node.inputs
            return
        frame, rows = self._taps(node.inputs, FRAME_AXIS)
        mel, plane = self._taps(self.rows[rows], MEL_AXIS)
        source, padding = self.padded.get(plane, (plane, NO_PADDING))
        op = UnfoldOp(
            node.output,
            self._read(source).name,
            node.output,
            (mel.kernel, frame.kernel),
            (mel.stride, frame.stride),
            padding,
            (mel.dilation, frame.dilation),
        )
        self._add(op)
        if self.edges[node.output].shape[1:] != (mel.size, frame.size):
            raise ValueError(f"what writes '{node.output}' is no unfolded kernel")

    def _taps(self, names: Sequence[str], axis: int) -> tuple[_Taps, str]:
        """The kernel positions of one axis, and the tensor that they are cut from."""
        cuts = [self.cuts[name] for name in names]
        first, dilation = cuts[0], cuts[1].start if len(cuts) > 1 else 1
        span = first.end - first.start
        expected = [
            _Cut(first.source, axis, number * dilation, number * dilation + span, first.step)
            for number in range(len(cuts))
        ]
        if cuts != expected or first.step < 1 or dilation < 1:
            raise ValueError(f"what '{names[0]}' is stacked with is no unfolded kernel")
        return _Taps(len(cuts), first.step, dilation, (span - 1) // first.step + 1), first.source

    def _one_of(self, name: str) -> int:
        """The value of a constant int64 vector of one number."""
        (value,) = self.file.values(name, INT64).reshape(-1).tolist()
        return int(value)

    def _real(self, name: str, reader: Onnx) -> str:
        """The edge whose real values a node reads."""
        node = self.reals[name]
        edge = self._read(node.inputs[0])
        scale = self._scalar(node.inputs[1], FLOAT)
        if reader is Onnx.Add and not abs(scale / edge.scale - 1) <= NEAR:
            raise ValueError(f"'{edge.name}' is added with another scale, {scale} in place of {edge.scale}")
        return edge.name

    def _read(self, name: str) -> Edge:
        """The edge of a tensor that a node reads. A constant becomes an op right before its first reader."""
        if name not in self.edges and name in self.file.constants:
            values = self.file.values(name, UINT8)[0].astype(np.int16) - UINT8_OFFSET  # (channel, mel, frame)
            self._add(ConstantOp(name, name, values.astype(np.int8)))
        return self.edges[name]

    def _add(self, op: Op) -> None:
        """Append an op and add the edge that it writes."""
        self.ops.append(op)
        self._edge(op.output, op.shape([self.edges[name].shape for name in op.sources]))

    def _edge(self, name: str, shape: Shape) -> None:
        root = self._root(name)
        if name in self.edges or root not in self.quantisation or min(shape) < 1:
            raise ValueError(f"'{name}' of shape {shape} is written twice, empty, or without a scale in the file")
        self.edges[name] = Edge(name, shape, *self.quantisation[root])
