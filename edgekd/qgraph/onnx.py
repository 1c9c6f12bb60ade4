"""Writes the integer graph as an ONNX model in QDQ form. ONNX Runtime fuses all of it: at run time no float operator is
left.

Activations are uint8 everywhere (int8 relabelled: value and zero point + 128, exact), because ONNX Runtime is slow on
int8 ones and does not fuse mixed types. Weights are int8, symmetric, per channel; biases int32. The model reads and
writes uint8.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import MissingExtraError
from edgekd.operators import Onnx
from edgekd.qgraph import addition
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
    SigmoidOp,
    UnfoldOp,
)
from edgekd.qgraph.tune import is_global, pools_as_convolutions, split_stem

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET = 13
"""The first with per-channel QuantizeLinear; every ONNX Runtime that edgekd supports reads it."""
IR_VERSION = 7
UINT8_OFFSET = 128
SCALE_NOTE = "scale "
"""Begins the documentation of the input and of each constant that stands for an edge. No quantiser writes these edges,
and where only additions read them, only this holds their scale (`addition`)."""
BATCH = "batch"


def emit(graph: QGraph, float_twin: bool = False) -> bytes:
    """Write a graph as an ONNX model.

    Args:
        graph: a validated graph.
        float_twin: float32 with dequantised weights instead: the honest baseline.

    Returns:
        The model: input (batch, channel, mel, frame), output (batch, labels), both uint8 or both float32.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    return _OnnxEmitter(
        graph if float_twin else split_stem(pools_as_convolutions(graph, is_global)), float_twin
    ).model()


class _OnnxEmitter:
    """Writes the ops of one graph in order. An edge's tensor bears the edge's name."""

    def __init__(self, graph: QGraph, float_twin: bool) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError:
            raise MissingExtraError("onnx", "check") from None
        self.helper, self.numpy_helper = helper, numpy_helper
        self.graph = graph
        self.float_twin = float_twin
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def model(self) -> bytes:
        """Emit every op, then flatten the logits."""
        for op in self.graph.ops:
            self._op(op)
        source, output = self.graph.edges[self.graph.input], self.graph.edges[self.graph.output]
        self._node(Onnx.Flatten, [output.name], "logits", axis=1)
        dtype = self.helper.np_dtype_to_tensor_dtype(np.dtype(np.float32 if self.float_twin else np.uint8))
        graph = self.helper.make_graph(
            self.nodes,
            "edgekd",
            [self.helper.make_tensor_value_info(source.name, dtype, [BATCH, *source.shape], self._note(source.name))],
            [self.helper.make_tensor_value_info("logits", dtype, [BATCH, output.shape[0]])],
            [self._tensor(name, value) for name, value in self.constants.items()],
        )
        model = self.helper.make_model(
            graph, producer_name="edgekd", ir_version=IR_VERSION, opset_imports=[self.helper.make_opsetid("", OPSET)]
        )
        return bytes(model.SerializeToString())

    def _tensor(self, name: str, value: NDArray[Any]) -> "TensorProto":
        tensor = self.numpy_helper.from_array(value, name)
        if name in self.graph.edges:
            tensor.doc_string = self._note(name)
        return tensor

    def _note(self, name: str) -> str:
        """The documentation of an edge that no quantiser writes."""
        return "" if self.float_twin else f"{SCALE_NOTE}{self.graph.edges[name].scale!r}"

    def _op(self, op: Op) -> None:
        match op:
            case ConstantOp():
                self.constants[op.output] = self._value(op)
            case MaxPoolOp():  # works on the integers themselves
                self._node(Onnx.MaxPool, [op.input], op.output, kernel_shape=op.kernel, strides=op.stride)
            case UnfoldOp():
                self._unfold(op)
            case ConvOp():
                self._conv(op)
            case AvgPoolOp():
                self._avg_pool(op)
            case SigmoidOp():
                self._write(op, Onnx.Sigmoid, self._read(op))
            case MulOp():
                self._write(op, Onnx.Mul, self._read(op))
            case AddOp():
                self._write(op, Onnx.Add, self._read(op))
            case _:
                assert_never(op)

    def _value(self, op: ConstantOp) -> NDArray[Any]:
        """A trained edge as a constant (1, channel, mel, frame)."""
        edge = self.graph.edges[op.output]
        if self.float_twin:
            return rounding.dequantize(op.value, edge.scale, edge.zero_point)[None]
        return (op.value.astype(np.int16) + UINT8_OFFSET).astype(np.uint8)[None]

    def _conv(self, op: ConvOp) -> None:
        sources = self._read(op)
        bias_scale = np.float32(self.graph.edges[op.input].scale) * op.weight_scale
        constants = [
            self._constant(f"{op.name}/weight", op.weight, op.weight_scale),
            self._constant(f"{op.name}/bias", op.bias, bias_scale),
        ]
        self._write(
            op,
            Onnx.Conv,
            [*sources, *constants],
            kernel_shape=op.kernel,
            strides=op.stride,
            dilations=op.dilation,
            group=op.groups,
            pads=_pads(op),
        )

    def _unfold(self, op: UnfoldOp) -> None:
        """Slices over mel stacked as channels, then slices over frames; moves the integers themselves."""
        plane, (_, *sizes) = op.input, self.graph.edges[op.output].shape
        if any(op.padding):
            before_mel, before_frame, after_mel, after_frame = _pads(op)
            pads = self._integers(f"{op.name}/pads", [0, 0, before_mel, before_frame, 0, 0, after_mel, after_frame])
            plane = f"{op.name}/padded"
            self._node(Onnx.Pad, [op.input, pads, self._zero_point(self.graph.edges[op.input])], plane)
        for axis, (kernel, stride, dilation, size) in enumerate(
            zip(op.kernel, op.stride, op.dilation, sizes, strict=True), start=2
        ):
            parts = []
            for position in range(kernel):
                start = position * dilation
                bounds = [
                    self._integers(f"{op.name}/{axis}/{position}/{name}", [value])
                    for name, value in (
                        ("start", start),
                        ("end", start + (size - 1) * stride + 1),
                        ("axis", axis),
                        ("step", stride),
                    )
                ]
                self._node(Onnx.Slice, [plane, *bounds], f"{op.name}/{axis}/{position}")
                parts.append(f"{op.name}/{axis}/{position}")
            plane = op.output if axis == 3 else f"{op.name}/{axis}"
            self._node(Onnx.Concat, parts, plane, axis=1)

    def _integers(self, name: str, values: Sequence[int]) -> str:
        """A constant int64 vector; its name."""
        self.constants[name] = np.array(values, np.int64)
        return name

    def _avg_pool(self, op: AvgPoolOp) -> None:
        if is_global(op, self.graph.edges[op.input]):
            self._write(op, Onnx.GlobalAveragePool, self._read(op))
        else:
            self._write(
                op,
                Onnx.AveragePool,
                self._read(op),
                kernel_shape=op.kernel,
                strides=op.stride,
                pads=_pads(op),
                count_include_pad=1,
            )

    def _read(self, op: Op) -> list[str]:
        """The real values of the edges that an op reads."""
        return [self._real(op, name) for name in op.sources]

    def _real(self, op: Op, name: str) -> str:
        """The real values of an edge for one reader."""
        if self.float_twin:
            return name
        edge, real = self.graph.edges[name], f"{name}/for/{op.name}"
        if isinstance(op, AddOp):
            scale, zero = f"{real}/scale", self._zero_point(edge)
            self.constants[scale] = self._add_scale(op, name)
        else:
            scale, zero = self._quantisation(edge)
        self._node(Onnx.DequantizeLinear, [name, scale, zero], real)
        return real

    def _add_scale(self, op: AddOp, name: str) -> NDArray[np.float32]:
        """The scale of one input of an addition, a few last bits from its edge's: see `addition`."""
        first, second = (self.graph.edges[each] for each in op.inputs)
        return np.array(addition.scales((first, second), self.graph.edges[op.output])[op.inputs.index(name)])

    def _write(self, op: Op, kind: Onnx, sources: list[str], **attributes: Any) -> None:
        """A node and behind it its quantiser, which is the activation too; in the float twin the activation itself."""
        if not self.float_twin:
            self._node(kind, sources, f"{op.name}/real", **attributes)
            quantisation = self._quantisation(self.graph.edges[op.output])
            self._node(Onnx.QuantizeLinear, [f"{op.name}/real", *quantisation], op.output)
        elif op.activation == "none":
            self._node(kind, sources, op.output, **attributes)
        else:
            self._node(kind, sources, f"{op.name}/raw", **attributes)
            self.constants |= {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
            clamp, bounds = (Onnx.Relu, []) if op.activation == "relu" else (Onnx.Clip, ["zero", "one"])
            self._node(clamp, [f"{op.name}/raw", *bounds], op.output)

    def _quantisation(self, edge: Edge) -> tuple[str, str]:
        """Names of an edge's scale and zero point."""
        self.constants[f"{edge.name}/scale"] = np.array(edge.scale, np.float32)
        return f"{edge.name}/scale", self._zero_point(edge)

    def _zero_point(self, edge: Edge) -> str:
        """Name of an edge's zero point."""
        self.constants[f"{edge.name}/zero"] = np.array(edge.zero_point + UINT8_OFFSET, np.uint8)
        return f"{edge.name}/zero"

    def _constant(self, name: str, values: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """A weight or bias with a scale per output channel; its real values."""
        if self.float_twin:
            self.constants[name] = (values * scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
            return name
        self.constants[name], self.constants[f"{name}/scale"] = values, scale
        self.constants[f"{name}/zero"] = np.zeros(scale.shape, values.dtype)
        self._node(Onnx.DequantizeLinear, [name, f"{name}/scale", f"{name}/zero"], f"{name}/real", axis=0)
        return f"{name}/real"

    def _node(self, kind: Onnx, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self.helper.make_node(kind.name, inputs, [output], name=output, **attributes))


def _pads(op: ConvOp | AvgPoolOp | UnfoldOp) -> tuple[int, int, int, int]:
    """Padding in ONNX's order: all starts, then all ends."""
    before_mel, after_mel, before_frame, after_frame = op.padding
    return before_mel, before_frame, after_mel, after_frame
