"""The .tflite form: one XNNPACK partition, the reference's integers, aligned data."""

import numpy as np
import pytest
from qgraph import probe, toy

from edgekd.errors import MissingExtraError
from edgekd.qgraph import reference, tflite
from edgekd.qgraph.flatbuffer import BUFFER_ALIGNMENT
from edgekd.qgraph.graph import AvgPoolOp, Edge, QGraph

pytest.importorskip("ai_edge_litert")

WINDOWS = 40


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_litert_computes_the_reference(seed):
    graph = toy.every_op(seed)
    x = toy.random_input(graph, WINDOWS, seed)
    got, expected = probe.run_litert(tflite.emit(graph), x), reference.run(graph, x)
    assert got.dtype == np.int8
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_float_twin_computes_the_dequantised_graph(seed):
    graph = toy.every_op(seed)
    x = reference.dequantize(toy.random_input(graph, 8), graph.edges["input"])
    expected = toy.run_float(graph, x)
    assert (
        np.abs(probe.run_litert(tflite.emit(graph, float_twin=True), x) - expected).max()
        < 1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("float_twin", [False, True])
def test_xnnpack_takes_all_of_the_graph(float_twin):
    assert probe.undelegated(tflite.emit(toy.every_op(), float_twin)) == []


def test_odd_and_even_maps_are_padded_exactly():
    for mel, frame in [(31, 20), (33, 18)]:
        graph = toy.every_op(3, mel, frame)
        x = toy.random_input(graph, 4)
        assert np.abs(probe.run_litert(tflite.emit(graph), x).astype(int) - reference.run(graph, x)).max() <= 1


def test_tensors_carry_the_edges_scales():
    graph = toy.every_op()
    interpreter = probe.litert(tflite.emit(graph))
    for details, edge, shape in [
        (interpreter.get_input_details(), graph.edges[graph.input], [1, 32, 19, 1]),
        (interpreter.get_output_details(), graph.edges[graph.output], [1, 7]),
    ]:
        assert details[0]["quantization"] == (pytest.approx(edge.scale, rel=1e-7), edge.zero_point)
        assert details[0]["shape"].tolist() == shape


def test_buffers_are_aligned():
    from ai_edge_litert import schema_py_generated as schema

    raw = tflite.emit(toy.every_op())
    model = schema.Model.GetRootAs(raw)
    base = np.frombuffer(raw, np.uint8).ctypes.data
    used = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if not model.Buffers(i).DataIsNone()]
    assert len(used) > 20
    assert all((data.ctypes.data - base) % BUFFER_ALIGNMENT == 0 for data in used)


def test_the_schema_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[check\]"):
        tflite.emit(toy.every_op())


@pytest.mark.parametrize(("kernel", "zero_point"), [((42, 14), -128), ((42, 14), 0), ((5, 1), -128), ((64, 24), 7)])
def test_means_that_nearly_tie_round_as_in_the_engine(kernel, zero_point):
    elements = kernel[0] * kernel[1]
    source, output = (0.05680657550692558, zero_point), (0.020228371024131775, -128)
    multiplier = source[0] / output[0] / elements
    sums = np.arange(0, min((127 - zero_point) * elements, int(254 / multiplier)))
    near = sums[np.argsort(np.abs(sums * multiplier % 1 - 0.5), kind="stable")][:64]
    channels = len(near)
    graph = QGraph(
        {"x": Edge("x", (channels, *kernel), *source), "mean": Edge("mean", (channels, 1, 1), *output)},
        (AvgPoolOp("mean", "x", "mean", kernel, kernel),),
        "x",
        "mean",
    )
    graph.validate()
    each, rest = np.divmod(near, elements)
    x = (each + zero_point)[:, None] + (np.arange(elements) < rest[:, None])
    x = x.reshape(1, channels, *kernel).astype(np.int8)
    assert np.array_equal(probe.run_litert(tflite.emit(graph), x), reference.run(graph, x))
