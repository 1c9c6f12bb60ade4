"""Reads an .onnx file into a `Network`: plain float, QDQ (quantise-dequantise), QLinear and dynamically quantised
graphs. No engine runs.

A QDQ graph is read as an engine executes it. A DequantizeLinear is the tensor that it reads, a QuantizeLinear is the
output of the op before it, and a ReLU or Clip is part of the op before it. So an int8 convolution has int8 weights, an
int32 bias and one-byte activations, although the file expresses it in float.

Branches and loops are unknown ops, because the file does not say how often they run. After an unknown op shapes may be
unknown, and an op that cannot be counted without them is unknown too. Values in another file are counted by their
shapes and as not zero.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.readers import onnx_rules as rules
from edgekd.complexity.readers.network import Network, Node, Tensor
from edgekd.complexity.readers.onnx_constants import Constants, tensor_of
from edgekd.complexity.readers.onnx_shapes import fix_shapes
from edgekd.complexity.readers.values import emulated
from edgekd.errors import InputError, MissingExtraError
from edgekd.text import counted

BIAS_INPUT = {"Conv": 2, "QLinearConv": 8}
"""Convolutions that may compute another op, and which input holds their bias."""
NO_RULE = "its constants are counted; its multiply-accumulates are not: no rule covers it"
NO_SHAPE = (
    "its constants are counted; its multiply-accumulates are not: an unknown op leaves its shapes open, or no rule"
    " covers its form"
)
CONTROL = (
    "the constants of what it runs are counted; its multiply-accumulates are not: how often it runs is not in the file"
)
"""Notes on unknown ops."""
MALFORMED = (IndexError, KeyError, TypeError, ValueError, AttributeError)
"""Exceptions raised by a graph that parses but is invalid: an op without its inputs, a tensor without a type."""


def read(path: Path, raw: bytes, shapes: Mapping[str, Sequence[int]]) -> Network:
    """The network in the bytes of an .onnx file.

    Args:
        path: of the file, for errors.
        raw: its bytes.
        shapes: name of an input -> its shape, for free dimensions.

    Raises:
        InputError: not an ONNX file, damaged, a free dimension besides the batch, functions of its own, shapes that
            depend on the data, or shapes that are not those of the inputs.
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
        return _network(path, model, onnx, shapes)
    except MALFORMED as error:
        raise InputError(
            f"{path}: the ONNX file is damaged ({type(error).__name__}: {error}); export or download it again"
        ) from None


def _network(path: Path, model: Any, onnx: Any, shapes: Mapping[str, Sequence[int]]) -> Network:
    if model.functions:
        raise InputError(
            f"{path}: has {counted(len(model.functions), 'function')} of its own, such as '{model.functions[0].name}',"
            " not counted; inline first (onnx.inliner.inline_local_functions)"
        )
    for node in model.graph.node:
        if any(isinstance(text, bytes) for text in (node.name, node.op_type, node.domain, *node.input, *node.output)):
            raise ValueError("a name is not UTF-8")  # protobuf returns such a string as bytes
    fix_shapes(path, model.graph, shapes)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"{path}: the ONNX graph is inconsistent ({str(error).strip().splitlines()[0]}); export it again"
        ) from None
    return _OnnxReader(path, model.graph, onnx).network()


class Aliases:
    """Tensors of a graph that an engine does not hold, because it fuses the op that reads or writes them."""

    def __init__(self) -> None:
        self._target: dict[str, str] = {}
        self._roots: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._target

    def add(self, name: str, target: str) -> None:
        """Replace the tensor `name` by `target`."""
        self._target[name] = target

    def target(self, name: str) -> str | None:
        """The tensor that directly replaces `name`; None if the engine holds `name`."""
        return self._target.get(name)

    def root(self, name: str) -> str:
        """The tensor that an engine holds for a name.

        Raises:
            ValueError: the replacements form a circle.
        """
        passed = []
        while name in self._target and name not in self._roots:
            passed.append(name)
            name = self._target[name]
            if len(passed) > len(self._target):
                raise ValueError("its quantisers form a circle")
        root = self._roots.get(name, name)
        self._roots.update(dict.fromkeys(passed, root))  # a long chain is followed once
        return root


class _OnnxReader:
    """Reads one graph. aliases: of the tensors of fused ops."""

    def __init__(self, path: Path, graph: Any, onnx: Any) -> None:
        self.path, self.graph = path, graph
        self.tensors: dict[str, Tensor] = {}
        self.constants = Constants(path, onnx, self.tensors)
        self.aliases = Aliases()
        self.open: set[str] = set()
        self.dequantizers: dict[str, Any] = {}
        self.dynamic_scales = {node.output[1] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
        self.bodies = 0
        self.operators = Counter(_op_name(node) for node in graph.node if node.op_type != "Constant")
        self.constants.read(graph)
        for value in [*graph.input, *graph.value_info, *graph.output]:
            kind = value.type.tensor_type
            shape = tuple(size.dim_value for size in kind.shape.dim)
            if value.name not in self.constants and kind.HasField("shape") and all(size > 0 for size in shape):
                self.tensors[value.name] = tensor_of(path, onnx, value.name, shape, kind.elem_type)
        self._fuse()

    def _fuse(self) -> None:
        """Find the quantisers, dequantisers and activations that an engine fuses with the ops next to them."""
        readers = Counter(name for node in self.graph.node for name in node.input)
        readers.update(name for node in self.graph.node for body in _bodies(node) for name in _names_read(body))
        outputs = {value.name for value in self.graph.output}
        read_once = {
            name
            for node in self.graph.node
            for name in node.output
            if node.op_type != "Constant" and readers[name] == 1 and name not in outputs
        }
        for node in self.graph.node:
            source, result = node.input[0] if node.input else "", node.output[0]
            if node.op_type == "DequantizeLinear" and result not in outputs:
                self.aliases.add(result, source)
                self.dequantizers[result] = node
            elif (
                node.op_type in {"QuantizeLinear", *rules.ACTIVATIONS}
                and source in read_once
                # a quantiser that reads a dequantiser requantises, and has an output of its own
                and source not in self.aliases
            ):
                self.aliases.add(source, result)

    def root(self, name: str) -> str:
        """The tensor that an engine holds for a name."""
        return self.aliases.root(name)

    def network(self) -> Network:
        """The network without fused nodes."""
        outputs = tuple(value.name for value in self.graph.output)
        nodes = [
            self._node(node) for node in self.graph.node if node.op_type != "Constant" and not self._is_fused(node)
        ]
        fused = self._fused_constants()
        nodes = [replace(node, constants=(*node.constants, *fused.get(node.outputs[0], []))) for node in nodes]
        inputs = tuple(value.name for value in self.graph.input if value.name not in self.constants)
        return Network(
            tuple(nodes),
            self.tensors,
            inputs,
            outputs,
            operators=dict(self.operators),
            external=dict(self.constants.external),
        )

    def _is_fused(self, node: Any) -> bool:
        if node.op_type == "DequantizeLinear":
            return node.output[0] in self.aliases
        return (
            node.op_type in {"QuantizeLinear", *rules.ACTIVATIONS}
            and self.aliases.target(node.input[0]) == node.output[0]
        )

    def _fused_constants(self) -> dict[str, list[str]]:
        """Parameters of fused activations (the bounds of a Clip), by the output of the op that they are fused with."""
        fused: dict[str, list[str]] = {}
        for node in self.graph.node:
            if node.op_type in rules.ACTIVATIONS and self._is_fused(node):
                fused.setdefault(self.root(node.output[0]), []).extend(self._constants(node.input))
        return fused

    def _constants(self, names: Iterable[str]) -> list[str]:
        """Those of some names that are constants."""
        return [self.root(name) for name in names if name and self.root(name) in self.constants]

    def _node(self, node: Any) -> Node:
        """The node of an op, by the counting rules."""
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
        """Names of an op's inputs without scales and zero points."""
        positions = rules.PARAMETER_INPUTS.get(node.op_type) if node.domain in rules.DOMAINS else None
        rescales = node.op_type == "Mul" and any(name in self.dynamic_scales for name in node.input)
        for index, name in enumerate(node.input):
            if name and (positions is None or index in positions) and not (rescales and name in self.constants):
                yield name

    def _leave_open(self, node: Any, known: bool) -> None:
        """Remember outputs whose shapes are open because of an unknown op.

        Raises:
            InputError: a shape that is unknown for another reason.
        """
        for name in (self.root(name) for name in node.output if name):
            if name in self.tensors:
                continue
            if known and not any(self.root(source) in self.open for source in node.input):
                raise InputError(f"{self.path}: the shape of tensor '{name}' is unknown; export with fixed sizes")
            self.open.add(name)

    def _macs(self, node: Any) -> int | None:
        """Multiply-accumulates of a known op; None if they depend on a shape that is open."""
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
            node.op_type,
            {attribute.name: attribute for attribute in node.attribute},
            node.input,
            shapes,
            output.shape,
            [self.constants.integer(self.root(name)) if name else None for name in node.input],
        )
        try:
            return rules.MACS[node.op_type](call)
        except rules.OpenShapeError:
            return None

    def _emulates(self, node: Any, kernel: Tensor) -> str:
        """What a convolution computes if that is another op, else "". Only a depthwise one may compute another op."""
        bias = BIAS_INPUT.get(node.op_type, 0)
        if not bias or len(kernel.shape) < 3 or kernel.shape[1] != 1:
            return ""
        if bias < len(node.input) and node.input[bias] and self._nonzero(node.input[bias]):
            return ""
        values, scale, zero = self.constants.array(kernel.name), *self._quantisation(node)
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
        """Scale and zero point of a convolution's kernel; None for one that is not a constant."""
        if node.op_type == "QLinearConv":
            return [self.constants.array(node.input[index]) for index in rules.SCALES["QLinearConv"]]
        quantiser = self.dequantizers.get(node.input[1])
        if quantiser is None:
            return np.ones(1), np.zeros(1)
        return self.constants.array(quantiser.input[1]), (
            self.constants.array(quantiser.input[2]) if len(quantiser.input) > 2 else np.zeros(1)
        )

    def _constants_inside(self, node: Any) -> list[str]:
        """Constants in the graphs that an op runs, and constants of the outer graph that these read."""
        found = []
        for body in _bodies(node):
            self.bodies += 1
            found += self.constants.read(body, f"{self.bodies}:")
            self.operators.update(_op_name(inner) for inner in body.node if inner.op_type != "Constant")
            found += self._constants(name for inner in body.node for name in inner.input)
            for inner in body.node:
                found += self._constants_inside(inner)
        return found


def _op_name(node: Any) -> str:
    return str(node.op_type if node.domain in rules.DOMAINS else f"{node.domain}.{node.op_type}")


def _bodies(node: Any) -> Iterator[Any]:
    """Graphs that an op runs: branches and loop bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names_read(graph: Any) -> Iterator[str]:
    """Names that the ops of a graph read, also in the graphs that these run."""
    for node in graph.node:
        yield from node.input
        for body in _bodies(node):
            yield from _names_read(body)
