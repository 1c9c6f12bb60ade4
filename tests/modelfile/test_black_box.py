"""Features of any network: outputs, inner tensors, waveform lengths, and one clear error for unusable files."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from model_files import onnx_file, tflite_file
from onnx import helper
from qgraph import toy

from edgekd.errors import InputError, MissingExtraError
from edgekd.frontend import log_mel
from edgekd.modelfile import container
from edgekd.modelfile.black_box import labels_of, open_features
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import onnx, tflite

YAMNET = Path(__file__).parents[3] / "shared" / "data" / "models" / "yamnet.tflite"
needs_yamnet = pytest.mark.skipif(not YAMNET.is_file(), reason="needs ../shared/data/models/yamnet.tflite")
EMBEDDING = "yamnet_frames/global_average_pooling2d/Mean"
WEIGHT = np.array([[1, 0, 2, 0], [0, 3, 0, -1], [1, 1, 1, 1]], np.float32)
"""(3, 4): maps four samples to three inner values. The output is their sum."""
WAVE = np.array([0.1, -0.2, 0.3, 0.4], np.float32)
GRAPH = toy.every_op()


def tflite_toy(path, shape=(1, 4), signature=None, dtype="FLOAT32"):
    dense, total = schema.FullyConnectedOptionsT(), schema.ReducerOptionsT()
    total.keepDims = True
    return tflite_file(
        path,
        [
            (shape, dtype, None, {"name": "sound", **({} if signature is None else {"shapeSignature": signature})}),
            (WEIGHT.shape, "FLOAT32", WEIGHT, {"name": "weight"}),
            ((1, 3), "FLOAT32", None, {"name": "a/Relu;b/inner;c"}),
            ((1,), "INT32", np.array([1], np.int32), {"name": "axis"}),
            ((1, 1), "FLOAT32", None, {"name": "b/total"}),
        ],
        [("FULLY_CONNECTED", [0, 1, -1], [2], dense), ("SUM", [2, 3], [4], total)],
        [0],
        [4],
    )


def onnx_toy(path, shape=(1, 4)):
    nodes = [
        helper.make_node("MatMul", ["input", "weight"], ["inner"]),
        helper.make_node("ReduceSum", ["inner", "axis"], ["logits"]),
    ]
    return onnx_file(path, nodes, {"weight": np.ascontiguousarray(WEIGHT.T), "axis": np.array([1])}, shape)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", WEIGHT.sum(0) @ WAVE),
        ("b/total", WEIGHT.sum(0) @ WAVE),
        ("2", WEIGHT @ WAVE),
        ("b/inner", WEIGHT @ WAVE),
        ("a/Relu;b/inner;c", WEIGHT @ WAVE),
    ],
)
def test_features_are_those_of_the_chosen_tensor_of_a_tflite_file(tmp_path, output, expected):
    """A tensor is chosen by its name, by one of the joined names or by number. The dense layer has no bias."""
    box = open_features(tflite_toy(tmp_path / "toy.tflite"), output)
    assert (box.samples, box.width, box.manifest) == (4, np.size(expected), None)
    np.testing.assert_allclose(box.vector(WAVE), np.atleast_1d(expected), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4), ("batch", 4), (1, 1, 4)])
@pytest.mark.parametrize(
    ("output", "expected"), [("", WEIGHT.sum(0) @ WAVE), ("0", WEIGHT.sum(0) @ WAVE), ("inner", WEIGHT @ WAVE)]
)
def test_features_are_those_of_the_chosen_tensor_of_an_onnx_file(tmp_path, shape, output, expected):
    if len(shape) == 3 and np.size(expected) == 1:
        expected = WEIGHT @ WAVE  # the sum is over the axis of the channels
    box = open_features(onnx_toy(tmp_path / "toy.onnx", shape), output)
    assert (box.samples, box.width) == (4, np.size(expected))
    np.testing.assert_allclose(box.vector(WAVE), np.atleast_1d(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("b/iner", "'b/iner'; did you mean 'b/inner'"),
        ("77", "77; there are 2 to 4"),
        ("1", "no output has the number 1"),
        ("weight", "no tensor 'weight'"),
        ("zzz", "'zzz'; .*'b/inner'"),
    ],
)
def test_an_unknown_output_of_a_tflite_file_is_refused(tmp_path, output, message):
    with pytest.raises(InputError, match=message):
        open_features(tflite_toy(tmp_path / "toy.tflite"), output)


@pytest.mark.parametrize(
    ("output", "message"), [("iner", "'iner'; did you mean 'inner'"), ("3", "number 3; there are 0 to 0")]
)
def test_an_unknown_output_of_an_onnx_file_is_refused(tmp_path, output, message):
    with pytest.raises(InputError, match=message):
        open_features(onnx_toy(tmp_path / "toy.onnx"), output)


def test_a_file_with_an_open_length_takes_any_waveform(tmp_path):
    """In both formats. A tensor with a vector per frame gives their mean."""
    dims = schema.ReducerOptionsT()
    dims.keepDims = True
    path = tflite_file(
        tmp_path / "any.tflite",
        [
            ((1, 1), "FLOAT32", None, {"shapeSignature": [1, -1]}),
            ((1,), "INT32", np.array([1], np.int32)),
            ((1, 1), "FLOAT32", None, {"shapeSignature": [1, 1]}),
        ],
        [("MEAN", [0, 1], [2], dims)],
        [0],
        [2],
    )
    node = helper.make_node("Mul", ["input", "two"], ["logits"])
    for file, frames in (
        (path, WAVE.mean()),
        (onnx_file(tmp_path / "any.onnx", [node], {"two": np.full((2, 1), 2, np.float32)}, (1, "time")), 2 * WAVE),
    ):
        box = open_features(file)
        assert box.samples is None
        for _ in range(2):
            np.testing.assert_allclose(box.vector(WAVE), np.atleast_1d(frames), rtol=1e-6)
            assert len(box.vector(np.ones(3, np.float32))) == np.size(frames[:3] if np.size(frames) > 1 else frames)


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("precision", ["int8", "float"])
def test_a_file_of_edgekd_takes_waveforms_through_its_own_front_end(tmp_path, kind, precision):
    path = tmp_path / f"toy.{kind}"
    emit = {"tflite": tflite.emit, "onnx": onnx.emit}[kind]
    container.write(path, emit(GRAPH, float_twin=precision == "float"), toy.manifest(GRAPH, kind, precision))
    box, model = open_features(path), open_model(path)
    assert labels_of(path) == model.manifest.labels
    assert (box.samples, box.width) == (model.manifest.window, len(model.manifest.labels))
    wave = np.random.default_rng(0).normal(0, 0.1, box.samples).astype(np.float32)
    assert (box.vector(wave) == model.logits(log_mel(model.manifest.frontend, wave[None]))[0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (2, 4)}, r"reads \(2, 4\), which is not a waveform"),
        ({"shape": (4, 1)}, "which is not a waveform"),
        ({"dtype": "INT8"}, "INT8|int8"),
    ],
)
def test_a_file_whose_input_is_not_a_waveform_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        open_features(tflite_toy(tmp_path / "toy.tflite", **changes))


def test_an_output_of_three_dimensions_is_refused(tmp_path):
    node = helper.make_node("Add", ["input", "map"], ["logits"])
    with pytest.raises(InputError, match=r"the shape \(2, 3, 4\)"):
        open_features(onnx_file(tmp_path / "map.onnx", [node], {"map": np.ones((2, 3, 1), np.float32)}, (1, 4)))


def test_other_files_and_lengths_are_refused(tmp_path):
    for name, raw, message in (
        ("x.wav", b"", "unknown model format '.wav'"),
        ("x.tflite", b"no model at all" * 9, "x.tflite: LiteRT cannot"),
        ("x.onnx", b"\x07\x07", "not an ONNX|damaged|cannot run"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(InputError, match=message):
            open_features(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.onnx: .*No such file"):
        labels_of(tmp_path / "none.onnx")
    box = open_features(tflite_toy(tmp_path / "toy.tflite"))
    with pytest.raises(InputError, match="reads 4 samples at a time, got 5"):
        box.vector(np.zeros(5, np.float32))
    assert labels_of(tmp_path / "toy.tflite") is None


def test_a_missing_engine_names_its_extra(tmp_path, monkeypatch):
    import sys

    for module in ("ai_edge_litert.interpreter", "tflite_runtime", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    for path in (tflite_toy(tmp_path / "toy.tflite"), onnx_toy(tmp_path / "toy.onnx")):
        with pytest.raises(MissingExtraError, match=r"edgekd\[(litert|onnx-runtime)\]"):
            open_features(path)


@needs_yamnet
@pytest.mark.filterwarnings("ignore:Warning. Enabling:UserWarning")
def test_yamnets_embedding_is_that_of_the_interpreter_in_debug_mode():
    from ai_edge_litert.interpreter import Interpreter

    wave = np.random.default_rng(0).normal(0, 0.1, 15600).astype(np.float32)
    debugged = Interpreter(str(YAMNET), experimental_preserve_all_tensors=True)
    debugged.allocate_tensors()
    debugged.set_tensor(debugged.get_input_details()[0]["index"], wave)
    debugged.invoke()
    (number,) = [each["index"] for each in debugged.get_tensor_details() if EMBEDDING in each["name"].split(";")]
    box = open_features(YAMNET, EMBEDDING)
    assert (box.samples, box.width) == (15600, 1024)
    np.testing.assert_allclose(box.vector(wave), debugged.get_tensor(number)[0], rtol=1e-4, atol=1e-5)
    assert open_features(YAMNET).width == 521
