"""Counting of .tflite files: the official baseline's published figures, and each rule on files built here by hand."""

from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from model_files import ones, tflite_file

from edgekd.complexity.counts import Totals, count_model
from edgekd.complexity.fourier import real_fft_macs
from edgekd.complexity.readers import tflite
from edgekd.errors import InputError

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
BASELINE = MODELS / "dcase2022_baseline.tflite"


@pytest.mark.skipif(not BASELINE.is_file(), reason="needs ../shared/data/models/dcase2022_baseline.tflite")
def test_the_official_baseline_gives_its_published_figures():
    counts = count_model(BASELINE)
    assert counts.conventions["nessi_tflite"] == Totals(macs=29_234_920, params=45_990, param_bytes=46_512)
    assert counts.conventions["exact"] == Totals(macs=29_203_560, params=45_990, param_bytes=46_512)
    assert counts.nonzero_params == 44_654
    assert counts.bytes_by_dtype == {"int8": 45_816, "int32": 696}
    assert counts.unknown == ()
    assert counts.emulated == Totals(0, 0, 0)
    assert counts.file_bytes == BASELINE.stat().st_size
    assert counts.frontend_macs is None
    # the second convolution reads and writes 40 x 51 x 16 int8 values: 2 * 32,640 bytes
    assert counts.peak_activation_bytes == 65_280


@pytest.mark.skipif(not BASELINE.is_file(), reason="needs ../shared/data/models/dcase2022_baseline.tflite")
def test_each_difference_between_the_two_figures_of_the_baseline_has_a_reason():
    found = {each.layer: each for each in count_model(BASELINE).differences}
    assert [(each.exact, each.theirs) for each in found.values()] == [(0, 32_000), (0, 2_560), (6_400, 3_200)]
    assert {each.convention for each in found.values()} == {"nessi_tflite"}
    assert "a pool" in found["sequential/max_pooling2d/MaxPool"].why
    assert (
        found["sequential/dense/Relu"].why
        == "NeSsi takes the last size of the input for the width of the dense layer: 32 for 64"
    )


@pytest.mark.skipif(not (MODELS / "yamnet.tflite").is_file(), reason="needs ../shared/data/models/yamnet.tflite")
def test_layers_add_up_to_the_totals_of_a_foreign_float_model():
    counts = count_model(MODELS / "yamnet.tflite")
    exact = counts.conventions["exact"]
    assert sum(layer.macs for layer in counts.layers) == exact.macs
    assert sum(layer.params for layer in counts.layers) == exact.params == 3_746_899
    assert sum(layer.param_bytes for layer in counts.layers) == exact.param_bytes == sum(counts.bytes_by_dtype.values())
    assert sum(layer.nonzero_params for layer in counts.layers) == counts.nonzero_params < exact.params
    assert counts.operators["RFFT2D"] == 1
    assert counts.unknown == ()
    fft = next(layer for layer in counts.layers if layer.op == "RFFT2D")
    assert fft.macs == 96 * real_fft_macs(512)
    assert [(each.quantity, each.theirs - each.exact) for each in counts.differences] == [
        ("macs", -fft.macs),
        ("macs", 6_144),
    ]
    # the front end, 257 bins to 64 bands over 96 frames
    mel = next(layer for layer in counts.layers if layer.op == "FULLY_CONNECTED")
    assert mel.macs == 96 * 257 * 64
    assert exact.macs - mel.macs - fft.macs == 69_165_056  # its authors state 69.2 million multiplications


def test_each_rule_on_a_file_built_by_hand(tmp_path):
    pool = schema.Pool2DOptionsT()
    pool.filterHeight, pool.filterWidth = 2, 2
    path = tflite_file(
        tmp_path / "rules.tflite",
        tensors=[
            ((1, 8, 6, 2), "INT8", None),  # 0 input
            ((4, 3, 3, 2), "INT8", ones(4, 3, 3, 2)),  # 1 kernel
            ((4,), "INT32", ones(4, dtype=np.int32)),  # 2 bias
            ((1, 8, 6, 4), "INT8", None),  # 3 convolution
            ((1, 3, 3, 4), "INT8", ones(1, 3, 3, 4)),  # 4 depthwise kernel
            ((1, 8, 6, 4), "INT8", None),  # 5 depthwise convolution
            ((1, 8, 6, 4), "INT8", None),  # 6 sum
            ((1, 4, 3, 4), "INT8", None),  # 7 pool
            ((2,), "INT32", np.array([1, 2], np.int32)),  # 8 axes
            ((1, 4), "INT8", None),  # 9 mean
            ((10, 4), "INT8", ones(10, 4)),  # 10 dense kernel
            ((1, 10), "INT8", None),  # 11 logits
        ],
        operators=[
            ("CONV_2D", [0, 1, 2], [3], schema.Conv2DOptionsT()),
            ("DEPTHWISE_CONV_2D", [3, 4, 2], [5], schema.DepthwiseConv2DOptionsT()),
            ("ADD", [3, 5], [6], schema.AddOptionsT()),
            ("MAX_POOL_2D", [6], [7], pool),
            ("MEAN", [7, 8], [9], schema.ReducerOptionsT()),
            ("FULLY_CONNECTED", [9, 10, -1], [11], schema.FullyConnectedOptionsT()),
        ],
        inputs=[0],
        outputs=[11],
    )
    counts = count_model(path)
    conv, depthwise, dense = 8 * 6 * 4 * 3 * 3 * 2, 8 * 6 * 4 * 3 * 3, 4 * 10
    assert [layer.macs for layer in counts.layers] == [conv, depthwise, 0, 0, 0, dense]
    exact, nessi = counts.conventions["exact"], counts.conventions["nessi_tflite"]
    assert exact.macs == conv + depthwise + dense
    assert nessi.macs == exact.macs + 8 * 6 * 4 + 4 * 3 * 4 * 4 + 4 * 3 * 4  # the sum, the pool, the mean's input
    assert exact.param_bytes == 72 + 16 + 36 + 8 + 40  # int8 kernels 1 B, int32 bias and axes 4 B
    assert exact.params == 72 + 4 + 36 + 2 + 40
    assert nessi.param_bytes == exact.param_bytes + 16  # the shared bias once more
    assert counts.peak_activation_bytes == 3 * 8 * 6 * 4  # while the sum runs, both its inputs and its output are alive
    assert counts.layers[0].weight == (4, 3, 3, 2)
    assert counts.layers[0].input == (1, 8, 6, 2)
    assert counts.layers[0].output == (1, 8, 6, 4)


def test_damaged_and_foreign_bytes_are_refused(tmp_path):
    path = tmp_path / "broken.tflite"
    cases = [
        (b"", "not a .tflite model"),
        (b"RIFF" + bytes(60), "not a .tflite model"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(20), "damaged"),
    ]
    for raw, message in cases:
        path.write_bytes(raw)
        with pytest.raises(InputError, match=message):
            count_model(path)


def test_a_truncated_file_is_refused(tmp_path):
    tensors = [((1, 4), "INT8", None), ((1, 4), "INT8", None)]
    complete = tflite_file(tmp_path / "complete.tflite", tensors, [("LOGISTIC", [0], [1], None)], [0], [1])
    path = tmp_path / "cut.tflite"
    path.write_bytes(complete.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        count_model(path)


def test_missing_files_and_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.tflite: cannot be read"):
        count_model(tmp_path / "nothing.tflite")
    with pytest.raises(InputError, match=r"'\.tflit'; .*'\.tflite'"):
        count_model(tmp_path / "model.tflit")


def test_tables_that_share_their_bytes_are_refused_quickly(tmp_path):
    """One tensor of a long name, 10,000 times: a file of 1 MB that seems to hold 10 GB."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    tensor = schema.TensorT()
    tensor.name, tensor.shape = b"x" * 10**6, [1]
    graph.tensors, graph.inputs, graph.outputs = [tensor], [0], [0]
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    packed = tensor.Pack(builder)
    tensor.Pack = lambda _: packed
    graph.tensors = [tensor] * 10_000
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = tmp_path / "overlap.tflite"
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(InputError, match=r"overlap\.tflite: .*its tables overlap"):
        count_model(path)


@pytest.mark.parametrize(("shape", "message"), [((1,) * 17, "a shape of 17 sizes"), ((1, -2), "the least -2")])
def test_impossible_shapes_are_refused(tmp_path, shape, message):
    path = tflite_file(
        tmp_path / "shape.tflite", [((1, 2), "INT8", None), (shape, "INT8", None)], [("RELU", [0], [1], None)], [0], [1]
    )
    with pytest.raises(InputError, match=message):
        count_model(path)


def test_counts_beyond_the_integers_of_json_are_refused(tmp_path):
    huge = ((2**31 - 1,) * 3, "INT8", None)
    path = tflite_file(tmp_path / "huge.tflite", [huge, huge], [("RELU", [0], [1], None)], [0], [1])
    with pytest.raises(InputError, match="94 bits, more than 53"):
        count_model(path)


def test_indices_beyond_their_tables_are_refused(tmp_path):
    path = tflite_file(
        tmp_path / "a.tflite", [((1, 2), "INT8", None), ((1, 2), "INT8", None)], [("RELU", [7], [1], None)], [0], [1]
    )
    with pytest.raises(InputError, match="damaged"):
        count_model(path)


def test_more_tensors_than_any_small_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "MAX_ENTRIES", 1)
    path = tflite_file(
        tmp_path / "many.tflite", [((1, 2), "INT8", None), ((1, 2), "INT8", None)], [("RELU", [0], [1], None)], [0], [1]
    )
    with pytest.raises(InputError, match="2 tensors and 1 operators, more than 1"):
        count_model(path)
