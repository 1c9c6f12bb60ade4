"""`edgekd check` on files of other tools: streaming networks, weights in all places of an .onnx file, operators without
weights that multiply, free dimensions, and names that would control a terminal."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from model_files import FOREIGN_DOMAIN, ones, tflite_file
from onnx import TensorProto, helper, numpy_helper

from edgekd.cli import main

F32 = np.float32
WIDE = 1024
"""A matrix of this width has more bytes than an .onnx file may have besides its weights."""


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgekd", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture
def counts(run):
    """The JSON document of a file."""

    def read(model: Path, *options: str) -> dict:
        return json.loads(run(model, "--format", "json", *options)[1])

    return read


def info(name: str, shape: list | None, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def onnx_model(path: Path, nodes: list, shapes: dict[str, list], constants: dict[str, np.ndarray], opset: int) -> Path:
    """Write an .onnx file with the output y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, shape, TensorProto.BOOL if not shape else TensorProto.FLOAT) for name, shape in shapes.items()],
        [info("y", None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(FOREIGN_DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), path)
    return path


def streaming(path: Path) -> Path:
    """A network with a state of (1, 3, 4) int8: written before the first inference, then read, extended and written."""
    handle, once = schema.VarHandleOptionsT(), schema.CallOnceOptionsT()
    handle.sharedName, once.initSubgraphIndex = "states", 1
    state = ((1, 3, 4), "INT8", None)
    start = (
        [((), "RESOURCE", None), ((1, 3, 4), "INT8", ones(1, 3, 4))],
        [("VAR_HANDLE", [], [0], handle), ("ASSIGN_VARIABLE", [0, 1], [], schema.AssignVariableOptionsT())],
        [],
        [],
    )
    return tflite_file(
        path,
        [((1, 3, 4), "INT8", None), ((), "RESOURCE", None), state, ((1, 5, 12), "INT8", ones(1, 5, 12)), state],
        [
            ("CALL_ONCE", [], [], once),
            ("VAR_HANDLE", [], [1], handle),
            ("READ_VARIABLE", [1], [2], schema.ReadVariableOptionsT()),
            ("ADD", [0, 2], [4], schema.AddOptionsT()),
            ("ASSIGN_VARIABLE", [1, 4], [], schema.AssignVariableOptionsT()),
        ],
        [0],
        [4],
        start,
    )


def test_what_a_streaming_network_does_once_counts_once(tmp_path, run, counts):
    model = streaming(tmp_path / "m.tflite")
    status, out, err = run(model)
    assert (status, err, out.splitlines()[0]) == (0, "", "dcase2023: ok")
    assert run(model, "--target", "cortex-m7")[0] == 0
    document = counts(model)
    assert document["unknown"] == []
    assert document["conventions"]["exact"] == {"macs": 0, "params": 12, "param_bytes": 12}
    assert document["peak_activation_bytes"] == 12 * (1 + 3)  # the variable for ever, then two inputs and an output
    assert {each["why"] for each in document["differences"] if each["layer"] == "CALL_ONCE"} == {
        "1 constant of the subgraphs that it runs, which NeSsi does not read"
    }


def test_a_subgraph_that_an_op_runs_once_costs_what_is_in_it(tmp_path, counts):
    call, composite = schema.CallOptionsT(), schema.StableHLOCompositeOptionsT()
    call.subgraph, composite.name, composite.decompositionSubgraphIndex = 2, "odml.scaled_dot_product_attention", 1
    values = ((1, 8), "FLOAT32", None)
    outer = ([values, values], [("CALL", [0], [1], call)], [0], [1])
    dense = ("FULLY_CONNECTED", [0, 1, -1], [2], schema.FullyConnectedOptionsT())
    inner = ([values, ((8, 8), "INT8", ones(8, 8)), values], [dense], [0], [2])
    twice = [("STABLEHLO_COMPOSITE", [0], [1], composite), ("STABLEHLO_COMPOSITE", [1], [2], composite)]
    model = tflite_file(tmp_path / "m.tflite", [values, values, values], twice, [0], [2], outer, inner)
    document = counts(model)
    assert document["conventions"]["exact"] == {"macs": 2 * 64, "params": 64, "param_bytes": 64}
    assert document["unknown"] == []


def test_weights_in_constant_nodes_and_in_branches_are_weights(tmp_path, counts):
    weight = ones(WIDE, WIDE, dtype=F32)

    def constant(name: str):
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(weight, name))

    def branch(name: str, nodes: list, constants: list):
        product = helper.make_node("MatMul", ["x", name], [f"{name}y"])
        return helper.make_graph([*nodes, product], name, [], [info(f"{name}y", [1, WIDE])], constants)

    nodes = [constant("w"), helper.make_node("MatMul", ["x", "w"], ["y"])]
    document = counts(onnx_model(tmp_path / "constant.onnx", nodes, {"x": [1, WIDE]}, {}, 17))
    assert document["conventions"]["exact"] == {"macs": WIDE**2, "params": WIDE**2, "param_bytes": 4 * WIDE**2}
    choice = helper.make_node(
        "If",
        ["c"],
        ["y"],
        then_branch=branch("a", [constant("a")], []),
        else_branch=branch("b", [], [numpy_helper.from_array(weight, "b")]),
    )
    document = counts(onnx_model(tmp_path / "branches.onnx", [choice], {"x": [1, WIDE], "c": []}, {}, 17))
    assert document["conventions"]["exact"]["params"] == 2 * WIDE**2
    assert [each["op"] for each in document["unknown"]] == ["If"]


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 23, reason="needs an onnx with Attention")
@pytest.mark.parametrize(
    ("shape", "heads"), [([1, 4, 50, 16], {}), ([1, 50, 64], {"q_num_heads": 4, "kv_num_heads": 4})]
)
def test_attention_costs_its_two_products(tmp_path, counts, shape, heads):
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **heads)
    document = counts(onnx_model(tmp_path / "m.onnx", [node], dict.fromkeys("qkv", shape), {}, 23))
    assert document["conventions"]["exact"]["macs"] == 2 * 4 * 50 * 50 * 16
    assert document["unknown"] == []


BINS, ROUNDS = 512, 9
REAL, COMPLEX = BINS * (ROUNDS - 1) + 2 * BINS, 2 * BINS * ROUNDS


@pytest.mark.parametrize(
    ("opset", "last", "inputs", "attributes", "expected"),
    [
        (17, 1, ["x"], {"axis": 1, "onesided": 1}, 8 * REAL),
        (17, 2, ["x"], {}, 8 * COMPLEX),
        (20, 1, ["x", "", "axis"], {"onesided": 1}, 8 * REAL),
    ],
)
def test_a_dft_costs_a_fast_transform(tmp_path, counts, opset, last, inputs, attributes, expected):
    node = helper.make_node("DFT", inputs, ["y"], **attributes)
    constants = {"axis": np.array(1)} if "axis" in inputs else {}
    document = counts(onnx_model(tmp_path / "m.onnx", [node], {"x": [8, BINS, last]}, constants, opset))
    assert document["conventions"]["exact"]["macs"] == expected


def test_an_stft_costs_window_and_transform_of_each_frame(tmp_path, counts):
    node = helper.make_node("STFT", ["x", "step", "window"], ["y"])
    constants = {"step": np.array(256), "window": ones(BINS, dtype=F32)}
    document = counts(onnx_model(tmp_path / "m.onnx", [node], {"x": [1, 5 * BINS, 1]}, constants, 17))
    assert document["conventions"]["exact"]["macs"] == 9 * (BINS + REAL)


def test_an_op_that_multiplies_by_an_unknown_rule_is_not_counted_as_0(tmp_path, run):
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain=FOREIGN_DOMAIN, num_heads=4)
    status, out, err = run(onnx_model(tmp_path / "m.onnx", [node], {name: [1, 50, 64] for name in "qkv"}, {}, 17))
    assert status == 1
    assert out.splitlines()[0] == "dcase2023: macs unknown"
    assert "not counted" in out.splitlines()[-1]
    assert f"no rule counts the MACs of {FOREIGN_DOMAIN}.MultiHeadAttention" in err
    assert "over budget" not in out


def test_free_dimensions_get_their_sizes_by_an_option(tmp_path, run, counts):
    node = helper.make_node("Conv", ["x", "k"], ["y"])
    model = onnx_model(tmp_path / "m.onnx", [node], {"x": ["N", 1, "T"]}, {"k": ones(8, 1, 9, dtype=F32)}, 17)
    status, _, err = run(model)
    assert status == 2
    assert "--shape x=1,1,N" in err
    assert counts(model, "--shape", "x=1,1,108")["conventions"]["exact"]["macs"] == 100 * 8 * 9
    assert counts(model, "--shape", "x=2,1,108")["conventions"]["exact"]["macs"] == 2 * 100 * 8 * 9


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("x=1,2,16", "N,1,T"),
        ("x=1,16", "N,1,T"),
        ("z=1,1,16", "'x'|x"),
        ("x=1,1,T", "NAME=SIZES"),
        ("1,1,16", "NAME=SIZES"),
    ],
)
def test_shapes_that_the_file_cannot_have_are_refused(tmp_path, run, shape, words):
    node = helper.make_node("Relu", ["x"], ["y"])
    model = onnx_model(tmp_path / "m.onnx", [node], {"x": ["N", 1, "T"]}, {}, 17)
    status, out, err = run(model, "--shape", shape)
    assert (status, out) == (2, "")
    assert shape.partition("=")[0] in err
    assert any(word in err for word in words.split("|"))


def test_a_dimension_named_in_several_inputs_has_one_size(tmp_path, counts):
    node = helper.make_node("Add", ["a", "b"], ["y"])
    model = onnx_model(tmp_path / "m.onnx", [node], {"a": [1, "T"], "b": [1, "T"]}, {}, 17)
    assert counts(model, "--shape", "b=1,30")["layers"][0]["input"] == [1, 30]


@pytest.mark.parametrize("missing", [True, False])
def test_weights_in_another_file_are_told(tmp_path, run, counts, missing):
    weight = ones(40, 10, dtype=F32)
    path = onnx_model(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 40]}, {"w": weight}, 17
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    if missing:
        (tmp_path / "m.data").unlink()
    assert ("m.data: 1,600 bytes, MISSING" in run(path)[1]) == missing
    document = counts(path)
    assert document["external"] == [{"file": "m.data", "bytes": 1600, "missing": missing}]
    assert document["file_bytes"] == path.stat().st_size + 1600
    assert "m.data" in run(path)[1]
    assert "m.data" in run(path, "--format", "markdown")[1]


HOSTILE = "n\x1b]0;title\x07\r\ndcase2023: ok\x9b2J\u202e"


@pytest.mark.parametrize("kind", ["table", "json", "markdown", "junit", "badge"])
def test_names_from_a_file_neither_control_a_terminal_nor_forge_a_line(tmp_path, run, kind):
    node = helper.make_node(f"{HOSTILE}MatMul", ["x", HOSTILE], ["y"], name=HOSTILE, domain=FOREIGN_DOMAIN)
    model = onnx_model(tmp_path / "m.onnx", [node], {"x": [1, 4]}, {HOSTILE: ones(4, 4, dtype=F32)}, 17)
    status, out, err = run(model, "--format", kind)
    assert status == 1
    assert not {*"\x1b\x07\r\x9b\u202e"} & {*out, *err}
    assert "dcase2023: ok" not in out.splitlines()
    assert err.count("\n") == 1


def test_an_error_that_quotes_a_file_is_one_short_line_without_escapes(tmp_path, run):
    node = helper.make_node("MatMul", ["x", HOSTILE], ["y"], name=HOSTILE * 2000)
    model = onnx_model(tmp_path / "m.onnx", [node], {"x": [1, 5]}, {HOSTILE: ones(4, 4, dtype=F32)}, 17)
    status, out, err = run(model)
    assert (status, out) == (2, "")
    assert "m.onnx: the ONNX graph is inconsistent" in err
    assert not {*"\x1b\x07\r\x9b\u202e"} & {*err}
    assert err.count("\n") == 1
    assert len(err) < 5000
