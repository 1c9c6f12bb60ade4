"""Bounds the memory that an .onnx file takes, from its shapes and before an engine opens it. Standard library only, no
protobuf package.

The file holds the shapes of its input and its constants only. All other shapes follow from attributes and from numbers
in constants, so that one changed bit of a padding makes gigabytes. Only the operators that edgekd writes are accepted,
with the attributes that it writes (`edgekd.operators`); anything else is refused.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from edgekd.operators import Onnx, OnnxRow, broadcast_shape
from edgekd.protobuf import (
    ATTRIBUTE_INTEGERS,
    ATTRIBUTE_NAME,
    DIM_VALUE,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_SPARSE,
    MODEL_FUNCTIONS,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_DOMAIN,
    NODE_INPUT,
    NODE_NAME,
    NODE_OPERATOR,
    NODE_OUTPUT,
    SHAPE_DIM,
    TENSOR_DIMS,
    TENSOR_EXTERNAL,
    TENSOR_INT64,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_SHAPE,
    TENSOR_TYPE,
    TYPE_TENSOR,
    VALUE_NAME,
    VALUE_TYPE,
    Message,
    Span,
)

MAX_RANK = 8
DOMAINS = ("", "ai.onnx")
"""The domain of standard operators, under both of its names."""
INT64, INT64_BYTES = 7, 8

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _OnnxInputs:
    """What the shape of an operator's output depends on.

    sources: shapes of its inputs. attributes: numbers by name. constant: int64 numbers of an input, by its position.
    """

    sources: Sequence[Shape]
    attributes: dict[str, list[int]]
    constant: Callable[[int], list[int]]

    def slides(self, kernel: Sequence[int]) -> list[int]:
        """Output sizes of a window that slides over the axes after batch and channel."""
        sizes = self.sources[0][2:]
        ones, zeros = [1] * len(sizes), [0] * 2 * len(sizes)
        strides, dilations = self.attributes.get("strides", ones), self.attributes.get("dilations", ones)
        pads = self.attributes.get("pads", zeros)
        if min((*strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
            raise ValueError(f"strides {strides}, dilations {dilations}, pads {pads}")
        ends = pads[len(sizes) :]
        return [
            (size + before + after - dilation * (length - 1) - 1) // stride + 1
            for size, before, after, length, stride, dilation in zip(
                sizes, pads[: len(sizes)], ends, kernel, strides, dilations, strict=True
            )
        ]


def _same(inputs: _OnnxInputs) -> Shape:
    return inputs.sources[0]


def _broadcast(inputs: _OnnxInputs) -> Shape:
    return broadcast_shape(inputs.sources)


def _conv(inputs: _OnnxInputs) -> Shape:
    kernel = inputs.sources[1]
    return inputs.sources[0][0], kernel[0], *inputs.slides(kernel[2:])


def _pool(inputs: _OnnxInputs) -> Shape:
    return *inputs.sources[0][:2], *inputs.slides(inputs.attributes["kernel_shape"])


def _global_pool(inputs: _OnnxInputs) -> Shape:
    return *inputs.sources[0][:2], *(1 for _ in inputs.sources[0][2:])


def _pad(inputs: _OnnxInputs) -> Shape:
    shape, pads = inputs.sources[0], inputs.constant(1)
    if min(pads) < 0:
        raise ValueError(f"pads {pads}")
    return tuple(
        size + before + after for size, before, after in zip(shape, pads[: len(shape)], pads[len(shape) :], strict=True)
    )


def _slice(inputs: _OnnxInputs) -> Shape:
    shape = list(inputs.sources[0])
    for start, end, axis, step in zip(*(inputs.constant(index) for index in range(1, 5)), strict=True):
        shape[axis] = len(range(shape[axis])[start:end:step])
    return tuple(shape)


def _concat(inputs: _OnnxInputs) -> Shape:
    (axis,), shape = inputs.attributes["axis"], list(inputs.sources[0])
    shape[axis] = sum(source[axis] for source in inputs.sources)
    return tuple(shape)


def _flatten(inputs: _OnnxInputs) -> Shape:
    if inputs.attributes["axis"] != [1]:  # along another the batch would be part of both sizes
        raise ValueError(f"axis {inputs.attributes['axis']}")
    return inputs.sources[0][0], prod(inputs.sources[0][1:])


SHAPES: dict[Onnx, Callable[[_OnnxInputs], Shape]] = {
    **dict.fromkeys((Onnx.DequantizeLinear, Onnx.QuantizeLinear, Onnx.Sigmoid, Onnx.Relu, Onnx.Clip), _same),
    **dict.fromkeys((Onnx.Add, Onnx.Mul), _broadcast),
    Onnx.Conv: _conv,
    Onnx.MaxPool: _pool,
    Onnx.AveragePool: _pool,
    Onnx.GlobalAveragePool: _global_pool,
    Onnx.Pad: _pad,
    Onnx.Slice: _slice,
    Onnx.Concat: _concat,
    Onnx.Flatten: _flatten,
}
"""Operator -> the function that computes the shape of its output."""


def _window(row: OnnxRow, inputs: _OnnxInputs) -> int:
    """Elements of its input that one output element of an operator reads; 0 where it slides no window."""
    if row.kernel is not None:
        return row.kernel.window(inputs.sources[row.kernel.input])
    return prod(inputs.attributes["kernel_shape"]) if row.pools else 0


def refuse_costly_graph(content: bytes, most: int, most_read: int) -> None:
    """Refuse a file that would fill the memory.

    Args:
        content: bytes of an .onnx file whose container was checked.
        most: largest number of elements of all tensors of one window together, constants included.
        most_read: largest number of elements that the windows of one operator read for one channel, counted each time
            that they are read: an engine may gather them.

    Raises:
        ValueError: the file has more, or something that edgekd does not write.
        protobuf.DamagedError: the file is cut off or garbled.
    """
    model = Message(content, [(0, len(content))])
    graph = model.merged(MODEL_GRAPH)
    if MODEL_FUNCTIONS in model or GRAPH_SPARSE in graph:  # a sparse constant may have any size
        raise ValueError("it has functions of its own or sparse constants, which edgekd does not write")
    _Sizes(graph, most, most_read)


class _Sizes:
    """Computes all shapes of a graph in one pass and stops where they become too large. A free batch counts as 1."""

    def __init__(self, graph: Message, most: int, most_read: int) -> None:
        self.most, self.left, self.most_read = most, most, most_read
        self.shapes: dict[str, Shape] = {}
        self.graph = graph
        self.constants: dict[str, Span] = {}
        for value in graph.each(GRAPH_INPUT):
            sizes = value.merged(VALUE_TYPE).merged(TYPE_TENSOR).merged(TENSOR_SHAPE).each(SHAPE_DIM)
            name = value.text(VALUE_NAME)
            self._add(f"input '{name}' has", name, tuple((size.integers(DIM_VALUE) or [1])[-1] for size in sizes))
        for span in graph.spans(GRAPH_INITIALIZER):
            tensor = Message(graph.raw, [span])
            name = tensor.text(TENSOR_NAME)
            if any(number in tensor for number in TENSOR_EXTERNAL):
                raise ValueError(f"constant '{name}' lies in another file")
            self._add(f"constant '{name}' has", name, tuple(tensor.integers(TENSOR_DIMS)))
            self.constants[name] = span  # not the message: a hostile one has very many fields
        for node in graph.each(GRAPH_NODE):
            self._operator(node)

    def _add(self, what: str, name: str, shape: Shape) -> None:
        """Record the shape of a tensor and subtract its elements from those that are left."""
        if len(shape) > MAX_RANK:
            raise ValueError(f"{what} {len(shape):,} dimensions")
        self.left -= prod(shape)
        if self.left < 0 or any(size < 1 for size in shape):
            raise ValueError(f"{what} the shape {shape}; all tensors together may have {self.most:,} elements")
        self.shapes[name] = shape

    def _operator(self, node: Message) -> None:
        kind, domain = node.text(NODE_OPERATOR), node.text(NODE_DOMAIN)
        names, outputs = node.texts(NODE_INPUT), node.texts(NODE_OUTPUT)
        what = f"{kind} '{node.text(NODE_NAME)}'"
        if kind not in Onnx.__members__ or domain not in DOMAINS or len(outputs) != 1:
            raise ValueError(f"{what} with {len(outputs)} outputs is no operator that edgekd writes")
        operator = Onnx[kind]
        row = operator.value
        attributes: dict[str, list[int]] = {}
        for attribute in node.each(NODE_ATTRIBUTE):
            name = attribute.text(ATTRIBUTE_NAME)
            if name not in row.attributes or name in attributes:
                raise ValueError(f"{what} has an attribute '{name}' that edgekd does not write, or twice")
            attributes[name] = [number for field in ATTRIBUTE_INTEGERS for number in attribute.integers(field)]
        try:
            inputs = _OnnxInputs(
                [self.shapes[name] for name in names], attributes, lambda index: self._numbers(names[index])
            )
            shape = SHAPES[operator](inputs)
            elements_read = prod(shape[2:]) * _window(row, inputs)
        # LookupError: an input, an axis or an attribute is missing
        except (LookupError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{what} makes no sense ({error})") from None
        self._add(f"{what} writes", outputs[0], shape)
        if elements_read > self.most_read:
            raise ValueError(f"{what} reads {elements_read:,} elements, more than {self.most_read:,}")

    def _numbers(self, name: str) -> list[int]:
        """The numbers of a short int64 constant."""
        tensor, count = Message(self.graph.raw, [self.constants[name]]), prod(self.shapes[name])
        if tensor.integers(TENSOR_TYPE) != [INT64] or count > 2 * MAX_RANK:
            raise ValueError(f"constant '{name}' is no short vector of int64")
        raw = b"".join(tensor.raw[start:end] for start, end in tensor.spans(TENSOR_RAW)[-1:])
        numbers = (
            [*struct.unpack(f"<{count}q", raw)] if len(raw) == INT64_BYTES * count else tensor.integers(TENSOR_INT64)
        )
        if len(numbers) != count:
            raise ValueError(f"constant '{name}' has {len(numbers):,} numbers, where its shape is {self.shapes[name]}")
        return numbers
