"""Exported .onnx files executed by torch: the same integers as the reference, and the counts of torch's counters."""

import copy

import numpy as np
import pytest
import torch
import torchinfo
from qgraph.toy import every_op

from edgekd.dcase.onnx_module import OnnxFile, Quant
from edgekd.errors import InputError
from edgekd.qgraph import onnx, reference
from edgekd.qgraph.graph import ConvOp

UINT8 = 128


@pytest.fixture(scope="module")
def graph():
    return every_op()


def network(graph, float_twin=False):
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    quants = [
        Quant("float32", 1.0, 0) if float_twin else Quant("uint8", each.scale, each.zero_point + UINT8)
        for each in (source, output)
    ]
    return OnnxFile(onnx.emit(graph, float_twin), *quants).eval()


def features(graph, count=16):
    return np.random.default_rng(1).normal(0, 2, (count, *graph.edges[graph.input].shape)).astype(np.float32)


def test_an_integer_file_computes_what_the_reference_computes(graph):
    x = features(graph)
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    expected = reference.run(graph, reference.quantize(x, source)).reshape(len(x), -1)
    steps = np.rint(network(graph)(torch.from_numpy(x)).numpy() / output.scale) + output.zero_point
    assert np.abs(steps - expected).max() <= 1
    assert (steps == expected).mean() > 0.95


def test_a_float_file_computes_what_its_engine_computes(graph):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = features(graph)
    session = onnxruntime.InferenceSession(onnx.emit(graph, float_twin=True), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {graph.input: x})
    np.testing.assert_allclose(network(graph, float_twin=True)(torch.from_numpy(x)).numpy(), expected, atol=1e-3)


def test_counters_see_stored_bytes_and_every_convolution(graph):
    made = network(graph)
    stored = {parameter.dtype for parameter in made.parameters()}
    assert stored == {torch.int8, torch.int32, torch.uint8}
    shape = (1, *graph.edges[graph.input].shape)
    counted = torchinfo.summary(copy.deepcopy(made).float(), input_size=shape, verbose=0)
    macs = sum(op.weight.size * np.prod(graph.edges[op.output].shape[1:]) for op in graph.ops if isinstance(op, ConvOp))
    assert counted.total_mult_adds >= macs
    kernels = sum(op.weight.size for op in graph.ops if isinstance(op, ConvOp))
    assert sum(each.numel() for each in made.parameters() if each.dtype == torch.int8) >= kernels


@pytest.mark.parametrize("content", [b"", b"\x08not a model"])
def test_a_file_that_is_no_model_is_refused(content):
    with pytest.raises(InputError, match="no ONNX model"):
        OnnxFile(content, Quant("uint8", 1.0, 0), Quant("uint8", 1.0, 0))


def test_an_operator_that_edgekd_does_not_write_is_named(graph):
    import onnx as library

    model = library.load_from_string(onnx.emit(graph))
    model.graph.node[-1].op_type = "LSTM"
    with pytest.raises(InputError, match="LSTM"):
        OnnxFile(model.SerializeToString(), Quant("uint8", 1.0, 0), Quant("uint8", 1.0, 0))
