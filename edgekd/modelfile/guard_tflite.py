"""Bounds what a .tflite file takes in memory, before LiteRT allocates it: how much it holds, and whether its tensors
have the shapes that it says. Standard library only.

Any number of tables may share the same bytes, and LiteRT copies each. It goes by the operators and overwrites the
shapes that the file says, so that one changed bit of a padding makes gigabytes in a file whose tensors seem small.
Known are the operators that edgekd writes; anything else is refused.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from edgekd.operators import Tflite, TfliteRow, broadcast_shape

MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS = 1, 2, 4
MODEL_FOREIGN = {"metadata buffers": 5, "metadata": 6, "signatures": 7}
GRAPH_TENSORS, GRAPH_OPERATORS = 0, 3
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, BUFFER_DATA, BUFFER_OFFSET = 0, 1, 2, 3, 0, 1
OPERATOR_CODE, OPERATOR_INPUTS, OPERATOR_OUTPUTS, OPERATOR_OPTIONS_TYPE, OPERATOR_OPTIONS = 0, 1, 2, 3, 4
TENSOR_QUANTISATION, TENSOR_SIGNATURE, TENSOR_FOREIGN = 4, 7, (6, 9)
QUANTISATION_VECTORS = (0, 1, 2, 3)
OPERATOR_INTERMEDIATES = 8
CODE_OLD, CODE_NEW = 0, 3
"""Field numbers in the schema's tables."""
STRIDES, DILATIONS, DEPTHWISE_DILATIONS, FILTER = (2, 1), (5, 4), (6, 5), (4, 3)
"""Field numbers in options of windows that slide: of mel and of frame."""
PADDING, VALID, AXIS, KEEP_DIMS = 0, 1, 0, 0
INT32, INT32_BYTES, MAX_RANK, MAX_NAME = 2, 4, 8, 200

MAX_ENTRIES = 2**14
"""Of a vector of tables: tensors, operators, buffers."""

Shape = tuple[int, ...]


def table(content: bytes, reference: int) -> int:
    """Where the table begins that a vector's element refers to."""
    return int(reference + struct.unpack_from("<I", content, reference)[0])


def vector(content: bytes, start: int, number: int) -> tuple[int, int]:
    """First element and length of a vector, by its table and field number; (0, 0) where it is absent."""
    place = _field(content, start, number)
    if place is None:
        return 0, 0
    first = table(content, place)
    return first + 4, int(struct.unpack_from("<I", content, first)[0])


def _field(content: bytes, start: int, number: int) -> int | None:
    """Where a field of a table lies; None where it is absent."""
    vtable = start - struct.unpack_from("<i", content, start)[0]
    slot = 4 + 2 * number  # a vtable holds its size, its table's size, then the fields' offsets
    if vtable < 0 or slot + 2 > struct.unpack_from("<H", content, vtable)[0]:
        return None
    (offset,) = struct.unpack_from("<H", content, vtable + slot)
    return start + offset if offset else None


def _number(content: bytes, start: int, number: int, kind: str, default: int) -> int:
    """A number of a table. kind: of `struct`."""
    place = _field(content, start, number)
    return default if place is None else int(struct.unpack_from(f"<{kind}", content, place)[0])


def _integers(content: bytes, start: int, number: int, most: int) -> Shape:
    """A vector of int32, which may be so long.

    Raises:
        ValueError: it is longer.
    """
    first, count = vector(content, start, number)
    if count > most:
        raise ValueError(f"a vector of {count:,} numbers")
    return struct.unpack_from(f"<{count}i", content, first)


@dataclass(frozen=True)
class _Call:
    """One operator. sources: shapes of its inputs; constant: int32 numbers of an input by its position and rank;
    option: number of a field and its default -> 32-bit number; flag: number of a field -> number of one byte."""

    sources: Sequence[Shape]
    constant: Callable[[int, int], Shape]
    option: Callable[[int, int], int]
    flag: Callable[[int], int]

    def slides(self, kernel: Sequence[int], dilations: tuple[int, int] | None) -> list[int]:
        """Output sizes of a window over (mel, frame). dilations: numbers of their fields."""
        sizes = []
        for axis, (size, length) in enumerate(zip(self.sources[0][1:3], kernel, strict=True)):
            stride, dilation = self.option(STRIDES[axis], 0), self.option(dilations[axis], 1) if dilations else 1
            if stride < 1 or dilation < 1 or length < 1:
                raise ValueError(f"stride {stride}, dilation {dilation}, window {length}")
            span = dilation * (length - 1) + 1 if self.flag(PADDING) == VALID else 1
            sizes.append((size - span) // stride + 1)
        return sizes


def _same(call: _Call) -> Shape:
    return call.sources[0]


def _broadcast(call: _Call) -> Shape:
    return broadcast_shape(call.sources)


def _conv(call: _Call) -> Shape:
    return call.sources[0][0], *call.slides(call.sources[1][1:3], DILATIONS), call.sources[1][0]


def _depthwise(call: _Call) -> Shape:
    return call.sources[0][0], *call.slides(call.sources[1][1:3], DEPTHWISE_DILATIONS), call.sources[1][3]


def _filter(call: _Call) -> tuple[int, int]:
    return call.option(FILTER[0], 0), call.option(FILTER[1], 0)


def _pool(call: _Call) -> Shape:
    return call.sources[0][0], *call.slides(_filter(call), None), call.sources[0][3]


def _pad(call: _Call) -> Shape:
    pads = call.constant(1, 2)
    if min(pads) < 0:
        raise ValueError(f"paddings {pads}")
    return tuple(
        size + before + after for size, before, after in zip(call.sources[0], pads[::2], pads[1::2], strict=True)
    )


def _slice(call: _Call) -> Shape:
    starts, sizes = call.constant(1, 1), call.constant(2, 1)
    if min(starts) < 0:
        raise ValueError(f"starts {starts}")
    return tuple(
        whole - start if size < 0 else size for whole, start, size in zip(call.sources[0], starts, sizes, strict=True)
    )


def _transpose(call: _Call) -> Shape:
    axes = call.constant(1, 1)
    if sorted(axes) != list(range(len(call.sources[0]))):
        raise ValueError(f"axes {axes}")
    return tuple(call.sources[0][axis] for axis in axes)


def _reshape(call: _Call) -> Shape:
    shape, whole = call.constant(1, 1), prod(call.sources[0])
    return tuple(whole // max(1, abs(prod(shape))) if size < 0 else size for size in shape)


def _mean(call: _Call) -> Shape:
    axes = {axis % len(call.sources[0]) for axis in call.constant(1, 1)}
    kept = call.flag(KEEP_DIMS)
    return tuple(1 if axis in axes else size for axis, size in enumerate(call.sources[0]) if kept or axis not in axes)


def _concatenation(call: _Call) -> Shape:
    axis, shape = call.option(AXIS, 0), list(call.sources[0])
    shape[axis] = sum(source[axis] for source in call.sources)
    return tuple(shape)


@dataclass(frozen=True)
class _Rule:
    """How to bound one operator. shape: of its output. reads_options: whether its shape or its window depends on its
    options."""

    shape: Callable[[_Call], Shape]
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
"""Operators that edgekd writes."""
CODES = {operator.value.code: operator for operator in Tflite}


def _window(row: TfliteRow, call: _Call) -> int:
    """Elements of its input that one output element of an operator reads; 0 where it slides no window."""
    if row.kernel is not None:
        return row.kernel.window(call.sources[row.kernel.input])
    return prod(_filter(call)) if row.pools else 0


def refuse_crowds(content: bytes) -> None:
    """Refuse a file that seems to hold more than its bytes, or what edgekd does not write and LiteRT would copy.

    Raises:
        ValueError: such a file.
        struct.error: a reference that leads out of it.
    """
    (model,) = struct.unpack_from("<I", content)
    for name, number in MODEL_FOREIGN.items():
        if _field(content, model, number) is not None:
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
    if any(_field(content, *each) is not None for each in foreign):
        raise ValueError(
            "a tensor is sparse or has variants, or an operator has intermediates, which edgekd does not write"
        )
    left = len(content)  # an honest file has no more numbers than bytes
    for start in tensors:
        place = _field(content, start, TENSOR_QUANTISATION)
        quantisation = [] if place is None else [(table(content, place), number) for number in QUANTISATION_VECTORS]
        left -= sum(
            vector(content, *each)[1] for each in [(start, TENSOR_SHAPE), (start, TENSOR_SIGNATURE), *quantisation]
        )
        if left < 0:
            raise ValueError("its tensors have more sizes and scales than the file has bytes")


def refuse_untrue_shapes(content: bytes, most_read: int) -> None:
    """Refuse a file whose operators would make other shapes than it says.

    Args:
        content: of a .tflite file with a graph, whose operators have their tensors, and that `refuse_crowds` let pass.
        most_read: elements that the windows of one operator read for one channel, each as often as it is read: an
            engine may gather them.

    Raises:
        ValueError: another shape, or what edgekd does not write.
        struct.error, IndexError: a reference that leads out of the file.
    """
    graph = _Graph(content, most_read)
    first, operators = vector(content, graph.start, GRAPH_OPERATORS)
    for index in range(operators):
        graph.check(table(content, first + 4 * index))


class _Graph:
    """The only graph of a file."""

    def __init__(self, content: bytes, most_read: int) -> None:
        self.content, self.most_read = content, most_read
        (self.model,) = struct.unpack_from("<I", content)
        self.start = table(content, vector(content, self.model, MODEL_GRAPHS)[0])
        self.codes, self.tensors = vector(content, self.model, MODEL_CODES), vector(content, self.start, GRAPH_TENSORS)
        self.buffers = vector(content, self.model, MODEL_BUFFERS)
        self.shapes: dict[int, Shape] = {}

    def check(self, operator: int) -> None:
        """Compare the output of one operator, by where its table begins."""
        inputs, outputs = (
            _integers(self.content, operator, number, len(self.content))
            for number in (OPERATOR_INPUTS, OPERATOR_OUTPUTS)
        )
        code = self._element(self.codes, _number(self.content, operator, OPERATOR_CODE, "I", 0))
        number = max(_number(self.content, code, CODE_OLD, "b", 0), _number(self.content, code, CODE_NEW, "i", 0))
        kind = CODES.get(number)
        if kind is None or len(outputs) != 1 or not inputs or kind.value.inputs not in (None, len(inputs)):
            raise ValueError(
                f"operator {number} with {len(inputs)} inputs and {len(outputs)} outputs is none that edgekd writes"
            )
        rule, row, what = RULES[kind], kind.value, f"{kind.name} that writes '{self._name(outputs[0])}'"
        options = self._options(operator, row, what) if rule.reads_options else operator
        call = _Call(
            [self._shape(tensor) for tensor in inputs],
            lambda index, rank: self._constant(inputs[index], rank),
            lambda field, default: _number(self.content, options, field, "i", default),
            lambda field: _number(self.content, options, field, "B", 0),
        )
        try:
            computed, declared = rule.shape(call), self._shape(outputs[0])
            elements_read = prod(computed[:3]) * _window(row, call)
        except (LookupError, ValueError, ZeroDivisionError) as error:  # LookupError: an axis that is not there
            raise ValueError(f"{what} makes no sense ({error})") from None
        if computed != declared or min(computed, default=1) < 1:
            raise ValueError(f"{what} makes the shape {computed}, where the file declares {declared}")
        if elements_read > self.most_read:
            raise ValueError(f"{what} reads {elements_read:,} elements, more than {self.most_read:,}")

    def _options(self, operator: int, row: TfliteRow, what: str) -> int:
        """Where the options table of an operator begins; the operator itself where it is absent."""
        if row.options is None or _number(self.content, operator, OPERATOR_OPTIONS_TYPE, "B", 0) != row.options[1]:
            raise ValueError(f"{what} has options of another operator")
        position = _field(self.content, operator, OPERATOR_OPTIONS)
        return operator if position is None else table(self.content, position)

    def _element(self, found: tuple[int, int], index: int) -> int:
        """A table of a vector."""
        first, count = found
        if not 0 <= index < count:
            raise IndexError(f"element {index} of {count}")
        return table(self.content, first + 4 * index)

    def _shape(self, tensor: int) -> Shape:
        if tensor not in self.shapes:
            self.shapes[tensor] = _integers(self.content, self._element(self.tensors, tensor), TENSOR_SHAPE, MAX_RANK)
        return self.shapes[tensor]

    def _name(self, tensor: int) -> str:
        first, count = vector(self.content, self._element(self.tensors, tensor), TENSOR_NAME)
        return self.content[first : first + min(count, MAX_NAME)].decode(errors="replace")

    def _constant(self, tensor: int, rank: int) -> Shape:
        """Values of a short int32 constant inside the flatbuffer. Of another rank an engine would read the options
        instead."""
        start, count = self._element(self.tensors, tensor), prod(self._shape(tensor))
        buffer = self._element(self.buffers, _number(self.content, start, TENSOR_BUFFER, "I", 0))
        first, size = vector(self.content, buffer, BUFFER_DATA)
        fits = 0 < count <= 2 * MAX_RANK and size == INT32_BYTES * count and len(self._shape(tensor)) == rank
        inside = _field(self.content, buffer, BUFFER_OFFSET) is None
        if not fits or not inside or _number(self.content, start, TENSOR_TYPE, "b", 0) != INT32:
            raise ValueError(f"'{self._name(tensor)}' is no short constant of int32")
        return struct.unpack_from(f"<{count}i", self.content, first)
