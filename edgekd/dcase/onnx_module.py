"""An exported .onnx file as a torch module, with the weights of the file as its parameters.

Counters for torch count what the file holds: convolutions with int8 kernels and int32 biases, without float copies.
Values between operators are the file's integers, held in float32. Only the operators that edgekd writes are supported.
The DCASE package holds a copy of this module, which therefore imports nothing of edgekd but its errors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import InputError, MissingExtraError

UINT8_MAX = 255
CHANNELS = (-1, 1, 1, 1)
"""Shape in which one value per output channel broadcasts over a kernel."""


class Quant(NamedTuple):
    """Quantisation of an input or output: real = (q - zero_point) * scale; dtype "uint8" or "float32", which ignores
    both."""

    dtype: str
    scale: float
    zero_point: int


class Operation(NamedTuple):
    """One operator of the file. run: computes the output from the inputs."""

    inputs: tuple[str, ...]
    output: str
    run: Callable[..., Tensor]


class StoredConv2d(nn.Module):
    """Convolution of real values. Its kernel is kept as the file stores it and multiplied by its scale when it is
    used."""

    scale: Tensor
    bias_scale: Tensor

    def __init__(
        self,
        weight: np.ndarray,
        scale: np.ndarray | None,
        bias: np.ndarray | None,
        bias_scale: np.ndarray | None,
        attributes: dict[str, Any],
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias), requires_grad=False)
        self.register_buffer("scale", torch.tensor(1.0 if scale is None else scale).float().reshape(CHANNELS))
        self.register_buffer("bias_scale", torch.tensor(1.0 if bias_scale is None else bias_scale).float())
        mel, frame, mel_end, frame_end = attributes.get("pads", (0, 0, 0, 0))
        self.pads = (frame, frame_end, mel, mel_end)
        self.stride, self.dilation = (
            tuple(attributes.get("strides", (1, 1))),
            tuple(attributes.get("dilations", (1, 1))),
        )
        self.groups = attributes.get("group", 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, mel, frame) -> (batch, out, mel', frame'), both real."""
        bias = None if self.bias is None else self.bias.float() * self.bias_scale
        return F.conv2d(
            F.pad(x, self.pads), self.weight.float() * self.scale, bias, self.stride, 0, self.dilation, self.groups
        )


class OnnxFile(nn.Module):
    """The network of an .onnx file.

    Args:
        content: bytes of the .onnx file.
        source, output: quantisation of the network's input and output.

    Raises:
        InputError: the file is no ONNX model, or has an operator that edgekd does not write.
        MissingExtraError: onnx is not installed.
    """

    def __init__(self, content: bytes, source: Quant, output: Quant) -> None:
        super().__init__()
        try:
            import onnx
            from google.protobuf.message import DecodeError
            from onnx import numpy_helper
        except ImportError:
            raise MissingExtraError("onnx", "check") from None
        try:
            graph = onnx.load_from_string(content).graph
            self.input_name, self.output_name = graph.input[0].name, graph.output[0].name
        except (DecodeError, IndexError):
            raise InputError("the file is no ONNX model; give a file of 'edgekd export'") from None
        self.quant_in, self.quant_out = source, output
        self.constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.reals: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
            name: (value, None) for name, value in self.constants.items()
        }
        self.convs, self.values = nn.ModuleList(), nn.ParameterList()
        self.stored: dict[str, int] = {}
        self.operations: list[Operation] = []
        for node in graph.node:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            self._read(node.op_type, list(node.input), node.output[0], attributes)

    def forward(self, features: Tensor) -> Tensor:
        """Normalised log-mel (batch, 1, mel, frame) -> logits (batch, labels), float32."""
        source, output = self.quant_in, self.quant_out
        features = features.float()
        values = {
            self.input_name: (
                features if source.dtype == "float32" else _quantize(features, source.scale, source.zero_point)
            )
        }
        for name, index in self.stored.items():
            values[name] = self.values[index].float()
        for operation in self.operations:
            values[operation.output] = operation.run(*(values[name] for name in operation.inputs))
        logits = values[self.output_name]
        return logits if output.dtype == "float32" else (logits - output.zero_point) * output.scale

    def _read(self, kind: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> None:
        if kind == "DequantizeLinear" and inputs[0] in self.constants and self.constants[inputs[0]].dtype != np.uint8:
            self.reals[output] = self.constants[inputs[0]], self.constants[inputs[1]]  # a kernel or a bias
            return
        if kind == "Conv":
            weight, scale = self.reals[inputs[1]]
            bias, bias_scale = self.reals[inputs[2]] if len(inputs) > 2 else (None, None)
            self.convs.append(StoredConv2d(weight, scale, bias, bias_scale, attributes))
            self.operations.append(Operation((inputs[0],), output, self.convs[-1]))
            return
        if kind not in OPS:
            raise InputError(
                f"the file has the operator {kind}, which edgekd does not write; give a file of 'edgekd export'"
            )
        tensors, run = OPS[kind](inputs, attributes, self.constants)
        for name in tensors:
            if name in self.constants and name not in self.stored:
                self.stored[name] = len(self.values)
                self.values.append(nn.Parameter(torch.tensor(self.constants[name]), requires_grad=False))
        self.operations.append(Operation(tuple(tensors), output, run))


def _quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.clamp(torch.round(x / scale) + zero_point, 0, UINT8_MAX)


Computation = tuple[list[str], Callable[..., Tensor]]
"""Names of the inputs that are tensors, and the function of them that computes the output."""
Constants = dict[str, np.ndarray]


def _quantize_op(inputs: list[str], _: dict[str, Any], constants: Constants) -> Computation:
    scale, zero_point = constants[inputs[1]].item(), constants[inputs[2]].item()
    return inputs[:1], lambda x: _quantize(x, scale, zero_point)


def _dequantize_op(inputs: list[str], _: dict[str, Any], constants: Constants) -> Computation:
    scale, zero_point = constants[inputs[1]].item(), constants[inputs[2]].item()
    return inputs[:1], lambda q: (q - zero_point) * scale


def _max_pool(inputs: list[str], attributes: dict[str, Any], _: Constants) -> Computation:
    return inputs, lambda x: F.max_pool2d(x, tuple(attributes["kernel_shape"]), tuple(attributes["strides"]))


def _average_pool(inputs: list[str], attributes: dict[str, Any], _: Constants) -> Computation:
    mel, frame, mel_end, frame_end = attributes.get("pads", (0, 0, 0, 0))
    pads = (frame, frame_end, mel, mel_end)
    return inputs, lambda x: F.avg_pool2d(
        F.pad(x, pads), tuple(attributes["kernel_shape"]), tuple(attributes["strides"])
    )


def _pad(inputs: list[str], _: dict[str, Any], constants: Constants) -> Computation:
    mel, frame, mel_end, frame_end = constants[inputs[1]].reshape(2, 4)[:, 2:].ravel().tolist()
    value = float(constants[inputs[2]])
    return inputs[:1], lambda x: F.pad(x, (frame, frame_end, mel, mel_end), value=value)


def _slice(inputs: list[str], _: dict[str, Any], constants: Constants) -> Computation:
    start, end, axis, step = (constants[name].item() for name in inputs[1:])
    index = (slice(None),) * axis + (slice(start, end, step),)
    return inputs[:1], lambda x: x[index]


def _clip(inputs: list[str], _: dict[str, Any], constants: Constants) -> Computation:
    least, most = (constants[name].item() for name in inputs[1:])
    return inputs[:1], lambda x: torch.clamp(x, least, most)


OPS: dict[str, Callable[[list[str], dict[str, Any], Constants], Computation]] = {
    "QuantizeLinear": _quantize_op,
    "DequantizeLinear": _dequantize_op,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Pad": _pad,
    "Slice": _slice,
    "Clip": _clip,
    "GlobalAveragePool": lambda inputs, *_: (inputs, lambda x: x.mean((2, 3), keepdim=True)),
    "Concat": lambda inputs, attributes, _: (inputs, lambda *x: torch.cat(x, attributes["axis"])),
    "Flatten": lambda inputs, *_: (inputs, lambda x: x.flatten(1)),
    "Sigmoid": lambda inputs, *_: (inputs, torch.sigmoid),
    "Relu": lambda inputs, *_: (inputs, torch.relu),
    "Add": lambda inputs, *_: (inputs, torch.add),
    "Mul": lambda inputs, *_: (inputs, torch.mul),
}
"""Operator -> a function of its inputs, its attributes and the file's constants that makes its computation."""
KNOWN = frozenset(OPS) | {"Conv"}
"""Every operator that edgekd writes, as in `edgekd.operators`, which this module cannot import."""
