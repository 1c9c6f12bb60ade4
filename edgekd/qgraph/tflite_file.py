"""Access to the graph in the bytes of a .tflite file by numbers of operators and tensors. Standard library and numpy
only."""

import struct
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.operators import Tflite
from edgekd.tflite_tables import (
    BUFFER_DATA,
    BUFFER_OFFSET,
    CODE_NEW,
    CODE_OLD,
    GRAPH_INPUTS,
    GRAPH_OPERATORS,
    GRAPH_OUTPUTS,
    GRAPH_TENSORS,
    INT8,
    MODEL_BUFFERS,
    MODEL_CODES,
    MODEL_GRAPHS,
    OPERATOR_CODE,
    OPERATOR_INPUTS,
    OPERATOR_OPTIONS,
    OPERATOR_OPTIONS_TYPE,
    OPERATOR_OUTPUTS,
    QUANTISATION_AXIS,
    QUANTISATION_SCALES,
    QUANTISATION_ZEROS,
    TENSOR_BUFFER,
    TENSOR_NAME,
    TENSOR_QUANTISATION,
    TENSOR_SHAPE,
    TENSOR_TYPE,
    Shape,
    field_at,
    integers,
    scalar,
    table,
    vector,
)

CODES = {kind.value.code: kind for kind in Tflite}
MAX_NAME, MAX_RANK = 200, 4
"""Most bytes of a name, most axes of a tensor."""
SHARING = 4
"""How often the bytes of a file may be read on average: equal constants are in it once."""


class Operator(NamedTuple):
    """kind: what it is. inputs, output: tensors. options: position of its table, None where it has none."""

    kind: Tflite
    inputs: tuple[int, ...]
    output: int
    options: int | None


class Quantisation(NamedTuple):
    """Of a tensor, or of a constant along an axis."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int


class TfliteFile:
    """The only graph of a file. input, output: tensors. operators: how many.

    Its methods raise ValueError, LookupError or struct.error where edgekd did not write the file, or it is damaged.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, SHARING * len(content)
        (self.model,) = struct.unpack_from("<I", content)
        first, graphs = vector(content, self.model, MODEL_GRAPHS)
        if graphs != 1:
            raise ValueError(f"it has {graphs:,} graphs")
        self.start = table(content, first)
        self.operators = vector(content, self.start, GRAPH_OPERATORS)[1]
        (self.input,), (self.output,) = (
            integers(content, self.start, number, 1) for number in (GRAPH_INPUTS, GRAPH_OUTPUTS)
        )

    def operator(self, index: int) -> Operator:
        """An operator that edgekd writes."""
        start = self._element(self.start, GRAPH_OPERATORS, index)
        code = self._element(self.model, MODEL_CODES, scalar(self.content, start, OPERATOR_CODE, "I", 0))
        number = max(scalar(self.content, code, CODE_OLD, "b", 0), scalar(self.content, code, CODE_NEW, "i", 0))
        kind = CODES.get(number)
        inputs, outputs = (
            integers(self.content, start, each, self.operators) for each in (OPERATOR_INPUTS, OPERATOR_OUTPUTS)
        )
        if kind is None:
            raise ValueError(f"operator {index} has code {number}, which edgekd does not write")
        if len(outputs) != 1 or not inputs or kind.value.inputs not in (None, len(inputs)):
            raise ValueError(f"{kind.name} has {len(inputs)} inputs and {len(outputs)} outputs")
        position = field_at(self.content, start, OPERATOR_OPTIONS)
        kinds = scalar(self.content, start, OPERATOR_OPTIONS_TYPE, "B", 0)
        if position is not None and kind.value.options is not None and kinds != kind.value.options[1]:
            raise ValueError(f"operator {index} ({kind.name}) has options of another one")
        return Operator(kind, inputs, outputs[0], None if position is None else table(self.content, position))

    def option(self, operator: Operator, number: int, kind: str = "i", default: int = 0) -> int:
        """An option of an operator. kind: format character of `struct`."""
        return default if operator.options is None else scalar(self.content, operator.options, number, kind, default)

    def name(self, tensor: int) -> str:
        """UTF-8, of at most `MAX_NAME` bytes."""
        first, count = vector(self.content, self._tensor(tensor), TENSOR_NAME)
        if count > MAX_NAME:
            raise ValueError(f"a tensor has a name of {count:,} bytes")
        return self.content[first : first + count].decode()

    def shape(self, tensor: int) -> Shape:
        """As in the file, with the batch first where there is one."""
        shape = integers(self.content, self._tensor(tensor), TENSOR_SHAPE, MAX_RANK)
        if min(shape, default=1) < 1:
            raise ValueError(f"'{self.name(tensor)}' has the shape {shape}")
        return shape

    def type(self, tensor: int) -> int:
        """One of the schema's types."""
        return scalar(self.content, self._tensor(tensor), TENSOR_TYPE, "b", 0)

    def quantisation(self, tensor: int) -> Quantisation:
        """Of a quantised tensor."""
        position = field_at(self.content, self._tensor(tensor), TENSOR_QUANTISATION)
        start = None if position is None else table(self.content, position)
        if start is None:
            raise ValueError(f"'{self.name(tensor)}' is not quantised")
        first, count = vector(self.content, start, QUANTISATION_SCALES)
        self._spend(count)
        scales = struct.unpack_from(f"<{count}f", self.content, first)
        first, zeros = vector(self.content, start, QUANTISATION_ZEROS)
        if zeros != count:
            raise ValueError(f"'{self.name(tensor)}' has {count:,} scales and {zeros:,} zero points")
        zero_points = struct.unpack_from(f"<{count}q", self.content, first)
        return Quantisation(scales, zero_points, scalar(self.content, start, QUANTISATION_AXIS, "i", 0))

    def is_constant(self, tensor: int) -> bool:
        """Whether the file has its values."""
        return vector(self.content, self._buffer(tensor), BUFFER_DATA)[1] > 0

    def values(self, tensor: int, kind: int) -> NDArray[Any]:
        """The values of a constant in its shape. kind: `INT8` or `INT32`."""
        dtype, shape = np.dtype("<i1" if kind == INT8 else "<i4"), self.shape(tensor)
        first, size = vector(self.content, self._buffer(tensor), BUFFER_DATA)
        inside = field_at(self.content, self._buffer(tensor), BUFFER_OFFSET) is None
        self._spend(size)
        if self.type(tensor) != kind or not inside or size != prod(shape) * dtype.itemsize:
            raise ValueError(f"'{self.name(tensor)}' is no constant of its type and shape")
        values: NDArray[Any] = np.frombuffer(self.content, dtype, prod(shape), first).reshape(shape)
        return values

    def _spend(self, size: int) -> None:
        """Count bytes that are about to be read."""
        self.left -= size
        if self.left < 0:
            raise ValueError("its tables overlap")

    def _buffer(self, tensor: int) -> int:
        return self._element(
            self.model, MODEL_BUFFERS, scalar(self.content, self._tensor(tensor), TENSOR_BUFFER, "I", 0)
        )

    def _tensor(self, index: int) -> int:
        return self._element(self.start, GRAPH_TENSORS, index)

    def _element(self, start: int, number: int, index: int) -> int:
        """Position of a table of a vector."""
        first, count = vector(self.content, start, number)
        if not 0 <= index < count:
            raise IndexError(f"element {index} of {count}")
        return table(self.content, first + 4 * index)
