"""Counting rules of TFLite operators, exact and by NeSsi: edgekd's own (`edgekd.operators`) and those of foreign files.

NeSsi (AlbertoAncilotto/NeSsi, its `tflite_tools`) has a rule for seven operators; for any other it counts no
multiply-accumulates. It takes as constants all tensors that an operator reads, that no operator writes and that are no
input of the graph; so the state of a recurrent cell is among them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekd.complexity.fourier import complex_fft_macs, real_fft_macs
from edgekd.complexity.readers.network import Tensor
from edgekd.operators import Tflite


@dataclass(frozen=True)
class TfliteCall:
    """One operator in a graph. options: its options table if it is in `OPTIONS`. reads: its inputs, None where an
    optional one is absent. writes: its outputs."""

    op: str
    options: Any
    reads: Sequence[Tensor | None]
    writes: Sequence[Tensor]

    @property
    def out(self) -> int:
        """Elements that it writes."""
        return sum(tensor.elements for tensor in self.writes)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an input.

        Raises:
            ValueError: it is absent.
        """
        tensor = self.reads[index]
        if tensor is None:
            raise ValueError(f"input {index} of an operator is missing")
        return tensor.shape

    def cell_kernels(self) -> list[Tensor]:
        """The matrices that a recurrent cell has."""
        fused = self.op == "LSTM" and len(self.reads) == FUSED_LSTM_INPUTS
        positions = FUSED_LSTM_KERNELS if fused else CELL_KERNELS[self.op]
        return [tensor for index in positions if index < len(self.reads) and (tensor := self.reads[index]) is not None]


_KERNELS = {each.name: each.value.kernel for each in Tflite if each.value.kernel is not None}
"""Kernels of edgekd's own operators with multiply-accumulates."""
KERNEL_INPUT = {
    **{name: kernel.input for name, kernel in _KERNELS.items()},
    "TRANSPOSE_CONV": 1,
    "FULLY_CONNECTED": 1,
    "CONV_3D": 1,
    "CONV_3D_TRANSPOSE": 1,
}
"""Operator with one kernel -> the input that holds it: CONV_2D and TRANSPOSE_CONV (out, mel, frame, in / groups),
DEPTHWISE_CONV_2D (1, mel, frame, out), FULLY_CONNECTED (out, in), CONV_3D (depth, mel, frame, in / groups, out),
CONV_3D_TRANSPOSE (depth, mel, frame, out, in)."""
CELL_KERNELS: Mapping[str, Sequence[int]] = {
    "RNN": (1, 2),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
    "BIDIRECTIONAL_SEQUENCE_RNN": (1, 2, 5, 6, 10, 11),
    "SVDF": (1, 2),
    "LSTM": (*range(1, 9), 16),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (*range(1, 9), 16),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (*range(1, 9), 16, *range(18, 26), 33, *range(40, 48)),
}
"""Recurrent cell -> the inputs that hold its matrices. Each weight costs one multiply-accumulate at each step.
Peephole vectors, biases and gates are elementwise and cost none here."""
FUSED_LSTM_INPUTS, FUSED_LSTM_KERNELS = 5, (2,)
"""The LSTM with one fused matrix has five inputs, of which the third is the matrix."""
OPTIONS = {
    "BATCH_MATMUL": "BatchMatMulOptions",
    **{each.name: each.value.options[0] for each in Tflite if each.value.pools and each.value.options},
    "IF": "IfOptions",
    "WHILE": "WhileOptions",
    "CALL": "CallOptions",
    "CALL_ONCE": "CallOnceOptions",
    "STABLEHLO_COMPOSITE": "StableHLOCompositeOptions",
    "VAR_HANDLE": "VarHandleOptions",
}
"""Operator whose counting rule needs its options -> the table that holds them."""
NEWER_OPTIONS = frozenset({"STABLEHLO_COMPOSITE"})
"""Operators whose table is in the second union of options, because the first was full."""
BODIES: Mapping[str, Callable[[Any], tuple[int, ...]]] = {
    "IF": lambda options: (options.ThenSubgraphIndex(), options.ElseSubgraphIndex()),
    "WHILE": lambda options: (options.CondSubgraphIndex(), options.BodySubgraphIndex()),
    "CALL": lambda options: (options.Subgraph(),),
    "CALL_ONCE": lambda options: (options.InitSubgraphIndex(),),
    "STABLEHLO_COMPOSITE": lambda options: (options.DecompositionSubgraphIndex(),),
}
"""Operators that run other subgraphs -> the numbers of these, from the options."""
RUN_EACH_TIME = frozenset({"CALL", "STABLEHLO_COMPOSITE"})
"""Operators that run their subgraph once in each inference. A composite is one operation, such as attention, with the
subgraph for engines that do not know it."""
RUN_AT_START = frozenset({"CALL_ONCE"})
"""Operators whose subgraphs an engine runs once, before the first inference: they cost nothing in an inference."""
HANDLE = "VAR_HANDLE"
VARIABLE_VALUES: Mapping[str, Callable[[TfliteCall], Tensor | None]] = {
    "ASSIGN_VARIABLE": lambda call: call.reads[1],
    "READ_VARIABLE": lambda call: call.writes[0],
}
"""Operators on a resource variable, whose handle is their first input -> a tensor of the variable's shape and type."""
_FOREIGN_WITHOUT_MACS = """
    ABS ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE ATAN2 BATCH_TO_SPACE_ND BITCAST BITWISE_XOR BROADCAST_ARGS BROADCAST_TO
    BUCKETIZE CAST CEIL COMPLEX_ABS COS CUMSUM DENSIFY DEPTH_TO_SPACE DEQUANTIZE DILATE DIV DYNAMIC_UPDATE_SLICE ELU
    EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FAKE_QUANT FILL FLOOR FLOOR_DIV FLOOR_MOD GATHER GATHER_ND GELU GREATER
    GREATER_EQUAL HARD_SWISH IMAG L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOCAL_RESPONSE_NORMALIZATION
    LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOG_SOFTMAX MATRIX_DIAG MATRIX_SET_DIAG MAXIMUM MINIMUM MIRROR_PAD
    MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 NOT_EQUAL ONE_HOT PACK PADV2 POW PRELU QUANTIZE
    RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANGE RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN
    REDUCE_PROD RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_SEQUENCE REVERSE_V2
    RIGHT_SHIFT ROUND RSQRT SCATTER_ND SEGMENT_SUM SELECT SELECT_V2 SHAPE SIGN SIN SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPARSE_TO_DENSE SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE
    TOPK_V2 UNIQUE UNPACK UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM
    VAR_HANDLE WHERE ZEROS_LIKE
"""
WITHOUT_MACS = frozenset(_FOREIGN_WITHOUT_MACS.split()) | {each.name for each in Tflite if each.value.kernel is None}
"""Elementwise operators, pools, reductions and moves: no convolution, matrix product or Fourier transform."""


def _cell_macs(call: TfliteCall) -> int:
    steps = prod(call.shape(0)[:-1])  # batch, or batch and time in either order
    return steps * sum(tensor.elements for tensor in call.cell_kernels())


def _rfft2d_macs(call: TfliteCall) -> int:
    """A real transform of each row, then a complex one of each column of bins. The output is (..., row, bin). A row has
    an even length."""
    *others, rows, bins = call.writes[0].shape
    return prod(others) * (rows * real_fft_macs(2 * (bins - 1)) + bins * complex_fft_macs(rows))


def _conv_macs(call: TfliteCall) -> int:
    kernel = _KERNELS[call.op]
    return call.out * kernel.window(call.shape(kernel.input))


def _pool_reads(call: TfliteCall) -> int:
    return int(call.out * call.options.FilterHeight() * call.options.FilterWidth())


MACS: Mapping[str, Callable[[TfliteCall], int]] = {
    **dict.fromkeys(_KERNELS, _conv_macs),
    "FULLY_CONNECTED": lambda call: call.out * call.shape(1)[1],
    "CONV_3D": lambda call: call.out * prod(call.shape(1)[:-1]),
    "TRANSPOSE_CONV": lambda call: prod(call.shape(2)) * prod(call.shape(1)[:3]),
    "CONV_3D_TRANSPOSE": lambda call: prod(call.shape(2)) * prod(call.shape(1)[:4]),
    "BATCH_MATMUL": lambda call: call.out * call.shape(0)[-2 if call.options.AdjX() else -1],
    "RFFT2D": _rfft2d_macs,
    **dict.fromkeys(CELL_KERNELS, _cell_macs),
}
"""Operator -> its multiply-accumulates."""
NESSI_MACS: Mapping[str, Callable[[TfliteCall], int]] = {
    **dict.fromkeys(_KERNELS, _conv_macs),
    "FULLY_CONNECTED": lambda call: call.out * call.shape(0)[-1],
    Tflite.MEAN.name: lambda call: prod(call.shape(0)),
    **dict.fromkeys((each.name for each in Tflite if each.value.pools), _pool_reads),
    Tflite.ADD.name: lambda call: call.out * (len(call.reads) - 1),
}
"""Operator -> its multiply-accumulates by NeSsi."""
KNOWN = WITHOUT_MACS | {*MACS} | RUN_AT_START
"""Operators with a rule; any other is unknown."""


def kernel(call: TfliteCall) -> Tensor | None:
    """The kernel of an operator; of a recurrent cell the first one."""
    if call.op in CELL_KERNELS:
        return next(iter(call.cell_kernels()), None)
    return call.reads[KERNEL_INPUT[call.op]] if call.op in KERNEL_INPUT else None
