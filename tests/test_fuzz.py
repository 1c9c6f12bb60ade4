"""`tools/fuzz_model_reader.py`: every reader of model files stands a few hundred mutations, and the tool reports a
reader that does not."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import flatbuffers
import fuzz_seeds
import msgspec
import numpy as np
import pytest
from qgraph import toy

from edgekd.complexity.counts import count_model
from edgekd.modelfile import container, golden, manifest
from edgekd.protobuf import field
from edgekd.qgraph import onnx, reference, tflite

pytest.importorskip("onnxruntime")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
helper = pytest.importorskip("onnx.helper")

TOOL = Path(__file__).parents[1] / "tools" / "fuzz_model_reader.py"
MUTATIONS = 300
GRAPH = toy.every_op()
EMITTED = {".tflite": tflite.emit(GRAPH), ".onnx": onnx.emit(GRAPH)}
MANY = 100_000

BROKEN = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import fuzz_model_reader as fuzz
from edgekd.errors import InputError

def refuse(path):
    raise InputError(path.name)

def starve(path):
    raise InputError("cannot run this model (Failed to allocate memory for requested buffer of size 139586445568)")

held = []
fuzz.READERS = {"reading": Path.read_bytes,
                "refusing": refuse, "wrong": lambda path: [][1], "dead": lambda path: os.abort(),
                "asleep": lambda path: time.sleep(60), "greedy": lambda path: held.append(b"x" * 2**28 * 3),
                "fat": lambda path: held.append(bytearray(range(256)) * 2**20 * 2), "starved": starve, "last": refuse}
plan = fuzz.Plan([fuzz.load(Path(sys.argv[2]))], 0, ["flip"])
for event in fuzz.events(plan, range(2), 3.0):
    print(event.index, event.reader, event.outcome, event.kind)
"""


def run(*arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """The tool, or `code` with the tool's path as its first argument."""
    program = [sys.executable, TOOL] if code is None else [sys.executable, "-c", code, TOOL]
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": ""}
    )


def complete_manifest(suffix: str) -> manifest.Manifest:
    """A manifest with golden vectors, which `verify` needs, and with counts of the float network."""
    plain, source, output = toy.manifest(GRAPH, suffix[1:]), GRAPH.edges[GRAPH.input], GRAPH.edges[GRAPH.output]
    quant = manifest.TensorQuant("int8", source.scale, source.zero_point)
    modules = tuple(manifest.ModuleCount(op.name, "Conv2d", 1000, 10) for op in GRAPH.ops)
    counts = {
        name: manifest.FloatCount("0", 1000 * len(modules), 10 * len(modules), modules)
        for name in ("torchinfo", "ptflops")
    }
    vectors = golden.make(
        plain.frontend,
        plain.window,
        quant,
        output.scale,
        lambda features: reference.dequantize(
            reference.run(GRAPH, reference.quantize(features[:, None], source)), output
        ),
    )
    return msgspec.structs.replace(plain, float_counts=counts, golden=vectors)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One file of each format with a manifest, and several without."""
    folder = tmp_path_factory.mktemp("models")
    for suffix, raw in EMITTED.items():
        container.write(folder / f"toy.int8{suffix}", raw, complete_manifest(suffix))
    twin = tflite.emit(GRAPH, float_twin=True)
    container.write(folder / "toy.float.tflite", twin, toy.manifest(GRAPH, "tflite", "float"))
    (folder / "foreign.tflite").write_bytes(EMITTED[".tflite"])
    fuzz_seeds.write(folder)
    return sorted(folder.iterdir())


def test_every_seed_is_counted(tmp_path):
    for path in fuzz_seeds.write(tmp_path):
        assert count_model(path).layers


@pytest.mark.slow
def test_mutated_files_are_read_or_refused(models):
    done = run(*models, "--mutations", str(MUTATIONS))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["bad"] == 0
    assert len(document["kinds"]) == 9
    for outcomes in document["readers"].values():
        assert sum(outcomes.values()) == MUTATIONS
        assert outcomes["ok"] > 0
        assert outcomes["refused"] > 0


@pytest.mark.slow
def test_each_kind_of_failure_is_reported_and_the_next_reader_runs(models):
    done = run(next(path for path in models if path.name == "toy.int8.tflite"), code=BROKEN)
    assert done.returncode == 0, done.stderr
    outcomes = [
        "reading ok",
        "refusing refused",
        "wrong traceback",
        "dead crashed",
        "asleep hung",
        "greedy memory",
        "fat memory",
        "starved memory",
        "last refused",
    ]
    assert done.stdout.splitlines() == [f"{index} {outcome} flip" for index in (0, 1) for outcome in outcomes]


def test_bad_arguments_exit_2(models):
    done = run(*models, "--kind", "flop")
    assert (done.returncode, done.stderr) == (2, "fuzz_model_reader: --kind: 'flop' is unknown; did you mean 'flip'?\n")


def test_a_kind_that_needs_a_manifest_needs_a_file_with_one(models):
    done = run(next(path for path in models if path.name == "foreign.tflite"), "--kind", "resealed")
    assert done.returncode == 2
    assert "needs a MODEL with a manifest" in done.stderr


def overlapping(
    tensors: int, name: int, rank: int, operators: int, inputs: int, subgraphs: int = 1, size: int = 2**31 - 1
) -> bytes:
    """A small .tflite file whose tensors all share the same bytes, and its operators too, so that it seems to be
    large."""
    builder = flatbuffers.Builder(1024)

    def vector(count: int, offset: int | None = None, value: int = 0) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependInt32(value) if offset is None else builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def table(kind: str, **fields: int) -> int:
        getattr(schema, f"{kind}Start")(builder)
        for key, value in fields.items():
            getattr(schema, f"{kind}Add{key}")(builder, value)
        return getattr(schema, f"{kind}End")(builder)

    text = builder.CreateByteVector(b"x" * name)
    tensor = table("Tensor", Shape=vector(rank, value=size), Name=text, Type=schema.TensorType.INT8)
    indices = vector(inputs)
    graph = table(
        "SubGraph",
        Tensors=vector(tensors, tensor),
        Inputs=indices,
        Outputs=indices,
        Operators=vector(operators, table("Operator", Inputs=indices, Outputs=indices)),
    )
    codes, buffers = vector(1, table("OperatorCode")), vector(1, table("Buffer"))
    builder.Finish(
        table("Model", Version=3, OperatorCodes=codes, Subgraphs=vector(subgraphs, graph), Buffers=buffers), b"TFL3"
    )
    return bytes(builder.Output())


def shared_buffer(count: int, size: int) -> bytes:
    """A .tflite file whose constants have separate buffers that share their bytes."""
    model, graph, buffer = schema.ModelT(), schema.SubGraphT(), schema.BufferT()
    builder = flatbuffers.Builder(1024)
    buffer.data = np.ones(size, np.uint8)
    packed = buffer.Pack(builder)
    buffer.Pack = lambda _: packed
    model.buffers, model.subgraphs, model.version = [buffer] * count, [graph], 3
    graph.tensors, graph.inputs, graph.outputs = [], [0], [0]
    for index in range(count):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = [size], schema.TensorType.INT8, index, b"x"
        graph.tensors.append(tensor)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def archive(entries: int, compression: int, content: bytes) -> bytes:
    """A .tflite file with a zip archive of so many entries appended."""
    buffer = io.BytesIO(EMITTED[".tflite"])
    with zipfile.ZipFile(buffer, "a", compression) as file:
        for index in range(entries):
            file.writestr(zipfile.ZipInfo(str(index)) if entries > 1 else container.MANIFEST_KEY, content)
    return buffer.getvalue()


def nested(depth: int) -> bytes:
    """An .onnx file with graphs in attributes of nodes of graphs."""
    raw = b""
    for _ in range(depth):
        raw = field(7, field(1, field(5, field(6, raw))))
    return raw


def onnx_model(nodes: list, shape: tuple[int, ...] = (1, 2, 8, 6), **constants: np.ndarray) -> bytes:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("input", 1, shape)],
        [helper.make_tensor_value_info("logits", 1, None)],
        [pytest.importorskip("onnx.numpy_helper").from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def branching(depth: int, width: int) -> list:
    """Nodes with branches in branches, and many ops in each."""
    nodes = [helper.make_node("Relu", ["input"], [f"r{index}"]) for index in range(width)]
    if depth:
        nodes += branching(depth - 1, width)
    body, end = (
        helper.make_graph(each, "body", [], [helper.make_tensor_value_info("r0", 1, [1, 2, 8, 6])])
        for each in (nodes, nodes[:1])
    )
    return [helper.make_node("If", ["input"], ["b"], then_branch=body, else_branch=end)]


def sealed(content: bytes, suffix: str, **changes: object) -> bytes:
    """A model file with a right digest and a changed manifest."""
    document = json.loads(manifest.encode(toy.manifest(GRAPH, suffix[1:])))
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    return container.sealed(suffix, content, json.dumps(document).encode())


def padded(suffix: str) -> bytes:
    """A model file with a right digest and a padding of 2**28 in the batch or the mel bands, although its shapes are
    small or missing."""
    if suffix == ".onnx":
        model = pytest.importorskip("onnx").load_model_from_string(EMITTED[suffix])
        pads = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("/pads"))
        pads.raw_data = pads.raw_data[: 4 * 8] + (2**28).to_bytes(8, "little") + pads.raw_data[5 * 8 :]
        return sealed(model.SerializeToString(), suffix)
    content = tflite.emit(GRAPH, float_twin=True)
    model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    operator = next(
        each
        for each in model.subgraphs[0].operators
        if model.operatorCodes[each.opcodeIndex].builtinCode == schema.BuiltinOperator.PAD
    )
    values = bytes(model.buffers[model.subgraphs[0].tensors[operator.inputs[1]].buffer].data)
    changed = content.replace(values, values[: 4 * 3] + (2**28).to_bytes(4, "little") + values[4 * 4 :])
    return container.sealed(suffix, changed, manifest.encode(toy.manifest(GRAPH, "tflite", "float")))


def malicious() -> dict[str, bytes]:
    """Files made to take very much time or memory."""
    scale, relu = np.array(0.1, np.float32), helper.make_node("Relu", ["input"], ["logits"])
    floats = helper.make_tensor("c", 1, [MANY], np.ones(MANY))
    floats.dims[0] = 2**40
    circle = [helper.make_node("DequantizeLinear", [a, "scale"], [b]) for a, b in ("ab", "ba")]
    return {
        "tensors.tflite": overlapping(10_000, 100_000, 4, 1, 1),
        "subgraphs.tflite": overlapping(1000, 1000, 4, 1, 1, subgraphs=1000),
        "operators.tflite": overlapping(10, 0, 4, 10_000, 100_000),
        "quadratic.tflite": overlapping(16_000, 0, 2, 16_000, 1),
        "rank.tflite": overlapping(1, 0, 100_000, 1, 1),
        "entries.tflite": archive(MANY // 10, zipfile.ZIP_STORED, b""),
        "bomb.tflite": archive(1, zipfile.ZIP_DEFLATED, bytes(2**27)),
        "frontend.tflite": sealed(
            EMITTED[".tflite"], ".tflite", frontend={"n_fft": 32768, "win_length": 32768, "n_mels": 1024}
        ),
        "window.tflite": sealed(EMITTED[".tflite"], ".tflite", window=2**62),
        "buffers.tflite": shared_buffer(10_000, 1_000_000),
        "bodies.onnx": onnx_model([*branching(20, 500), relu]),
        "values.onnx": onnx_model([helper.make_node("Constant", [], ["c"], value=floats), relu]),
        "engine.tflite": sealed(overlapping(3, 1, 4, 1, 1), ".tflite"),
        "copies.tflite": sealed(overlapping(16_000, 1, 100_000, 1, 1, size=1), ".tflite"),
        "padded.onnx": padded(".onnx"),
        "padded.tflite": padded(".tflite"),
        "nodes.onnx": EMITTED[".onnx"] + field(7, field(1, b"") * 20 * MANY),
        "fields.onnx": EMITTED[".onnx"] + field(1, b"") * 20 * MANY,
        "attributes.onnx": field(7, field(1, field(5, b"") * 20 * MANY)),
        "deep.onnx": nested(3000),
        "circle.onnx": onnx_model([*circle, relu], scale=scale),
        "input.onnx": onnx_model([relu], (1, 2**62, 2**62, 2**62)),
        "shape.onnx": onnx_model(
            [helper.make_node("ConstantOfShape", ["big"], ["c"]), relu], big=np.array([2**40, 2**20])
        ),
        "expand.onnx": onnx_model(
            [helper.make_node("Expand", ["input", "big"], ["logits"])], big=np.array([2**20] * 4)
        ),
    }


@pytest.mark.slow
def test_malicious_files_are_refused_quickly_and_in_little_memory(tmp_path):
    files = malicious()
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    done = run(*(tmp_path / name for name in files), "--as-is")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["mutations"] == len(files)
    assert document["readers"]["open"] == {"refused": len(files)}
    assert document["peak_mb"] < 400
