"""Counting of .onnx files: the float graph and the QDQ graph of the same layers."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_files import onnx_file as save
from onnx import helper

from edgekd.complexity.counts import Totals, count_model
from edgekd.complexity.readers.onnx import Aliases
from edgekd.errors import InputError

CONV_MACS, DENSE_MACS = 8 * 6 * 4 * 3 * 3 * 2, 4 * 10


def float_model(path: Path, input_shape: Sequence[int | str] = (1, 2, 8, 6)) -> Path:
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "bias"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["logits"], "dense", transB=1),
    ]
    constants = {
        "kernel": np.ones((4, 2, 3, 3), np.float32),
        "bias": np.ones(4, np.float32),
        "dense": np.ones((10, 4), np.float32),
    }
    return save(path, nodes, constants, input_shape)


def qdq_model(path: Path) -> Path:
    """The same layers with uint8 activations and int8 weights, as quantise-dequantise pairs."""

    def pair(name: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"]),
        ]

    nodes = [
        *pair("input"),
        helper.make_node("DequantizeLinear", ["kernel", "scale", "weight_zero"], ["kernel_d"]),
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["bias_d"]),
        helper.make_node("DequantizeLinear", ["dense", "scale", "weight_zero"], ["dense_d"]),
        helper.make_node("Conv", ["input_d", "kernel_d", "bias_d"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        *pair("relu"),
        helper.make_node("GlobalAveragePool", ["relu_d"], ["pool"], "pool"),
        *pair("pool"),
        helper.make_node("Flatten", ["pool_d"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "dense_d"], ["gemm"], "dense", transB=1),
        helper.make_node("QuantizeLinear", ["gemm", "scale", "zero"], ["gemm_q"]),
        helper.make_node("DequantizeLinear", ["gemm_q", "scale", "zero"], ["logits"]),
    ]
    constants = {
        "scale": np.array(0.1, np.float32),
        "zero": np.array(128, np.uint8),
        "weight_zero": np.array(0, np.int8),
        "kernel": np.ones((4, 2, 3, 3), np.int8),
        "bias": np.ones(4, np.int32),
        "dense": np.ones((10, 4), np.int8),
    }
    return save(path, nodes, constants, (1, 2, 8, 6))


def test_a_float_graph_counts_four_bytes_a_parameter(tmp_path):
    counts = count_model(float_model(tmp_path / "float.onnx"))
    assert counts.conventions["exact"] == Totals(macs=CONV_MACS + DENSE_MACS, params=72 + 4 + 40, param_bytes=4 * 116)
    assert counts.conventions["nessi_tflite"] is None
    assert counts.peak_activation_bytes == 4 * (2 * 8 * 6 + 4 * 8 * 6)  # the ReLU is part of the convolution


def test_a_qdq_graph_counts_what_the_engine_holds(tmp_path):
    counts = count_model(qdq_model(tmp_path / "qdq.onnx"))
    # int8 kernels 1 B, int32 bias 4 B, no scales and zero points
    assert counts.conventions["exact"] == Totals(
        macs=CONV_MACS + DENSE_MACS, params=72 + 4 + 40, param_bytes=72 + 16 + 40
    )
    assert [layer.op for layer in counts.layers] == [
        "QuantizeLinear",
        "Conv",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
        "DequantizeLinear",
    ]
    # largest while the input is quantised: 4-byte samples in, 1-byte samples out
    assert counts.peak_activation_bytes == 5 * 2 * 8 * 6
    assert counts.layers[1].weight == (4, 2, 3, 3)
    assert counts.layers[1].output == (1, 4, 8, 6)


def test_a_free_batch_counts_as_one(tmp_path):
    fixed, free = (
        count_model(float_model(tmp_path / "a.onnx")),
        count_model(float_model(tmp_path / "b.onnx", ("batch", 2, 8, 6))),
    )
    assert free.conventions == fixed.conventions
    assert free.peak_activation_bytes == fixed.peak_activation_bytes


def test_any_other_free_dimension_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'input' .*free .*axis 3"):
        count_model(float_model(tmp_path / "free.onnx", (1, 2, 8, "frame")))


def test_a_grouped_and_a_transposed_convolution(tmp_path):
    nodes = [
        helper.make_node("Conv", ["input", "depthwise"], ["a"], group=4),
        helper.make_node("ConvTranspose", ["a", "up"], ["logits"], strides=[2, 2]),
    ]
    constants = {"depthwise": np.ones((4, 1, 3, 3), np.float32), "up": np.ones((4, 5, 2, 2), np.float32)}
    counts = count_model(save(tmp_path / "m.onnx", nodes, constants, (1, 4, 8, 6)))
    assert [layer.macs for layer in counts.layers] == [4 * 6 * 4 * 9, 4 * 6 * 4 * 5 * 4]


def test_a_weight_shared_by_two_ops_is_counted_once(tmp_path):
    nodes = [helper.make_node("Gemm", ["input", "w"], ["a"]), helper.make_node("Gemm", ["a", "w"], ["logits"])]
    counts = count_model(save(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 4), np.float32)}, (1, 4)))
    assert counts.conventions["exact"] == Totals(macs=32, params=16, param_bytes=64)


def test_an_inconsistent_graph_is_refused(tmp_path):
    nodes = [helper.make_node("Gemm", ["input", "w"], ["logits"])]
    with pytest.raises(InputError, match="the ONNX graph is inconsistent"):
        count_model(save(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 3), np.float32)}, (1, 5)))


def test_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    for raw in (b"", b"\x00" * 64, b"not a model at all"):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=r"not an ONNX file|not a \.onnx model"):
            count_model(path)


def test_an_op_without_its_inputs_is_refused(tmp_path):
    path = float_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.graph.node[0].input[1:]
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"m\.onnx"):
        count_model(path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = float_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b"relu", b"\xffelu"))
    with pytest.raises(InputError, match=r"m\.onnx"):
        count_model(path)


def test_a_long_chain_of_quantisers_is_followed_once(tmp_path):
    length = 1000
    constants = {"scale": np.array(0.1, np.float32), "zero": np.array(128, np.uint8)}
    nodes = [helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q0"])]
    for index in range(length):
        nodes += [
            helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"d{index}"]),
            helper.make_node("Relu", [f"d{index}"], [f"r{index}"]),
            helper.make_node("QuantizeLinear", [f"r{index}", "scale", "zero"], [f"q{index + 1}"]),
        ]
    nodes.append(helper.make_node("DequantizeLinear", [f"q{length}", "scale", "zero"], ["logits"]))
    start = time.thread_time()
    count_model(save(tmp_path / "chain.onnx", nodes, constants, (1, 2, 8, 6)))
    assert time.thread_time() - start < 5


def test_quantisers_in_a_circle_are_refused(tmp_path):
    constants = {"scale": np.array(0.1, np.float32)}
    nodes = [helper.make_node("DequantizeLinear", [a, "scale"], [b]) for a, b in ("ab", "ba")]
    with pytest.raises(InputError, match=r"circle.onnx"):
        count_model(
            save(tmp_path / "circle.onnx", [*nodes, helper.make_node("Relu", ["b"], ["logits"])], constants, (1, 2))
        )
    aliases = Aliases()
    aliases.add("a", "b")
    aliases.add("b", "a")
    with pytest.raises(ValueError, match="circle"):
        aliases.root("a")
