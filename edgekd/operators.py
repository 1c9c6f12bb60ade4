"""The operators that edgekd writes into model files, one row each, and what the integer graph's operators become.

Emitters and readers of graphs (`qgraph`), bounds of working memory (`modelfile.guard_*`) and counting rules
(`complexity.readers.*_rules`) read these rows. A new operator of the integer graph is a class in `qgraph.graph` and a
row in `GRAPH`, with a row for each file operator that is new; tests name every part that lacks it. Standard library
only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import NamedTuple


@dataclass(frozen=True)
class Kernel:
    """Where an operator has its kernel. input: position among its inputs. axes: those that one output element reads."""

    input: int
    axes: slice

    def window(self, shape: Sequence[int]) -> int:
        """Elements that one output element reads, and its multiply-accumulates, for a kernel of this shape."""
        return prod(shape[self.axes])


@dataclass(frozen=True, eq=False)  # rows that happen to be equal stay two members of an enumeration
class TfliteRow:
    """One TFLite operator. Codes are those of the schema.

    code: in BuiltinOperator. inputs: how many, None for any number. options: table and its code in BuiltinOptions, None
    where it has none. int8_version: version of the operator that brought int8.
    kernel: of a convolution. pools: whether it slides a window without a kernel, with the size in its options.
    """

    code: int
    inputs: int | None
    options: tuple[str, int] | None = None
    int8_version: int = 2
    kernel: Kernel | None = None
    pools: bool = False


class Tflite(Enum):
    """TFLite operators by their names in the schema."""

    ADD = TfliteRow(0, 2, ("AddOptions", 11))
    AVERAGE_POOL_2D = TfliteRow(1, 1, ("Pool2DOptions", 5), pools=True)
    CONCATENATION = TfliteRow(2, None, ("ConcatenationOptions", 10))
    CONV_2D = TfliteRow(3, 3, ("Conv2DOptions", 1), 3, Kernel(1, slice(1, None)))  # kernel (out, mel, frame, in)
    DEPTHWISE_CONV_2D = TfliteRow(
        4, 3, ("DepthwiseConv2DOptions", 2), 3, Kernel(1, slice(1, 3))
    )  # (1, mel, frame, out)
    LOGISTIC = TfliteRow(14, 1)
    MAX_POOL_2D = TfliteRow(17, 1, ("Pool2DOptions", 5), pools=True)
    MUL = TfliteRow(18, 2, ("MulOptions", 21))
    RELU = TfliteRow(19, 1)
    RESHAPE = TfliteRow(22, 2, ("ReshapeOptions", 17), 1)
    PAD = TfliteRow(34, 2, ("PadOptions", 22))
    TRANSPOSE = TfliteRow(39, 2, ("TransposeOptions", 26))
    MEAN = TfliteRow(40, 2, ("ReducerOptions", 27))
    SLICE = TfliteRow(65, 3, ("SliceOptions", 48))


@dataclass(frozen=True, eq=False)
class OnnxRow:
    """One ONNX operator. attributes: those that edgekd writes. kernel, pools: as of `TfliteRow`."""

    attributes: tuple[str, ...] = ()
    kernel: Kernel | None = None
    pools: bool = False


_SLIDING = ("kernel_shape", "strides", "pads")


class Onnx(Enum):
    """ONNX operators by their types."""

    DequantizeLinear = OnnxRow(("axis",))
    QuantizeLinear = OnnxRow(("axis",))
    Sigmoid = OnnxRow()
    Relu = OnnxRow()
    Clip = OnnxRow()
    Add = OnnxRow()
    Mul = OnnxRow()
    Conv = OnnxRow(
        (*_SLIDING, "dilations", "group"), Kernel(1, slice(1, None))
    )  # kernel (out, in / groups, mel, frame)
    MaxPool = OnnxRow(_SLIDING, pools=True)
    AveragePool = OnnxRow((*_SLIDING, "count_include_pad"), pools=True)
    GlobalAveragePool = OnnxRow()
    Pad = OnnxRow()
    Slice = OnnxRow()
    Concat = OnnxRow(("axis",))
    Flatten = OnnxRow(("axis",))


class Forms(NamedTuple):
    """File operators that something of the integer graph may become."""

    tflite: tuple[Tflite, ...]
    onnx: tuple[Onnx, ...]


GRAPH: Mapping[str, Forms] = {
    "ConvOp": Forms((Tflite.CONV_2D, Tflite.DEPTHWISE_CONV_2D, Tflite.PAD), (Onnx.Conv,)),
    "AddOp": Forms((Tflite.ADD,), (Onnx.Add,)),
    "MulOp": Forms((Tflite.MUL,), (Onnx.Mul,)),
    "SigmoidOp": Forms((Tflite.LOGISTIC,), (Onnx.Sigmoid,)),
    "MaxPoolOp": Forms((Tflite.MAX_POOL_2D,), (Onnx.MaxPool,)),
    "AvgPoolOp": Forms(
        (Tflite.MEAN, Tflite.DEPTHWISE_CONV_2D, Tflite.AVERAGE_POOL_2D, Tflite.PAD),
        (Onnx.GlobalAveragePool, Onnx.Conv, Onnx.AveragePool),
    ),
    "ConstantOp": Forms((), ()),  # a constant tensor
    "UnfoldOp": Forms(
        (Tflite.RESHAPE, Tflite.PAD, Tflite.TRANSPOSE, Tflite.SLICE, Tflite.CONCATENATION),
        (Onnx.Pad, Onnx.Slice, Onnx.Concat),
    ),
}
"""Class in `qgraph.graph` -> its file operators, as integers and in the float twin."""
ACTIVATION = Forms((Tflite.RELU,), (Onnx.Relu, Onnx.Clip))
"""Activations of the float twin that no other operator contains; in integers saturation is the activation."""
QUANTISATION = Forms((), (Onnx.QuantizeLinear, Onnx.DequantizeLinear))
"""TFLite's tensors carry their quantisation themselves."""
LOGITS = Forms((Tflite.RESHAPE,), (Onnx.Flatten,))
"""The end of every file: (batch, labels)."""


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of an elementwise result: sizes aligned at the end, the larger of each axis.

    Whether the sizes fit is left to the engine: this bounds what it may allocate.
    """
    rank = max(map(len, shapes))
    return tuple(max(sizes) for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True))
