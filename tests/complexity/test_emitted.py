"""Counts of files that the emitters write: both formats of a graph cost what follows from the graph's shapes."""

import numpy as np
import pytest

from edgekd.complexity.counts import count_model
from edgekd.qgraph import onnx, tflite
from edgekd.qgraph.graph import AddOp, ConvOp, Edge, MaxPoolOp, QGraph

EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}
LABELS = 10
CONV_MACS = 16 * 8 * 8 * 2 * 9 + 2 * (8 * 4 * 8 * 8) + LABELS * 8 * 4 * 8
WEIGHTS, BIASES = 8 * 2 * 9 + 2 * 8 * 8 + LABELS * 8 * 8 * 4, 3 * 8 + LABELS


def conv(name: str, source: str, out: int, kernel: tuple[int, int, int], padding: int = 0) -> ConvOp:
    rng = np.random.default_rng(len(name))  # other values in each layer: equal constants are stored, and counted, once
    return ConvOp(
        name,
        source,
        name,
        rng.integers(-127, 128, (out, *kernel)).astype(np.int8),
        np.full(out, 0.01, np.float32),
        rng.integers(-999, 999, out).astype(np.int32),
        padding=(padding,) * 4,
    )


@pytest.fixture(scope="module")
def graph() -> QGraph:
    shapes = {
        "input": (2, 16, 8),
        "stem": (8, 16, 8),
        "pool": (8, 8, 4),
        "one": (8, 8, 4),
        "second": (8, 8, 4),
        "sum": (8, 8, 4),
        "head": (LABELS, 1, 1),
    }
    edges = {name: Edge(name, shape, 0.05, 0) for name, shape in shapes.items()}
    graph = QGraph(
        edges,
        (
            conv("stem", "input", 8, (2, 3, 3), padding=1),
            MaxPoolOp("pool", "stem", "pool", (2, 2), (2, 2)),
            conv("one", "pool", 8, (8, 1, 1)),
            conv("second", "one", 8, (8, 1, 1)),
            AddOp("sum", ("pool", "second"), "sum"),
            conv("head", "sum", LABELS, (8, 8, 4)),
        ),
        "input",
        "head",
    )
    graph.validate()
    return graph


@pytest.mark.parametrize("suffix", EMITTERS)
@pytest.mark.parametrize(("float_twin", "weight_bytes"), [(False, 1), (True, 4)])
def test_both_formats_cost_what_follows_from_the_graph(graph, suffix, float_twin, weight_bytes, tmp_path):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(EMITTERS[suffix](graph, float_twin))
    counts = count_model(path)
    exact = counts.conventions["exact"]
    assert exact.macs == CONV_MACS
    shape_constants = exact.params - WEIGHTS - BIASES  # the final reshape and the like, a few 4- or 8-byte integers
    assert 0 <= shape_constants <= 8
    assert (
        WEIGHTS * weight_bytes + BIASES * 4
        <= exact.param_bytes
        <= WEIGHTS * weight_bytes + BIASES * 4 + 8 * shape_constants
    )
    activation_bytes = 4 if float_twin else 1
    # the stem reads its input and writes 8 channels
    assert counts.peak_activation_bytes == activation_bytes * (2 + 8) * 16 * 8
