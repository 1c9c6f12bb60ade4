"""Reads the tables of a flatbuffer, of which .tflite files consist, and numbers the schema's fields. Standard library
only, no package for flatbuffers."""

import struct

MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS = 1, 2, 4
MODEL_FOREIGN = {"metadata buffers": 5, "metadata": 6, "signatures": 7}
GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_OPERATORS = 0, 1, 2, 3
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, BUFFER_DATA, BUFFER_OFFSET = 0, 1, 2, 3, 0, 1
OPERATOR_CODE, OPERATOR_INPUTS, OPERATOR_OUTPUTS, OPERATOR_OPTIONS_TYPE, OPERATOR_OPTIONS = 0, 1, 2, 3, 4
TENSOR_QUANTISATION, TENSOR_SIGNATURE, TENSOR_FOREIGN = 4, 7, (6, 9)
QUANTISATION_VECTORS = (0, 1, 2, 3)
QUANTISATION_SCALES, QUANTISATION_ZEROS, QUANTISATION_AXIS = 2, 3, 6
OPERATOR_INTERMEDIATES = 8
CODE_OLD, CODE_NEW = 0, 3
"""Field numbers in the schema's tables."""
STRIDES, DILATIONS, DEPTHWISE_DILATIONS, FILTER = (2, 1), (5, 4), (6, 5), (4, 3)
"""Field numbers in the options of sliding windows: (mel, frame)."""
PADDING, SAME, VALID, AXIS, KEEP_DIMS = 0, 0, 1, 0, 0
FLOAT32, INT32, INT8 = 0, 2, 9
"""Types of tensors."""

IDENTIFIER, IDENTIFIER_START = b"TFL3", 4
"""The bytes by which a .tflite file is known, and where they are."""

Shape = tuple[int, ...]


def is_tflite(content: bytes) -> bool:
    """Whether the bytes of a file are a .tflite model."""
    return content[IDENTIFIER_START : IDENTIFIER_START + len(IDENTIFIER)] == IDENTIFIER


def table(content: bytes, reference: int) -> int:
    """Position of the table that a vector's element refers to."""
    return int(reference + struct.unpack_from("<I", content, reference)[0])


def vector(content: bytes, start: int, number: int) -> tuple[int, int]:
    """(position of the first element, length) of a vector, by its table and field number; (0, 0) where it is absent."""
    position = field_at(content, start, number)
    if position is None:
        return 0, 0
    first = table(content, position)
    return first + 4, int(struct.unpack_from("<I", content, first)[0])


def field_at(content: bytes, start: int, number: int) -> int | None:
    """Position of a field of a table; None where it is absent."""
    vtable = start - struct.unpack_from("<i", content, start)[0]
    slot = 4 + 2 * number  # a vtable holds its size, its table's size, then the fields' offsets
    if vtable < 0 or slot + 2 > struct.unpack_from("<H", content, vtable)[0]:
        return None
    (offset,) = struct.unpack_from("<H", content, vtable + slot)
    return start + offset if offset else None


def scalar(content: bytes, start: int, number: int, kind: str, default: int) -> int:
    """A number in a table. kind: format character of `struct`."""
    position = field_at(content, start, number)
    return default if position is None else int(struct.unpack_from(f"<{kind}", content, position)[0])


def integers(content: bytes, start: int, number: int, most: int) -> Shape:
    """A vector of int32.

    Raises:
        ValueError: it has more than `most` elements.
    """
    first, count = vector(content, start, number)
    if count > most:
        raise ValueError(f"a vector of {count:,} numbers")
    return struct.unpack_from(f"<{count}i", content, first)
