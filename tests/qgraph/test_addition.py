"""ONNX Runtime's float32 adder computes the reference's integers, for all pairs of inputs."""

import numpy as np
import pytest
from qgraph import probe

from edgekd.qgraph import addition, onnx, reference
from edgekd.qgraph.graph import AddOp, Edge, QGraph

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

VALUES = np.arange(-128, 128, dtype=np.int8)
PAIRS = np.stack([np.repeat(VALUES, 256), np.tile(VALUES, 256)]).reshape(2, 1, 65536, 1, 1)  # inputs of 65,536 channels
EXAMPLES = 30


def examples():
    rng = np.random.default_rng(0)
    for _ in range(EXAMPLES):
        scales = rng.uniform((0.02, 0.02, 0.03), (0.1, 0.1, 0.12)).astype(np.float32).tolist()
        yield [
            Edge(name, (65536, 1, 1), scale, int(rng.choice([0, -128])))
            for name, scale in zip("abc", scales, strict=True)
        ]


def differing(edges, monkeypatch, *, searched):
    """Number of pairs for which ONNX Runtime's sum differs from the reference's."""
    import onnx as library
    import onnxruntime

    if not searched:
        monkeypatch.setattr(addition, "scales", lambda inputs, _: tuple(np.float32(edge.scale) for edge in inputs))
    op = AddOp("sum", ("a", "b"), "c")
    model = library.load_model_from_string(onnx.emit(QGraph({edge.name: edge for edge in edges}, (op,), "a", "c")))
    monkeypatch.undo()
    shape = ["batch", 65536, 1, 1]
    model.graph.input.append(library.helper.make_tensor_value_info("b", library.TensorProto.UINT8, shape))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 65536
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = (PAIRS.astype(np.int16) + 128).astype(np.uint8)
    got = session.run(None, {"a": first, "b": second})[0].astype(int) - 128
    return int(
        (
            got
            != reference.run_op(QGraph({edge.name: edge for edge in edges}, (), "a", "c"), op, list(PAIRS))[:, :, 0, 0]
        ).sum()
    )


def test_nearly_all_pairs_of_nearly_all_additions_round_alike(monkeypatch):
    assert probe  # the engines are there
    plain = [differing(edges, monkeypatch, searched=False) for edges in examples()]
    searched = [differing(edges, monkeypatch, searched=True) for edges in examples()]
    assert sum(plain) > 10
    assert sum(searched) <= sum(plain) / 5
    assert sum(count > 0 for count in searched) <= EXAMPLES / 10


def test_scales_move_by_last_bits_only():
    for a, b, c in examples():
        for edge, scale in zip((a, b), addition.scales((a, b), c), strict=True):
            assert scale.dtype == np.float32
            assert abs(float(scale) / edge.scale - 1) < 4e-6
