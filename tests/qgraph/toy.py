"""Seeded integer graphs for tests and benchmarks: a builder that calibrates every edge on random data, and a naive
float executor."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgekd.frontend import FrontEnd
from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.qgraph.graph import (
    CLIP01_SCALE,
    SIGMOID_SCALE,
    Activation,
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
)
from edgekd.qgraph.reference import dequantize, quantize

INPUT_STD = 2.0


class Builder:
    """Adds ops to a graph; each method returns the name of the output edge.

    Every edge's scale is calibrated on `windows` random inputs run in float, as quantisation-aware training would learn
    it.
    """

    def __init__(self, seed: int, mel: int, frame: int, windows: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.edges = {"input": Edge("input", (1, mel, frame), float(np.float32(0.05)), 3)}
        self.ops: list[Op] = []
        self.reals = {"input": self.rng.normal(0, INPUT_STD, (windows, 1, mel, frame))}

    def conv(
        self,
        source: str,
        out: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        padding: tuple[int, int, int, int] | None = None,
        activation: Activation = "relu",
    ) -> str:
        """Convolution with random weights; padding None keeps the size at stride 1."""
        if padding is None:
            mel, frame = (dilation[axis] * (kernel[axis] - 1) // 2 for axis in (0, 1))
            padding = (mel, mel, frame, frame)
        in_group = self.edges[source].shape[0] // groups
        weight = self.rng.normal(0, (2 / (in_group * kernel[0] * kernel[1])) ** 0.5, (out, in_group, *kernel))
        weight *= self.rng.uniform(0.5, 1.5, (out, 1, 1, 1))
        bias = self.rng.normal(0, 0.1, out)
        if activation == "clip01":
            weight, bias = weight / 6, bias / 6 + 0.5
        weight_scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
        quantised = np.clip(np.rint(weight / weight_scale[:, None, None, None]), -127, 127).astype(np.int8)
        bias_scale = np.float64(self.edges[source].scale) * weight_scale.astype(np.float64)
        return self._add(
            ConvOp(
                self._name("conv"),
                source,
                "",
                quantised,
                weight_scale,
                np.rint(bias / bias_scale).astype(np.int32),
                stride,
                padding,
                dilation,
                groups,
                activation,
            )
        )

    def depthwise(
        self,
        source: str,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        activation: Activation = "relu",
    ) -> str:
        """Depthwise convolution."""
        channels = self.edges[source].shape[0]
        return self.conv(
            source, channels, kernel, stride=stride, dilation=dilation, groups=channels, activation=activation
        )

    def add(self, a: str, b: str, activation: Activation = "none") -> str:
        """Residual or broadcast sum."""
        return self._add(AddOp(self._name("add"), (a, b), "", activation))

    def mul(self, a: str, b: str) -> str:
        """Product, for instance with a gate."""
        return self._add(MulOp(self._name("mul"), (a, b), ""))

    def sigmoid(self, source: str) -> str:
        """Logistic function."""
        return self._add(SigmoidOp(self._name("sigmoid"), source, ""))

    def max_pool(self, source: str, kernel: tuple[int, int], stride: tuple[int, int]) -> str:
        """Maximum pool."""
        return self._add(MaxPoolOp(self._name("max"), source, "", kernel, stride))

    def avg_pool(
        self,
        source: str,
        kernel: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> str:
        """Average pool; kernel None is the global pool."""
        size = self.edges[source].shape[1:]
        return self._add(AvgPoolOp(self._name("avg"), source, "", kernel or size, stride or kernel or size, padding))

    def constant(self, shape: tuple[int, int, int]) -> str:
        """A trained edge of random values, for mul and add."""
        return self._add(ConstantOp(self._name("constant"), "", self.rng.integers(-127, 128, shape, np.int8)))

    def squeeze_excite(self, source: str, squeeze: int) -> str:
        """Global pool, two 1x1 convolutions with a hard sigmoid at the end, product with the source."""
        gate = self.conv(self.avg_pool(source), squeeze)
        return self.mul(source, self.conv(gate, self.edges[source].shape[0], activation="clip01"))

    def graph(self, output: str) -> QGraph:
        """The validated graph."""
        graph = QGraph(self.edges, tuple(self.ops), "input", output)
        graph.validate()
        return graph

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def _add(self, op: Op) -> str:
        """Append an op, with its output edge (named after it) calibrated on the float run."""
        op = type(op)(**{**vars(op), "output": op.name})
        sources = op.sources
        real = (
            op.value[None] / 127
            if isinstance(op, ConstantOp)
            else float_op(op, [self.reals[name] for name in sources], self.edges[sources[0]].scale)
        )
        shape = op.shape([self.edges[name].shape for name in sources])
        activation = op.activation if isinstance(op, ConvOp | AddOp) else "none"
        low, high = min(float(real.min()), 0.0), max(float(real.max()), 1e-3)
        scale, zero_point = (high - low) / 255, int(np.clip(np.rint(-128 - low * 255 / (high - low)), -128, 127))
        if isinstance(op, ConstantOp):
            scale, zero_point = 1 / 127, 0
        elif isinstance(op, MaxPoolOp):
            scale, zero_point = self.edges[op.input].scale, self.edges[op.input].zero_point
        elif isinstance(op, SigmoidOp) or activation == "clip01":
            scale, zero_point = SIGMOID_SCALE if isinstance(op, SigmoidOp) else CLIP01_SCALE, -128
        self.edges[op.name] = Edge(op.name, shape, float(np.float32(scale)), zero_point)
        self.ops.append(op)
        self.reals[op.name] = real
        return op.name


def every_op(seed: int = 0, mel: int = 32, frame: int = 19, labels: int = 7) -> QGraph:
    """A small net with every op and every form of it: gates, broadcasts, odd paddings, groups, dilation, strides."""
    b = Builder(seed, mel, frame)
    x = b.conv("input", 8, (5, 5), stride=(2, 1))
    x = b.max_pool(x, (2, 2), (2, 2))
    y = b.conv(b.conv(x, 16), 8, (3, 3), activation="none")
    x = b.add(x, y, "relu")
    x = b.squeeze_excite(x, 4)
    x = b.conv(x, 16, (3, 3), groups=4)
    x = b.add(x, b.avg_pool(x, (3, 3), (1, 1), (1, 1, 1, 1)), "relu")
    x = b.depthwise(x, (3, 3), stride=(2, 2))
    x = b.conv(x, 16, (1, 3), dilation=(1, 2), padding=(0, 0, 2, 2), activation="none")
    aux = b.avg_pool(x, (b.edges[x].shape[1], 1))
    aux = b.depthwise(aux, (1, 3), dilation=(1, 2), activation="none")
    aux = b.mul(aux, b.sigmoid(aux))
    x = b.add(aux, x)
    per_bin = (*b.edges[x].shape[:2], 1)
    x = b.add(b.mul(x, b.constant(per_bin)), b.constant(per_bin), "relu")
    x = b.mul(b.conv(b.avg_pool(x), 16, activation="clip01"), x)
    x = b.avg_pool(x, (2, 2), (1, 2))
    x = b.conv(x, 12, (2, 1), padding=(1, 0, 0, 0))
    return b.graph(b.conv(b.avg_pool(x), labels, activation="none"))


def serfr_like(seed: int = 0, width: int = 32, labels: int = 50, head: int = 240) -> QGraph:
    """The SERFR-CNN variant that fits the budget (about 27 MMAC at 256 x 28), with random weights: for benchmarks."""
    b = Builder(seed, 256, 28, windows=2)
    x = b.avg_pool(b.conv("input", width, (5, 5), stride=(2, 1)), (3, 2))
    for channels, kernel in [(width, (3, 3)), (2 * width, (1, 1)), (2 * width, (1, 1))]:
        for _ in range(3):
            x = b.add(b.conv(b.conv(x, channels), channels, kernel, activation="none"), x, "relu")
        x = b.squeeze_excite(x, channels // 16)
        x = b.max_pool(b.conv(x, 2 * width), (2, 2), (2, 2))
    x = b.avg_pool(b.conv(x, head))
    return b.graph(b.conv(x, labels, activation="none"))


def random_input(graph: QGraph, batch: int, seed: int = 1) -> np.ndarray:
    """int8 (batch, channel, mel, frame), distributed as the calibration data."""
    edge = graph.edges[graph.input]
    return quantize(np.random.default_rng(seed).normal(0, INPUT_STD, (batch, *edge.shape)), edge)


def run_float(graph: QGraph, x: np.ndarray) -> np.ndarray:
    """A naive float twin: float (batch, channel, mel, frame) to logits (batch, labels)."""
    values = {graph.input: x.astype(np.float64)}
    for op in graph.ops:
        if isinstance(op, ConstantOp):
            values[op.output] = dequantize(op.value, graph.edges[op.output]).astype(np.float64)[None]
            continue
        names = op.sources
        values[op.output] = float_op(op, [values[name] for name in names], graph.edges[names[0]].scale)
    return values[graph.output][:, :, 0, 0]


def float_op(op: Op, inputs: list[np.ndarray], input_scale: float) -> np.ndarray:
    """One op in float64, written differently from the reference on purpose."""
    x = inputs[0]
    if isinstance(op, ConvOp):
        weight = op.weight * op.weight_scale.astype(np.float64)[:, None, None, None]
        bias = op.bias * op.weight_scale.astype(np.float64) * input_scale
        x = np.pad(x, ((0, 0), (0, 0), op.padding[:2], op.padding[2:]))
        span = [op.dilation[axis] * (op.weight.shape[axis + 2] - 1) + 1 for axis in (0, 1)]
        views = sliding_window_view(x, span, (2, 3))[
            :, :, :: op.stride[0], :: op.stride[1], :: op.dilation[0], :: op.dilation[1]
        ]
        parts = [
            np.einsum("bcmfij,ocij->bomf", part, kernel, optimize=True)
            for part, kernel in zip(np.split(views, op.groups, 1), np.split(weight, op.groups, 0), strict=True)
        ]
        return activate(np.concatenate(parts, 1) + bias[:, None, None], op.activation)
    if isinstance(op, MaxPoolOp | AvgPoolOp):
        if isinstance(op, AvgPoolOp):
            x = np.pad(x, ((0, 0), (0, 0), op.padding[:2], op.padding[2:]))
        views = sliding_window_view(x, op.kernel, (2, 3))[:, :, :: op.stride[0], :: op.stride[1]]
        return views.max((4, 5)) if isinstance(op, MaxPoolOp) else views.mean((4, 5))
    if isinstance(op, SigmoidOp):
        return 1 / (1 + np.exp(-x))
    if isinstance(op, MulOp):
        return x * inputs[1]
    return activate(x + inputs[1], op.activation)


def activate(x: np.ndarray, activation: Activation) -> np.ndarray:
    """The float form of an activation."""
    return {"none": lambda: x, "relu": lambda: np.maximum(x, 0), "clip01": lambda: np.clip(x, 0, 1)}[activation]()


def manifest(graph: QGraph, kind: str, precision: str = "int8", **changes) -> Manifest:
    """A manifest that fits a graph. kind: tflite or onnx. changes: other fields."""
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    _, mel, frame = source.shape
    frontend = FrontEnd(sample_rate=8000, n_fft=256, win_length=256, hop_length=128, n_mels=mel)
    dtype, shift = ("float32", 0) if precision == "float" else ("uint8", 128) if kind == "onnx" else ("int8", 0)
    fields = {
        "name": "toy",
        "student": "toy",
        "precision": precision,
        "labels": tuple(f"label{i}" for i in range(output.shape[0])),
        "frontend": frontend,
        "window": 256 + 128 * (frame - 1),
        "counts": GraphCounts(0, 0, 0),
        "input": TensorQuant(dtype, source.scale, source.zero_point + shift),
        "output": TensorQuant(dtype, output.scale, output.zero_point + shift),
        "provenance": Provenance(
            recipe="toy",
            recipe_hash="0",
            data="noise",
            data_hash="0",
            data_licence="CC0",
            synthetic=True,
            edgekd_version="0",
            created="2024-01-01T00:00:00+00:00",
        ),
    }
    return Manifest(**{**fields, **changes})
