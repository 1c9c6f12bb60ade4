"""Reads an .onnx file into a `Network`: plain float, QDQ (quantise-dequantise) and QLinear graphs; no engine runs.

A QDQ graph is read as an engine executes it: a DequantizeLinear is the tensor it reads, a QuantizeLinear is the output of the
op before it, and a ReLU or Clip is part of the op before it. So an int8 convolution counts int8 weights, an int32 bias and
one-byte activations, although the file spells it in float.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from edgekd.complexity.network import Network, Node, Tensor, bits_of, count_nonzero
from edgekd.errors import InputError, MissingExtraError

DOMAINS = frozenset({"", "ai.onnx"})
DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}
"""ONNX's names of types that say no size; the others are taken in lower case."""
UNCOUNTED_OPS = frozenset({"LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Einsum", "Attention", "DeformConv", "MatMulNBits"})
"""Ops that multiply by weights in ways the ledger has no rule for: a file with one is refused rather than counted too low."""
WEIGHT_INPUT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3,
}
"""Ops with multiply-accumulates, and which input holds the kernel."""
PARAMETER_INPUTS = {
    "QuantizeLinear": (0,), "DequantizeLinear": (0,), "DynamicQuantizeLinear": (0,), "ConvInteger": (0, 1), "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3, 8), "QLinearMatMul": (0, 3),
}
"""Inputs that are data or parameters where the others are scales and zero points, which no convention counts."""
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
MALFORMED = (IndexError, KeyError, TypeError, ValueError, AttributeError)
"""What a graph raises that parses but makes no sense: an op without its inputs, a tensor of no type."""


def read(path: Path, raw: bytes) -> Network:
    """Parse the bytes of an .onnx file.

    Raises:
        InputError: not an ONNX file, damaged, a free dimension besides the batch, an op or a shape that cannot be counted.
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
        raise InputError(f"{path}: the ONNX file is damaged ({type(error).__name__}: {error}); export or download it again") from None


def _network(path: Path, model: Any, onnx: Any) -> Network:
    for node in model.graph.node:
        if any(isinstance(text, bytes) for text in (node.name, node.op_type, *node.input, *node.output)):
            raise ValueError("a name is not UTF-8")  # protobuf hands such a string over as bytes
        if node.domain not in DOMAINS or node.op_type in UNCOUNTED_OPS:
            name = f"{node.domain}.{node.op_type}".lstrip(".")
            raise InputError(f"{path}: op {name} has no counting rule; only files of plain convolutions, dense layers, pools and "
                             "elementwise ops can be judged")
    _fix_batch(path, model.graph)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path}: the ONNX graph is inconsistent ({str(error).strip().splitlines()[0]}); export it again") from None
    return _Reader(path, model.graph, onnx.TensorProto.DataType.Name).network()


def _fix_batch(path: Path, graph: Any) -> None:
    """Set a free batch to 1; any other free size would make every count an accident."""
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants:
            continue
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                continue
            if axis > 0 or len(value.type.tensor_type.shape.dim) == 1:
                raise InputError(f"{path}: input '{value.name}' has a free dimension at axis {axis}; export with fixed sizes "
                                 "(only the batch may be free)")
            size.dim_value = 1
    for value in [*graph.output, *graph.value_info]:
        value.type.tensor_type.ClearField("shape")  # may still name the free batch; inference fills them again


class _Reader:
    """One pass over a graph; `alias` maps a tensor to the one that an engine really holds."""

    def __init__(self, path: Path, graph: Any, type_name: Any) -> None:
        self.path, self.graph, self.type_name = path, graph, type_name
        self.tensors: dict[str, Tensor] = {}
        self.constants: set[str] = set()
        self.alias: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        for constant in graph.initializer:
            self._constant(constant.name, tuple(constant.dims), constant.data_type, constant)
        for node in graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                shape, kind = (tuple(value.dims), value.data_type) if value is not None else ((), 1)
                self._constant(node.output[0], shape, kind, value)
        for value in [*graph.input, *graph.value_info, *graph.output]:
            kind = value.type.tensor_type
            if value.name not in self.constants and kind.HasField("shape"):
                self._tensor(value.name, tuple(size.dim_value for size in kind.shape.dim), kind.elem_type)
        self._fuse()

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, nonzero: int | None = None) -> None:
        known = self.type_name(kind)
        dtype = DTYPES.get(known, known.lower())
        if not bits_of(dtype):
            raise InputError(f"{self.path}: tensor '{name}' has type {known}, which has no fixed size; it cannot be counted")
        self.tensors[name] = Tensor(name, shape, dtype, name, nonzero)

    def _constant(self, name: str, shape: tuple[int, ...], kind: int, value: Any) -> None:
        known = self.type_name(kind)
        raw = value.raw_data if value is not None else b""
        self._tensor(name, shape, kind, count_nonzero(raw, DTYPES.get(known, known.lower())) if raw else None)
        self.constants.add(name)

    def _fuse(self) -> None:
        """Fold (de)quantisers and activations into their neighbours."""
        readers = Counter(name for node in self.graph.node for name in node.input)
        kept = {value.name for value in self.graph.output}
        only_passed_on = {name for node in self.graph.node for name in node.output
                          if node.op_type != "Constant" and readers[name] == 1 and name not in kept}
        for node in self.graph.node:
            source, result = node.input[0] if node.input else "", node.output[0]
            if node.op_type == "DequantizeLinear" and result not in kept:
                self.alias[result] = source
            elif node.op_type in {"QuantizeLinear", *ACTIVATIONS} and source in only_passed_on and source not in self.alias:
                self.alias[source] = result  # not where a quantiser reads a dequantiser: that requantises, with a tensor of its own

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

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor as the file spells it.

        Raises:
            InputError: shape inference could not tell it.
        """
        tensor = self.tensors.get(name)
        if tensor is None or any(size <= 0 for size in tensor.shape):
            raise InputError(f"{self.path}: the shape of tensor '{name}' is unknown; export with fixed sizes")
        return tensor.shape

    def network(self) -> Network:
        """The graph with fused nodes left out."""
        outputs = tuple(value.name for value in self.graph.output)
        nodes = [self._node(node) for node in self.graph.node if node.op_type != "Constant" and not self._is_fused(node)]
        carried = self._carried_constants()
        nodes = [self._with_constants(node, carried.get(node.outputs[0], [])) for node in nodes]
        inputs = tuple(value.name for value in self.graph.input if value.name not in self.constants)
        return Network(tuple(nodes), self.tensors, inputs, outputs)

    def _is_fused(self, node: Any) -> bool:
        if node.op_type == "DequantizeLinear":
            return node.output[0] in self.alias
        return node.op_type in {"QuantizeLinear", *ACTIVATIONS} and self.alias.get(node.input[0]) == node.output[0]

    def _carried_constants(self) -> dict[str, list[str]]:
        """Parameters of fused activations (the bounds of a Clip), keyed by the tensor of the op they were folded into."""
        carried: dict[str, list[str]] = {}
        for node in self.graph.node:
            if node.op_type in ACTIVATIONS and self._is_fused(node):
                carried.setdefault(self.root(node.output[0]), []).extend(self._constants(node.input))
        return carried

    @staticmethod
    def _with_constants(node: Node, extra: list[str]) -> Node:
        if not extra:
            return node
        return Node(node.name, node.op, node.inputs, node.outputs, (*node.constants, *extra), node.weight, node.macs, node.nessi_macs)

    def _constants(self, names: Iterable[str]) -> list[str]:
        return [self.root(name) for name in names if name and self.root(name) in self.constants]

    def _node(self, node: Any) -> Node:
        """Apply the counting rules of one op. Kernels: Conv (out, in / groups, ...), ConvTranspose (in, out / groups, ...)."""
        positions = PARAMETER_INPUTS.get(node.op_type)
        names = [name for index, name in enumerate(node.input) if name and (positions is None or index in positions)]
        for name in node.output:
            if name:
                self.shape(self.root(name))
        macs, weight = 0, None
        if node.op_type in WEIGHT_INPUT:
            weight = self.shape(self.root(node.input[WEIGHT_INPUT[node.op_type]]))
            macs = self._macs(node, weight)
        return Node(
            name=node.name or node.output[0], op=node.op_type,
            inputs=tuple(self.root(name) for name in names if self.root(name) not in self.constants),
            outputs=tuple(self.root(name) for name in node.output if name),
            constants=tuple(self._constants(names)), weight=weight, macs=macs,
        )

    def _macs(self, node: Any, weight: tuple[int, ...]) -> int:
        out, data = self.tensors[self.root(node.output[0])].elements, self.shape(self.root(node.input[0]))
        if node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
            return out * prod(weight[1:])
        if node.op_type == "ConvTranspose":
            return prod(data) * prod(weight[1:])
        if node.op_type == "Gemm":
            return out * data[0 if any(a.name == "transA" and a.i for a in node.attribute) else 1]
        return out * data[-1]
