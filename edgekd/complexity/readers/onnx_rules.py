"""Counting rules of ONNX operators: edgekd's own (`edgekd.operators`) and those of foreign files.

Kernels: Conv (out, in / groups, ...), ConvTranspose (in, out / groups, ...), recurrent cells (directions, gates *
hidden, in).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekd.complexity.fourier import complex_fft_macs, real_fft_macs
from edgekd.operators import Onnx

DOMAINS = frozenset({"", "ai.onnx"})
"""The domain of standard operators, under both of its names."""
_KERNELS = {each.name: each.value.kernel for each in Onnx if each.value.kernel is not None}
"""Kernels of edgekd's own operators with multiply-accumulates."""
KERNEL_INPUT = {
    **{name: kernel.input for name, kernel in _KERNELS.items()},
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "GRU": 1,
    "LSTM": 1,
    "RNN": 1,
}
"""Operator with multiply-accumulates -> the input that holds its kernel."""
RECURRENT_INPUT = 2
"""The input with the second matrix of a recurrent cell."""
PARAMETER_INPUTS = {
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    "DynamicQuantizeLinear": (0,),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3),
}
"""Operator -> inputs that are data or parameters; its others are scales and zero points, which no convention counts."""
PAST_KEY_INPUT, DFT_LENGTH_INPUT, DFT_AXIS_INPUT, STFT_WINDOW_INPUT, STFT_LENGTH_INPUT = 4, 1, 2, 2, 3
"""Optional inputs of Attention, DFT and STFT that their rules read."""
SCALES = {"QLinearConv": (4, 5), "QLinearMatMul": (4, 5)}
"""Operator -> inputs that hold scale and zero point of the kernel."""
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
"""Operators that an engine folds into the one before them."""
BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators that run graphs of their own."""
_FOREIGN_WITHOUT_MACS = """
    Abs Acos Acosh And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Bernoulli BitCast BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Col2Im Compress
    ConcatFromSequence ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace Div Dropout DynamicQuantizeLinear Elu
    Equal Erf Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool Max MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Multinomial Neg NonMaxSuppression
    NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pow RMSNormalization RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Shrink Sign Sin Sinh Size Softmax Softplus Softsign SpaceToDepth
    Split SplitToSequence Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu
    Unique Unsqueeze Upsample Where Xor
"""
WITHOUT_MACS = frozenset(_FOREIGN_WITHOUT_MACS.split()) | {each.name for each in Onnx if each.value.kernel is None}
"""Elementwise operators, pools, reductions, norms and moves: no convolution, matrix product or Fourier transform."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OnnxCall:
    """One operator in a graph. inputs: their names, "" where one is absent. shapes: of the inputs, None where it is
    absent or unknown. output: shape of the first output. integers: values of the inputs that are constants of one
    integer, else None."""

    op: str
    attributes: Mapping[str, Any]
    inputs: Sequence[str]
    shapes: Sequence[Shape | None]
    output: Shape
    integers: Sequence[int | None]

    @property
    def out(self) -> int:
        """Elements of its first output."""
        return prod(self.output)

    def shape(self, index: int) -> Shape:
        """Shape of an input.

        Raises:
            OpenShapeError: it is unknown.
        """
        shape = self.shapes[index]
        if shape is None:
            raise OpenShapeError
        return shape

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def flag(self, name: str, default: int = 0) -> int:
        """An attribute that is an integer."""
        return int(self.attributes[name].i) if name in self.attributes else default


class OpenShapeError(Exception):
    """A shape that a rule needs is not known."""


def _conv_macs(call: OnnxCall) -> int:
    return call.out * prod(call.shape(KERNEL_INPUT[call.op])[1:])


def _matmul_macs(call: OnnxCall) -> int:
    return call.out * call.shape(0)[-1]


def _cell_macs(call: OnnxCall) -> int:
    return prod(call.shape(0)[:-1]) * (prod(call.shape(KERNEL_INPUT[call.op])) + prod(call.shape(RECURRENT_INPUT)))


def _gemm_macs(call: OnnxCall) -> int:
    return call.out * call.shape(0)[0 if call.flag("transA") else 1]


def _attention_macs(call: OnnxCall) -> int:
    """Each query with each key, and each weight with each value. Heads are an axis of their own or parts of the last
    one: (batch, heads, time, size) or (batch, time, heads * size)."""
    query, keys = call.shape(0), call.shape(1)[-2]
    past = call.shape(PAST_KEY_INPUT)[-2] if call.has(PAST_KEY_INPUT) else 0
    return prod(query[:-1]) * (keys + past) * (query[-1] + call.output[-1])


def _dft_macs(call: OnnxCall) -> int:
    """A transform along one axis of a signal (batch, ..., 1 or 2), with real and imaginary part last.

    Raises:
        OpenShapeError: a shape or the axis is unknown.
    """
    signal, onesided = call.shape(0), call.flag("onesided")
    axis = call.flag("axis", 1) if "axis" in call.attributes or len(signal) == 3 else None
    if call.has(DFT_AXIS_INPUT):
        axis = call.integers[DFT_AXIS_INPUT]
    if axis is None:
        raise OpenShapeError
    length: int | None = call.output[axis]
    if onesided and not call.flag("inverse"):  # the output has half of the bins
        length = call.integers[DFT_LENGTH_INPUT] if call.has(DFT_LENGTH_INPUT) else signal[axis]
    if not length or not signal[axis]:
        raise OpenShapeError
    transforms = prod(signal[:-1]) // signal[axis]
    return transforms * (real_fft_macs if onesided or signal[-1] == 1 else complex_fft_macs)(length)


def _stft_macs(call: OnnxCall) -> int:
    """The window and a transform for each frame of a signal (batch, time, 1 or 2). Output: (batch, frame, bin, 2).

    Raises:
        OpenShapeError: the length of a frame is unknown.
    """
    has_window = call.has(STFT_WINDOW_INPUT)
    length = call.shape(STFT_WINDOW_INPUT)[0] if has_window else None
    if call.has(STFT_LENGTH_INPUT):
        length = call.integers[STFT_LENGTH_INPUT]
    if not length:
        raise OpenShapeError
    transform = real_fft_macs if call.shape(0)[-1] == 1 or call.flag("onesided", 1) else complex_fft_macs
    return prod(call.output[:2]) * (transform(length) + (length if has_window else 0))


def _einsum_macs(call: OnnxCall) -> int:
    """Multiply-accumulates of two operands: one for each combination of all indices; none where no index is summed.

    Raises:
        OpenShapeError: a shape is unknown, or no rule covers the equation: an ellipsis, another number of operands, or
            an index that an operand has twice.
    """
    left, arrow, right = call.attributes["equation"].s.decode().replace(" ", "").partition("->")
    operands, sizes = left.split(","), dict[str, int]()
    if "." in left or len(operands) != 2 or len(call.shapes) != 2 or not arrow:
        raise OpenShapeError
    for index, letters in enumerate(operands):
        shape = call.shape(index)
        if len(shape) != len(letters) or len({*letters}) < len(letters):
            raise OpenShapeError
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values()) if {*sizes} - {*right} else 0


MACS: Mapping[str, Callable[[OnnxCall], int]] = {
    **dict.fromkeys((*_KERNELS, "ConvInteger", "QLinearConv"), _conv_macs),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul_macs),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _cell_macs),
    "ConvTranspose": lambda call: prod(call.shape(0)) * prod(call.shape(1)[1:]),
    "Gemm": _gemm_macs,
    "Einsum": _einsum_macs,
    "Attention": _attention_macs,
    "DFT": _dft_macs,
    "STFT": _stft_macs,
}
"""Operator -> its multiply-accumulates. A recurrent cell has one at each step for each weight of its two matrices; its
peepholes, biases and gates are elementwise."""
KNOWN = WITHOUT_MACS | {*MACS}
"""Operators with a rule; any other is unknown."""
