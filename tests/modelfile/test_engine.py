"""Model files in their engines: logits of the reference, any batch size, and one clear error for what cannot run."""

import contextlib
import math
import subprocess
import sys

import numpy as np
import pytest
from qgraph import toy

from edgekd.errors import InputError, MissingExtraError
from edgekd.frontend import FrontEnd
from edgekd.modelfile import container, engine
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import onnx, reference, tflite

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

GRAPH = toy.every_op()
EMIT = {"tflite": tflite.emit, "onnx": onnx.emit}
ENGINE = {"tflite": "litert", "onnx": "onnxruntime"}


def save(folder, kind, precision="int8", **changes):
    path = folder / f"toy.{precision}.{kind}"
    container.write(
        path, EMIT[kind](GRAPH, float_twin=precision == "float"), toy.manifest(GRAPH, kind, precision, **changes)
    )
    return path


@pytest.fixture(params=list(EMIT))
def kind(request):
    return request.param


@pytest.fixture
def features():
    """float32 (batch, mel, frame), some of it beyond the input's range."""
    return np.random.default_rng(0).normal(0, 4, (12, 32, 19)).astype(np.float32)


def test_int8_logits_are_those_of_the_reference(tmp_path, kind, features):
    model = open_model(save(tmp_path, kind))
    output = GRAPH.edges[GRAPH.output]
    expected = reference.dequantize(
        reference.run(GRAPH, reference.quantize(features[:, None], GRAPH.edges["input"])), output
    )
    logits = model.logits(features)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= 2.01 * output.scale
    assert model.engine == ENGINE[kind]
    assert model.input_quant == model.manifest.input


def test_float_logits_are_those_of_the_graph(tmp_path, kind, features):
    expected = toy.run_float(GRAPH, features[:, None])
    assert (
        np.abs(open_model(save(tmp_path, kind, "float")).logits(features) - expected).max()
        < 1e-4 * np.abs(expected).max()
    )


def test_logits_do_not_depend_on_the_batch(tmp_path, kind, features):
    model = open_model(save(tmp_path, kind), threads=2)
    together = model.logits(features)
    assert (together == np.concatenate([model.logits(features[i : i + 1]) for i in range(len(features))])).all()
    assert model.logits(features[:0]).shape == (0, 7)


def test_quantised_input_gives_the_same_logits(tmp_path, kind):
    model = open_model(save(tmp_path, kind))
    q = np.full((1, 32, 19), model.input_quant.zero_point, model.input_quant.dtype)
    zeros = np.zeros((1, 32, 19), np.float32)
    steps = model.run_quantized(q)
    assert steps.dtype == model.manifest.output.dtype
    real = (steps.astype(np.float32) - model.manifest.output.zero_point) * np.float32(model.manifest.output.scale)
    assert (real == model.logits(zeros)).all()


@pytest.mark.parametrize("shape", [(2, 32, 18), (2, 31, 19), (32, 19), (2, 1, 32, 19)])
def test_features_of_another_shape_are_refused(tmp_path, kind, shape):
    with pytest.raises(InputError, match=r"reads u?int8 .*\(32, 19\), got "):
        open_model(save(tmp_path, kind)).logits(np.zeros(shape, np.float32))


def test_nan_is_refused(tmp_path, kind, features):
    features[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="NaN"):
        open_model(save(tmp_path, kind)).logits(features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 8000}, r"is \(32, 19\), but .* \(32, 61\)"),
        (
            {"frontend": FrontEnd(sample_rate=8000, n_fft=256, win_length=256, hop_length=128, n_mels=16)},
            r"but .* \(16, 19\)",
        ),
        ({"labels": ("a", "b")}, "labels is 7, but .* 2"),
        (
            {"input": toy.manifest(GRAPH, "onnx", "float").input},
            "is u?int8, but .* float32",
        ),
    ],
)
def test_a_manifest_that_does_not_match_the_file_is_refused(tmp_path, kind, changes, message):
    with pytest.raises(InputError, match=message):
        open_model(save(tmp_path, kind, **changes))


def test_engines_are_chosen_by_name(tmp_path, kind):
    path = save(tmp_path, kind)
    assert open_model(path, ENGINE[kind]).engine == ENGINE[kind]
    other = next(name for name in ENGINE.values() if name != ENGINE[kind])
    with pytest.raises(InputError, match=f"'{other}' .*; use engine '{ENGINE[kind]}'"):
        open_model(path, other)
    with pytest.raises(InputError, match=r"'onnxruntim'; .*'onnxruntime'"):
        open_model(path, "onnxruntim")
    for threads in (0, 100_000):
        with pytest.raises(InputError, match=f"{threads} threads; give 1 to 256"):
            open_model(path, threads=threads)


def test_a_missing_engine_names_its_extra(tmp_path, kind, monkeypatch):
    path = save(tmp_path, kind)
    for module in ("ai_edge_litert.interpreter", "tflite_runtime", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[(litert|onnx-runtime)\]"):
        open_model(path)


def test_a_model_that_the_engine_refuses(tmp_path, kind):
    """Its digest is right, but an operator does not exist or is used wrongly."""
    raw = EMIT[kind](GRAPH)
    name = b"QuantizeLinear" if kind == "onnx" else b"TFL3"
    broken = raw.replace(name, name[::-1]) if kind == "onnx" else raw[:64] + b"\xff" * 200 + raw[264:]
    path = tmp_path / f"broken.{kind}"
    container.write(path, broken, toy.manifest(GRAPH, kind))
    with pytest.raises(InputError, match=f"broken.{kind}: .* cannot run this model"):
        open_model(path)


def test_an_onnx_file_with_a_scalar_output_is_refused(tmp_path):
    """Its digest is right, but no emitter writes such an output."""
    import onnx as library

    source = library.helper.make_tensor_value_info("x", library.TensorProto.FLOAT, (1, 1, 32, 19))
    output = library.helper.make_tensor_value_info("y", library.TensorProto.FLOAT, ())
    node = library.helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    graph = library.helper.make_graph([node], "g", [source], [output])
    model = library.helper.make_model(graph, ir_version=10, opset_imports=[library.helper.make_opsetid("", 13)])
    path = tmp_path / "scalar.onnx"
    container.write(path, model.SerializeToString(), toy.manifest(GRAPH, "onnx", "float"))
    with pytest.raises(InputError, match=r"scalar\.onnx: .*cannot run"):
        open_model(path)


def test_a_changed_bias_is_refused(tmp_path, kind):
    path = save(tmp_path, kind)
    raw = bytearray(path.read_bytes())
    raw[raw.index(GRAPH.ops[2].bias.tobytes())] ^= 1  # both formats store biases in the same way
    path.write_bytes(raw)
    with pytest.raises(InputError, match="has changed since it was exported"):
        open_model(path)


def test_opening_is_silent(tmp_path, kind):
    script = f"from edgekd.modelfile.engine import open_model; open_model({str(save(tmp_path, kind))!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_every_suffix_has_an_engine():
    assert {suffix for suffix, _ in engine.ENGINES.values()} == set(container.SUFFIXES)


def test_large_shapes_are_refused_before_they_are_allocated(tmp_path, monkeypatch):
    largest = max(math.prod(edge.shape) for edge in GRAPH.edges.values())
    monkeypatch.setattr(engine, "MAX_ELEMENTS", largest)  # all tensors together have more
    with pytest.raises(InputError, match=r"toy\.int8\.tflite: .*has the shape"):
        open_model(save(tmp_path, "tflite"))


def test_nothing_is_printed_when_an_engine_fails(tmp_path, kind, capfd):
    path = tmp_path / f"garbled.{kind}"
    # names that are not UTF-8
    container.write(path, EMIT[kind](GRAPH).replace(b"avg", b"\xff\xff\xff"), toy.manifest(GRAPH, kind))
    with contextlib.suppress(InputError):  # LiteRT accepts them
        open_model(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("processor : 0\nflags : fpu avx2 avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("Features : fp asimd asimddp\n", False),
        (None, False),
    ],
)
def test_the_precise_kernels_are_left_out_only_on_processors_that_multiply_exactly(
    info, expected, tmp_path, monkeypatch
):
    import onnxruntime

    path, entries = tmp_path / "cpuinfo", []
    if info is not None:
        path.write_text(info)
    monkeypatch.setattr(engine, "CPU_INFO", path)
    assert engine.has_vnni() is expected

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries.append((key, value))
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    open_model(save(tmp_path, "onnx"))
    assert ((engine.X64_PRECISION_KEY, "1") in entries) is not expected


def unpacked():
    """The toy model as an object of the flatbuffers schema."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(bytearray(tflite.emit(GRAPH)), 0)


def packed(path, model):
    """Write such an object as a .tflite file with the toy's manifest."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    container.write(path, bytes(builder.Output()), toy.manifest(GRAPH, "tflite"))
    return path


def test_a_tensor_of_another_type_is_refused_before_it_aborts_the_process(tmp_path):
    """XNNPACK aborts the process at a float32 scalar among the activations of an int8 model. Fuzzing found this and the
    next two."""
    model = unpacked()
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.operators[-2].outputs[0]]
    tensor.type, tensor.shape = 0, []  # FLOAT32
    with pytest.raises(InputError, match="is float32 in a model of int8"):
        open_model(packed(tmp_path / "odd.tflite", model))


@pytest.mark.parametrize(
    ("emptied", "what"), [("operatorCodes", "operator codes"), ("subgraphs", "graph"), ("buffers", "buffers")]
)
@pytest.mark.parametrize("value", [None, []])
def test_a_model_without_a_graph_is_refused_before_it_ends_the_process(emptied, what, value, tmp_path):
    model = unpacked()
    setattr(model, emptied, value)
    with pytest.raises(InputError, match=f"it has no {what}"):
        open_model(packed(tmp_path / "empty.tflite", model))


@pytest.mark.parametrize("tensor", [-1, 10_000])
def test_an_operator_without_its_tensor_is_refused_before_it_ends_the_process(tensor, tmp_path):
    model = unpacked()
    model.subgraphs[0].operators[3].inputs[0] = tensor
    with pytest.raises(InputError, match="operator 3 lacks a tensor"):
        open_model(packed(tmp_path / "lacking.tflite", model))
