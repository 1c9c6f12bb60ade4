"""Reads an .onnx file into a `Network`: plain float, QDQ (quantise-dequantise), QLinear and dynamically quantised
graphs; no engine runs.

A QDQ graph is read as an engine executes it: a DequantizeLinear is the tensor it reads, a QuantizeLinear is the output
of the op before it, and a ReLU or Clip is part of the op before it. So an int8 convolution counts int8 weights, an
int32 bias and one-byte activations, although the file spells it in float.

Branches and loops are unknown ops: how often they run is not in the file. Behind an unknown op shapes may be unknown
too; what cannot be counted for that is unknown as well. Values that lie in another file are counted by their shapes,
and as not zero.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.readers import onnx_rules as rules
from edgekd.complexity.readers.network import Network, Node, Tensor, bits_of
from edgekd.complexity.readers.values import MAX_KERNEL, REAL_KERNELS, count_nonzero, emulated
from edgekd.errors import InputError, MissingExtraError
from edgekd.text import counted

DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}
"""ONNX's names of types that say no size; the others are taken in lower case."""
NUMBER_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Fields of a constant that may hold its values one by one."""
BIAS_INPUT = {"Conv": 2, "QLinearConv": 8}
"""Convolutions that may be another op in fact, and where they have their bias."""
NO_RULE = "its constants are counted; its multiply-accumulates are not: no rule covers it"
NO_SHAPE = (
    "its constants are counted; its multiply-accumulates are not: an unknown op leaves its shapes open, or no rule"
    " covers its form"
)
CONTROL = (
    "the constants of what it runs are counted; its multiply-accumulates are not: how often it runs is not in the file"
)
"""What is said of unknown ops."""
MALFORMED = (IndexError, KeyError, TypeError, ValueError, AttributeError)
"""What a graph raises that parses but makes no sense: an op without its inputs, a tensor of no type."""


def read(path: Path, raw: bytes) -> Network:
    """Parse the bytes of an .onnx file.

    Raises:
        InputError: not an ONNX file, damaged, a free dimension besides the batch, functions of its own, or shapes that
            depend on the data.
        MissingExtraError: the onnx package is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise MissingExtraError("onnx", "check") from None
    try:
        model = onnx.load_model_from_string(raw)
    except DecodeError:
        raise InputError(f"{path}: not an ONNX file, or damaged; give a model that 'edgekd export' wrote") from None
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX file, or one without any op; give a model that 'edgekd export' wrote")
    try:
        return _network(path, model, onnx)
    except MALFORMED as error:
        raise InputError(
            f"{path}: the ONNX file is damaged ({type(error).__name__}: {error}); export or download it again"
        ) from None


def _network(path: Path, model: Any, onnx: Any) -> Network:
    if model.functions:
        raise InputError(
            f"{path}: has {counted(len(model.functions), 'function')} of its own, such as '{model.functions[0].name}',"
            " not counted; inline first (onnx.inliner.inline_local_functions)"
        )
    for node in model.graph.node:
        if any(isinstance(text, bytes) for text in (node.name, node.op_type, node.domain, *node.input, *node.output)):
            raise ValueError("a name is not UTF-8")  # protobuf hands such a string over as bytes
    _fix_batch(path, model.graph)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"{path}: the ONNX graph is inconsistent ({str(error).strip().splitlines()[0]}); export it again"
        ) from None
    return _Reader(path, model.graph, onnx).network()


def _fix_batch(path: Path, graph: Any) -> None:
    """Set a free batch to 1; any other free size would make every count an accident."""
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants:
            continue
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if _is_fixed(size):
                continue
            if axis > 0 or len(value.type.tensor_type.shape.dim) == 1:
                raise InputError(
                    f"{path}: input '{value.name}' has a free dimension at axis {axis}; export with fixed sizes "
                    "(only the batch may be free)"
                )
            size.dim_value = 1
    foreign = any(node.domain not in rules.DOMAINS for node in graph.node)
    for value in [*graph.output, *graph.value_info]:  # they may still name the free batch; inference fills them again
        # but not behind a foreign op
        if not foreign or not all(_is_fixed(size) for size in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")


def _is_fixed(size: Any) -> bool:
    return bool(size.HasField("dim_value") and size.dim_value > 0)


class _Reader:
    """One pass over a graph; `alias` maps a tensor to the one that an engine really holds."""

    def __init__(self, path: Path, graph: Any, onnx: Any) -> None:
        self.path, self.graph, self.onnx = path, graph, onnx
        self.tensors: dict[str, Tensor] = {}
        self.constants: set[str] = set()
        self.values: dict[str, Any] = {}
        self.alias: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        self.open: set[str] = set()
        self.dequantizers: dict[str, Any] = {}
        self.dynamic_scales = {node.output[1] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
        self.bodies = 0
        self.operators = Counter(_op_name(node) for node in graph.node if node.op_type != "Constant")
        self._constants_of(graph, "")
        for value in [*graph.input, *graph.value_info, *graph.output]:
            kind = value.type.tensor_type
            shape = tuple(size.dim_value for size in kind.shape.dim)
            if value.name not in self.constants and kind.HasField("shape") and all(size > 0 for size in shape):
                self._tensor(value.name, shape, kind.elem_type)
        self._fuse()

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int) -> Tensor:
        known = self.onnx.TensorProto.DataType.Name(kind)
        dtype = DTYPES.get(known, known.lower())
        if not bits_of(dtype):
            raise InputError(
                f"{self.path}: tensor '{name}' has type {known}, which has no fixed size; it cannot be counted"
            )
        self.tensors[name] = Tensor(name, shape, dtype, name)
        return self.tensors[name]

    def _constants_of(self, graph: Any, prefix: str) -> list[str]:
        """Read the constants of a graph or of a body; their names, which a prefix keeps apart."""
        found = []
        for value in graph.initializer:
            found.append(self._constant(prefix + value.name, tuple(value.dims), value))
        for sparse in graph.sparse_initializer:
            found.append(self._constant(prefix + sparse.values.name, tuple(sparse.dims), sparse.values, sparse=True))
        for node in graph.node:
            if node.op_type == "Constant":
                found.append(self._constant_node(prefix + node.output[0], node.attribute[0]))
        return found

    def _constant_node(self, name: str, attribute: Any) -> str:
        """A Constant node in any of its forms."""
        if attribute.name == "value":
            return self._constant(name, tuple(attribute.t.dims), attribute.t)
        if attribute.name == "sparse_value":
            return self._constant(
                name, tuple(attribute.sparse_tensor.dims), attribute.sparse_tensor.values, sparse=True
            )
        kinds = self.onnx.TensorProto
        numbers = {
            "value_float": [attribute.f],
            "value_floats": attribute.floats,
            "value_int": [attribute.i],
            "value_ints": attribute.ints,
        }
        if attribute.name not in numbers:
            raise InputError(f"{self.path}: constant '{name}' is text, which cannot be counted")
        values = numbers[attribute.name]
        tensor = self._tensor(
            name,
            () if isinstance(values, list) else (len(values),),
            kinds.FLOAT if "float" in attribute.name else kinds.INT64,
        )
        self.tensors[name] = replace(tensor, nonzero=sum(value != 0 for value in values))
        self.constants.add(name)
        return name

    def _constant(self, name: str, shape: tuple[int, ...], value: Any, *, sparse: bool = False) -> str:
        tensor = self._tensor(name, shape, value.data_type)
        self.constants.add(name)
        if any(size < 0 for size in shape):
            raise ValueError(f"constant '{name}' has shape {shape}")
        if value.data_location == self.onnx.TensorProto.EXTERNAL:
            return name
        if value.raw_data:
            if not sparse and len(value.raw_data) != tensor.bytes:
                raise ValueError(f"constant '{name}' has {len(value.raw_data):,} bytes of {tensor.bytes:,}")
            nonzero: int | None = count_nonzero(value.raw_data, tensor.dtype)
        else:
            nonzero = _count_numbers(value, name, 0 if sparse else tensor.elements, tensor.dtype)
        self.tensors[name] = replace(tensor, nonzero=nonzero)
        if not sparse:
            self.values[name] = value
        return name

    def _fuse(self) -> None:
        """Fold (de)quantisers and activations into their neighbours."""
        readers = Counter(name for node in self.graph.node for name in node.input)
        readers.update(name for node in self.graph.node for body in _bodies(node) for name in _names_read(body))
        kept = {value.name for value in self.graph.output}
        only_passed_on = {
            name
            for node in self.graph.node
            for name in node.output
            if node.op_type != "Constant" and readers[name] == 1 and name not in kept
        }
        for node in self.graph.node:
            source, result = node.input[0] if node.input else "", node.output[0]
            if node.op_type == "DequantizeLinear" and result not in kept:
                self.alias[result], self.dequantizers[result] = source, node
            elif (
                node.op_type in {"QuantizeLinear", *rules.ACTIVATIONS}
                and source in only_passed_on
                and source not in self.alias
            ):
                # not where a quantiser reads a dequantiser: that requantises, with a tensor of its own
                self.alias[source] = result

    def root(self, name: str) -> str:
        """The tensor that an engine holds for a name."""
        passed = []
        while name in self.alias and name not in self.roots:
            passed.append(name)
            name = self.alias[name]
            if len(passed) > len(self.alias):
                raise ValueError("its quantisers form a circle")
        root = self.roots.get(name, name)
        self.roots.update(dict.fromkeys(passed, root))  # a long chain is walked once
        return root

    def network(self) -> Network:
        """The graph with fused nodes left out."""
        outputs = tuple(value.name for value in self.graph.output)
        nodes = [
            self._node(node) for node in self.graph.node if node.op_type != "Constant" and not self._is_fused(node)
        ]
        carried = self._carried_constants()
        nodes = [replace(node, constants=(*node.constants, *carried.get(node.outputs[0], []))) for node in nodes]
        inputs = tuple(value.name for value in self.graph.input if value.name not in self.constants)
        return Network(tuple(nodes), self.tensors, inputs, outputs, operators=dict(self.operators))

    def _is_fused(self, node: Any) -> bool:
        if node.op_type == "DequantizeLinear":
            return node.output[0] in self.alias
        return (
            node.op_type in {"QuantizeLinear", *rules.ACTIVATIONS} and self.alias.get(node.input[0]) == node.output[0]
        )

    def _carried_constants(self) -> dict[str, list[str]]:
        """Parameters of fused activations (the bounds of a Clip), keyed by the tensor of the op they were folded
        into."""
        carried: dict[str, list[str]] = {}
        for node in self.graph.node:
            if node.op_type in rules.ACTIVATIONS and self._is_fused(node):
                carried.setdefault(self.root(node.output[0]), []).extend(self._constants(node.input))
        return carried

    def _constants(self, names: Iterable[str]) -> list[str]:
        return [self.root(name) for name in names if name and self.root(name) in self.constants]

    def _node(self, node: Any) -> Node:
        """Apply the counting rules of one op."""
        op, known = _op_name(node), node.domain in rules.DOMAINS and node.op_type in rules.KNOWN
        names = list(self._data_and_parameters(node))
        self._leave_open(node, known)
        macs, kernel, emulates = self._macs(node) if known else 0, None, ""
        if known and op in rules.KERNEL_INPUT:
            kernel = self.tensors.get(self.root(node.input[rules.KERNEL_INPUT[op]]))
            emulates = self._emulates(node, kernel) if kernel and macs else ""
        counted = macs or 0
        return Node(
            name=node.name or node.output[0],
            op=op,
            inputs=tuple(self.root(name) for name in names if self.root(name) not in self.constants),
            outputs=tuple(self.root(name) for name in node.output if name),
            constants=(*self._constants(names), *self._constants_inside(node)),
            kernel=kernel.name if kernel else None,
            weight=kernel.shape if kernel else None,
            macs=0 if emulates else counted,
            emulates=emulates,
            emulated_macs=counted if emulates else 0,
            unknown=(
                (CONTROL if node.op_type in rules.BODIES else NO_RULE)
                if not known
                else NO_SHAPE
                if macs is None
                else ""
            ),
        )

    def _data_and_parameters(self, node: Any) -> Iterator[str]:
        """Inputs of an op without scales and zero points."""
        positions = rules.PARAMETER_INPUTS.get(node.op_type) if node.domain in rules.DOMAINS else None
        rescales = node.op_type == "Mul" and any(name in self.dynamic_scales for name in node.input)
        for index, name in enumerate(node.input):
            if name and (positions is None or index in positions) and not (rescales and name in self.constants):
                yield name

    def _leave_open(self, node: Any, known: bool) -> None:
        """Note the outputs whose shapes an unknown op leaves open.

        Raises:
            InputError: shapes that are unknown for another reason.
        """
        for name in (self.root(name) for name in node.output if name):
            if name in self.tensors:
                continue
            if known and not any(self.root(source) in self.open for source in node.input):
                raise InputError(f"{self.path}: the shape of tensor '{name}' is unknown; export with fixed sizes")
            self.open.add(name)

    def _macs(self, node: Any) -> int | None:
        """Multiply-accumulates of a known op; None where shapes that they need are open."""
        if node.op_type not in rules.MACS:
            return 0
        output = self.tensors.get(self.root(node.output[0]))
        shapes = [
            self.tensors[self.root(name)].shape if name and self.root(name) in self.tensors else None
            for name in node.input
        ]
        if output is None:
            return None
        call = rules.OnnxCall(
            node.op_type, {attribute.name: attribute for attribute in node.attribute}, shapes, output.elements
        )
        try:
            return rules.MACS[node.op_type](call)
        except rules.OpenShapeError:
            return None

    def _emulates(self, node: Any, kernel: Tensor) -> str:
        """Whether a convolution is another op in fact; looked at where each output channel reads one input channel."""
        place = BIAS_INPUT.get(node.op_type, 0)
        if not place or len(kernel.shape) < 3 or kernel.shape[1] != 1:
            return ""
        if place < len(node.input) and node.input[place] and self._nonzero(node.input[place]):
            return ""
        values, scale, zero = self._array(kernel.name), *self._quantisation(node)
        if (
            values is None
            or scale is None
            or zero is None
            or scale.size not in (1, len(values))
            or np.any(zero != zero.flat[0])
        ):
            return ""
        return emulated(values.reshape(len(values), -1), scale.reshape(-1), int(zero.flat[0]))

    def _nonzero(self, name: str) -> bool:
        """Whether a tensor is anything but a constant of zeros."""
        tensor = self.tensors.get(self.root(name))
        return tensor is None or tensor.nonzero != 0

    def _quantisation(self, node: Any) -> Sequence[NDArray[Any] | None]:
        """Scale and zero point of a convolution's kernel; None where they are no constants."""
        if node.op_type == "QLinearConv":
            return [self._array(node.input[index]) for index in rules.SCALES["QLinearConv"]]
        quantiser = self.dequantizers.get(node.input[1])
        if quantiser is None:
            return np.ones(1), np.zeros(1)
        return self._array(quantiser.input[1]), (
            self._array(quantiser.input[2]) if len(quantiser.input) > 2 else np.zeros(1)
        )

    def _array(self, name: str) -> NDArray[Any] | None:
        """A small constant's values; None where they are not in the file, or of a type or size that is not looked
        at."""
        if (
            name not in self.values
            or self.tensors[name].dtype not in REAL_KERNELS
            or not 0 < self.tensors[name].elements <= MAX_KERNEL
        ):
            return None
        values: NDArray[Any] = self.onnx.numpy_helper.to_array(self.values[name])
        return values

    def _constants_inside(self, node: Any) -> list[str]:
        """Constants in the bodies of an op, and those around it that they read."""
        found = []
        for body in _bodies(node):
            self.bodies += 1
            found += self._constants_of(body, f"{self.bodies}:")
            self.operators.update(_op_name(inner) for inner in body.node if inner.op_type != "Constant")
            found += self._constants(name for inner in body.node for name in inner.input)
            for inner in body.node:
                found += self._constants_inside(inner)
        return found


def _count_numbers(value: Any, name: str, elements: int, dtype: str) -> int | None:
    """Values not zero among those that are spelt out in a field of their type; None where several are packed in one.

    Raises:
        ValueError: another number of them than elements.
    """
    numbers = next((each for each in (getattr(value, field) for field in NUMBER_FIELDS) if each), ())
    if elements and (bits_of(dtype) < 8 or dtype.startswith("complex")):
        return None
    if elements and len(numbers) != elements:
        raise ValueError(f"constant '{name}' has {len(numbers):,} values of {elements:,}")
    return sum(1 for number in numbers if number)


def _op_name(node: Any) -> str:
    return str(node.op_type if node.domain in rules.DOMAINS else f"{node.domain}.{node.op_type}")


def _bodies(node: Any) -> Iterator[Any]:
    """Graphs that an op runs."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names_read(graph: Any) -> Iterator[str]:
    """What the ops of a body read, bodies inside it too."""
    for node in graph.node:
        yield from node.input
        for body in _bodies(node):
            yield from _names_read(body)
