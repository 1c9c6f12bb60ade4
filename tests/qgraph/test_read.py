"""The integer graph comes back from both file formats as it was emitted, and nothing else is taken for one."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from qgraph import probe, same, toy

from edgekd.errors import InputError
from edgekd.modelfile import container
from edgekd.modelfile.zoo import zoo_files, zoo_names
from edgekd.qgraph import onnx, read_onnx, read_tflite, reference, tflite
from edgekd.qgraph.graph import Edge, QGraph
from edgekd.qgraph.read import read_graph

EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}
GRAPH = toy.every_op()
FILES = {kind: emit(GRAPH) for kind, emit in EMITTERS.items()}
KINDS = pytest.mark.parametrize("kind", EMITTERS)
OPTIONAL = ("ai_edge_litert", "ai_edge_litert.schema_py_generated", "flatbuffers", "onnx", "onnxruntime", "torch")


def without_idle_relu(graph: QGraph) -> QGraph:
    """The graph without activations of additions whose inputs are not negative."""
    return replace(
        graph,
        ops=tuple(
            replace(op, activation="none")
            if type(op).__name__ == "AddOp" and all(graph.edges[name].zero_point == -128 for name in op.sources)
            else op
            for op in graph.ops
        ),
    )


def as_graph(builder: toy.Builder, output: str) -> QGraph:
    """A graph that ends in a classifier of this edge."""
    return builder.graph(builder.conv(builder.avg_pool(output), 5, activation="none"))


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_a_graph_with_every_op_comes_back(kind: str, seed: int) -> None:
    graph = toy.every_op(seed)
    read = read_graph(EMITTERS[kind](graph))
    assert same.differences(without_idle_relu(graph), read) == []
    assert all(emit(read) == emit(graph) for emit in EMITTERS.values())


@KINDS
def test_ops_whose_file_form_is_another_op_come_back(kind: str) -> None:
    b = toy.Builder(3, 11, 13)
    pooled = b.avg_pool("input", (3, 2), (2, 1), (1, 1, 0, 0))  # a pool of one channel: unfolded as a stem is
    x = b.conv(pooled, 6, (3, 3), padding=(2, 2, 1, 1), dilation=(2, 1))
    x = b.conv(x, 12, (3, 3), groups=6, stride=(2, 2))
    x = b.avg_pool(b.avg_pool(x, (1, 2), (1, 2)), (b.edges[x].shape[1], 1))
    graph = as_graph(b, b.conv(x, 6, (1, 1), groups=2, activation="clip01"))
    assert same.differences(graph, read_graph(EMITTERS[kind](graph))) == []


@KINDS
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (1, 2, 1, 1), (0, 2, 0, 0), (0, 0, 0, 0)])
def test_paddings_of_a_stride_come_back(kind: str, padding: tuple[int, int, int, int]) -> None:
    b = toy.Builder(0, 9, 9)
    x = b.conv("input", 4, (3, 3))
    graph = as_graph(b, b.conv(x, 4, (3, 3), stride=(2, 2), padding=padding))  # SAME is (1, 1, 1, 1)
    assert same.differences(graph, read_graph(EMITTERS[kind](graph))) == []


@KINDS
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("kernel", [(5, 5), (4, 1), (1, 3)])
def test_stems_come_back(kind: str, stride: tuple[int, int], kernel: tuple[int, int]) -> None:
    b = toy.Builder(0, 17, 12)
    graph = as_graph(b, b.conv("input", 4, kernel, stride=stride, dilation=(2 if kernel[0] > 1 else 1, 1)))
    assert same.differences(graph, read_graph(EMITTERS[kind](graph))) == []


def test_padding_that_nothing_reads_may_get_lost_behind_a_stem() -> None:
    b = toy.Builder(0, 16, 12)
    graph = as_graph(b, b.conv("input", 4, (3, 3), stride=(3, 3), padding=(0, 1, 0, 2)))
    x = toy.random_input(graph, 4)
    assert same.differences(graph, read_graph(onnx.emit(graph))) == []
    read = read_graph(tflite.emit(graph))
    assert read.ops[0].padding == (0, 0, 0, 1)
    assert (reference.run(read, x) == reference.run(graph, x)).all()


@KINDS
def test_equal_constants_stay_two(kind: str) -> None:
    b = toy.Builder(0, 8, 8)
    x = b.conv("input", 4, (3, 3))
    gain = b.constant((4, 8, 1))
    x = b.mul(x, gain)
    offset = b.constant((4, 8, 1))
    b.ops[-1] = replace(b.ops[-1], value=b.ops[-3].value)
    graph = as_graph(b, b.add(x, offset))
    assert same.differences(graph, read_graph(EMITTERS[kind](graph))) == []


def test_in_files_every_class_of_the_integer_graph_is_read() -> None:
    kinds = {type(op).__name__ for op in GRAPH.ops} | {"UnfoldOp"}
    for read, kind in ((read_tflite.read, "tflite"), (read_onnx.read, "onnx")):
        assert {type(op).__name__ for op in read(FILES[kind]).ops} == kinds


@pytest.mark.parametrize("name", zoo_names())
def test_both_files_of_a_shipped_model_hold_one_graph_and_its_integers(name: str) -> None:
    by_suffix = {path.suffix: path for path in zoo_files(name)}
    graph = read_graph(by_suffix[".tflite"])
    content = container.read(by_suffix[".tflite"]).content
    assert same.differences(graph, read_graph(str(by_suffix[".onnx"]))) == []
    assert tflite.emit(graph) == content
    x = toy.random_input(graph, 2)
    assert (probe.run_litert(content, x) == reference.run(graph, x)).all()


@KINDS
def test_nothing_but_the_base_install_is_needed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in OPTIONAL:
        monkeypatch.setitem(sys.modules, package, None)
    assert read_graph(FILES[kind]).output == GRAPH.output


@KINDS
def test_the_float_twin_is_refused(kind: str, tmp_path) -> None:
    path = tmp_path / f"toy.float.{kind}"
    path.write_bytes(EMITTERS[kind](GRAPH, True))
    with pytest.raises(InputError, match=r"toy\.float\.(tflite|onnx).*give the int8 file"):
        read_graph(path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\0\0\0\0TFL3", b"\x08\x07" * 40])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="give an int8 file that 'edgekd export' wrote"):
        read_graph(content)


def test_a_path_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx"):
        read_graph(tmp_path / "missing.onnx")
    with pytest.raises(InputError, match="not a regular file"):
        read_graph(tmp_path)


@KINDS
def test_damage_is_one_line_or_still_a_graph(kind: str) -> None:
    rng, whole = np.random.default_rng(0), FILES[kind]
    lines = graphs = 0
    for number in range(200):
        damaged = bytearray(whole)
        if number % 3 == 0:
            del damaged[int(rng.integers(len(whole))) :]
        else:
            damaged[int(rng.integers(len(whole)))] = int(rng.choice([0, 1, 127, 128, 255]))
        try:
            read_graph(bytes(damaged)).validate()
            graphs += 1
        except InputError as error:
            lines += len(str(error).splitlines())
    assert graphs > 0
    assert lines == 200 - graphs > 100


def set_fields(record, **values) -> None:
    for name, value in values.items():
        assert hasattr(record, name)
        setattr(record, name, value)


class TfliteFile:
    """The toy file, to be changed."""

    def __init__(self) -> None:
        schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(FILES["tflite"], 0))
        self.operators = self.model.subgraphs[0].operators
        self.tensors = {tensor.name.decode(): tensor for tensor in self.model.subgraphs[0].tensors}

    def option(self, code: int, **values) -> None:
        """Change options of the first operator with a code."""
        codes = [each.builtinCode for each in self.model.operatorCodes]
        operator = next(each for each in self.operators if codes[each.opcodeIndex] == code)
        set_fields(operator.builtinOptions, **values)

    def quantisation(self, name: str, **values) -> None:
        set_fields(self.tensors[name].quantization, **values)

    def packed(self) -> bytes:
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.option(3, fusedActivationFunction=1), "CONV_2D 'conv0' has a fused activation"),
        (lambda file: file.option(4, depthMultiplier=3), "depth multiplier"),
        (lambda file: file.option(17, padding=0), "MAX_POOL_2D 'max1'"),
        (lambda file: file.option(40, keepDims=False), "MEAN 'avg5'"),
        (lambda file: file.option(2, axis=1), "conv0/taps/.* another axis"),
        (lambda file: set_fields(file.model.operatorCodes[1], builtinCode=117), "code 117"),
        (lambda file: file.quantisation("conv2/bias", scale=[0.5] * 16), "the bias of 'conv2'"),
        (lambda file: file.quantisation("conv2/weight", zeroPoint=[1] * 16), "'conv2/weight'"),
        (lambda file: file.quantisation("conv9", scale=[0.5, 0.5], zeroPoint=[0, 0]), "'conv9' .* no one scale"),
        (lambda file: file.quantisation("logits", scale=[0.5]), "'logits' has another quantisation"),
        (lambda file: set_fields(file.tensors["conv2"], shape=[1, 8, 9, 15]), "conv2: output shape"),
        (lambda file: set_fields(file.tensors["conv2"], name=b"max1"), "'max1' has a name twice"),
        (lambda file: file.operators.pop(), "does not flatten the logits"),
        (lambda file: file.operators.reverse(), "is read and not written"),
        (lambda file: file.operators.pop(3), "'conv0/taps/.*' is no step of an unfolded kernel"),
    ],
)
def test_another_tflite_graph_is_refused_by_what_is_not_ours(change, message: str) -> None:
    file = TfliteFile()
    change(file)
    with pytest.raises(InputError, match=message):
        read_graph(file.packed())


class OnnxFile:
    """The toy file, to be changed."""

    def __init__(self) -> None:
        self.library = pytest.importorskip("onnx")
        self.model = self.library.load_model_from_string(FILES["onnx"])
        self.graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes = {node.output[0]: node for node in self.graph.node}

    def number(self, name: str, value: float) -> None:
        """Change a constant to a float32 number."""
        self.constants[name].CopyFrom(self.library.numpy_helper.from_array(np.array(value, np.float32), name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: set_fields(file.nodes["conv2/real"], op_type="Gemm"), "Gemm 'conv2/real'"),
        (lambda file: set_fields(file.nodes["conv2/real"].attribute[0], name="auto_pad"), "auto_pad"),
        (lambda file: file.nodes["max1"].attribute[0].ints.append(1), "MaxPool 'max1' has kernel_shape"),
        (lambda file: file.number("conv3/for/add4/scale", 0.5), "'conv3' is added with another scale, 0.5"),
        (lambda file: file.number("conv2/weight/scale", 0.5), "'conv2/weight'"),
        (lambda file: set_fields(file.constants["constant21"], doc_string=""), "'constant21' .* without a scale"),
        (lambda file: set_fields(file.constants["constant21"], doc_string="scale one"), "'one'"),
        (lambda file: file.nodes["conv0/taps/2/1"].input.insert(4, "conv0/taps/3/1/step"), "Slice .* 6 inputs"),
        (lambda file: file.nodes["conv0/taps/2"].input.append("conv0/taps/2/0"), "'conv0/taps/2/0' is stacked"),
        (lambda file: file.graph.node.pop(), "does not flatten the logits"),
        (lambda file: file.graph.node.remove(file.nodes["max1/for/conv2"]), "'max1/for/conv2' is missing"),
        (lambda file: file.graph.input.append(file.graph.input[0]), "2 inputs"),
    ],
)
def test_another_onnx_graph_is_refused_by_what_is_not_ours(change, message: str) -> None:
    file = OnnxFile()
    change(file)
    with pytest.raises(InputError, match=message):
        read_graph(file.model.SerializeToString())


@KINDS
def test_a_graph_that_validation_refuses_names_the_file(kind: str, tmp_path) -> None:
    b = toy.Builder(0, 8, 8)
    graph = as_graph(b, b.sigmoid(b.conv("input", 4, (3, 3))))
    gate = graph.ops[1].output
    broken = replace(graph, edges={**graph.edges, gate: Edge(gate, graph.edges[gate].shape, 0.5, -128)})
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(EMITTERS[kind](broken))
    with pytest.raises(InputError, match=rf"broken\.{kind}: {gate}: its output has scale 0.5"):
        read_graph(path)
