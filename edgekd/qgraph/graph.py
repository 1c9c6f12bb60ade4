"""The integer graph: what an exported student computes, as data. No torch, no engine.

Layout: every edge is (channel, mel, frame) without the batch axis; emitters transpose as their format asks.
Numbers: an edge holds int8 values q in -128..127 that stand for `(q - zero_point) * scale`; zero padding is padding
with the zero point. For each op the exact result is computed in int32 (`ConvOp`, pools, `MulOp`) and then requantised:
`clip(rint(float32(acc) * float32(multiplier)) + zero_point, -128, 127)`; the bounds of that clip are the activation.
`AddOp` has fixed-point multipliers, `SigmoidOp` a table (`reference`).
`edgekd.operators` lists what each op becomes in a file.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError

INT8_MIN, INT8_MAX = -128, 127

SIGMOID_SCALE, CLIP01_SCALE = 1 / 256, 1 / 255
MULTIPLIERS, ADD_MULTIPLIERS = (2.0**-32, 2.0**8), (2.0**-10, 2.0**8)
"""Requantisation factors that XNNPACK takes: at least, below."""
NO_PADDING = (0, 0, 0, 0)

Activation = Literal["none", "relu", "clip01"]
"""What the float twin applies after an op. In integers it is only saturation: a `relu` output has zero point -128, and
a `clip01` output (hard sigmoid, its `x / 6 + 1 / 2` already inside weights and bias) has scale 1/255 and zero point
-128."""
Shape = tuple[int, int, int]
"""(channel, mel, frame)."""
Padding = tuple[int, int, int, int]
"""(mel_before, mel_after, frame_before, frame_after)."""


@dataclass(frozen=True)
class Edge:
    """One tensor. shape: (channel, mel, frame), no batch. scale: float32 as a Python float. zero_point: -128..127."""

    name: str
    shape: Shape
    scale: float
    zero_point: int


class GraphOp(ABC):
    """Base of all ops, with what is the same for most of them. Each op writes one edge.

    name: unique in a graph. output: the edge that the op writes. activation: saturation behind it.
    """

    name: str
    output: str
    activation: Activation = "none"

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names of the edges that the op reads."""

    @abstractmethod
    def shape(self, shapes: list[Shape]) -> Shape:
        """Shape of the output for the shapes of the sources."""

    def multipliers(self, inputs: list[Edge], output: Edge) -> list[float]:
        """Factors from exact integer results to output steps: per channel, per summand, or one; none for an op that
        does not compute."""
        del inputs, output
        return []


@dataclass(frozen=True)
class ConvOp(GraphOp):
    """2-D convolution, also depthwise (groups == channels), grouped, dilated, and dense (1x1 on a 1x1 map).

    weight: int8 (out, in / groups, kernel_mel, kernel_frame), values -127..127. weight_scale: float32 (out,).
    bias: int32 (out,) at scale `input scale * weight_scale`.
    """

    name: str
    input: str
    output: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = NO_PADDING
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation = "none"

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def kernel(self) -> tuple[int, int]:
        """(mel, frame)."""
        return self.weight.shape[2], self.weight.shape[3]

    def shape(self, shapes: list[Shape]) -> Shape:
        return self.weight.shape[0], *slide(shapes[0], self.kernel, self.stride, self.padding, self.dilation)

    def multipliers(self, inputs: list[Edge], output: Edge) -> list[float]:
        return [float(scale) * inputs[0].scale / output.scale for scale in self.weight_scale]


@dataclass(frozen=True)
class AddOp(GraphOp):
    """Sum of two edges; an axis of size 1 broadcasts (frequency broadcast)."""

    name: str
    inputs: tuple[str, str]
    output: str
    activation: Activation = "none"

    @property
    def sources(self) -> tuple[str, ...]:
        return self.inputs

    def shape(self, shapes: list[Shape]) -> Shape:
        return broadcast(shapes)

    def multipliers(self, inputs: list[Edge], output: Edge) -> list[float]:
        return [edge.scale / output.scale for edge in inputs]


@dataclass(frozen=True)
class MulOp(GraphOp):
    """Product of two edges; an axis of size 1 broadcasts (squeeze-excitation gate)."""

    name: str
    inputs: tuple[str, str]
    output: str

    @property
    def sources(self) -> tuple[str, ...]:
        return self.inputs

    def shape(self, shapes: list[Shape]) -> Shape:
        return broadcast(shapes)

    def multipliers(self, inputs: list[Edge], output: Edge) -> list[float]:
        return [inputs[0].scale * inputs[1].scale / output.scale]


@dataclass(frozen=True)
class SigmoidOp(GraphOp):
    """Logistic function; the output has scale 1/256 and zero point -128."""

    name: str
    input: str
    output: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.input,)

    def shape(self, shapes: list[Shape]) -> Shape:
        return shapes[0]


@dataclass(frozen=True)
class MaxPoolOp(GraphOp):
    """Maximum over windows, floor mode, no padding; the output keeps the input's scale and zero point."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.input,)

    def shape(self, shapes: list[Shape]) -> Shape:
        return shapes[0][0], *slide(shapes[0], self.kernel, self.stride)


@dataclass(frozen=True)
class AvgPoolOp(GraphOp):
    """Mean over windows, floor mode, with a scale of its own; kernel == the whole map is the global pool.

    padding: its zeros count in the mean.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = NO_PADDING

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.input,)

    def shape(self, shapes: list[Shape]) -> Shape:
        return shapes[0][0], *slide(shapes[0], self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class ConstantOp(GraphOp):
    """A trained edge, for `MulOp` and `AddOp` to read: the affine per channel and mel bin that a sub-spectral norm
    becomes.

    value: int8 in the shape of its edge, an axis of size 1 broadcasts.
    """

    name: str
    output: str
    value: NDArray[np.int8]

    @property
    def sources(self) -> tuple[str, ...]:
        return ()

    def shape(self, shapes: list[Shape]) -> Shape:
        del shapes
        channel, mel, frame = self.value.shape
        return channel, mel, frame


@dataclass(frozen=True)
class UnfoldOp(GraphOp):
    """The values under each kernel position of a map with one channel (im2col), as channels: (kernel_frame *
    kernel_mel, mel, frame), mel positions innermost.

    Lowering gives none: `tune.split_stem` makes it of a stem, whose convolution becomes 1x1. padding: as in `ConvOp`,
    with the zero point.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.input,)

    def shape(self, shapes: list[Shape]) -> Shape:
        mel, frame = slide(shapes[0], self.kernel, self.stride, self.padding, self.dilation)
        return self.kernel[0] * self.kernel[1], mel, frame


Op = ConvOp | AddOp | MulOp | SigmoidOp | MaxPoolOp | AvgPoolOp | ConstantOp | UnfoldOp
"""Every op. Whoever handles them one by one ends in `assert_never`, so that a missing one is an error of types."""


def slide(
    shape: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding = NO_PADDING,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """(mel, frame) after a kernel that slides over a padded map, floor mode."""
    mel, frame = (
        (shape[axis + 1] + sum(padding[2 * axis : 2 * axis + 2]) - dilation[axis] * (kernel[axis] - 1) - 1)
        // stride[axis]
        + 1
        for axis in (0, 1)
    )
    return mel, frame


def same_padding(
    shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> Padding:
    """The padding that TFLite's SAME stands for: the output has ceil(size / stride) values, and an odd zero goes behind
    the map."""
    sides = []
    for axis in (0, 1):
        span, out = dilation[axis] * (kernel[axis] - 1) + 1, -(-shape[axis + 1] // stride[axis])
        total = max((out - 1) * stride[axis] + span - shape[axis + 1], 0)
        sides += [total // 2, total - total // 2]
    mel_before, mel_after, frame_before, frame_after = sides
    return mel_before, mel_after, frame_before, frame_after


def broadcast(shapes: list[Shape]) -> Shape:
    """Shape of an elementwise op; an axis of size 1 broadcasts."""
    channel, mel, frame = np.broadcast_shapes(*shapes)
    return channel, mel, frame


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
            for name in op.sources:
                if name not in known:
                    raise InputError(f"{op.name}: reads edge '{name}' before it is written; order the ops by data flow")
            if op.output in known or op.output not in self.edges:
                raise InputError(
                    f"{op.name}: writes edge '{op.output}', which is "
                    f"{'written already' if op.output in known else 'undeclared'}; give each op an edge of its own"
                )
            known.add(op.output)
            if isinstance(op, ConvOp):
                _validate_conv(op, self.edges[op.input])
            expected = op.shape([self.edges[name].shape for name in op.sources])
            if self.edges[op.output].shape != expected:
                raise InputError(
                    f"{op.name}: output shape {self.edges[op.output].shape}, but the op writes {expected}; correct the"
                    " edge"
                )
        for edge in self.edges.values():
            if not (np.isfinite(edge.scale) and edge.scale > 0):
                raise InputError(
                    f"edge '{edge.name}': scale {edge.scale} must be finite and positive; recalibrate the layer"
                )
            if not INT8_MIN <= edge.zero_point <= INT8_MAX:
                raise InputError(f"edge '{edge.name}': zero point {edge.zero_point} is outside {INT8_MIN}..{INT8_MAX}")
        for op in self.ops:
            _validate_quantisation(op, [self.edges[name] for name in op.sources], self.edges[op.output])
        if self.output not in known:
            raise InputError(f"the graph's output edge '{self.output}' is never written")
        if self.edges[self.output].shape[1:] != (1, 1):
            raise InputError(
                f"the graph's output edge '{self.output}' has shape {self.edges[self.output].shape}, not (labels, 1, 1)"
            )


def _validate_quantisation(op: Op, inputs: list[Edge], output: Edge) -> None:
    """Refuse other scales and zero points than the activation and the engines' kernels need: the file would compute
    another model."""
    sigmoid = isinstance(op, SigmoidOp)
    if (op.activation != "none" or sigmoid) and output.zero_point != INT8_MIN:
        raise InputError(
            f"{op.name}: its output has zero point {output.zero_point}, but "
            f"{'a sigmoid' if sigmoid else op.activation} needs {INT8_MIN}"
        )
    needed = SIGMOID_SCALE if sigmoid else CLIP01_SCALE if op.activation == "clip01" else output.scale
    if not np.isclose(output.scale, needed, rtol=1e-6, atol=0):
        raise InputError(f"{op.name}: its output has scale {output.scale}, but needs {needed}")
    if isinstance(op, MaxPoolOp) and (inputs[0].scale, inputs[0].zero_point) != (output.scale, output.zero_point):
        raise InputError(
            f"{op.name}: a maximum pool keeps the scale and zero point of its input, {inputs[0].scale} and "
            f"{inputs[0].zero_point}, but its output has {output.scale} and {output.zero_point}"
        )
    low, high = ADD_MULTIPLIERS if isinstance(op, AddOp) else MULTIPLIERS
    for multiplier in op.multipliers(inputs, output):
        if not low <= multiplier < high:
            raise InputError(
                f"{op.name}: multiplier {multiplier:.3g} from input to output is outside {low:.3g}..{high:.3g}, which"
                " XNNPACK takes; recalibrate the layer"
            )


def _validate_conv(op: ConvOp, source: Edge) -> None:
    """Refuse a dead channel and a saturating bias by name: they pass parity tests and still ruin a model."""
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
