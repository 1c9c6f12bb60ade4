"""Access to the graph in the bytes of an .onnx file: nodes, and constants by their names. Standard library and numpy
only, no protobuf package."""

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.operators import Onnx
from edgekd.protobuf import (
    ATTRIBUTE_INTEGERS,
    ATTRIBUTE_NAME,
    DIM_VALUE,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OPERATOR,
    NODE_OUTPUT,
    SHAPE_DIM,
    TENSOR_DIMS,
    TENSOR_DOCUMENTATION,
    TENSOR_ELEMENT,
    TENSOR_EXTERNAL,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_SHAPE,
    TENSOR_TYPE,
    TYPE_TENSOR,
    VALUE_DOCUMENTATION,
    VALUE_NAME,
    VALUE_TYPE,
    Message,
    Span,
)
from edgekd.qgraph.graph import Padding

FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
"""Types of tensors."""
DTYPES = {FLOAT: "<f4", UINT8: "<u1", INT8: "<i1", INT32: "<i4", INT64: "<i8"}
"""Types -> numpy's names of them."""
SHARING = 4
"""How often the bytes of a file may be read on average: several nodes read one scale."""
INPUTS = {
    Onnx.DequantizeLinear: 3,
    Onnx.QuantizeLinear: 3,
    Onnx.Conv: 3,
    Onnx.Add: 2,
    Onnx.Mul: 2,
    Onnx.Pad: 3,
    Onnx.Slice: 5,
    Onnx.Concat: None,
}
"""Operator -> how many inputs it has where not one; None for any number."""


class Node(NamedTuple):
    """kind: what it is. inputs, output: names of tensors. attributes: numbers by name."""

    kind: Onnx
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, tuple[int, ...]]

    def pair(self, name: str) -> tuple[int, int]:
        """An attribute of two numbers: (mel, frame)."""
        numbers = self.attributes[name]
        if len(numbers) != 2 or min(numbers) < 1:
            raise ValueError(f"{self.kind.name} '{self.output}' has {name} {numbers}")
        return numbers[0], numbers[1]

    def number(self, name: str) -> int:
        """An attribute of one number."""
        numbers = self.attributes[name]
        if len(numbers) != 1:
            raise ValueError(f"{self.kind.name} '{self.output}' has {name} {numbers}")
        return numbers[0]

    def padding(self) -> Padding:
        """The attribute `pads`, all starts and then all ends, in the graph's order."""
        pads = self.attributes["pads"]
        if len(pads) != 4 or min(pads) < 0:
            raise ValueError(f"{self.kind.name} '{self.output}' has pads {pads}")
        return pads[0], pads[2], pads[1], pads[3]


class _Constant(NamedTuple):
    """A tensor of the file. note: its documentation."""

    type: int
    shape: tuple[int, ...]
    raw: Span
    note: str


class OnnxFile:
    """The graph in a file. nodes: in their order. constants: by name. input: name, shape without the batch and
    documentation. output: name."""

    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, SHARING * len(content)
        graph = Message(content, [(0, len(content))]).merged(MODEL_GRAPH)
        inputs, outputs = list(graph.each(GRAPH_INPUT)), list(graph.each(GRAPH_OUTPUT))
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        (source,), (output,) = inputs, outputs
        kind = source.merged(VALUE_TYPE).merged(TYPE_TENSOR)
        if kind.integers(TENSOR_ELEMENT) != [UINT8]:
            raise ValueError("it does not read uint8; give the int8 file")
        _, channel, mel, frame = (
            (size.integers(DIM_VALUE) or [0])[-1] for size in kind.merged(TENSOR_SHAPE).each(SHAPE_DIM)
        )
        self.input = source.text(VALUE_NAME), (channel, mel, frame), source.text(VALUE_DOCUMENTATION)
        self.output = output.text(VALUE_NAME)
        self.constants = dict(map(self._constant, graph.each(GRAPH_INITIALIZER)))
        self.nodes = [self._node(node) for node in graph.each(GRAPH_NODE)]

    def values(self, name: str, kind: int) -> NDArray[Any]:
        """The values of a constant in its shape. kind: its type."""
        constant, dtype = self.constants[name], np.dtype(DTYPES[kind])
        start, end = constant.raw
        self.left -= end - start
        fits = end - start == prod(constant.shape) * dtype.itemsize and min(constant.shape, default=1) > 0
        if constant.type != kind or not fits or self.left < 0:
            raise ValueError(f"'{name}' is no constant of its type and shape")
        values: NDArray[Any] = np.frombuffer(self.content, dtype, prod(constant.shape), start).reshape(constant.shape)
        return values

    @staticmethod
    def _constant(tensor: Message) -> tuple[str, _Constant]:
        name, dims = tensor.text(TENSOR_NAME), tuple(tensor.integers(TENSOR_DIMS))
        (kind,), (raw,) = tensor.integers(TENSOR_TYPE), tensor.spans(TENSOR_RAW)
        if any(number in tensor for number in TENSOR_EXTERNAL):
            raise ValueError(f"constant '{name}' lies in another file")
        return name, _Constant(kind, dims, raw, tensor.text(TENSOR_DOCUMENTATION))

    @staticmethod
    def _node(node: Message) -> Node:
        name, inputs, (output,) = node.text(NODE_OPERATOR), node.texts(NODE_INPUT), node.texts(NODE_OUTPUT)
        kind = Onnx.__members__.get(name)
        if kind is None:
            raise ValueError(f"{name} '{output}' is an operator that edgekd does not write")
        if INPUTS.get(kind, 1) not in (None, len(inputs)):
            raise ValueError(f"{name} '{output}' has {len(inputs)} inputs")
        attributes = {
            attribute.text(ATTRIBUTE_NAME): tuple(
                number for field in ATTRIBUTE_INTEGERS for number in attribute.integers(field)
            )
            for attribute in node.each(NODE_ATTRIBUTE)
        }
        if set(attributes) - set(kind.value.attributes):
            raise ValueError(f"{name} '{output}' has attributes {', '.join(sorted(attributes))}")
        return Node(kind, tuple(inputs), output, attributes)
