"""The reference computes what the graph declares, independent of batch size."""

import numpy as np
import pytest
from qgraph import toy

from edgekd.errors import InputError
from edgekd.qgraph import reference, tune
from edgekd.qgraph.graph import ConstantOp, Edge


@pytest.fixture(scope="module")
def graph():
    return toy.every_op()


def test_quantise_rounds_half_to_even_and_clips():
    edge = Edge("x", (1, 1, 1), 0.5, 3)
    q = reference.quantize(np.array([0, 0.25, 0.75, 1.25, -0.25, 1000, -1000], np.float32), edge)
    assert q.dtype == np.int8
    assert q.tolist() == [3, 3, 5, 5, 3, 127, -128]
    assert reference.dequantize(q, edge).tolist() == [0, 0, 1, 1, 0, 62, -65.5]


def test_nan_is_refused():
    with pytest.raises(InputError, match="NaN"):
        reference.quantize(np.array([np.nan], np.float32), Edge("x", (1, 1, 1), 0.5, 3))


def test_each_op_is_within_a_step_of_exact_arithmetic(graph):
    x = toy.random_input(graph, 6)
    values = reference.run_edges(graph, x, tuple(graph.edges))
    for op in graph.ops:
        edge = graph.edges[op.output]
        if isinstance(op, ConstantOp):
            continue
        sources = [reference.dequantize(values[name], graph.edges[name]).astype(np.float64) for name in op.sources]
        exact = toy.float_op(op, sources, graph.edges[op.sources[0]].scale)
        low, high = ((bound - edge.zero_point) * edge.scale for bound in (-128, 127))
        steps = np.abs(reference.dequantize(values[op.output], edge) - np.clip(exact, low, high)) / edge.scale
        assert steps.max() < 0.51, op.name


def test_the_batch_does_not_matter(graph):
    x = toy.random_input(graph, 2 * reference.CHUNK + 3)
    q = reference.run(graph, x)
    assert q.shape == (len(x), 7)
    assert (q[-2:] == reference.run(graph, x[-2:])).all()
    assert reference.run(graph, x[:0]).shape == (0, 7)


def test_another_input_is_refused(graph):
    with pytest.raises(InputError, match=r"int8 \(batch, 1, 32, 19\), .*float32"):
        reference.run(graph, np.zeros((2, 1, 32, 19), np.float32))
    with pytest.raises(InputError, match=r"got int8 \(2, 32, 19\)"):
        reference.run(graph, np.zeros((2, 32, 19), np.int8))


def test_rewrites_change_no_integer(graph):
    x = toy.random_input(graph, 8)
    rewritten = tune.split_stem(tune.pools_as_convolutions(graph, tune.is_global))
    rewritten.validate()
    assert len(rewritten.ops) == len(graph.ops) + 1
    assert (reference.run(rewritten, x) == reference.run(graph, x)).all()
