"""Rewrites of an integer graph that change how fast an engine runs it and not one integer of what it computes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgekd.qgraph.graph import AvgPool, Conv, Edge, Op, QGraph, Taps


def pools_as_convolutions(graph: QGraph, keep: Callable[[AvgPool, Edge], bool]) -> QGraph:
    """Write average pools as depthwise convolutions with weight 1 and scale 1 / k^2.

    LiteRT does not delegate AVERAGE_POOL_2D in int8, and ONNX Runtime's integer average pool is several times slower.

    Args:
        graph: any graph.
        keep: pools (and the edge each reads) for which the engine has something better.
    """

    def rewrite(op: Op, edges: dict[str, Edge]) -> list[Op]:
        if not isinstance(op, AvgPool) or keep(op, edges[op.input]):
            return [op]
        channels = edges[op.input].shape[0]
        scale = np.full(channels, 1 / (op.kernel[0] * op.kernel[1]), np.float32)
        return [
            Conv(
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


def is_global(op: AvgPool, source: Edge) -> bool:
    """Whether a pool takes the whole map."""
    return op.kernel == source.shape[1:] and not any(op.padding)


def is_reduction(op: AvgPool, source: Edge) -> bool:
    """Whether a pool takes the whole of one axis or of both and leaves the other as it is: a plain mean over axes."""
    if op.kernel == (1, 1) or any(op.padding):
        return False
    return all(
        size == whole or size == step == 1
        for size, step, whole in zip(op.kernel, op.stride, source.shape[1:], strict=True)
    )


def split_stem(graph: QGraph) -> QGraph:
    """Gather what the kernel of a single-channel convolution sees, then convolve 1x1.

    The engines' int8 kernels fill up input channels to 4 or 8, so a 5x5 kernel on one channel computes several times
    its MACs. Slices and transpositions of bytes cost less. Measured on a 5x5 stem with 32 channels on 256 x 28, one
    thread of a processor with AMX: LiteRT 0.32 ms before and 0.09 ms after (0.18 with an identity convolution that
    gathers over mel), ONNX Runtime 0.18 and 0.09 ms.
    """

    def rewrite(op: Op, edges: dict[str, Edge]) -> list[Op]:
        if not isinstance(op, Conv) or op.weight.shape[1] > 1 or op.groups > 1 or op.weight.shape[2:] == (1, 1):
            return [op]
        source, (kernel_mel, kernel_frame) = edges[op.input], op.weight.shape[2:]
        seen = Edge(
            f"{op.name}/taps", (kernel_mel * kernel_frame, *edges[op.output].shape[1:]), source.scale, source.zero_point
        )
        edges[seen.name] = seen
        # (out, frame * mel, 1, 1)
        weight = np.ascontiguousarray(op.weight[:, 0].transpose(0, 2, 1)).reshape(len(op.weight), -1, 1, 1)
        return [
            Taps(seen.name, op.input, seen.name, (kernel_mel, kernel_frame), op.stride, op.padding, op.dilation),
            replace(op, input=seen.name, weight=weight, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)),
        ]

    return _rewritten(graph, rewrite)


def _rewritten(graph: QGraph, rewrite: Callable[[Op, dict[str, Edge]], list[Op]]) -> QGraph:
    """Replace each op by what `rewrite(op, edges)` gives; new edges are added to the copy it receives."""
    edges = dict(graph.edges)
    ops = tuple(new for op in graph.ops for new in rewrite(op, edges))
    return replace(graph, edges=edges, ops=ops)
