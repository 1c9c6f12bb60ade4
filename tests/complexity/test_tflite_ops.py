"""Counting of TFLite ops beyond plain convolutions: recurrent cells, hybrid and packed weights, subgraphs, what is
unknown."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from model_files import ones, quantised, tflite_file

from edgekd.complexity.counts import ModelCounts, Totals, count_model
from edgekd.complexity.readers import tflite
from edgekd.errors import InputError

STEPS, WIDTH, CELLS, OUT = 7, 5, 4, 3
F32, F16, I32 = np.float32, np.float16, np.int32
STATE = {"isVariable": True}


def macs(counts: ModelCounts) -> int:
    return counts.conventions["exact"].macs


def cell(path: Path, op: str, inputs: list[tuple | None], output: tuple[int, ...]) -> ModelCounts:
    """One recurrent op; None is an optional input that is left out."""
    present = [each for each in inputs if each is not None]
    numbers = iter(range(len(present)))
    reads = [-1 if each is None else next(numbers) for each in inputs]
    return count_model(
        tflite_file(
            path / "cell.tflite",
            [*present, (output, "FLOAT32", None)],
            [(op, reads, [len(present)], None)],
            [0],
            [len(present)],
        )
    )


def lstm_inputs(gates: int, *, projected: bool) -> list[tuple | None]:
    """Inputs of UNIDIRECTIONAL_SEQUENCE_LSTM: int8 matrices and float biases. Three gates mean a coupled input gate."""
    out = OUT if projected else CELLS
    wide, back, bias = (
        ((CELLS, WIDTH), "INT8", ones(CELLS, WIDTH)),
        ((CELLS, out), "INT8", ones(CELLS, out)),
        ((CELLS,), "FLOAT32", ones(CELLS, dtype=F32)),
    )
    skipped: list[tuple | None] = [None] * (4 - gates)
    projection = ((OUT, CELLS), "INT8", ones(OUT, CELLS)) if projected else None
    return [
        ((1, STEPS, WIDTH), "FLOAT32", None),
        *skipped,
        *[wide] * gates,
        *skipped,
        *[back] * gates,
        None,
        None,
        None,
        *skipped,
        *[bias] * gates,
        projection,
        None,
        ((1, out), "FLOAT32", None, STATE),
        ((1, CELLS), "FLOAT32", None, STATE),
    ]


@pytest.mark.parametrize(("gates", "projected"), [(4, False), (3, False), (4, True)])
def test_an_lstm_costs_its_matrices_at_each_step(tmp_path, gates, projected):
    counts = cell(tmp_path, "UNIDIRECTIONAL_SEQUENCE_LSTM", lstm_inputs(gates, projected=projected), (1, STEPS, CELLS))
    out = OUT if projected else CELLS
    weights = gates * CELLS * (WIDTH + out) + (OUT * CELLS if projected else 0)
    assert macs(counts) == STEPS * weights
    exact, nessi = counts.conventions["exact"], counts.conventions["nessi_tflite"]
    assert (exact.params, exact.param_bytes) == (weights + gates * CELLS, weights + 4 * gates * CELLS)
    assert nessi == Totals(0, exact.params + out + CELLS, exact.param_bytes + 4 * (out + CELLS))
    assert [each.why for each in counts.differences] == [
        "NeSsi has no rule for UNIDIRECTIONAL_SEQUENCE_LSTM",
        *["2 tensors of state, which NeSsi counts as constants"] * 2,
    ]
    assert counts.layers[0].dtype == "int8"


def test_both_directions_of_an_lstm_are_counted(tmp_path):
    one_way = lstm_inputs(4, projected=False)
    inputs = [*one_way[:18], *one_way[1:18], *one_way[18:], *one_way[18:]]
    counts = cell(tmp_path, "BIDIRECTIONAL_SEQUENCE_LSTM", inputs, (1, STEPS, 2 * CELLS))
    assert macs(counts) == 2 * STEPS * 4 * CELLS * (WIDTH + CELLS)


def test_other_recurrent_ops(tmp_path):
    wide, back = (
        ((CELLS, WIDTH), "FLOAT32", ones(CELLS, WIDTH, dtype=F32)),
        ((CELLS, CELLS), "FLOAT32", ones(CELLS, CELLS, dtype=F32)),
    )
    bias, state = ((CELLS,), "FLOAT32", ones(CELLS, dtype=F32)), ((1, CELLS), "FLOAT32", None, STATE)
    step, sequence = ((1, WIDTH), "FLOAT32", None), ((1, STEPS, WIDTH), "FLOAT32", None)
    weights = CELLS * (WIDTH + CELLS)
    assert macs(cell(tmp_path, "RNN", [step, wide, back, bias, state], (1, CELLS))) == weights
    assert (
        macs(cell(tmp_path, "UNIDIRECTIONAL_SEQUENCE_RNN", [sequence, wide, back, bias, state], (1, STEPS, CELLS)))
        == STEPS * weights
    )
    both = [sequence, wide, back, bias, state, wide, back, bias, state, None, None, None]
    assert macs(cell(tmp_path, "BIDIRECTIONAL_SEQUENCE_RNN", both, (1, STEPS, 2 * CELLS))) == 2 * STEPS * weights
    memory = ((CELLS, 6), "FLOAT32", ones(CELLS, 6, dtype=F32))
    assert macs(cell(tmp_path, "SVDF", [step, wide, memory, bias, state], (1, CELLS))) == CELLS * (WIDTH + 6)
    fused = ((4 * CELLS, WIDTH + CELLS), "FLOAT32", ones(4 * CELLS, WIDTH + CELLS, dtype=F32))
    assert macs(cell(tmp_path, "LSTM", [step, state, fused, bias, state], (1, CELLS))) == 4 * weights


def one_op(path: Path, op: str, inputs: list[tuple], output: tuple[int, ...], options: object = None) -> ModelCounts:
    reads = list(range(len(inputs)))
    return count_model(
        tflite_file(
            path / "m.tflite",
            [*inputs, (output, "FLOAT32", None)],
            [(op, reads, [len(inputs)], options)],
            [index for index in reads if inputs[index][2] is None],
            [len(inputs)],
        )
    )


def test_convolutions_beyond_two_dimensions_and_products(tmp_path):
    shape = ((5,), "INT32", ones(5, dtype=I32))
    volume, kernel = ((1, 3, 4, 4, 2), "FLOAT32", None), ((2, 3, 3, 2, 5), "FLOAT32", ones(2, 3, 3, 2, 5, dtype=F32))
    assert (
        macs(one_op(tmp_path, "CONV_3D", [volume, kernel], (1, 2, 2, 2, 5), schema.Conv3DOptionsT()))
        == 2 * 2 * 2 * 5 * 2 * 9 * 2
    )
    back = ((2, 3, 3, 5, 2), "FLOAT32", ones(2, 3, 3, 5, 2, dtype=F32))
    assert (
        macs(one_op(tmp_path, "CONV_3D_TRANSPOSE", [shape, back, volume], (1, 4, 6, 6, 5))) == 3 * 4 * 4 * 2 * 2 * 9 * 5
    )
    image, up = ((1, 4, 4, 2), "FLOAT32", None), ((5, 2, 2, 2), "FLOAT32", ones(5, 2, 2, 2, dtype=F32))
    counts = one_op(tmp_path, "TRANSPOSE_CONV", [shape, up, image], (1, 8, 8, 5), schema.TransposeConvOptionsT())
    assert macs(counts) == 4 * 4 * 2 * 2 * 2 * 5
    assert counts.differences[0].why == "NeSsi has no rule for TRANSPOSE_CONV"
    rows, columns = ((2, 3, 4), "FLOAT32", None), ((2, 4, 5), "FLOAT32", None)
    assert (
        macs(one_op(tmp_path, "BATCH_MATMUL", [rows, columns], (2, 3, 5), schema.BatchMatMulOptionsT()))
        == 2 * 3 * 4 * 5
    )


def test_a_grouped_and_a_dilated_convolution(tmp_path):
    image, kernel = ((1, 8, 6, 4), "FLOAT32", None), ((6, 3, 3, 2), "FLOAT32", ones(6, 3, 3, 2, dtype=F32))
    assert (
        macs(one_op(tmp_path, "CONV_2D", [image, kernel], (1, 6, 4, 6), schema.Conv2DOptionsT())) == 6 * 4 * 6 * 9 * 2
    )
    options = schema.Conv2DOptionsT()
    options.dilationHFactor = options.dilationWFactor = 2
    assert macs(one_op(tmp_path, "CONV_2D", [image, kernel], (1, 4, 2, 6), options)) == 4 * 2 * 6 * 9 * 2


def test_a_hybrid_dense_layer_counts_int8_weights(tmp_path):
    inputs = [
        ((1, 8), "FLOAT32", None),
        ((10, 8), "INT8", ones(10, 8), quantised([0.1])),
        ((10,), "FLOAT32", ones(10, dtype=F32)),
    ]
    counts = one_op(tmp_path, "FULLY_CONNECTED", inputs, (1, 10), schema.FullyConnectedOptionsT())
    assert counts.conventions["exact"] == Totals(80, 90, 120)
    assert counts.bytes_by_dtype == {"float32": 40, "int8": 80}


def test_float16_weights_that_are_unpacked_count_as_stored(tmp_path):
    counts = count_model(
        tflite_file(
            tmp_path / "m.tflite",
            [
                ((1, 8), "FLOAT32", None),
                ((10, 8), "FLOAT16", ones(10, 8, dtype=F16)),
                ((10, 8), "FLOAT32", None),
                ((1, 10), "FLOAT32", None),
            ],
            [("DEQUANTIZE", [1], [2], None), ("FULLY_CONNECTED", [0, 2, -1], [3], schema.FullyConnectedOptionsT())],
            [0],
            [3],
        )
    )
    assert counts.conventions["exact"] == Totals(80, 80, 160)
    assert counts.peak_activation_bytes == 4 * (8 + 10)
    assert [layer.op for layer in counts.layers] == ["FULLY_CONNECTED"]
    assert counts.operators == {"DEQUANTIZE": 1, "FULLY_CONNECTED": 1}


def test_four_bit_weights_are_packed(tmp_path):
    inputs = [((1, 8), "FLOAT32", None), ((4, 8), "INT4", np.array([0x10] * 8 + [0xF1] * 8, np.uint8))]
    counts = one_op(tmp_path, "FULLY_CONNECTED", inputs, (1, 4), schema.FullyConnectedOptionsT())
    assert counts.conventions["exact"] == Totals(32, 32, 16)
    assert counts.nonzero_params == 8 + 16


def test_negative_zero_is_counted_as_zero(tmp_path):
    inputs = [((1, 4), "FLOAT32", None), ((4,), "FLOAT32", np.array([0.0, -0.0, 1e-30, -1.0], F32))]
    assert one_op(tmp_path, "MUL", inputs, (1, 4)).nonzero_params == 2


def test_a_free_batch_counts_as_one_and_any_other_free_dimension_is_refused(tmp_path):
    def dense(signature: list[int]) -> ModelCounts:
        inputs = [((1, 8), "FLOAT32", None, {"shapeSignature": signature}), ((10, 8), "INT8", ones(10, 8))]
        return one_op(tmp_path, "FULLY_CONNECTED", inputs, (1, 10), schema.FullyConnectedOptionsT())

    assert macs(dense([-1, 8])) == 80
    with pytest.raises(InputError, match=r"free dimension in \(1, -1\)"):
        dense([1, -1])


def test_a_custom_op_is_listed_by_name_with_its_weights(tmp_path):
    inputs = [((1, 8), "FLOAT32", None), ((10, 8), "FLOAT32", ones(10, 8, dtype=F32))]
    counts = one_op(tmp_path, "CUSTOM:MyAttention", inputs, (1, 10))
    (unknown,) = counts.unknown
    assert (unknown.op, unknown.count, unknown.params, unknown.param_bytes) == ("CUSTOM:MyAttention", 1, 80, 320)
    assert "its multiply-accumulates are not" in unknown.note
    assert counts.conventions["exact"] == Totals(0, 80, 320)
    assert counts.operators == {"CUSTOM:MyAttention": 1}


def test_an_op_that_writes_nothing_is_a_layer_without_an_output(tmp_path):
    tensors = [((1, 4), "FLOAT32", None), ((1, 4), "FLOAT32", None), ((), "RESOURCE", None)]
    counts = count_model(
        tflite_file(
            tmp_path / "m.tflite",
            tensors,
            [("RELU", [0], [1], None), ("ASSIGN_VARIABLE", [2, 1], [], None)],
            [0, 2],
            [1],
        )
    )
    assert counts.layers[1].output is None
    assert counts.unknown == ()


def looping() -> tuple[list[tuple], list[tuple], tuple, tuple]:
    """Tensors and operators of a graph that runs subgraph 1 as the condition and subgraph 2 as the body of a loop, and
    both."""
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    values = [((1, 8), "FLOAT32", None)]
    condition = ([*values, ((1,), "BOOL", None)], [("LESS", [0, 0], [1], None)], [0], [1])
    body = (
        [*values, ((8, 8), "INT8", ones(8, 8)), ((1, 8), "FLOAT32", None)],
        [("FULLY_CONNECTED", [0, 1, -1], [2], schema.FullyConnectedOptionsT())],
        [0],
        [2],
    )
    return [*values, ((1, 8), "FLOAT32", None)], [("WHILE", [0], [1], options)], condition, body


def test_the_constants_of_a_loop_are_counted_and_its_macs_are_not(tmp_path):
    tensors, operators, condition, body = looping()
    counts = count_model(tflite_file(tmp_path / "m.tflite", tensors, operators, [0], [1], condition, body))
    (unknown,) = counts.unknown
    assert (unknown.op, unknown.params, unknown.param_bytes) == ("WHILE", 64, 64)
    assert "how often it runs is not in the file (each subgraph once: 64)" in unknown.note
    assert macs(counts) == 0
    assert counts.operators == {"FULLY_CONNECTED": 1, "LESS": 1, "WHILE": 1}


def test_several_networks_in_one_file_are_refused(tmp_path):
    tensors, operators, condition, body = looping()
    with pytest.raises(InputError, match=r"4 subgraphs, .* 2 of them"):
        count_model(tflite_file(tmp_path / "m.tflite", tensors, operators, [0], [1], condition, body, body))
    with pytest.raises(InputError, match="damaged"):
        count_model(tflite_file(tmp_path / "m.tflite", tensors, operators, [0], [1], condition))


def test_subgraphs_that_run_each_other_are_read_once(tmp_path):
    tensors, operators, condition, _ = looping()
    counts = count_model(
        tflite_file(tmp_path / "m.tflite", tensors, operators, [0], [1], condition, (tensors, operators, [0], [1]))
    )
    assert [each.op for each in counts.unknown] == ["WHILE"]


def test_more_subgraphs_than_any_small_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "MAX_SUBGRAPHS", 2)
    tensors, operators, condition, body = looping()
    with pytest.raises(InputError, match=r"3 subgraphs, .*1 to 2"):
        count_model(tflite_file(tmp_path / "m.tflite", tensors, operators, [0], [1], condition, body))


def test_a_constant_with_too_few_bytes_is_refused(tmp_path):
    inputs = [((1, 8), "FLOAT32", None), ((10, 800), "INT8", ones(10, 8))]
    with pytest.raises(InputError, match="has 80 bytes of 8,000"):
        one_op(tmp_path, "FULLY_CONNECTED", inputs, (1, 10), schema.FullyConnectedOptionsT())


@pytest.mark.parametrize(
    ("op", "kernel", "scales", "emulates"),
    [
        ("DEPTHWISE_CONV_2D", ones(1, 3, 2, 4), [1 / 6] * 4, "average pool"),
        ("DEPTHWISE_CONV_2D", ones(1, 3, 2, 4), [1 / 6], "average pool"),
        ("DEPTHWISE_CONV_2D", ones(1, 3, 2, 4), [1 / 5] * 4, ""),
        ("DEPTHWISE_CONV_2D", ones(1, 1, 1, 4), [1.0], ""),
        ("CONV_2D", np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1), [1.0] * 3, "copy"),
        ("CONV_2D", np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1), [0.5] * 3, ""),
        ("CONV_2D", ones(4, 3, 2, 2), [1 / 12] * 4, ""),  # it also sums over channels
    ],
)
def test_a_convolution_that_averages_or_copies_is_recognised_by_its_values(tmp_path, op, kernel, scales, emulates):
    channels = {"DEPTHWISE_CONV_2D": kernel.shape[3], "CONV_2D": kernel.shape[3]}[op]
    out = kernel.shape[3] if op == "DEPTHWISE_CONV_2D" else kernel.shape[0]
    axis = 3 if op == "DEPTHWISE_CONV_2D" else 0
    inputs = [
        ((1, 6, 4, channels), "FLOAT32", None),
        (kernel.shape, "INT8", kernel, quantised(scales, axis)),
        ((out,), "INT32", np.zeros(out, I32)),
    ]
    options = schema.Conv2DOptionsT() if op == "CONV_2D" else schema.DepthwiseConv2DOptionsT()
    counts = one_op(tmp_path, op, inputs, (1, 4, 3, out), options)
    expected = 12 * kernel.size
    assert counts.layers[0].emulates == emulates
    assert macs(counts) == (0 if emulates else expected)
    assert counts.conventions["nessi_tflite"].macs == expected
    assert counts.emulated.macs == (expected if emulates else 0)
