"""A .tflite file is refused before LiteRT opens it where its operators compute other shapes than it declares."""

import re

import numpy as np
import pytest
from qgraph import toy

from edgekd.errors import InputError
from edgekd.modelfile import container, engine, guard_tflite
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import tflite

flatbuffers = pytest.importorskip("flatbuffers")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

GRAPH = toy.every_op()
EMITTED = {"int8": tflite.emit(GRAPH), "float": tflite.emit(GRAPH, float_twin=True)}
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def unpacked(precision="int8"):
    return schema.ModelT.InitFromPackedBuf(bytearray(EMITTED[precision]), 0)


def packed(model):
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(model):
    """Name -> the first operator of that name."""
    found = {}
    for operator in model.subgraphs[0].operators:
        found.setdefault(NAMES[model.operatorCodes[operator.opcodeIndex].builtinCode], operator)
    return found


def set_constant(model, operator, position, values):
    """Other values for a constant of int32 that an operator reads."""
    model.buffers[model.subgraphs[0].tensors[operator.inputs[position]].buffer].data = (
        np.array(values, np.int32).view(np.uint8).reshape(-1)
    )


def refuse(model, most_read=engine.MAX_READ):
    guard_tflite.refuse_overlapping_tables(packed(model))
    guard_tflite.refuse_wrong_shapes(packed(model), most_read)


def test_a_padding_is_refused_before_it_fills_the_memory(tmp_path):
    """LiteRT took 2 GB to open a file of 500 kB whose tensors all declared small shapes, a mutated float twin."""
    model = unpacked("float")
    operator = operators(model)["PAD"]
    tensor = model.subgraphs[0].tensors[operator.outputs[0]]
    set_constant(model, operator, 1, [[0, 0], [0, 3000], [0, 0], [0, 0]])
    path = tmp_path / "padded.tflite"
    container.write(path, packed(model), toy.manifest(GRAPH, "tflite", "float"))
    message = (
        rf"padded.tflite: .*\(PAD that writes '{tensor.name.decode()}' makes the shape \(1, 30\d\d, .*, where the file"
        r" declares \(1, "
    )
    with pytest.raises(InputError, match=message):
        open_model(path)


@pytest.mark.parametrize("precision", EMITTED)
def test_every_operator_is_compared_with_its_tensor(precision):
    guard_tflite.refuse_wrong_shapes(EMITTED[precision], engine.MAX_READ)
    for operator in unpacked(precision).subgraphs[0].operators:
        model = unpacked(precision)
        tensor = model.subgraphs[0].tensors[operator.outputs[0]]
        tensor.shape = [*tensor.shape[:-1], tensor.shape[-1] + 1]
        with pytest.raises(ValueError, match=f"'{re.escape(tensor.name.decode())}' makes the shape"):
            refuse(model)


def test_the_toy_has_every_known_operator():
    """So the test above covers each rule."""
    assert {*operators(unpacked()), *operators(unpacked("float"))} == {kind.name for kind in guard_tflite.RULES}


def other_operator(model):
    model.operatorCodes[operators(model)["LOGISTIC"].opcodeIndex].builtinCode = schema.BuiltinOperator.TILE


def other_options(model):
    operator = operators(model)["CONV_2D"]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Pool2DOptions, schema.Pool2DOptionsT()


def no_options(model):
    operators(model)["CONV_2D"].builtinOptions = None


def fewer_inputs(model):
    operator = operators(model)["SLICE"]
    operator.inputs = operator.inputs[:2]


def second_graph(model):
    model.subgraphs.append(model.subgraphs[0])


def no_stride(model):
    operators(model)["CONV_2D"].builtinOptions.strideH = 0


def before_the_start(model):
    set_constant(model, operators(model)["SLICE"], 1, [-1, 0])


def an_axis_twice(model):
    operator = operators(model)["TRANSPOSE"]
    rank = len(model.subgraphs[0].tensors[operator.outputs[0]].shape)
    set_constant(model, operator, 1, [0] * rank)


def shape_of_two_axes(model):
    tensor = model.subgraphs[0].tensors[operators(model)["RESHAPE"].inputs[1]]
    tensor.shape = [1, *tensor.shape]


def metadata(model):
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"x", 1
    model.metadata = [entry]


def sparse(model):
    model.subgraphs[0].tensors[1].sparsity = schema.SparsityParametersT()


def intermediates(model):
    model.subgraphs[0].operators[0].intermediates = [0]


def too_many_codes(model):
    model.operatorCodes = [model.operatorCodes[0]] * (guard_tflite.MAX_ENTRIES + 1)


def computed_shape(model):
    model.subgraphs[0].operators[-1].inputs[1] = model.subgraphs[0].operators[-1].inputs[0]


REFUSED = {
    other_operator: "operator 69 with 1 inputs and 1 outputs is none that edgekd writes",
    other_options: "has options of another operator",
    no_options: "has no options",
    fewer_inputs: "with 2 inputs and 1 outputs is none",
    second_graph: "it has 2 graphs",
    no_stride: "makes no sense (stride 0",
    before_the_start: "makes no sense (starts (-1, 0))",
    an_axis_twice: "makes no sense (axes (0, 0",
    metadata: "it has metadata, which edgekd does not write",
    sparse: "a tensor is sparse",
    intermediates: "an operator has intermediates",
    too_many_codes: "more than 16,384 tensors, operators or buffers",
    shape_of_two_axes: "is no short constant of int32",
    computed_shape: "is no short constant of int32",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_edgekd_does_not_write_is_refused_by_name(change):
    model = unpacked()
    change(model)
    with pytest.raises(ValueError, match=re.escape(REFUSED[change])):
        refuse(model)


def test_windows_that_read_very_much_are_refused():
    with pytest.raises(
        ValueError,
        match=r"(CONV_2D|MAX_POOL_2D) .*more than 100",
    ):
        refuse(unpacked(), 100)
