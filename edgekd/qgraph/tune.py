"""Rewrites of an integer graph that change its speed in an engine and none of its integers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgekd.qgraph.graph import AvgPoolOp, ConvOp, Edge, Op, QGraph, UnfoldOp


def pools_as_convolutions(graph: QGraph, keep: Callable[[AvgPoolOp, Edge], bool]) -> QGraph:
    """Write average pools as depthwise convolutions with weight 1 and scale 1 / k^2.

    LiteRT does not delegate AVERAGE_POOL_2D in int8, and ONNX Runtime's integer average pool is several times slower.

    Args:
        graph: any graph.
        keep: whether a pool (with the edge that it reads) stays, since the engine has something faster for it.
    """

    def rewrite(op: Op, edges: dict[str, Edge]) -> list[Op]:
        if not isinstance(op, AvgPoolOp) or keep(op, edges[op.input]):
            return [op]
        channels = edges[op.input].shape[0]
        scale = np.full(channels, 1 / (op.kernel[0] * op.kernel[1]), np.float32)
        return [
            ConvOp(
                op.name,
                op.input,
                op.output,
                np.ones((channels, 1, *op.kernel), np.int8),
                scale,
                np.zeros(channels, np.int32),
                op.stride,
                op.padding,
                groups=channels,
            )
        ]

    return _rewritten(graph, rewrite)


def is_global(op: AvgPoolOp, source: Edge) -> bool:
    """Whether a pool takes the complete map."""
    return op.kernel == source.shape[1:] and not any(op.padding)


def is_reduction(op: AvgPoolOp, source: Edge) -> bool:
    """Whether a pool is a plain mean over axes: it takes one axis or both completely and leaves the other as it is."""
    if op.kernel == (1, 1) or any(op.padding):
        return False
    return all(
        size == full or size == step == 1
        for size, step, full in zip(op.kernel, op.stride, source.shape[1:], strict=True)
    )


def split_stem(graph: QGraph) -> QGraph:
    """Unfold the input of a single-channel convolution (im2col), then convolve 1x1.

    The engines' int8 kernels pad input channels to 4 or 8, so a 5x5 kernel on one channel computes several times
    its MACs. Slices and transpositions of bytes cost less. Measured on a 5x5 stem with 32 channels on 256 x 28, one
    thread of a processor with AMX: LiteRT 0.32 ms before and 0.09 ms after (0.18 with an identity convolution that
    gathers over mel), ONNX Runtime 0.18 and 0.09 ms.
    """

    def rewrite(op: Op, edges: dict[str, Edge]) -> list[Op]:
        if not isinstance(op, ConvOp) or op.weight.shape[1] > 1 or op.groups > 1 or op.weight.shape[2:] == (1, 1):
            return [op]
        source, name = edges[op.input], f"{op.name}/taps"
        unfold = UnfoldOp(name, op.input, name, op.kernel, op.stride, op.padding, op.dilation)
        edges[name] = Edge(name, unfold.shape([source.shape]), source.scale, source.zero_point)
        # (out, frame * mel, 1, 1)
        weight = np.ascontiguousarray(op.weight[:, 0].transpose(0, 2, 1)).reshape(len(op.weight), -1, 1, 1)
        return [
            unfold,
            replace(op, input=name, weight=weight, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)),
        ]

    return _rewritten(graph, rewrite)


def _rewritten(graph: QGraph, rewrite: Callable[[Op, dict[str, Edge]], list[Op]]) -> QGraph:
    """Replace each op by the ops that `rewrite(op, edges)` returns; it adds new edges to the copy that it receives."""
    edges = dict(graph.edges)
    ops = tuple(new for op in graph.ops for new in rewrite(op, edges))
    return replace(graph, edges=edges, ops=ops)
