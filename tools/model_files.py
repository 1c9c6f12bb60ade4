"""Builds small model files by hand, for tests and as seeds of the fuzzer: .tflite by the schema, .onnx by its
helpers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
FOREIGN_DOMAIN = "com.microsoft"


def ones(*shape: int, dtype: Any = np.int8) -> np.ndarray:
    """An array of ones."""
    return np.ones(shape, dtype)


def tflite_file(
    path: Path, tensors: list[tuple], operators: list[tuple], inputs: list[int], outputs: list[int], *more: tuple
) -> Path:
    """Write a .tflite file.

    Args:
        tensors: (shape, dtype name, constant array or None, changes of the table such as isVariable).
        operators: (op name, inputs, outputs, options); CUSTOM:name for custom ones.
        more: further subgraphs, each (tensors, operators, inputs, outputs).
    """
    model = schema.ModelT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    model.subgraphs = [_subgraph(model, *each) for each in ((tensors, operators, inputs, outputs), *more)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _subgraph(model: Any, tensors: list[tuple], operators: list[tuple], inputs: list[int], outputs: list[int]) -> Any:
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], inputs, outputs
    for index, (shape, dtype, values, *changes) in enumerate(tensors):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"t{index}", list(shape), getattr(schema.TensorType, dtype)
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        for field, value in (changes[0] if changes else {}).items():
            setattr(tensor, field, value)
        graph.tensors.append(tensor)
    for full_name, reads, writes, options in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        name, _, custom = full_name.partition(":")
        code.builtinCode, code.customCode = getattr(schema.BuiltinOperator, name), custom or None
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), reads, writes
        if options is not None:
            table = type(options).__name__[:-1]
            if table in vars(schema.BuiltinOptions):
                operator.builtinOptions, operator.builtinOptionsType = options, getattr(schema.BuiltinOptions, table)
            else:
                operator.builtinOptions2, operator.builtinOptions2Type = options, getattr(schema.BuiltinOptions2, table)
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    return graph


def quantised(scale: Sequence[float], axis: int = 0) -> dict[str, Any]:
    """Changes of a tensor's table that give it scales."""
    table = schema.QuantizationParametersT()
    table.scale, table.zeroPoint, table.quantizedDimension = list(scale), [0] * len(scale), axis
    return {"quantization": table}


def onnx_file(
    path: Path,
    nodes: list,
    constants: dict[str, np.ndarray],
    shape: Sequence[int | str],
    output: str = "logits",
    **more: Any,
) -> Path:
    """Write an .onnx file with one float input. more: arguments of `helper.make_graph`."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        **more,
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(FOREIGN_DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION), path)
    return path
