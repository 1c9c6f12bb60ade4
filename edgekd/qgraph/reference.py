"""Executes the integer graph in numpy: the oracle that every exported file must match, within 1 step (LiteRT) or 2
(ONNX Runtime).

Measured on random graphs with every op: LiteRT 1.2.0 and 2.1.6 with XNNPACK differ in no logit, ONNX Runtime only where
an addition nearly ties. Accumulators are exact: integer products and sums are exact below 2**24 in float32 and below
2**53 in float64, and BLAS makes them fast. Requantisation is `clip(rint(float32(acc) * float32(multiplier)) +
zero_point)`, the formula of both engines' convolution kernels. A mean over axes rounds elsewhere (`_mean`): a last bit
decides ties.
"""

from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import InputError
from edgekd.qgraph.graph import (
    INT8_MAX,
    INT8_MIN,
    AddOp,
    AvgPoolOp,
    ConstantOp,
    ConvOp,
    Edge,
    MaxPoolOp,
    MulOp,
    Op,
    QGraph,
    SigmoidOp,
    UnfoldOp,
)
from edgekd.qgraph.tune import is_reduction

CHUNK = 16
"""Windows computed at a time: keeps the float64 activations of a 256 x 28 student within about 200 MB."""
ADD_BITS = 20
"""Fractional bits of the larger multiplier of an addition."""

FLOAT32_EXACT = 2**24
"""Whole numbers up to here are float32 numbers."""

Int8 = NDArray[np.int8]
Float64 = NDArray[np.float64]


def quantize(x: NDArray[np.floating[Any]], edge: Edge) -> Int8:
    """Real values to the integers of an edge (`rounding.quantize`); NaN is an InputError."""
    return rounding.quantize(x, edge.scale, edge.zero_point, np.int8)


def dequantize(q: NDArray[np.integer[Any]], edge: Edge) -> NDArray[np.float32]:
    """Integers of an edge to the real values they stand for, float32."""
    return rounding.dequantize(q, edge.scale, edge.zero_point)


def run(graph: QGraph, x: Int8) -> Int8:
    """Execute an integer graph.

    Args:
        graph: a validated graph.
        x: int8 (batch, channel, mel, frame).

    Returns:
        Quantised logits, int8 (batch, labels).

    Raises:
        InputError: x is not int8, or its shape is not that of the graph's input.
    """
    return run_edges(graph, x, (graph.output,))[graph.output][:, :, 0, 0]


def run_edges(graph: QGraph, x: Int8, names: tuple[str, ...]) -> dict[str, Int8]:
    """Execute a graph and keep the named edges, each int8 (batch, channel, mel, frame); arguments and errors as in
    `run`."""
    shape = graph.edges[graph.input].shape
    if x.dtype != np.int8 or x.shape[1:] != shape:
        raise InputError(f"the graph reads int8 (batch, {', '.join(map(str, shape))}), got {x.dtype} {x.shape}")
    kept: dict[str, list[Int8]] = {name: [] for name in names}
    for start in range(0, max(len(x), 1), CHUNK):
        values = {graph.input: x[start : start + CHUNK]}
        for op in graph.ops:
            values[op.output] = run_op(graph, op, [values[name] for name in op.sources])
        for name in names:
            kept[name].append(values[name])
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def run_op(graph: QGraph, op: Op, inputs: list[Int8]) -> Int8:  # noqa: PLR0911 (one for each op)
    """One op on int8 arrays (batch, channel, mel, frame), in the order of its sources."""
    edges, output = [graph.edges[name] for name in op.sources], graph.edges[op.output]
    match op:
        case ConstantOp():
            return op.value[None]  # (1, channel, mel, frame)
        case MaxPoolOp():
            return _pool(inputs[0], op.kernel, op.stride, np.maximum)
        case UnfoldOp():
            return _unfold(op, inputs[0], edges[0].zero_point, output.shape[1:])
        case SigmoidOp():
            return _sigmoid_table(edges[0], output)[inputs[0].astype(np.int64) - INT8_MIN]
        case ConvOp():
            return _conv(op, inputs[0], edges[0], output)
        case AvgPoolOp():
            return _average(op, inputs[0], edges[0], output)
        case MulOp():
            return _multiply(inputs, edges, output)
        case AddOp():
            return _add(inputs, edges, output)
        case _:
            assert_never(op)


def _conv(op: ConvOp, x: Int8, source: Edge, output: Edge) -> Int8:
    multiplier = np.float32(source.scale) * op.weight_scale / np.float32(output.scale)
    return _requantise(_convolve(op, _centred(x, source)), multiplier[:, None, None], output)


def _multiply(inputs: list[Int8], edges: list[Edge], output: Edge) -> Int8:
    multiplier = np.float32(edges[0].scale) * np.float32(edges[1].scale) / np.float32(output.scale)
    return _requantise(_centred(inputs[0], edges[0]) * _centred(inputs[1], edges[1]), multiplier, output)


def _average(op: AvgPoolOp, x: Int8, source: Edge, output: Edge) -> Int8:
    """A mean over complete axes by its own rule, any other average as the convolution that it is emitted as."""
    if is_reduction(op, source):
        return _mean(op, x, source, output)
    multiplier = np.float32(source.scale) * np.float32(1 / (op.kernel[0] * op.kernel[1])) / np.float32(output.scale)
    return _requantise(
        _pool(_padded(_centred(x, source), op.padding), op.kernel, op.stride, np.add), multiplier, output
    )


def _mean(op: AvgPoolOp, x: Int8, source: Edge, output: Edge) -> Int8:
    """XNNPACK's mean over axes: it scales the sum, zero point included, in float32, then adds one float32 number that
    holds both zero points. Found by experiment on sums that nearly tie: this form gave all of 1,655, none of ten others
    did."""
    multiplier, offset = mean_numbers(source, output, op.kernel[0] * op.kernel[1])
    total = _pool(x.astype(np.int32), op.kernel, op.stride, np.add)
    return rounding.saturate(total.astype(np.float32) * multiplier + offset, 0, np.int8)


def mean_numbers(source: Edge, output: Edge, elements: int) -> tuple[np.float32, np.float32]:
    """Multiplier and offset from the sum of `elements` int8 values to the output of a mean, before rounding."""
    multiplier = np.float32(source.scale) / np.float32(output.scale) * np.float32(1 / elements)
    return multiplier, np.float32(output.zero_point) - np.float32(source.zero_point * elements) * multiplier


def _add(inputs: list[Int8], edges: list[Edge], output: Edge) -> Int8:
    """XNNPACK's adder: multipliers of 21 bits, rounded half up. ONNX Runtime's float one differs on rare near-ties."""
    multipliers, shift = add_multipliers(edges, output)
    total = sum(_centred(x, edge) * multiplier for x, edge, multiplier in zip(inputs, edges, multipliers, strict=True))
    return rounding.saturate(
        np.floor(np.ldexp(np.asarray(total, np.float64), -shift) + 0.5), output.zero_point, np.int8
    )


def add_multipliers(edges: list[Edge], output: Edge) -> tuple[list[float], int]:
    """Whole multipliers of an addition's inputs, and the power of two that divides their sum."""
    scales = [np.float32(edge.scale) / np.float32(output.scale) for edge in edges]
    shift = ADD_BITS - int(np.frexp(max(scales))[1]) + 1
    return [float(np.rint(np.ldexp(scale, shift))) for scale in scales], shift


def _convolve(op: ConvOp, x: Float64) -> Float64:
    """Exact accumulators with bias, float64 (batch, out, mel, frame), as one product per kernel position."""
    out, in_group, kernel_mel, kernel_frame = op.weight.shape
    x = _padded(x, op.padding)
    size = [
        (x.shape[axis + 2] - op.dilation[axis] * (op.kernel[axis] - 1) - 1) // op.stride[axis] + 1 for axis in (0, 1)
    ]
    # of an accumulator, whatever the values
    largest = in_group * kernel_mel * kernel_frame * (INT8_MAX - INT8_MIN) * -INT8_MIN
    exact = np.float32 if largest < FLOAT32_EXACT else np.float64
    x = x.astype(exact)
    weight = op.weight.astype(exact).reshape(op.groups, out // op.groups, in_group, kernel_mel, kernel_frame)
    total = np.zeros((len(x), op.groups, out // op.groups, size[0] * size[1]), exact)
    for i in range(kernel_mel):
        for j in range(kernel_frame):
            view = _shifted(x, (i * op.dilation[0], j * op.dilation[1]), op.stride, size)
            view = view.reshape(len(x), op.groups, in_group, size[0] * size[1])
            taps = weight[:, :, :, i, j]  # (groups, out / groups, in / groups)
            total += taps * view if in_group == 1 else np.matmul(taps, view)  # a product of one column broadcasts
    return total.reshape(len(x), out, size[0], size[1]).astype(np.float64) + op.bias.astype(np.float64)[:, None, None]


def _unfold(op: UnfoldOp, x: Int8, zero_point: int, size: tuple[int, ...]) -> Int8:
    """What each kernel position reads, one after the other as channels."""
    x = np.pad(x, ((0, 0), (0, 0), op.padding[:2], op.padding[2:]), constant_values=zero_point)
    return np.concatenate(
        [
            _shifted(x, (i * op.dilation[0], j * op.dilation[1]), op.stride, list(size))
            for j in range(op.kernel[1])
            for i in range(op.kernel[0])
        ],
        axis=1,
    )


def _pool(x: NDArray[Any], kernel: tuple[int, int], stride: tuple[int, int], combine: np.ufunc) -> NDArray[Any]:
    """Combine the positions of each window, floor mode: (batch, channel, mel, frame) to the pooled size, same dtype."""
    size = [(x.shape[axis + 2] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)]
    total = _shifted(x, (0, 0), stride, size).copy()
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            if (i, j) != (0, 0):
                combine(total, _shifted(x, (i, j), stride, size), out=total)
    return total


def _padded(x: Float64, padding: tuple[int, int, int, int]) -> Float64:
    """Zeros around (batch, channel, mel, frame): the zero point, once centred."""
    return np.pad(x, ((0, 0), (0, 0), padding[:2], padding[2:])) if any(padding) else x


def _shifted(x: NDArray[Any], start: tuple[int, int], stride: tuple[int, int], size: list[int]) -> NDArray[Any]:
    """The strided view that one kernel position reads."""
    return x[
        :,
        :,
        start[0] : start[0] + (size[0] - 1) * stride[0] + 1 : stride[0],
        start[1] : start[1] + (size[1] - 1) * stride[1] + 1 : stride[1],
    ]


def _centred(q: Int8, edge: Edge) -> Float64:
    """Integers without their zero point."""
    return q.astype(np.float64) - edge.zero_point


def _requantise(acc: Float64, multiplier: NDArray[np.float32] | np.float32, output: Edge) -> Int8:
    """Exact accumulators to an edge's integers, in float32 as the engines do."""
    return rounding.saturate(acc.astype(np.float32) * multiplier, output.zero_point, np.int8)


def _sigmoid_table(source: Edge, output: Edge) -> Int8:
    """Output integer for each of the 256 input integers, from -128 up: the engines use such a table too."""
    real = (np.arange(INT8_MIN, INT8_MAX + 1) - source.zero_point) * float(source.scale)
    return rounding.saturate(1 / (1 + np.exp(-real)) / output.scale, output.zero_point, np.int8)
