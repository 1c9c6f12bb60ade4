"""The memory that an .onnx file takes is bounded before an engine opens it; a file that takes too much is refused by
name."""

import re

import numpy as np
import pytest
from qgraph import toy

from edgekd import protobuf
from edgekd.errors import InputError
from edgekd.modelfile import container, engine, guard_onnx
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import onnx

library = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, numpy_helper = library.helper, library.numpy_helper

GRAPH = toy.every_op()
SHAPE = (1, 2, 8, 6)
MOST = 1000


def written(*nodes, functions=(), **constants):
    """A model of these operators that reads `x` of `SHAPE`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, SHAPE)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, functions=functions, opset_imports=[helper.make_opsetid("", 13)])


def node(kind, *inputs, output="y", **attributes):
    return helper.make_node(kind, inputs, [output], name="it", **attributes)


def refuse(model, most=MOST, most_read=MOST):
    guard_onnx.refuse_costly_graph(model.SerializeToString(), most, most_read)


@pytest.mark.parametrize("float_twin", [False, True])
def test_shapes_are_those_of_the_reference(float_twin):
    """The elements of all tensors together are just few enough, and the file is refused with one fewer."""
    content = onnx.emit(GRAPH, float_twin=float_twin)
    model = library.load_model_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = library.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info, *graph.output]
    ]
    elements = int(sum(np.prod(shape) for shape in [*shapes, *(list(tensor.dims) for tensor in graph.initializer)]))
    guard_onnx.refuse_costly_graph(content, elements, engine.MAX_READ)
    with pytest.raises(
        ValueError,
        match=f"'logits' .*{elements - 1:,} elements",
    ):
        guard_onnx.refuse_costly_graph(content, elements - 1, engine.MAX_READ)


def test_a_padding_of_the_batch_is_refused_before_it_fills_the_memory(tmp_path):
    """One changed bit of a padding let a file of 185 kB take 11 GB at its first inference; found by fuzzing."""
    model = library.load_model_from_string(onnx.emit(GRAPH))
    pads = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("/pads"))
    values = numpy_helper.to_array(pads).copy()
    values[4] = 2**20
    pads.CopyFrom(numpy_helper.from_array(values, pads.name))
    path = tmp_path / "padded.onnx"
    container.write(path, model.SerializeToString(), toy.manifest(GRAPH, "onnx"))
    with pytest.raises(
        InputError,
        match=r"/padded' .*\(1048577, 1, .*33,554,432",
    ):
        open_model(path)


WIDE = np.ones((4, 2, 3, 3), np.float32)
COSTLY = {
    "pad": (written(node("Pad", "x", "p"), p=[0, 0, 0, 0, 0, 0, 100, 0]), "Pad 'it' writes the shape (1, 2, 108, 6)"),
    "conv padding": (
        written(node("Conv", "x", "w", pads=[0, 0, 40, 0], strides=[1, 1], dilations=[1, 1], group=1), w=WIDE),
        "Conv 'it' writes the shape (1, 4, 46, 4); all tensors together may have 700 elements",
    ),
    "conv windows": (
        written(node("Conv", "x", "w", pads=[1, 1, 1, 1]), w=WIDE),
        "Conv 'it' reads 864 elements, more than 700",
    ),
    "pool windows": (
        written(node("MaxPool", "x", kernel_shape=[5, 5], pads=[4, 4, 4, 4])),
        "MaxPool 'it' reads 3,000 elements",
    ),
    "doubling": (
        written(
            *(node("Concat", f"{name}", f"{name}", output=after, axis=3) for name, after in ("xa", "ab", "bc", "cy"))
        ),
        "Concat 'it' writes the shape",
    ),
    "broadcast": (
        written(node("Add", "p", "q"), p=np.ones((100, 1)), q=np.ones((1, 100))),
        "Add 'it' writes the shape (100, 100)",
    ),
    "constant": (written(node("Relu", "x"), w=np.ones(1000)), "constant 'w' has the shape (1000,)"),
    "rank": (written(node("Relu", "x"), w=np.ones((1,) * 9)), "constant 'w' has 9 dimensions"),
    "nothing": (
        written(node("Slice", "x", "n", "n", "n", "one"), n=[0], one=[1]),
        "Slice 'it' writes the shape (0, 2, 8, 6)",
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_takes_too_much_is_refused_by_name(name):
    model, message = COSTLY[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        refuse(model, 700, 700)


def sparse():
    model = written(node("Relu", "x"))
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0]), [2**40])
    )
    return model


def outside():
    model = written(node("Relu", "x"), w=np.ones(3))
    model.graph.initializer[0].data_location = library.TensorProto.EXTERNAL
    return model


OWN_RELU = helper.make_function("", "Relu", ["a"], ["b"], [node("Tanh", "a", output="b")], [])
FOREIGN = {
    "operator": (
        written(node("ConstantOfShape", "p"), p=[2**40]),
        "ConstantOfShape 'it' with 1 outputs is no operator that edgekd writes",
    ),
    "domain": (written(node("Relu", "x", domain="com.microsoft")), "Relu 'it' with 1 outputs is no operator"),
    "outputs": (
        written(helper.make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[1, 1])),
        "MaxPool '' with 2 outputs",
    ),
    "attribute": (
        written(node("MaxPool", "x", kernel_shape=[1, 1], ceil_mode=1)),
        "an attribute 'ceil_mode' that edgekd does not write",
    ),
    "axis": (written(node("Flatten", "x", axis=0)), "Flatten 'it' makes no sense (axis [0])"),
    "stride": (
        written(node("MaxPool", "x", kernel_shape=[1, 1], strides=[1, 0])),
        "MaxPool 'it' makes no sense (strides [1, 0]",
    ),
    "negative": (written(node("Pad", "x", "p"), p=[0, 0, 0, 0, 0, 0, -1, 0]), "Pad 'it' makes no sense (pads"),
    "computed": (written(node("Pad", "x", "x")), "Pad 'it' makes no sense ('x')"),
    "type": (written(node("Pad", "x", "p"), p=np.zeros(8, np.int32)), "constant 'p' is no short vector of int64"),
    "missing": (written(node("Relu", "nothing")), "Relu 'it' makes no sense ('nothing')"),
    "inputs": (written(node("Add")), "Add 'it' makes no sense"),
    "function": (written(node("Relu", "x"), functions=[OWN_RELU]), "it has functions of its own or sparse constants"),
    "sparse": (sparse(), "it has functions of its own or sparse constants"),
    "outside": (outside(), "constant 'w' lies in another file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_edgekd_does_not_write_is_refused_by_name(name):
    model, message = FOREIGN[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        refuse(model)


def test_numbers_count_in_every_spelling():
    """Packed or one by one, in raw bytes or as numbers: protobuf takes each."""
    model = written(node("Pad", "x", "p"), p=np.zeros(8, np.int64))
    model.graph.initializer[0].CopyFrom(helper.make_tensor("p", 7, [8], [0, 0, 0, 0, 0, 0, 100, 0]))
    with pytest.raises(ValueError, match=r"'it' .*\(1, 2, 108, 6\)"):
        refuse(model)
    shape = b"".join(
        protobuf.varint(protobuf.TENSOR_DIMS << 3 | protobuf.LENGTH_DELIMITED) + b"\2\x90\x4e" for _ in range(2)
    )
    tensor = shape + protobuf.field(protobuf.TENSOR_NAME, b"w")
    raw = written(node("Relu", "x")).SerializeToString() + protobuf.field(
        7, protobuf.field(protobuf.GRAPH_INITIALIZER, tensor)
    )
    # in a second graph field, which is merged
    with pytest.raises(ValueError, match=r"'w' .*\(10000, 10000\)"):
        guard_onnx.refuse_costly_graph(raw, MOST, MOST)


def test_a_field_number_that_some_readers_cut_off_is_refused():
    raw = onnx.emit(GRAPH) + protobuf.varint((2**29 + 7) << 3 | protobuf.LENGTH_DELIMITED) + b"\0"
    with pytest.raises(protobuf.DamagedError, match="cut off or garbled"):
        guard_onnx.refuse_costly_graph(raw, engine.MAX_ONNX_ELEMENTS, engine.MAX_READ)
