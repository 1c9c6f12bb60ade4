"""Reads a .tflite file into a `Network` through the official flatbuffers schema; no interpreter runs."""

import struct
from math import prod
from pathlib import Path
from typing import Any

from edgekd.complexity.network import Network, Node, Tensor
from edgekd.errors import InputError, MissingExtraError

ELEMENT_BITS = {
    "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT64": 64, "INT2": 2, "INT4": 4, "INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64,
    "UINT4": 4, "UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64, "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128,
}
UNCOUNTED_OPS = frozenset({
    "CUSTOM", "DELEGATE", "CALL", "CALL_ONCE", "IF", "WHILE", "LSTM", "RNN", "SVDF", "CONV_3D", "CONV_3D_TRANSPOSE",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN",
})
"""Ops that multiply by weights in ways the ledger has no rule for: a file with one is refused rather than counted too low."""
KERNEL_OPS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Ops whose second input is their kernel."""
MALFORMED = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError)
"""What the flatbuffers reader raises on a damaged file."""


def read(path: Path, raw: bytes) -> Network:
    """Parse the bytes of a .tflite file.

    Raises:
        InputError: damaged, several subgraphs, a free dimension besides the batch, or an op without a rule.
        MissingExtraError: the schema package is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "check") from None
    try:
        model = schema.ModelT.InitFromPackedBuf(raw, 0)
        return _network(path, model, schema)
    except MALFORMED as error:
        raise InputError(f"{path}: the TFLite file is damaged ({type(error).__name__}: {error}); export or download it again") from None


def _names(enumeration: type) -> dict[int, str]:
    """Value -> name of a schema enumeration."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in shape) if shape is not None else ()


def _network(path: Path, model: Any, schema: Any) -> Network:
    if len(model.subgraphs) != 1:
        raise InputError(f"{path}: {len(model.subgraphs)} subgraphs; only a file with a single graph can be counted")
    graph, ops, types = model.subgraphs[0], _names(schema.BuiltinOperator), _names(schema.TensorType)
    keys = [f"{index}:{(tensor.name or b'').decode(errors='replace')}" for index, tensor in enumerate(graph.tensors)]
    tensors: dict[str, Tensor] = {}
    constants: set[str] = set()
    for key, tensor in zip(keys, graph.tensors, strict=True):
        _refuse_free_dimensions(path, key, _shape(tensor.shapeSignature))
        bits = ELEMENT_BITS.get(types[tensor.type])
        buffer = model.buffers[tensor.buffer]
        stored = (buffer.data is not None and len(buffer.data) > 0) or buffer.size > 0
        if stored and not tensor.isVariable:
            constants.add(key)
        if stored and bits is None:
            raise InputError(f"{path}: constant '{key}' has type {types[tensor.type]}, which has no fixed size; it cannot be counted")
        tensors[key] = Tensor(key, _shape(tensor.shape), bits or 0, f"buffer {tensor.buffer}" if stored else key)
    nodes = []
    for operator in graph.operators or []:
        code = model.operatorCodes[operator.opcodeIndex]
        op = ops[max(code.builtinCode, code.deprecatedBuiltinCode)]  # old writers fill only the deprecated field
        if op in UNCOUNTED_OPS or op.startswith("STABLEHLO"):
            raise InputError(f"{path}: op {op} has no counting rule; only files of plain convolutions, dense layers, pools and "
                             "elementwise ops can be judged")
        reads = [tensors[keys[index]] for index in operator.inputs if index >= 0]
        writes = [tensors[keys[index]] for index in operator.outputs]
        nodes.append(_node(op, operator.builtinOptions, reads, writes, constants))
    return Network(
        nodes=tuple(nodes), tensors=tensors, inputs=tuple(keys[index] for index in graph.inputs),
        outputs=tuple(keys[index] for index in graph.outputs),
        persistent=tuple(key for key, tensor in zip(keys, graph.tensors, strict=True) if tensor.isVariable),
    )


def _refuse_free_dimensions(path: Path, key: str, signature: tuple[int, ...]) -> None:
    """A free batch counts as 1; any other free size would make every count an accident."""
    if any(size < 0 for size in signature[1:]) or signature == (-1,):
        raise InputError(f"{path}: tensor '{key}' has a free dimension in {signature}; export with fixed sizes "
                         "(only the batch may be free)")


def _node(op: str, options: Any, reads: list[Tensor], writes: list[Tensor], constants: set[str]) -> Node:
    """Apply the counting rules of one op.

    Kernels are CONV_2D and TRANSPOSE_CONV (out, mel, frame, in / groups), DEPTHWISE_CONV_2D (1, mel, frame, out) and
    FULLY_CONNECTED (out, in).
    """
    out = sum(tensor.elements for tensor in writes)
    kernel = reads[1].shape if op in KERNEL_OPS else ()
    macs = nessi = 0
    if op == "CONV_2D":
        macs = nessi = out * prod(kernel[1:])
    elif op == "DEPTHWISE_CONV_2D":
        macs = nessi = out * prod(kernel[1:3])
    elif op == "TRANSPOSE_CONV":
        macs = nessi = reads[2].elements * prod(kernel[:3])
    elif op == "FULLY_CONNECTED":
        macs, nessi = out * kernel[1], out * reads[0].shape[-1]
    elif op == "BATCH_MATMUL":
        macs = nessi = out * reads[0].shape[-2 if options.adjX else -1]
    elif op == "MEAN":
        nessi = reads[0].elements
    elif op in {"MAX_POOL_2D", "AVERAGE_POOL_2D"}:
        nessi = out * options.filterHeight * options.filterWidth
    elif op in {"ADD", "ADD_N"}:
        nessi = out * (len(reads) - 1)
    return Node(
        name=writes[0].name.split(":", 1)[1], op=op, inputs=tuple(tensor.name for tensor in reads if tensor.name not in constants),
        outputs=tuple(tensor.name for tensor in writes), constants=tuple(tensor.name for tensor in reads if tensor.name in constants),
        weight=kernel or None, macs=macs, nessi_macs=nessi,
    )
