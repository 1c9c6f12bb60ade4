"""A graph that no engine could compute faithfully is refused; the message names the op or edge and the value."""

from dataclasses import replace

import numpy as np
import pytest
from qgraph import toy

from edgekd.errors import InputError
from edgekd.qgraph.graph import AddOp, AvgPoolOp, ConvOp, MaxPoolOp, QGraph, SigmoidOp


@pytest.fixture(scope="module")
def graph():
    return toy.every_op()


def with_op(graph, name, **changes):
    """The graph with fields of the op of that name changed."""
    ops = tuple(replace(op, **changes) if op.name == name else op for op in graph.ops)
    return QGraph(graph.edges, ops, graph.input, graph.output)


def with_edge(graph, name, **changes):
    """The graph with fields of the edge of that name changed."""
    return QGraph({**graph.edges, name: replace(graph.edges[name], **changes)}, graph.ops, graph.input, graph.output)


def first(graph, kind, **fields):
    """Name of the first op of a kind with these fields."""
    return next(
        op.name
        for op in graph.ops
        if isinstance(op, kind) and all(getattr(op, key) == value for key, value in fields.items())
    )


def test_a_complete_graph_passes(graph):
    graph.validate()


def test_order_and_edges(graph):
    with pytest.raises(InputError, match="conv0' before it is written"):
        QGraph(graph.edges, graph.ops[1:], graph.input, graph.output).validate()
    with pytest.raises(InputError, match="'conv0', which is written already"):
        QGraph(graph.edges, graph.ops[:1] + graph.ops, graph.input, graph.output).validate()
    with pytest.raises(InputError, match="'conv0', which is undeclared"):
        QGraph({"input": graph.edges["input"]}, graph.ops, graph.input, graph.output).validate()
    with pytest.raises(InputError, match=r"'conv0' .*\(labels, 1, 1\)"):
        QGraph(graph.edges, graph.ops, graph.input, "conv0").validate()
    with pytest.raises(InputError, match="'logits' is never written"):
        QGraph(graph.edges, graph.ops, graph.input, "logits").validate()


def test_shapes(graph):
    with pytest.raises(InputError, match=r"conv0: .*\(8, 9, 9\), .*\(8, 16, 19\)"):
        with_edge(graph, "conv0", shape=(8, 9, 9)).validate()
    with pytest.raises(InputError, match=r"conv0: weight .* 1 channels"):
        with_op(graph, "conv0", groups=2).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.0}, "scale 0.0 must be finite and positive"),
        ({"scale": float("nan")}, "scale nan must be"),
        ({"zero_point": 128}, "zero point 128 is outside"),
    ],
)
def test_quantisation_of_an_edge(graph, changes, message):
    with pytest.raises(InputError, match=f"edge 'conv3': {message}"):
        with_edge(graph, "conv3", **changes).validate()


def test_an_activation_is_saturation(graph):
    with pytest.raises(InputError, match=r"conv0: .*zero point 0, .*-128"):
        with_edge(graph, "conv0", zero_point=0).validate()
    gate = first(graph, ConvOp, activation="clip01")
    with pytest.raises(InputError, match=f"{gate}: .*scale 0.01, .*0.0039"):
        with_edge(graph, gate, scale=0.01).validate()
    with pytest.raises(InputError, match=r"scale 0.01, .*0.00390625"):
        with_edge(graph, first(graph, SigmoidOp), scale=0.01).validate()
    with pytest.raises(InputError, match="a maximum pool keeps the scale"):
        with_edge(graph, first(graph, MaxPoolOp), scale=0.01).validate()


def test_multipliers_that_xnnpack_refuses(graph):
    name = first(graph, AddOp, activation="none")
    with pytest.raises(InputError, match=f"{name}: multiplier"):
        with_edge(graph, name, scale=1e4).validate()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weight_scale", np.zeros(8, np.float32), "the channel is dead"),
        ("bias", np.full(8, 2**30, np.int32), "near int32 saturation"),
    ],
)
def test_dead_channels(graph, field, value, message):
    with pytest.raises(InputError, match=f"conv0: .*{message}"):
        with_op(graph, "conv0", **{field: value}).validate()


def test_the_toy_has_pools_that_overlap(graph):
    assert any(isinstance(op, AvgPoolOp) and op.stride != op.kernel for op in graph.ops)
