"""Bounds the memory that a .tflite file takes, before LiteRT allocates it. Standard library only.

Two attacks are refused. Any number of tables may share the same bytes, and LiteRT copies each of them. And LiteRT
computes shapes from the operators and overwrites those that the file declares, so that one changed bit of a padding
makes gigabytes in a file whose tensors seem small. Only the operators that edgekd writes are accepted
(`edgekd.operators`); anything else is refused.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from edgekd.operators import Tflite, TfliteRow, broadcast_shape
from edgekd.tflite_tables import (
    AXIS,
    BUFFER_DATA,
    BUFFER_OFFSET,
    CODE_NEW,
    CODE_OLD,
    DEPTHWISE_DILATIONS,
    DILATIONS,
    FILTER,
    GRAPH_OPERATORS,
    GRAPH_TENSORS,
    INT32,
    KEEP_DIMS,
    MODEL_BUFFERS,
    MODEL_CODES,
    MODEL_FOREIGN,
    MODEL_GRAPHS,
    OPERATOR_CODE,
    OPERATOR_INPUTS,
    OPERATOR_INTERMEDIATES,
    OPERATOR_OPTIONS,
    OPERATOR_OPTIONS_TYPE,
    OPERATOR_OUTPUTS,
    PADDING,
    QUANTISATION_VECTORS,
    STRIDES,
    TENSOR_BUFFER,
    TENSOR_FOREIGN,
    TENSOR_NAME,
    TENSOR_QUANTISATION,
    TENSOR_SHAPE,
    TENSOR_SIGNATURE,
    TENSOR_TYPE,
    VALID,
    Shape,
    field_at,
    integers,
    scalar,
    table,
    vector,
)

INT32_BYTES, MAX_RANK, MAX_NAME = 4, 8, 200

MAX_ENTRIES = 2**14
"""Most tables of one vector: tensors, operators, buffers."""


@dataclass(frozen=True)
class _TfliteInputs:
    """What the shape of an operator's output depends on.

    sources: shapes of its inputs. constant: int32 numbers of an input, by its position and rank. option: a 32-bit
    option, by its field number and default. flag: an option of one byte, by its field number.
    """

    sources: Sequence[Shape]
    constant: Callable[[int, int], Shape]
    option: Callable[[int, int], int]
    flag: Callable[[int], int]

    def slides(self, kernel: Sequence[int], dilations: tuple[int, int] | None) -> list[int]:
        """Output sizes of a window that slides over (mel, frame). dilations: their field numbers."""
        sizes = []
        for axis, (size, length) in enumerate(zip(self.sources[0][1:3], kernel, strict=True)):
            stride, dilation = self.option(STRIDES[axis], 0), self.option(dilations[axis], 1) if dilations else 1
            if stride < 1 or dilation < 1 or length < 1:
                raise ValueError(f"stride {stride}, dilation {dilation}, window {length}")
            span = dilation * (length - 1) + 1 if self.flag(PADDING) == VALID else 1
            sizes.append((size - span) // stride + 1)
        return sizes


def _same(inputs: _TfliteInputs) -> Shape:
    return inputs.sources[0]


def _broadcast(inputs: _TfliteInputs) -> Shape:
    return broadcast_shape(inputs.sources)


def _conv(inputs: _TfliteInputs) -> Shape:
    return inputs.sources[0][0], *inputs.slides(inputs.sources[1][1:3], DILATIONS), inputs.sources[1][0]


def _depthwise(inputs: _TfliteInputs) -> Shape:
    return inputs.sources[0][0], *inputs.slides(inputs.sources[1][1:3], DEPTHWISE_DILATIONS), inputs.sources[1][3]


def _filter(inputs: _TfliteInputs) -> tuple[int, int]:
    return inputs.option(FILTER[0], 0), inputs.option(FILTER[1], 0)


def _pool(inputs: _TfliteInputs) -> Shape:
    return inputs.sources[0][0], *inputs.slides(_filter(inputs), None), inputs.sources[0][3]


def _pad(inputs: _TfliteInputs) -> Shape:
    pads = inputs.constant(1, 2)
    if min(pads) < 0:
        raise ValueError(f"paddings {pads}")
    return tuple(
        size + before + after for size, before, after in zip(inputs.sources[0], pads[::2], pads[1::2], strict=True)
    )


def _slice(inputs: _TfliteInputs) -> Shape:
    starts, sizes = inputs.constant(1, 1), inputs.constant(2, 1)
    if min(starts) < 0:
        raise ValueError(f"starts {starts}")
    return tuple(
        full - start if size < 0 else size for full, start, size in zip(inputs.sources[0], starts, sizes, strict=True)
    )


def _transpose(inputs: _TfliteInputs) -> Shape:
    axes = inputs.constant(1, 1)
    if sorted(axes) != list(range(len(inputs.sources[0]))):
        raise ValueError(f"axes {axes}")
    return tuple(inputs.sources[0][axis] for axis in axes)


def _reshape(inputs: _TfliteInputs) -> Shape:
    shape, elements = inputs.constant(1, 1), prod(inputs.sources[0])
    return tuple(elements // max(1, abs(prod(shape))) if size < 0 else size for size in shape)


def _mean(inputs: _TfliteInputs) -> Shape:
    axes = {axis % len(inputs.sources[0]) for axis in inputs.constant(1, 1)}
    kept = inputs.flag(KEEP_DIMS)
    return tuple(1 if axis in axes else size for axis, size in enumerate(inputs.sources[0]) if kept or axis not in axes)


def _concatenation(inputs: _TfliteInputs) -> Shape:
    axis, shape = inputs.option(AXIS, 0), list(inputs.sources[0])
    shape[axis] = sum(source[axis] for source in inputs.sources)
    return tuple(shape)


@dataclass(frozen=True)
class _Rule:
    """How to check one operator. shape: computes the shape of its output. reads_options: whether that or its window
    depends on its options."""

    shape: Callable[[_TfliteInputs], Shape]
    reads_options: bool = False


RULES: dict[Tflite, _Rule] = {
    Tflite.ADD: _Rule(_broadcast),
    Tflite.AVERAGE_POOL_2D: _Rule(_pool, True),
    Tflite.CONCATENATION: _Rule(_concatenation, True),
    Tflite.CONV_2D: _Rule(_conv, True),
    Tflite.DEPTHWISE_CONV_2D: _Rule(_depthwise, True),
    Tflite.LOGISTIC: _Rule(_same),
    Tflite.MAX_POOL_2D: _Rule(_pool, True),
    Tflite.MUL: _Rule(_broadcast),
    Tflite.RELU: _Rule(_same),
    Tflite.RESHAPE: _Rule(_reshape),
    Tflite.PAD: _Rule(_pad),
    Tflite.TRANSPOSE: _Rule(_transpose),
    Tflite.MEAN: _Rule(_mean, True),
    Tflite.SLICE: _Rule(_slice),
}
"""Operator -> its rule."""
CODES = {operator.value.code: operator for operator in Tflite}


def _window(row: TfliteRow, inputs: _TfliteInputs) -> int:
    """Elements of its input that one output element of an operator reads; 0 where it slides no window."""
    if row.kernel is not None:
        return row.kernel.window(inputs.sources[row.kernel.input])
    return prod(_filter(inputs)) if row.pools else 0


def refuse_overlapping_tables(content: bytes) -> None:
    """Refuse a file whose tables together are larger than the file, or that holds what LiteRT would copy and edgekd
    does not write.

    Raises:
        ValueError: such a file.
        struct.error: a reference leads out of the file.
    """
    (model,) = struct.unpack_from("<I", content)
    for name, number in MODEL_FOREIGN.items():
        if field_at(content, model, number) is not None:
            raise ValueError(f"it has {name}, which edgekd does not write")
    vectors = [vector(content, model, number) for number in (MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS)]
    first, graphs = vectors[1]
    graph = table(content, first) if graphs else model
    parts = [vector(content, graph, number) if graphs else (0, 0) for number in (GRAPH_TENSORS, GRAPH_OPERATORS)]
    if graphs > 1 or any(count > MAX_ENTRIES for _, count in (*vectors, *parts)):
        raise ValueError(f"it has {graphs} graphs, or more than {MAX_ENTRIES:,} tensors, operators or buffers")
    tensors, operators = ([table(content, first + 4 * index) for index in range(count)] for first, count in parts)
    foreign = [(tensor, number) for tensor in tensors for number in TENSOR_FOREIGN]
    foreign += [(operator, OPERATOR_INTERMEDIATES) for operator in operators]
    if any(field_at(content, *each) is not None for each in foreign):
        raise ValueError(
            "a tensor is sparse or has variants, or an operator has intermediates, which edgekd does not write"
        )
    left = len(content)  # an honest file has no more numbers than bytes
    for start in tensors:
        position = field_at(content, start, TENSOR_QUANTISATION)
        found = None if position is None else table(content, position)
        quantisation = [] if found is None else [(found, number) for number in QUANTISATION_VECTORS]
        left -= sum(
            vector(content, *each)[1] for each in [(start, TENSOR_SHAPE), (start, TENSOR_SIGNATURE), *quantisation]
        )
        if left < 0:
            raise ValueError("its tensors have more sizes and scales than the file has bytes")


def refuse_wrong_shapes(content: bytes, most_read: int) -> None:
    """Refuse a file whose operators compute other shapes than it declares.

    Args:
        content: bytes of a .tflite file that has a graph and passed `refuse_overlapping_tables`.
        most_read: largest number of elements that the windows of one operator read for one channel, counted each time
            that they are read: an engine may gather them.

    Raises:
        ValueError: a shape differs, or the file has something that edgekd does not write.
        struct.error, IndexError: a reference leads out of the file.
    """
    graph = _ShapeCheck(content, most_read)
    first, operators = vector(content, graph.start, GRAPH_OPERATORS)
    for index in range(operators):
        graph.check(table(content, first + 4 * index))


class _ShapeCheck:
    """Compares the shapes of the only graph of a file."""

    def __init__(self, content: bytes, most_read: int) -> None:
        self.content, self.most_read = content, most_read
        (self.model,) = struct.unpack_from("<I", content)
        self.start = table(content, vector(content, self.model, MODEL_GRAPHS)[0])
        self.codes, self.tensors = vector(content, self.model, MODEL_CODES), vector(content, self.start, GRAPH_TENSORS)
        self.buffers = vector(content, self.model, MODEL_BUFFERS)
        self.shapes: dict[int, Shape] = {}

    def check(self, operator: int) -> None:
        """Compare the output of the operator whose table begins here."""
        read, written = (
            integers(self.content, operator, number, len(self.content))
            for number in (OPERATOR_INPUTS, OPERATOR_OUTPUTS)
        )
        code = self._element(self.codes, scalar(self.content, operator, OPERATOR_CODE, "I", 0))
        number = max(scalar(self.content, code, CODE_OLD, "b", 0), scalar(self.content, code, CODE_NEW, "i", 0))
        kind = CODES.get(number)
        if kind is None or len(written) != 1 or not read or kind.value.inputs not in (None, len(read)):
            raise ValueError(
                f"operator {number} with {len(read)} inputs and {len(written)} outputs is none that edgekd writes"
            )
        rule, row, what = RULES[kind], kind.value, f"{kind.name} that writes '{self._name(written[0])}'"
        options = self._options(operator, row, what) if rule.reads_options else operator
        inputs = _TfliteInputs(
            [self._shape(tensor) for tensor in read],
            lambda index, rank: self._constant(read[index], rank),
            lambda field, default: scalar(self.content, options, field, "i", default),
            lambda field: scalar(self.content, options, field, "B", 0),
        )
        try:
            computed, declared = rule.shape(inputs), self._shape(written[0])
            elements_read = prod(computed[:3]) * _window(row, inputs)
        except (LookupError, ValueError, ZeroDivisionError) as error:  # LookupError: an axis is missing
            raise ValueError(f"{what} makes no sense ({error})") from None
        if computed != declared or min(computed, default=1) < 1:
            raise ValueError(f"{what} makes the shape {computed}, where the file declares {declared}")
        if elements_read > self.most_read:
            raise ValueError(f"{what} reads {elements_read:,} elements, more than {self.most_read:,}")

    def _options(self, operator: int, row: TfliteRow, what: str) -> int:
        """Position of an operator's options table."""
        if row.options is None or scalar(self.content, operator, OPERATOR_OPTIONS_TYPE, "B", 0) != row.options[1]:
            raise ValueError(f"{what} has options of another operator")
        position = field_at(self.content, operator, OPERATOR_OPTIONS)
        if position is None:
            raise ValueError(f"{what} has no options")
        return table(self.content, position)

    def _element(self, found: tuple[int, int], index: int) -> int:
        """Position of a table of a vector."""
        first, count = found
        if not 0 <= index < count:
            raise IndexError(f"element {index} of {count}")
        return table(self.content, first + 4 * index)

    def _shape(self, tensor: int) -> Shape:
        if tensor not in self.shapes:
            self.shapes[tensor] = integers(self.content, self._element(self.tensors, tensor), TENSOR_SHAPE, MAX_RANK)
        return self.shapes[tensor]

    def _name(self, tensor: int) -> str:
        first, count = vector(self.content, self._element(self.tensors, tensor), TENSOR_NAME)
        return self.content[first : first + min(count, MAX_NAME)].decode(errors="replace")

    def _constant(self, tensor: int, rank: int) -> Shape:
        """The values of a short int32 constant inside the flatbuffer. With another rank, LiteRT would read the options
        instead."""
        start, count = self._element(self.tensors, tensor), prod(self._shape(tensor))
        buffer = self._element(self.buffers, scalar(self.content, start, TENSOR_BUFFER, "I", 0))
        first, size = vector(self.content, buffer, BUFFER_DATA)
        fits = 0 < count <= 2 * MAX_RANK and size == INT32_BYTES * count and len(self._shape(tensor)) == rank
        inside = field_at(self.content, buffer, BUFFER_OFFSET) is None
        if not fits or not inside or scalar(self.content, start, TENSOR_TYPE, "b", 0) != INT32:
            raise ValueError(f"'{self._name(tensor)}' is no short constant of int32")
        return struct.unpack_from(f"<{count}i", self.content, first)
