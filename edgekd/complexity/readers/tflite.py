"""Reads a .tflite file into a `Network` with the official flatbuffers schema. No interpreter runs.

A constant that an op only unpacks (DEQUANTIZE of float16 weights, DENSIFY of sparse ones) is read as the constant
itself. Branches and loops are unknown ops, because the file does not say how often they run. A subgraph that an op runs
once costs what is in it, and one that runs before the first inference nothing; its constants count. A resource variable
is one tensor that keeps its value, however many ops read and write it.

In a malicious file any number of tables may share the same bytes, so that reading all of them would never end.
Therefore only what is counted is read, and at most `SHARING` times as many bytes as the file has.
"""

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.readers import tflite_rules as rules
from edgekd.complexity.readers.network import Network, Node, Tensor, bits_of
from edgekd.complexity.readers.tflite_subgraphs import Subgraph, charged_nodes
from edgekd.complexity.readers.values import count_nonzero, emulated, kernel_values
from edgekd.errors import InputError, MissingExtraError
from edgekd.operators import Tflite

UNPACKERS = frozenset({"DEQUANTIZE", "DENSIFY"})
"""Ops that an engine runs once, when it loads the file, if their input is a constant."""
EMULATORS = frozenset(each.name for each in Tflite if each.value.kernel is not None)
"""Convolutions that may compute another op."""
MALFORMED = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Exceptions of the flatbuffers reader on a damaged file."""
MAX_ENTRIES = 2**14
"""Most tensors, and most operators, of all subgraphs of a file."""
MAX_SUBGRAPHS = 64
MAX_RANK = 16
SHARING = 4
"""How often the bytes of a file may be read on average. Also in a valid file equal vectors may share their bytes."""
NO_RULE = "its constants are counted; its multiply-accumulates are not: no rule covers it"
"""Note on an unknown op."""


def read(path: Path, raw: bytes, shapes: Mapping[str, Sequence[int]]) -> Network:
    """The network in the bytes of a .tflite file.

    Args:
        path: of the file, for errors.
        raw: its bytes.
        shapes: of inputs; must be empty, because the file has the sizes of all its tensors.

    Raises:
        InputError: damaged, several networks in one file, a free dimension besides the batch, or shapes.
        MissingExtraError: the schema package is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "check") from None
    if shapes:
        raise InputError(
            f"--shape {next(iter(shapes))}: {path} is a .tflite file, which gets its sizes when it is converted; check"
            " it without --shape"
        )
    try:
        return _TfliteReader(path, raw, schema.Model.GetRootAs(raw, 0), schema).network()
    except MALFORMED as error:
        raise InputError(
            f"{path}: the TFLite file is damaged ({type(error).__name__}: {error}); export or download it again"
        ) from None


class _ReadLimit:
    """Limits how many bytes of a file are read. left: bytes that may still be read."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> int:
        """Count bytes that are about to be read; `size` again.

        Raises:
            ValueError: more bytes are read than a valid file has.
        """
        self.left -= size
        if self.left < 0:
            raise ValueError("its tables overlap")
        return size

    def integers(self, values: Any) -> tuple[int, ...]:
        """The numbers of a vector of int32."""
        if isinstance(values, int):  # flatbuffers returns 0 for an empty vector
            return ()
        self.spend(values.nbytes)
        return tuple(int(value) for value in values)

    def shape(self, values: Any, least: int = 0) -> tuple[int, ...]:
        """A shape with sizes of at least `least`.

        Raises:
            ValueError: smaller sizes, or more than `MAX_RANK`.
        """
        shape = self.integers(values)
        if len(shape) > MAX_RANK or any(size < least for size in shape):
            raise ValueError(f"a shape of {len(shape)} sizes, the least {min(shape)}")
        return shape


class _TfliteReader:
    """Reads one file. alias: tensor -> constant that it is unpacked from. resources: tensor of a handle -> name of the
    resource variable."""

    def __init__(self, path: Path, raw: bytes, model: Any, schema: Any) -> None:
        self.path, self.raw, self.model, self.schema = path, raw, model, schema
        self.limit = _ReadLimit(SHARING * len(raw))
        self.ops, self.types = _names(schema.BuiltinOperator), _names(schema.TensorType)
        self.tensors: dict[str, Tensor] = {}
        self.handles: dict[str, Any] = {}
        self.constants: set[str] = set()
        self.variables: dict[str, None] = {}
        self.alias: dict[str, str] = {}
        self.resources: dict[str, str] = {}
        self.results: set[str] = set()
        self.nonzero: dict[int, int] = {}
        self.graphs: dict[int, Subgraph] = {}
        self.operators: Counter[str] = Counter()
        self.entries = 0

    def network(self) -> Network:
        """The network of the first subgraph. Ops that run other subgraphs contain the constants of these."""
        count = self.model.SubgraphsLength()
        if not 0 < count <= MAX_SUBGRAPHS:
            raise InputError(f"{self.path}: {count:,} subgraphs, where 1 to {MAX_SUBGRAPHS} can be counted")
        pending = [0]
        while pending:
            index = pending.pop()
            if index not in self.graphs:
                if not 0 <= index < count:
                    raise IndexError(f"subgraph {index} of {count}")
                pending += self._subgraph(index).runs
        if len(self.graphs) < count:
            raise InputError(
                f"{self.path}: {count} subgraphs, and the first runs {len(self.graphs) - 1} of them; "
                "only a file of a single network can be counted"
            )
        main = self.graphs[0]
        return Network(
            charged_nodes(self.graphs),
            self.tensors,
            main.inputs,
            main.outputs,
            tuple(self.variables),
            dict(self.operators),
        )

    def _subgraph(self, number: int) -> Subgraph:
        """Read a subgraph."""
        source, graph = self.model.Subgraphs(number), Subgraph()
        self.graphs[number] = graph
        self.entries += max(source.TensorsLength(), source.OperatorsLength())
        if self.entries > MAX_ENTRIES:
            raise InputError(
                f"{self.path}: {source.TensorsLength():,} tensors and {source.OperatorsLength():,} operators, more than"
                f" {MAX_ENTRIES:,}; this is not a model for a small device"
            )
        for index in range(source.TensorsLength()):
            graph.keys.append(self._tensor(source.Tensors(index), f"{number}.{index}", free=number == 0))
        graph.inputs = tuple(graph.keys[index] for index in self.limit.integers(source.InputsAsNumpy()))
        graph.outputs = tuple(graph.keys[index] for index in self.limit.integers(source.OutputsAsNumpy()))
        self.results.update(graph.outputs)
        for index in range(source.OperatorsLength()):
            self._operator(source.Operators(index), graph)
        return graph

    def _tensor(self, tensor: Any, number: str, *, free: bool) -> str:
        """Read a tensor; its key. free: refuse free dimensions."""
        name = tensor.Name() or b""
        self.limit.spend(len(name))
        key = f"{number}:{name.decode(errors='replace')}"
        signature = self.limit.shape(tensor.ShapeSignatureAsNumpy(), -1)
        if free:
            _refuse_free_dimensions(self.path, key, signature)
        shape, dtype = self.limit.shape(tensor.ShapeAsNumpy()), self.types[tensor.Type()].lower()
        data = self._stored(tensor.Buffer())
        if tensor.IsVariable():
            self.variables[key] = None
        elif data is not None:
            self.constants.add(key)
        if data is None:
            self.tensors[key] = Tensor(key, shape, dtype, key)
            return key
        if not bits_of(dtype):
            raise InputError(
                f"{self.path}: constant '{key}' has type {dtype}, which has no fixed size; it cannot be counted"
            )
        if tensor.Buffer() not in self.nonzero:
            self.limit.spend(len(data))
            self.nonzero[tensor.Buffer()] = count_nonzero(data, dtype)
        constant = Tensor(key, shape, dtype, f"buffer {tensor.Buffer()}", self.nonzero[tensor.Buffer()])
        if len(data) < constant.bytes and tensor.Sparsity() is None:
            raise ValueError(f"tensor '{key}' has {len(data):,} bytes of {constant.bytes:,}")
        self.tensors[key], self.handles[key] = constant, tensor
        return key

    def _stored(self, index: int) -> Any:
        """The bytes of a buffer, which are in the tables or after them; None if it is empty."""
        if index >= self.model.BuffersLength():
            raise IndexError(f"buffer {index} of {self.model.BuffersLength()}")
        buffer = self.model.Buffers(index)
        data = buffer.DataAsNumpy()  # a view; raises if it would leave the file
        if not isinstance(data, int) and len(data) > 0:
            return data
        if buffer.Size() == 0:
            return None
        if buffer.Offset() + buffer.Size() > len(self.raw):
            raise IndexError(f"buffer {index} ends after the file")
        return memoryview(self.raw)[buffer.Offset() : buffer.Offset() + buffer.Size()]

    def _operator(self, operator: Any, graph: Subgraph) -> None:
        """Add the node of an operator to its subgraph."""
        op = self._op_name(operator.OpcodeIndex())
        self.operators[op] += 1
        keys = [graph.keys[index] if index >= 0 else None for index in self.limit.integers(operator.InputsAsNumpy())]
        reads = [None if key is None else self.tensors[self.alias.get(key, key)] for key in keys]
        writes = [self.tensors[graph.keys[index]] for index in self.limit.integers(operator.OutputsAsNumpy())]
        if (
            op in UNPACKERS
            and reads
            and reads[0]
            and reads[0].name in self.constants
            and writes[0].name not in self.results
        ):
            self.alias[writes[0].name] = reads[0].name
            return
        options = self._options(op, operator)
        self._note_variable(rules.TfliteCall(op, options, reads, writes))
        if op in rules.BODIES:
            graph.bodies[len(graph.nodes)] = rules.BODIES[op](options)
            graph.runs.update(graph.bodies[len(graph.nodes)])
        graph.nodes.append(self._node(op, options, reads, writes))

    def _note_variable(self, call: rules.TfliteCall) -> None:
        """Remember the resource variable that an op makes, reads or writes. All handles of a name are one variable."""
        if call.op == rules.HANDLE:
            names = [call.options.Container() or b"", call.options.SharedName() or b""]
            self.limit.spend(sum(map(len, names)))
            self.resources[call.writes[0].name] = f"variable {b'/'.join(names).decode(errors='replace')}"
        elif call.op in rules.VARIABLE_VALUES and call.reads[0] and call.reads[0].name in self.resources:
            value, name = rules.VARIABLE_VALUES[call.op](call), self.resources[call.reads[0].name]
            if value is not None:
                self.variables[name] = None
                self.tensors[name] = Tensor(name, value.shape, value.dtype, name)

    def _op_name(self, index: int) -> str:
        if index >= self.model.OperatorCodesLength():
            raise IndexError(f"operator code {index} of {self.model.OperatorCodesLength()}")
        code = self.model.OperatorCodes(index)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old writers fill only the deprecated field
        op = self.ops.get(number, f"BUILTIN:{number}")
        if op != "CUSTOM":
            return op
        name = code.CustomCode() or b""
        self.limit.spend(len(name))
        return f"CUSTOM:{name.decode(errors='replace')}"

    def _options(self, op: str, operator: Any) -> Any:
        """The options table of an op whose counting rule needs it, else None."""
        kind = rules.OPTIONS.get(op)
        if kind is None:
            return None
        table = operator.BuiltinOptions2() if op in rules.NEWER_OPTIONS else operator.BuiltinOptions()
        options = getattr(self.schema, kind)()
        options.Init(table.Bytes, table.Pos)
        return options

    def _node(self, op: str, options: Any, reads: Sequence[Tensor | None], writes: list[Tensor]) -> Node:
        """Apply the counting rules of one op."""
        call = rules.TfliteCall(op, options, reads, writes)
        macs = rules.MACS[op](call) if op in rules.MACS else 0
        kernel, emulates = rules.kernel(call), self._emulates(call) if op in EMULATORS and macs else ""
        present = [tensor for tensor in reads if tensor is not None]
        constants = tuple(tensor.name for tensor in present if tensor.name in self.constants)
        return Node(
            name=writes[0].name.split(":", 1)[1] if writes else op,
            op=op,
            inputs=tuple(tensor.name for tensor in present if tensor.name not in self.constants),
            outputs=tuple(tensor.name for tensor in writes),
            constants=constants,
            kernel=kernel.name if kernel else None,
            weight=kernel.shape if kernel else None,
            macs=0 if emulates else macs,
            nessi_macs=rules.NESSI_MACS[op](call) if op in rules.NESSI_MACS else 0,
            nessi_constants=(*constants, *(tensor.name for tensor in present if tensor.name in self.variables)),
            emulates=emulates,
            emulated_macs=macs if emulates else 0,
            unknown="" if op in rules.KNOWN else NO_RULE,
        )

    def _emulates(self, call: rules.TfliteCall) -> str:
        """The op that a convolution computes in fact, else "". Only one whose output channels each read one input
        channel can compute another op."""
        kernel, bias = call.reads[1], call.reads[2] if len(call.reads) > 2 else None
        by_output = call.op == "CONV_2D"  # (out, mel, frame, 1), else (1, mel, frame, out)
        if kernel is None or kernel.name not in self.constants or (bias is not None and bias.nonzero != 0):
            return ""
        if by_output and kernel.shape[-1] != 1:
            return ""
        tensor = self.handles[kernel.name]
        data = self._stored(tensor.Buffer())
        self.limit.spend(len(data))
        values = (
            None if tensor.Sparsity() is not None else kernel_values(data[: kernel.bytes], kernel.dtype, kernel.shape)
        )
        scale, zero_point = self._quantisation(tensor, kernel.dtype)
        if values is None or scale is None:
            return ""
        # (out, mel * frame)
        rows = values.reshape(len(values), -1) if by_output else values.reshape(-1, kernel.shape[-1]).T
        return emulated(rows, scale, zero_point) if len(scale) in (1, len(rows)) else ""

    def _quantisation(self, tensor: Any, dtype: str) -> tuple[NDArray[Any] | None, int]:
        """Scales (of each output channel or one of all) and zero point. The scales are None if the file has none or the
        zero points differ."""
        quantisation = tensor.Quantization()
        if dtype == "float32" or quantisation is None:
            return np.ones(1), 0
        scales, zeros = quantisation.ScaleAsNumpy(), self.limit.integers(quantisation.ZeroPointAsNumpy()) or (0,)
        if isinstance(scales, int) or len({*zeros}) > 1:
            return None, 0
        self.limit.spend(scales.nbytes)
        return np.asarray(scales, np.float64), zeros[0]


def _names(enumeration: type) -> dict[int, str]:
    """Value -> name of a schema enumeration."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _refuse_free_dimensions(path: Path, key: str, signature: tuple[int, ...]) -> None:
    """Raise for a free dimension other than the batch, because the counts depend on it. A free batch counts as 1."""
    if any(size < 0 for size in signature[1:]) or signature == (-1,):
        raise InputError(
            f"{path}: tensor '{key}' has a free dimension in {signature}; convert it with fixed sizes "
            "(only the batch may be free)"
        )
