"""Writes small model files with constructs that no student of edgekd has, as seeds of `fuzz_model_reader.py`.

    python tools/fuzz_seeds.py DIR

Recurrent cells, dynamic quantisation, branches and loops, packed and sparse constants, unknown ops, and pools and
copies written as convolutions.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from model_files import FOREIGN_DOMAIN, ones, onnx_file, quantised, tflite_file
from onnx import TensorProto, helper, numpy_helper

STEPS, WIDTH, CELLS = 7, 5, 4
F32 = np.float32


def write(folder: Path) -> list[Path]:
    """Write all seeds; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = (_lstm, _loop, _custom, _packed, _emulated, _cells, _dynamic, _branches, _foreign)
    return [make(folder) for make in makers]


def _lstm(folder: Path) -> Path:
    state = {"isVariable": True}
    wide, back = ((CELLS, WIDTH), "INT8", ones(CELLS, WIDTH)), ((CELLS, CELLS), "INT8", ones(CELLS, CELLS))
    bias = ((CELLS,), "FLOAT32", ones(CELLS, dtype=F32))
    held = ((1, CELLS), "FLOAT32", None, state)
    tensors: list[tuple] = [
        ((1, STEPS, WIDTH), "FLOAT32", None),
        *[wide] * 4,
        *[back] * 4,
        *[bias] * 4,
        held,
        held,
        ((1, STEPS, CELLS), "FLOAT32", None),
    ]
    reads = [*range(9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14]
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    return tflite_file(
        folder / "lstm.tflite", tensors, [("UNIDIRECTIONAL_SEQUENCE_LSTM", reads, [15], options)], [0], [15]
    )


def _loop(folder: Path) -> Path:
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    value = ((1, 8), "FLOAT32", None)
    condition = ([value, ((1,), "BOOL", None)], [("LESS", [0, 0], [1], None)], [0], [1])
    body = (
        [value, ((8, 8), "INT8", ones(8, 8)), value],
        [("FULLY_CONNECTED", [0, 1, -1], [2], schema.FullyConnectedOptionsT())],
        [0],
        [2],
    )
    return tflite_file(
        folder / "loop.tflite", [value, value], [("WHILE", [0], [1], options)], [0], [1], condition, body
    )


def _custom(folder: Path) -> Path:
    tensors = [
        ((1, 8), "FLOAT32", None, {"shapeSignature": [-1, 8]}),
        ((10, 8), "FLOAT32", ones(10, 8, dtype=F32)),
        ((1, 10), "FLOAT32", None),
        ((1, 10), "FLOAT32", None),
    ]
    operators = [("CUSTOM:MyAttention", [0, 1], [2], None), ("RFFT2D", [2], [3], None)]
    return tflite_file(folder / "custom.tflite", tensors, operators, [0], [3])


def _packed(folder: Path) -> Path:
    tensors = [
        ((1, 8), "FLOAT32", None),
        ((8, 8), "FLOAT16", ones(8, 8, dtype=np.float16)),
        ((8, 8), "FLOAT32", None),
        ((1, 8), "FLOAT32", None),
        ((4, 8), "INT4", ones(16, dtype=np.uint8)),
        ((1, 4), "FLOAT32", None),
    ]
    dense = schema.FullyConnectedOptionsT()
    operators = [
        ("DEQUANTIZE", [1], [2], None),
        ("FULLY_CONNECTED", [0, 2, -1], [3], dense),
        ("FULLY_CONNECTED", [3, 4, -1], [5], dense),
    ]
    return tflite_file(folder / "packed.tflite", tensors, operators, [0], [5])


def _emulated(folder: Path) -> Path:
    pool = quantised([1 / 6] * 4, 3)
    tensors = [
        ((1, 6, 4, 4), "INT8", None),
        ((1, 3, 2, 4), "INT8", ones(1, 3, 2, 4), pool),
        ((4,), "INT32", np.zeros(4, np.int32)),
        ((1, 4, 3, 4), "INT8", None),
    ]
    options = schema.DepthwiseConv2DOptionsT()
    return tflite_file(folder / "emulated.tflite", tensors, [("DEPTHWISE_CONV_2D", [0, 1, 2], [3], options)], [0], [3])


def _cells(folder: Path) -> Path:
    def weights(prefix: str, width: int, gates: int) -> dict[str, Any]:
        return {
            f"{prefix}w": ones(2, gates * CELLS, width, dtype=F32),
            f"{prefix}r": ones(2, gates * CELLS, CELLS, dtype=F32),
            f"{prefix}b": np.zeros((2, 2 * gates * CELLS), F32),
        }

    both = {"hidden_size": CELLS, "direction": "bidirectional"}
    nodes = [
        helper.make_node("GRU", ["input", "gw", "gr", "gb"], ["a"], **both),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("LSTM", ["c", "lw", "lr", "lb"], ["d"], **both),
        helper.make_node("ReduceMean", ["d"], ["e"], axes=[0, 1], keepdims=0),
        helper.make_node("Einsum", ["e", "k"], ["logits"], equation="bi,io->bo"),
    ]
    constants = {
        **weights("g", WIDTH, 3),
        **weights("l", 2 * CELLS, 4),
        "shape": np.array([STEPS, 1, 2 * CELLS]),
        "k": ones(CELLS, 3, dtype=F32),
    }
    return onnx_file(folder / "cells.onnx", nodes, constants, (STEPS, 1, WIDTH))


def _dynamic(folder: Path) -> Path:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["input"], ["q", "s", "z"]),
        helper.make_node("ConvInteger", ["q", "conv", "z"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "scale"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["d"]),
        helper.make_node("DequantizeLinear", ["pool", "third", "zero"], ["p"]),
        helper.make_node("Conv", ["d", "p"], ["logits"], group=3),
    ]
    constants = {
        "conv": ones(3, 2, 3, 3),
        "scale": np.array(0.1, F32),
        "pool": ones(3, 1, 3, 1),
        "third": np.array(1 / 3, F32),
        "zero": np.array(0, np.int8),
    }
    return onnx_file(folder / "dynamic.onnx", nodes, constants, ("batch", 2, 8, 6))


def _branches(folder: Path) -> Path:
    def branch(name: str, own: list[TensorProto]) -> Any:
        return helper.make_graph(
            [helper.make_node("MatMul", ["input", own[0].name if own else "outer"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])],
            own,
        )

    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1, 2], F32), "thin"),
        numpy_helper.from_array(np.array([0, 1], np.int64), "places"),
        [2],
    )
    nodes = [
        helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["big"]),
        helper.make_node(
            "If",
            ["big"],
            ["a"],
            then_branch=branch("x", [numpy_helper.from_array(ones(4, 2, dtype=F32), "own")]),
            else_branch=branch("y", []),
        ),
        helper.make_node("Constant", [], ["thin2"], sparse_value=sparse),
        helper.make_node("Constant", [], ["two"], value_floats=[1.0, 0.0]),
        helper.make_node("Add", ["a", "thin2"], ["b"]),
        helper.make_node("Add", ["b", "two"], ["logits"]),
    ]
    return onnx_file(
        folder / "branches.onnx", nodes, {"limit": np.array(0, F32), "outer": ones(4, 2, dtype=F32)}, (1, 4)
    )


def _foreign(folder: Path) -> Path:
    nodes = [
        helper.make_node("FusedConv", ["input", "w"], ["a"], domain=FOREIGN_DOMAIN),
        helper.make_node("Conv", ["a", "k"], ["b"]),
        helper.make_node("FusedConv", ["b", "w"], ["c"], domain=FOREIGN_DOMAIN),
        helper.make_node("Conv", ["c", "k"], ["logits"]),
    ]
    known = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4, 8, 6])]
    return onnx_file(
        folder / "foreign.onnx",
        nodes,
        {"w": ones(4, 4, 1, 1, dtype=F32), "k": ones(4, 4, 3, 3, dtype=F32)},
        (1, 4, 8, 6),
        value_info=known,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python tools/fuzz_seeds.py DIR", file=sys.stderr)
        sys.exit(2)
    print(*write(Path(sys.argv[1])))
