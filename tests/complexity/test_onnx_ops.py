"""Counting of ONNX ops beyond plain convolutions: recurrent cells, dynamic quantisation, unknown ops, and pools written
as convolutions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from model_files import FOREIGN_DOMAIN, ones, onnx_file
from onnx import TensorProto, helper, numpy_helper

from edgekd.complexity.counts import ModelCounts, Totals, count_model
from edgekd.errors import InputError

STEPS, WIDTH, HIDDEN = 7, 5, 3
F32 = np.float32
CONTROL = "how often it runs is not in the file"


def macs(counts: ModelCounts) -> int:
    return counts.conventions["exact"].macs


@pytest.mark.parametrize(
    ("op", "gates", "direction"),
    [
        ("GRU", 3, "forward"),
        ("LSTM", 4, "forward"),
        ("RNN", 1, "reverse"),
        ("GRU", 3, "bidirectional"),
        ("LSTM", 4, "bidirectional"),
    ],
)
def test_a_recurrent_cell_costs_its_two_matrices_at_each_step(tmp_path, op, gates, direction):
    ways = 2 if direction == "bidirectional" else 1
    constants = {
        "w": ones(ways, gates * HIDDEN, WIDTH, dtype=F32),
        "r": ones(ways, gates * HIDDEN, HIDDEN, dtype=F32),
        "b": np.zeros((ways, 2 * gates * HIDDEN), F32),
    }
    node = helper.make_node(op, ["input", "w", "r", "b"], ["logits"], hidden_size=HIDDEN, direction=direction)
    counts = count_model(onnx_file(tmp_path / "cell.onnx", [node], constants, (STEPS, 1, WIDTH)))
    weights = ways * gates * HIDDEN * (WIDTH + HIDDEN)
    assert macs(counts) == STEPS * weights
    assert counts.conventions["exact"].params == weights + ways * 2 * gates * HIDDEN
    assert counts.nonzero_params == weights
    assert counts.layers[0].weight == (ways, gates * HIDDEN, WIDTH)
    assert counts.unknown == ()


def test_a_free_time_dimension_is_refused(tmp_path):
    node = helper.make_node("GRU", ["input", "w", "r"], ["logits"], hidden_size=HIDDEN)
    constants = {"w": ones(1, 3 * HIDDEN, WIDTH, dtype=F32), "r": ones(1, 3 * HIDDEN, HIDDEN, dtype=F32)}
    with pytest.raises(InputError, match=r"'input' .*free .*axis 1"):
        count_model(onnx_file(tmp_path / "cell.onnx", [node], constants, (1, "time", WIDTH)))


@pytest.mark.parametrize(
    ("kernel", "attributes", "expected"),
    [
        ((6, 2, 3, 3), {"group": 2}, 6 * 6 * 4 * 2 * 9),
        ((6, 4, 3, 3), {"dilations": [2, 2]}, 6 * 4 * 2 * 4 * 9),
        ((4, 1, 3, 1), {"group": 4, "strides": [2, 1]}, 4 * 3 * 6 * 3),
        ((8, 1, 1, 3), {"group": 4, "auto_pad": "SAME_UPPER"}, 8 * 8 * 6 * 3),
    ],
)
def test_grouped_dilated_strided_and_depthwise_convolutions(tmp_path, kernel, attributes, expected):
    node = helper.make_node("Conv", ["input", "w"], ["logits"], **attributes)
    assert (
        macs(count_model(onnx_file(tmp_path / "m.onnx", [node], {"w": ones(*kernel, dtype=F32)}, ("batch", 4, 8, 6))))
        == expected
    )


def test_a_transposed_convolution_with_groups_costs_each_input_its_kernel(tmp_path):
    node = helper.make_node("ConvTranspose", ["input", "w"], ["logits"], group=2, strides=[2, 2])
    counts = count_model(onnx_file(tmp_path / "m.onnx", [node], {"w": ones(4, 3, 2, 2, dtype=F32)}, (1, 4, 8, 6)))
    assert macs(counts) == 4 * 8 * 6 * 3 * 2 * 2


@pytest.mark.parametrize(
    ("equation", "shape", "expected", "unknown"),
    [
        ("bti,oi->bto", (HIDDEN, WIDTH), STEPS * HIDDEN * WIDTH, 0),
        ("bti,ti->bti", (STEPS, WIDTH), 0, 0),
        ("bti,...i->bt", (HIDDEN, WIDTH), 0, 1),
    ],
)
def test_einsum_of_two_operands(tmp_path, equation, shape, expected, unknown):
    node = helper.make_node("Einsum", ["input", "w"], ["logits"], equation=equation)
    counts = count_model(onnx_file(tmp_path / "m.onnx", [node], {"w": ones(*shape, dtype=F32)}, (1, STEPS, WIDTH)))
    assert (macs(counts), len(counts.unknown)) == (expected, unknown)


def test_dynamic_quantisation_counts_int8_kernels_and_no_scales(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "s", "z"]),
        helper.make_node("ConvInteger", ["q", "conv", "z", "zero"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "conv_scale"], ["cs"]),
        helper.make_node("Mul", ["b", "cs"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("DynamicQuantizeLinear", ["d"], ["dq", "ds", "dz"]),
        helper.make_node("MatMulInteger", ["dq", "dense", "dz", "zero"], ["e"]),
        helper.make_node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ds", "dense_scale"], ["fs"]),
        helper.make_node("Mul", ["f", "fs"], ["g"]),
        helper.make_node("Add", ["g", "bias"], ["logits"]),
    ]
    constants = {
        "conv": ones(3, 2, 8, 6),
        "zero": np.array(0, np.int8),
        "conv_scale": np.array(0.1, F32),
        "dense": ones(3, 10),
        "dense_scale": np.full(10, 0.1, F32),
        "bias": ones(10, dtype=F32),
    }
    counts = count_model(onnx_file(tmp_path / "m.onnx", nodes, constants, (1, 2, 8, 6)))
    assert macs(counts) == 3 * 2 * 48 + 3 * 10
    assert counts.conventions["exact"].param_bytes == 3 * 2 * 48 + 30 + 40
    assert counts.bytes_by_dtype == {"float32": 40, "int8": 318}
    assert counts.operators["DynamicQuantizeLinear"] == 2


def test_a_foreign_op_is_listed_with_what_was_counted(tmp_path):
    nodes = [
        helper.make_node("FusedConv", ["input", "w"], ["a"], domain=FOREIGN_DOMAIN),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "k"], ["c"]),
        helper.make_node("FusedConv", ["c", "w"], ["logits"], domain=FOREIGN_DOMAIN),
    ]
    counts = count_model(
        onnx_file(
            tmp_path / "m.onnx",
            nodes,
            {"w": ones(4, 4, 1, 1, dtype=F32), "k": ones(4, 4, 3, 3, dtype=F32)},
            (1, 4, 8, 6),
        )
    )
    fused, conv = counts.unknown
    assert (fused.op, fused.count, fused.params, fused.param_bytes) == ("com.microsoft.FusedConv", 2, 16, 64)
    assert "no rule covers it" in fused.note
    assert (conv.op, conv.count, conv.params) == ("Conv", 1, 144)
    assert "leaves its shapes open" in conv.note
    assert counts.conventions["exact"] == Totals(0, 160, 640)
    assert counts.operators == {"com.microsoft.FusedConv": 2, "Conv": 1, "Relu": 1}
    assert [layer.output for layer in counts.layers] == [None] * 3  # the ReLU is part of the op before it


def test_after_a_foreign_op_the_shapes_in_the_file_are_used(tmp_path):
    nodes = [
        helper.make_node("FusedConv", ["input", "w"], ["a"], domain=FOREIGN_DOMAIN),
        helper.make_node("Conv", ["a", "k"], ["logits"]),
    ]
    shapes = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4, 8, 6])]
    counts = count_model(
        onnx_file(
            tmp_path / "m.onnx",
            nodes,
            {"w": ones(4, 4, 1, 1, dtype=F32), "k": ones(4, 4, 3, 3, dtype=F32)},
            (1, 4, 8, 6),
            value_info=shapes,
        )
    )
    assert macs(counts) == 4 * 6 * 4 * 36
    assert [each.op for each in counts.unknown] == ["com.microsoft.FusedConv"]


def test_shapes_that_depend_on_the_data_are_refused(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["input"], ["a"]),
        helper.make_node("Cast", ["a"], ["logits"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(InputError, match="the shape of tensor 'a' is unknown"):
        count_model(onnx_file(tmp_path / "m.onnx", nodes, {}, (1, 4)))


def branch(name: str, weight: str | None) -> onnx.GraphProto:
    """A graph that multiplies the outer input by a weight of its own, or by a weight of the outer graph."""
    own = [] if weight else [numpy_helper.from_array(ones(4, 2, dtype=F32), "own")]
    return helper.make_graph(
        [helper.make_node("MatMul", ["input", weight or "own"], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])],
        own,
    )


def test_the_constants_of_both_branches_of_an_if_are_counted_and_their_macs_are_not(tmp_path):
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["big"]),
        helper.make_node("If", ["big"], ["a"], then_branch=branch("x", None), else_branch=branch("y", "outer")),
        helper.make_node("Gemm", ["a", "dense"], ["logits"]),
    ]
    constants = {"limit": np.array(0, F32), "outer": ones(4, 2, dtype=F32), "dense": ones(2, 3, dtype=F32)}
    counts = count_model(onnx_file(tmp_path / "m.onnx", nodes, constants, (1, 4)))
    (found,) = counts.unknown
    assert (found.op, found.params) == ("If", 16)
    assert CONTROL in found.note
    assert macs(counts) == 6  # of the dense layer after it
    assert counts.operators["MatMul"] == 2


def test_functions_of_the_file_are_refused(tmp_path):
    path = onnx_file(
        tmp_path / "m.onnx", [helper.make_node("Mine", ["input"], ["logits"], domain=FOREIGN_DOMAIN)], {}, (1, 4)
    )
    model = onnx.load(path)
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function(FOREIGN_DOMAIN, "Mine", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset)
    )
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"1 function .*'Mine'.*inline"):
        count_model(path)


def test_constants_in_every_form_are_counted(tmp_path):
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1, 2], F32), "thin"),
        numpy_helper.from_array(np.array([0, 3], np.int64), "indices"),
        [4],
    )
    nodes = [
        helper.make_node("Constant", [], ["floats"], value_floats=[0.0, 1.0, -0.0, 2.0]),
        helper.make_node("Constant", [], ["one"], value_float=0.0),
        helper.make_node("Constant", [], ["axes"], value_ints=[1]),
        helper.make_node(
            "Constant", [], ["tensor"], value=helper.make_tensor("t", TensorProto.FLOAT, [4], [0, 1, 2, 3])
        ),
        helper.make_node("Constant", [], ["thin4"], sparse_value=sparse),
        helper.make_node("Add", ["input", "floats"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Add", ["b", "tensor"], ["c"]),
        helper.make_node("Add", ["c", "thin4"], ["d"]),
        helper.make_node("ReduceSum", ["d", "axes"], ["logits"]),
    ]
    counts = count_model(onnx_file(tmp_path / "m.onnx", nodes, {}, (1, 4)))
    assert counts.conventions["exact"].params == 4 + 1 + 4 + 4 + 1
    assert counts.nonzero_params == 2 + 0 + 3 + 2 + 1
    assert "Constant" not in counts.operators


def dense(path: Path) -> Path:
    """Write a file with one dense layer of 32 weights."""
    node = helper.make_node("Gemm", ["input", "w"], ["logits"])
    return onnx_file(path, [node], {"w": ones(4, 8, dtype=F32)}, (1, 4))


def test_values_in_another_file_are_counted_by_their_shape(tmp_path):
    path = dense(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    counts = count_model(path)
    assert (counts.conventions["exact"].param_bytes, counts.nonzero_params) == (128, 32)


def test_a_constant_with_too_few_bytes_is_refused(tmp_path):
    path = dense(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = b"\0" * 100
    onnx.save(model, path)
    with pytest.raises(InputError, match="constant 'w' has 100 bytes of 128"):
        count_model(path)


def depthwise(
    path: Path, kernel: np.ndarray, bias: np.ndarray | None = None, scale: float | None = None
) -> ModelCounts:
    """One depthwise convolution of four channels, float or dequantised."""
    nodes, constants = [], {"w": kernel}
    if scale is not None:
        constants |= {"s": np.array(scale, F32), "z": np.array(0, np.int8)}
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"]))
    if bias is not None:
        constants["b"] = bias
    reads = ["input", "w" if scale is None else "real", *(["b"] if bias is not None else [])]
    nodes.append(helper.make_node("Conv", reads, ["logits"], group=4))
    return count_model(onnx_file(path / "m.onnx", nodes, constants, (1, 4, 8, 6)))


ONES, THIRD = ones(4, 1, 3, 1), np.full((4, 1, 3, 1), 1 / 3, F32)
SHIFT = np.zeros((4, 1, 3, 1), np.int8)
SHIFT[[0, 1, 2, 3], 0, [0, 2, 1, 1], 0] = 1
DEPTHWISE_MACS = 4 * 6 * 6 * 3


@pytest.mark.parametrize(
    ("kernel", "bias", "scale", "emulates"),
    [
        (ONES, None, 1 / 3, "average pool"),
        (THIRD, None, None, "average pool"),
        (THIRD, np.zeros(4, F32), None, "average pool"),
        (SHIFT, None, 1.0, "copy"),
        (SHIFT.astype(F32), None, None, "copy"),
        (THIRD, ones(4, dtype=F32), None, ""),
        (ONES, None, 0.3, ""),
        (SHIFT, None, 0.5, ""),
        (SHIFT + ONES, None, 1 / 3, ""),
        (ONES.astype(F32), None, None, ""),
        (ones(4, 1, 1, 1, dtype=F32), None, None, ""),
    ],
)
def test_a_convolution_that_averages_or_copies_is_recognised_by_its_values(tmp_path, kernel, bias, scale, emulates):
    counts = depthwise(tmp_path, kernel, bias, scale)
    (layer,) = counts.layers
    assert layer.emulates == emulates
    expected = DEPTHWISE_MACS if kernel.shape[2] == 3 else 4 * 8 * 6
    assert (layer.macs, counts.emulated.macs) == ((0, expected) if emulates else (expected, 0))
    assert counts.emulated.params == (layer.params if emulates else 0)
    assert counts.conventions["exact"].params == layer.params > 0  # its bytes are in the file all the same
