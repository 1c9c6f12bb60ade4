"""The .onnx form: ONNX Runtime fuses all of it and computes the reference's integers."""

import numpy as np
import pytest
from qgraph import probe, toy

from edgekd.errors import MissingExtraError
from edgekd.qgraph import onnx, reference

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WINDOWS = 40
FLOAT_OPS = {
    "Conv",
    "FusedConv",
    "Add",
    "Mul",
    "Sigmoid",
    "AveragePool",
    "GlobalAveragePool",
    "MaxPool",
    "QuantizeLinear",
    "DequantizeLinear",
}


def relabelled(x):
    return (x.astype(np.int16) + 128).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_onnx_runtime_computes_the_reference(seed):
    graph = toy.every_op(seed)
    x = toy.random_input(graph, WINDOWS, seed)
    got, expected = probe.run_onnx(onnx.emit(graph), relabelled(x)), reference.run(graph, x)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - 128 - expected).max() <= 2
    assert (got.argmax(1) == expected.argmax(1)).all()


def test_no_float_op_is_left(tmp_path):
    counts = probe.fused_ops(onnx.emit(toy.every_op()), tmp_path)
    assert not FLOAT_OPS & set(counts)
    assert counts["QLinearConv"] > 10


def test_the_float_twin_computes_the_dequantised_graph():
    graph = toy.every_op()
    x = reference.dequantize(toy.random_input(graph, 8), graph.edges["input"])
    expected = toy.run_float(graph, x)
    assert np.abs(probe.run_onnx(onnx.emit(graph, float_twin=True), x) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("float_twin", [False, True])
def test_the_model_is_valid_with_a_free_batch(float_twin):
    import onnx as library

    model = library.load_model_from_string(onnx.emit(toy.every_op(), float_twin))
    library.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_onnx_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[check\]"):
        onnx.emit(toy.every_op())
