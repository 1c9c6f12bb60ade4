"""Reads a .tflite file into a `Network` through the official flatbuffers schema; no interpreter runs.

A hostile file may have any number of tables share the same bytes, so that reading all it seems to hold would never end. So only what is
counted is read, and hardly more of it than the file has bytes.
"""

import struct
from math import prod
from pathlib import Path
from typing import Any

from edgekd.complexity.network import Network, Node, Tensor, bits_of, count_nonzero
from edgekd.errors import InputError, MissingExtraError

OPTIONS = {"BATCH_MATMUL": "BatchMatMulOptions", "MAX_POOL_2D": "Pool2DOptions", "AVERAGE_POOL_2D": "Pool2DOptions"}
"""Ops whose counting rule needs their options, and the table that holds them."""
UNCOUNTED_OPS = frozenset({
    "CUSTOM", "DELEGATE", "CALL", "CALL_ONCE", "IF", "WHILE", "LSTM", "RNN", "SVDF", "CONV_3D", "CONV_3D_TRANSPOSE",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN",
})
"""Ops that multiply by weights in ways the ledger has no rule for: a file with one is refused rather than counted too low."""
KERNEL_OPS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Ops whose second input is their kernel."""
MALFORMED = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What the flatbuffers reader raises on a damaged file."""
MAX_ENTRIES = 2**14
"""Tensors, operators, operator codes or buffers of one file."""
MAX_RANK = 16
SHARING = 4
"""How often the bytes of a file may be read on average: honest writers let equal vectors share theirs."""


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
        return _network(path, schema.Model.GetRootAs(raw, 0), schema, _Budget(SHARING * len(raw)))
    except MALFORMED as error:
        raise InputError(f"{path}: the TFLite file is damaged ({type(error).__name__}: {error}); export or download it again") from None


class _Budget:
    """Bytes that may still be read."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> int:
        """Take from it; the size again.

        Raises:
            ValueError: the file seems to hold more than its bytes.
        """
        self.left -= size
        if self.left < 0:
            raise ValueError("its tables overlap")
        return size


def _names(enumeration: type) -> dict[int, str]:
    """Value -> name of a schema enumeration."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _integers(values: Any, budget: _Budget) -> tuple[int, ...]:
    """A vector of 32-bit numbers, which an empty one is not: the reader gives 0 for it."""
    if isinstance(values, int):
        return ()
    budget.spend(values.nbytes)
    return tuple(int(value) for value in values)


def _shape(values: Any, budget: _Budget, least: int = 0) -> tuple[int, ...]:
    """A shape whose sizes are at least `least`."""
    shape = _integers(values, budget)
    if len(shape) > MAX_RANK or any(size < least for size in shape):
        raise ValueError(f"a shape of {len(shape)} sizes, the least {min(shape)}")
    return shape


def _network(path: Path, model: Any, schema: Any, budget: _Budget) -> Network:
    if model.SubgraphsLength() != 1:
        raise InputError(f"{path}: {model.SubgraphsLength()} subgraphs; only a file with a single graph can be counted")
    graph, ops, types = model.Subgraphs(0), _names(schema.BuiltinOperator), _names(schema.TensorType)
    if max(graph.TensorsLength(), graph.OperatorsLength()) > MAX_ENTRIES:
        raise InputError(f"{path}: {graph.TensorsLength():,} tensors and {graph.OperatorsLength():,} operators, more than {MAX_ENTRIES:,}; "
                         "this is no model for a small device")
    keys: list[str] = []
    tensors: dict[str, Tensor] = {}
    constants, variables, counted = set(), [], dict[int, int]()
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        name = tensor.Name() or b""
        budget.spend(len(name))
        keys.append(key := f"{index}:{name.decode(errors='replace')}")
        _refuse_free_dimensions(path, key, _shape(tensor.ShapeSignatureAsNumpy(), budget, -1))
        dtype, data = types[tensor.Type()].lower(), _stored(model, tensor.Buffer())
        stored = data is not None
        if tensor.IsVariable():
            variables.append(key)
        elif stored:
            constants.add(key)
        if stored and not bits_of(dtype):
            raise InputError(f"{path}: constant '{key}' has type {types[tensor.Type()]}, which has no fixed size; it cannot be counted")
        nonzero = None
        if data is not None and len(data):
            if tensor.Buffer() not in counted:
                counted[tensor.Buffer()] = count_nonzero(data, dtype)
            nonzero = counted[tensor.Buffer()]
        tensors[key] = Tensor(key, _shape(tensor.ShapeAsNumpy(), budget), dtype, f"buffer {tensor.Buffer()}" if stored else key, nonzero)
    nodes = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        if operator.OpcodeIndex() >= model.OperatorCodesLength():
            raise IndexError(f"operator code {operator.OpcodeIndex()} of {model.OperatorCodesLength()}")
        code = model.OperatorCodes(operator.OpcodeIndex())
        op = ops[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]  # old writers fill only the deprecated field
        if op in UNCOUNTED_OPS or op.startswith("STABLEHLO"):
            raise InputError(f"{path}: op {op} has no counting rule; only files of plain convolutions, dense layers, pools and "
                             "elementwise ops can be judged")
        reads = [tensors[keys[index]] for index in _integers(operator.InputsAsNumpy(), budget) if index >= 0]
        writes = [tensors[keys[index]] for index in _integers(operator.OutputsAsNumpy(), budget)]
        nodes.append(_node(op, _options(op, operator, schema), reads, writes, constants))
    return Network(
        nodes=tuple(nodes), tensors=tensors, inputs=tuple(keys[index] for index in _integers(graph.InputsAsNumpy(), budget)),
        outputs=tuple(keys[index] for index in _integers(graph.OutputsAsNumpy(), budget)), persistent=tuple(variables),
    )


def _stored(model: Any, index: int) -> Any:
    """The bytes that a buffer holds inside the file; empty where they lie behind it, None where there are none."""
    if index >= model.BuffersLength():
        raise IndexError(f"buffer {index} of {model.BuffersLength()}")
    buffer = model.Buffers(index)
    data = buffer.DataAsNumpy()  # a view, refused where it would leave the file
    if not isinstance(data, int) and len(data) > 0:
        return data
    return b"" if buffer.Size() > 0 else None


def _options(op: str, operator: Any, schema: Any) -> Any:
    """The options table of an op whose counting rule needs it, else None."""
    kind = OPTIONS.get(op)
    if kind is None:
        return None
    table, options = operator.BuiltinOptions(), getattr(schema, kind)()
    options.Init(table.Bytes, table.Pos)
    return options


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
        macs = nessi = out * reads[0].shape[-2 if options.AdjX() else -1]
    elif op == "MEAN":
        nessi = reads[0].elements
    elif op in {"MAX_POOL_2D", "AVERAGE_POOL_2D"}:
        nessi = out * options.FilterHeight() * options.FilterWidth()
    elif op in {"ADD", "ADD_N"}:
        nessi = out * (len(reads) - 1)
    return Node(
        name=writes[0].name.split(":", 1)[1], op=op, inputs=tuple(tensor.name for tensor in reads if tensor.name not in constants),
        outputs=tuple(tensor.name for tensor in writes), constants=tuple(tensor.name for tensor in reads if tensor.name in constants),
        weight=kernel or None, macs=macs, nessi_macs=nessi,
    )
