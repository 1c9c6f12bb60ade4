"""Reads and changes the graph in the bytes of a .tflite file, without a package for flatbuffers."""

import struct
from collections.abc import Callable

from edgekd.tflite_tables import (
    GRAPH_OPERATORS,
    GRAPH_OUTPUTS,
    GRAPH_TENSORS,
    MODEL_BUFFERS,
    MODEL_CODES,
    MODEL_GRAPHS,
    OPERATOR_INPUTS,
    OPERATOR_OUTPUTS,
    table,
    vector,
)

TFLITE_VECTORS = {"operator codes": MODEL_CODES, "graph": MODEL_GRAPHS, "buffers": MODEL_BUFFERS}
OPERATOR_TENSORS = OPERATOR_INPUTS, OPERATOR_OUTPUTS


def refuse_malformed_graph(content: bytes, optional_inputs: bool = False) -> None:
    """Raise for a .tflite file that would make LiteRT end the process.

    LiteRT reads a flatbuffer unverified. It aborts where operator codes, graph or buffers are missing, and where an
    operator has no tensor.

    Args:
        content: bytes of the file.
        optional_inputs: allow operators whose input number is -1, which stands for no bias or no state. edgekd's
            emitters write none.

    Raises:
        ValueError, struct.error: such a file.
    """
    (model,) = struct.unpack_from("<I", content)
    for name, number in TFLITE_VECTORS.items():
        if vector(content, model, number)[1] == 0:
            raise ValueError(f"it has no {name}")
    graph = table(content, vector(content, model, TFLITE_VECTORS["graph"])[0])
    tensors = vector(content, graph, GRAPH_TENSORS)[1]
    first, operators = vector(content, graph, GRAPH_OPERATORS)
    left = len(content)  # a valid file has no more references than bytes
    for index in range(operators):
        operator = table(content, first + 4 * index)
        for number in OPERATOR_TENSORS:
            start, count = vector(content, operator, number)
            left -= count
            least = -1 if optional_inputs and number == OPERATOR_TENSORS[0] else 0
            if left < 0 or any(
                not least <= tensor < tensors for tensor in struct.unpack_from(f"<{count}i", content, start)
            ):
                raise ValueError(f"operator {index} lacks a tensor")


def with_output(content: bytes, choose: Callable[[list[int]], int]) -> bytes:
    """The bytes of a .tflite file with another tensor as its first output, which engines and delegates then keep.

    Args:
        content: bytes of a file that `refuse_malformed_graph` accepts.
        choose: function from the numbers of all tensors that operators write to one of them.

    Raises:
        ValueError: the file has no output.
    """
    (model,) = struct.unpack_from("<I", content)
    graph = table(content, vector(content, model, TFLITE_VECTORS["graph"])[0])
    first, operators = vector(content, graph, GRAPH_OPERATORS)
    written: list[int] = []
    for index in range(operators):
        start, count = vector(content, table(content, first + 4 * index), OPERATOR_TENSORS[1])
        written += struct.unpack_from(f"<{count}i", content, start)
    start, count = vector(content, graph, GRAPH_OUTPUTS)
    if not count:
        raise ValueError("it has no output")
    changed = bytearray(content)
    struct.pack_into("<i", changed, start, choose(written))
    return bytes(changed)
