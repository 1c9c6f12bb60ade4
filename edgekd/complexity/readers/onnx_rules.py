"""What each ONNX op costs. Kernels: Conv (out, in / groups, ...), ConvTranspose (in, out / groups, ...), recurrent
cells (directions, gates * hidden, in)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekd.operators import Onnx

DOMAINS = frozenset({"", "ai.onnx"})
"""The standard's own operators."""
_KERNELS = {each.name: each.value.kernel for each in Onnx if each.value.kernel is not None}
"""Of edgekd's own operators with multiply-accumulates."""
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
"""Ops with multiply-accumulates, and which input holds the kernel."""
RECURRENT_INPUT = 2
"""Where a recurrent cell has its second matrix."""
PARAMETER_INPUTS = {
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    "DynamicQuantizeLinear": (0,),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3),
}
"""Inputs that are data or parameters where the others are scales and zero points, which no convention counts."""
SCALES = {"QLinearConv": (4, 5), "QLinearMatMul": (4, 5)}
"""Inputs that hold scale and zero point of the kernel."""
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
"""Ops that an engine folds into the one before them."""
BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Ops that run graphs of their own."""
_FOREIGN_WITHOUT_MACS = """
    Abs Acos Acosh And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Bernoulli BitCast BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Col2Im Compress
    ConcatFromSequence ConstantOfShape Cos Cosh CumProd CumSum DFT DepthToSpace Div Dropout DynamicQuantizeLinear Elu
    Equal Erf Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool Max MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Multinomial Neg NonMaxSuppression
    NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pow RMSNormalization RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Shrink Sign Sin Sinh Size Softmax Softplus Softsign SpaceToDepth
    Split SplitToSequence Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu
    Unique Unsqueeze Upsample Where Xor
"""
WITHOUT_MACS = frozenset(_FOREIGN_WITHOUT_MACS.split()) | {each.name for each in Onnx if each.value.kernel is None}
"""Elementwise ops, pools, reductions, norms, transforms and moves: no convolution, no matrix product."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One op. shapes: of its inputs, None where one is left out or open. out: elements of its first output."""

    op: str
    attributes: Mapping[str, Any]
    shapes: Sequence[Shape | None]
    out: int

    def shape(self, index: int) -> Shape:
        """Shape of an input.

        Raises:
            OpenShapeError: it is not known.
        """
        shape = self.shapes[index]
        if shape is None:
            raise OpenShapeError
        return shape


class OpenShapeError(Exception):
    """A shape that a rule needs is not known."""


def _conv_macs(call: Call) -> int:
    return call.out * prod(call.shape(KERNEL_INPUT[call.op])[1:])


def _matmul_macs(call: Call) -> int:
    return call.out * call.shape(0)[-1]


def _cell_macs(call: Call) -> int:
    return prod(call.shape(0)[:-1]) * (prod(call.shape(KERNEL_INPUT[call.op])) + prod(call.shape(RECURRENT_INPUT)))


def _gemm_macs(call: Call) -> int:
    transposed = "transA" in call.attributes and call.attributes["transA"].i
    return call.out * call.shape(0)[0 if transposed else 1]


def _einsum_macs(call: Call) -> int:
    """Of a contraction of two operands: one for each combination of all indices. Without a contraction it is
    elementwise and costs none.

    Raises:
        OpenShapeError: also for an ellipsis, another number of operands, or an index that is there twice in one: no
            rule covers these.
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


MACS: Mapping[str, Callable[[Call], int]] = {
    **dict.fromkeys((*_KERNELS, "ConvInteger", "QLinearConv"), _conv_macs),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul_macs),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _cell_macs),
    "ConvTranspose": lambda call: prod(call.shape(0)) * prod(call.shape(1)[1:]),
    "Gemm": _gemm_macs,
    "Einsum": _einsum_macs,
}
"""Op -> its multiply-accumulates. A recurrent cell has one at each step for each weight of its two matrices; its
peepholes, biases and gates are elementwise."""
KNOWN = WITHOUT_MACS | {*MACS}
"""Ops with a rule; any other is unknown."""
