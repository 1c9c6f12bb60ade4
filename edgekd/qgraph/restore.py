"""Undoes what the emitters rewrite (`tune`), and gives back what int8 files do not hold."""

from collections import Counter
from dataclasses import replace

import numpy as np

from edgekd.qgraph.graph import (
    CLIP01_SCALE,
    INT8_MIN,
    NO_PADDING,
    Activation,
    AddOp,
    AvgPoolOp,
    ConvOp,
    Edge,
    Op,
    QGraph,
    UnfoldOp,
)
from edgekd.qgraph.tune import is_reduction


def restored(graph: QGraph) -> QGraph:
    """The graph that was emitted, from the one in a file."""
    graph = _joined_stems(graph)
    ops = (_activated(_pooled(op, graph.edges), graph.edges) for op in graph.ops)
    return replace(graph, ops=tuple(ops))


def _joined_stems(graph: QGraph) -> QGraph:
    """One convolution in place of an unfolded kernel and a 1x1 convolution, if nothing else reads what lies between
    them: the inverse of `tune.split_stem`."""
    readers = Counter(name for op in graph.ops for name in op.sources)
    unfolds: dict[str, UnfoldOp] = {}
    edges, ops = dict(graph.edges), list[Op]()
    for op in graph.ops:
        if isinstance(op, UnfoldOp):
            unfolds[op.output] = op
        unfold = unfolds.get(op.input) if isinstance(op, ConvOp) and _is_pointwise(op) else None
        if not isinstance(op, ConvOp) or unfold is None or readers[op.input] > 1:
            ops.append(op)
            continue
        # (out, frame * mel, 1, 1) to (out, 1, mel, frame)
        weight = op.weight.reshape(len(op.weight), 1, *unfold.kernel[::-1]).transpose(0, 1, 3, 2)
        joined = replace(
            op,
            input=unfold.input,
            weight=np.ascontiguousarray(weight),
            stride=unfold.stride,
            padding=unfold.padding,
            dilation=unfold.dilation,
        )
        ops = [*(each for each in ops if each is not unfold), joined]
        del edges[unfold.output]
    return replace(graph, edges=edges, ops=tuple(ops))


def _is_pointwise(op: ConvOp) -> bool:
    return (op.kernel, op.stride, op.padding, op.groups) == ((1, 1), (1, 1), NO_PADDING, 1)


def _pooled(op: Op, edges: dict[str, Edge]) -> Op:
    """An average pool in place of the depthwise convolution with weights of 1 that it is written as: the inverse of
    `tune.pools_as_convolutions`. In a trained convolution the largest weight of each channel is 127.

    A pool over complete axes takes one step there, whatever its stride: it gets the kernel's size, as in every file
    format.
    """
    if not isinstance(op, ConvOp):
        return op
    source, elements = edges[op.input], op.kernel[0] * op.kernel[1]
    if (
        (len(op.weight), op.groups, op.dilation) != (source.shape[0], source.shape[0], (1, 1))
        or np.any(op.weight != 1)
        or np.any(op.bias)
        or np.any(op.weight_scale != np.float32(1 / elements))
    ):
        return op
    pool = AvgPoolOp(op.name, op.input, op.output, op.kernel, op.stride, op.padding)
    return replace(pool, stride=op.kernel) if is_reduction(pool, source) else pool


def _activated(op: Op, edges: dict[str, Edge]) -> Op:
    """An op with the activation that its output's quantisation stands for."""
    if isinstance(op, ConvOp):
        return replace(op, activation=_activation(edges[op.output]))
    if isinstance(op, AddOp):
        saturates = edges[op.output].zero_point == INT8_MIN
        negative = any(edges[name].zero_point != INT8_MIN for name in op.sources)
        return replace(op, activation="relu" if saturates and negative else "none")
    return op


def _activation(edge: Edge) -> Activation:
    """Of a convolution's output. Only a hard sigmoid's has scale 1 / 255."""
    if edge.zero_point != INT8_MIN:
        return "none"
    return "clip01" if np.isclose(edge.scale, CLIP01_SCALE, rtol=1e-6, atol=0) else "relu"
