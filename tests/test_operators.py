"""One table of operators: every part that handles them knows each, and knows it as the schemas do."""

from typing import get_args

import numpy as np
import pytest
from qgraph import toy

from edgekd import operators
from edgekd.complexity.readers import onnx_rules, tflite_rules
from edgekd.modelfile import guard_onnx, guard_tflite
from edgekd.operators import GRAPH, Onnx, Tflite
from edgekd.qgraph import onnx, reference, tflite, tune
from edgekd.qgraph.graph import GraphOp, Op, QGraph

FORMS = [*GRAPH.values(), operators.ACTIVATION, operators.QUANTISATION, operators.LOGITS]


@pytest.fixture(scope="module")
def unfolded() -> QGraph:
    """A graph with every op."""
    return tune.split_stem(toy.every_op())


def names(kinds: object) -> set[str]:
    return {kind.name for kind in kinds}


def written_tflite(content: bytes) -> set[str]:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    known = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return {known[code.builtinCode] for code in model.operatorCodes}


def written_onnx(content: bytes) -> set[str]:
    library = pytest.importorskip("onnx")
    return {node.op_type for node in library.load_model_from_string(content).graph.node}


def test_every_class_of_the_integer_graph_has_a_row(unfolded: QGraph) -> None:
    assert {kind.__name__ for kind in get_args(Op)} == set(GRAPH)
    assert set(GraphOp.__subclasses__()) == set(get_args(Op))
    assert {type(op).__name__ for op in unfolded.ops} == set(GRAPH), "the toy graph lacks an op"


def test_every_file_operator_is_a_form_of_something() -> None:
    assert set(Tflite) == {kind for form in FORMS for kind in form.tflite}
    assert set(Onnx) == {kind for form in FORMS for kind in form.onnx}


def test_codes_and_options_are_those_of_the_schema() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    for kind in Tflite:
        assert getattr(schema.BuiltinOperator, kind.name) == kind.value.code
        if kind.value.options is not None:
            table, code = kind.value.options
            assert getattr(schema.BuiltinOptions, table) == code


def test_onnx_operators_have_the_attributes_of_their_schema() -> None:
    library = pytest.importorskip("onnx")
    for kind in Onnx:
        assert set(kind.value.attributes) <= set(library.defs.get_schema(kind.name, onnx.OPSET).attributes)


def test_the_emitters_write_every_operator_and_no_other() -> None:
    graph = toy.every_op()
    assert written_tflite(tflite.emit(graph)) | written_tflite(tflite.emit(graph, float_twin=True)) == names(Tflite)
    assert written_onnx(onnx.emit(graph)) | written_onnx(onnx.emit(graph, float_twin=True)) == names(Onnx)


def test_the_reference_executes_every_op(unfolded: QGraph) -> None:
    edges = tuple(op.output for op in unfolded.ops)
    values = reference.run_edges(unfolded, toy.random_input(unfolded, 1), edges)
    assert {value.dtype for value in values.values()} == {np.dtype(np.int8)}


def test_size_bounds_counting_rules_and_the_torch_form_know_every_operator() -> None:
    assert set(guard_tflite.RULES) == set(Tflite)
    assert set(guard_onnx.SHAPES) == set(Onnx)
    assert names(Tflite) <= tflite_rules.KNOWN
    assert names(Onnx) <= onnx_rules.KNOWN
    pytest.importorskip("torch")
    from edgekd.dcase import onnx_module

    assert names(Onnx) == onnx_module.KNOWN
