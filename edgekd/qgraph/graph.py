"""The integer graph: what an exported student computes, as data. No torch, no engine.

Layout: every edge is (channel, mel, frame) without the batch axis; emitters transpose as their format asks.
Numbers: an edge holds int8 values q in -128..127 that stand for `(q - zero_point) * scale`; zero padding is padding
with the zero point. For each op the exact result is computed in int32 (`Conv`, pools, `Mul`) and then requantised:
`clip(rint(float32(acc) * float32(multiplier)) + zero_point, -128, 127)`; the bounds of that clip are the activation.
`Add` has fixed-point multipliers, `Sigmoid` a table (`reference`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError

INT8_MIN, INT8_MAX = -128, 127

SIGMOID_SCALE, CLIP01_SCALE = 1 / 256, 1 / 255
MULTIPLIERS, ADD_MULTIPLIERS = (2.0**-32, 2.0**8), (2.0**-10, 2.0**8)
"""Requantisation factors that XNNPACK takes: at least, below."""

Activation = Literal["none", "relu", "clip01"]
"""What the float twin applies after an op. In integers it is only saturation: a `relu` output has zero point -128, and
a `clip01` output (hard sigmoid, its `x / 6 + 1 / 2` already inside weights and bias) has scale 1/255 and zero point
-128."""


@dataclass(frozen=True)
class Edge:
    """One tensor. shape: (channel, mel, frame), no batch. scale: float32 as a Python float. zero_point: -128..127."""

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Conv:
    """2-D convolution, also depthwise (groups == channels), grouped, dilated, and dense (1x1 on a 1x1 map).

    weight: int8 (out, in / groups, kernel_mel, kernel_frame), values -127..127. weight_scale: float32 (out,).
    bias: int32 (out,) at scale `input scale * weight_scale`. padding: (mel_before, mel_after, frame_before,
    frame_after).
    """

    name: str
    input: str
    output: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = "none"


@dataclass(frozen=True)
class Add:
    """Sum of two edges; an axis of size 1 broadcasts (frequency broadcast)."""

    name: str
    inputs: tuple[str, str]
    output: str
    activation: Activation = "none"


@dataclass(frozen=True)
class Mul:
    """Product of two edges; an axis of size 1 broadcasts (squeeze-excitation gate)."""

    name: str
    inputs: tuple[str, str]
    output: str


@dataclass(frozen=True)
class Sigmoid:
    """Logistic function; the output has scale 1/256 and zero point -128."""

    name: str
    input: str
    output: str


@dataclass(frozen=True)
class MaxPool:
    """Maximum over windows, floor mode, no padding; the output keeps the input's scale and zero point."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True)
class AvgPool:
    """Mean over windows, floor mode, with a scale of its own; kernel == the whole map is the global pool.

    padding: (mel_before, mel_after, frame_before, frame_after); its zeros count in the mean.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Constant:
    """A trained edge, for `Mul` and `Add` to read: the affine per channel and mel bin that a sub-spectral norm becomes.

    value: int8 in the shape of its edge, an axis of size 1 broadcasts.
    """

    name: str
    output: str
    value: NDArray[np.int8]


@dataclass(frozen=True)
class Taps:
    """What a kernel sees of a map with one channel, as channels: (kernel_frame * kernel_mel, mel, frame), mel positions
    innermost.

    Lowering gives none: `tune.split_stem` makes it of a stem, whose convolution becomes 1x1. padding: as in `Conv`,
    with the zero point.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]


Op = Conv | Add | Mul | Sigmoid | MaxPool | AvgPool | Constant | Taps


def op_inputs(op: Op) -> tuple[str, ...]:
    """Names of the edges that an op reads."""
    if isinstance(op, Constant):
        return ()
    return op.inputs if isinstance(op, Add | Mul) else (op.input,)


@dataclass(frozen=True)
class QGraph:
    """Ops in execution order over named edges. The output edge is (labels, 1, 1): quantised logits.

    Raises:
        InputError: from `validate`, naming the op, what is wrong and the value.
    """

    edges: dict[str, Edge]
    ops: tuple[Op, ...]
    input: str
    output: str

    def validate(self) -> None:
        """Refuse a graph that an emitter or the reference could not execute faithfully."""
        known = {self.input}
        for op in self.ops:
            for name in op_inputs(op):
                if name not in known:
                    raise InputError(f"{op.name}: reads edge '{name}' before it is written; order the ops by data flow")
            if op.output in known or op.output not in self.edges:
                raise InputError(
                    f"{op.name}: writes edge '{op.output}', {'written already' if op.output in known else 'undeclared'}"
                )
            known.add(op.output)
            if isinstance(op, Conv):
                _validate_conv(op, self.edges[op.input])
            expected = output_shape(op, [self.edges[name].shape for name in op_inputs(op)])
            if self.edges[op.output].shape != expected:
                raise InputError(f"{op.name}: output shape {self.edges[op.output].shape}, but the op gives {expected}")
        for edge in self.edges.values():
            if not (np.isfinite(edge.scale) and edge.scale > 0):
                raise InputError(
                    f"edge '{edge.name}': scale {edge.scale} must be finite and positive; recalibrate the layer"
                )
            if not INT8_MIN <= edge.zero_point <= INT8_MAX:
                raise InputError(f"edge '{edge.name}': zero point {edge.zero_point} is outside {INT8_MIN}..{INT8_MAX}")
        for op in self.ops:
            _validate_quantisation(op, [self.edges[name] for name in op_inputs(op)], self.edges[op.output])
        if self.output not in known:
            raise InputError(f"the graph's output edge '{self.output}' is never written")
        if self.edges[self.output].shape[1:] != (1, 1):
            raise InputError(
                f"the graph's output edge '{self.output}' has shape {self.edges[self.output].shape}, not (labels, 1, 1)"
            )


def _validate_quantisation(op: Op, inputs: list[Edge], output: Edge) -> None:
    """Saturation is the activation, and the engines' kernels take only some scales: anything else would be another
    model."""
    activation = op.activation if isinstance(op, Conv | Add) else "none"
    if (activation != "none" or isinstance(op, Sigmoid)) and output.zero_point != INT8_MIN:
        raise InputError(
            f"{op.name}: its output has zero point {output.zero_point}, but "
            f"{'a sigmoid' if isinstance(op, Sigmoid) else activation} needs {INT8_MIN}"
        )
    fixed = SIGMOID_SCALE if isinstance(op, Sigmoid) else CLIP01_SCALE if activation == "clip01" else output.scale
    if not np.isclose(output.scale, fixed, rtol=1e-6, atol=0):
        raise InputError(f"{op.name}: its output has scale {output.scale}, but needs {fixed}")
    if isinstance(op, MaxPool) and (inputs[0].scale, inputs[0].zero_point) != (output.scale, output.zero_point):
        raise InputError(
            f"{op.name}: a maximum pool keeps the scale and zero point of its input, {inputs[0].scale} and "
            f"{inputs[0].zero_point}, but its output has {output.scale} and {output.zero_point}"
        )
    low, high = ADD_MULTIPLIERS if isinstance(op, Add) else MULTIPLIERS
    for multiplier in multipliers(op, inputs, output):
        if not low <= multiplier < high:
            raise InputError(
                f"{op.name}: multiplier {multiplier:.3g} from input to output is outside {low:.3g}..{high:.3g}, which"
                " XNNPACK takes; recalibrate the layer"
            )


def multipliers(op: Op, inputs: list[Edge], output: Edge) -> list[float]:
    """The factors from the op's exact integer results to output steps: per channel, per summand, or one; none for table
    lookups."""
    if isinstance(op, Conv):
        return [float(scale) * inputs[0].scale / output.scale for scale in op.weight_scale]
    if isinstance(op, Mul):
        return [inputs[0].scale * inputs[1].scale / output.scale]
    if isinstance(op, Add):
        return [edge.scale / output.scale for edge in inputs]
    return []


def _validate_conv(op: Conv, source: Edge) -> None:
    """A dead channel or a saturating bias passes parity tests and still ruins a model: refuse it by name."""
    out, in_group = op.weight.shape[:2]
    if (
        in_group * op.groups != source.shape[0]
        or out % op.groups
        or op.weight_scale.shape != (out,)
        or op.bias.shape != (out,)
    ):
        raise InputError(
            f"{op.name}: weight {op.weight.shape}, {op.groups} groups, {op.weight_scale.shape} scales and "
            f"{op.bias.shape} biases do not fit an input of {source.shape[0]} channels"
        )
    if not np.all(np.isfinite(op.weight_scale)) or np.any(op.weight_scale <= 0):
        raise InputError(
            f"{op.name}: a weight scale is zero, negative or not finite; the channel is dead, retrain or prune it"
        )
    if np.any(np.abs(op.bias.astype(np.int64)) >= 2**30):
        channel = int(np.argmax(np.abs(op.bias.astype(np.int64))))
        raise InputError(
            f"{op.name}: bias of channel {channel} is {op.bias[channel]}, near int32 saturation (weight scale "
            f"{op.weight_scale[channel]:.3g}, input scale {source.scale:.3g}); the channel is dead, retrain or prune it"
        )


def output_shape(op: Op, shapes: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Shape that an op gives for the shapes it reads, each (channel, mel, frame)."""
    if isinstance(op, Conv | Taps):
        kernel = op.kernel if isinstance(op, Taps) else op.weight.shape[2:]
        size = [
            (
                shapes[0][axis + 1]
                + op.padding[2 * axis]
                + op.padding[2 * axis + 1]
                - op.dilation[axis] * (kernel[axis] - 1)
                - 1
            )
            // op.stride[axis]
            + 1
            for axis in (0, 1)
        ]
        return kernel[0] * kernel[1] if isinstance(op, Taps) else op.weight.shape[0], size[0], size[1]
    if isinstance(op, MaxPool | AvgPool):
        padding = op.padding if isinstance(op, AvgPool) else (0, 0, 0, 0)
        pooled = [
            (shapes[0][axis + 1] + padding[2 * axis] + padding[2 * axis + 1] - op.kernel[axis]) // op.stride[axis] + 1
            for axis in (0, 1)
        ]
        return shapes[0][0], pooled[0], pooled[1]
    if isinstance(op, Add | Mul):
        channel, mel, frame = np.broadcast_shapes(*shapes)
        return channel, mel, frame
    if isinstance(op, Constant):
        channel, mel, frame = op.value.shape
        return channel, mel, frame
    return shapes[0]
