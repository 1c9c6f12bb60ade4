"""How engines execute an emitted file: LiteRT's partitions and ONNX Runtime's fused graph."""

from collections import Counter
from pathlib import Path

import numpy as np

from edgekd.modelfile.engine import X64_PRECISION_KEY, has_vnni


def litert(model: bytes):
    """An allocated single-thread interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run_litert(model: bytes, x: np.ndarray) -> np.ndarray:
    """Logits (batch, labels) for x (batch, channel, mel, frame), window by window."""
    interpreter = litert(model)
    source, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    logits = []
    for window in x:
        interpreter.set_tensor(source, np.ascontiguousarray(window.transpose(1, 2, 0)[None]))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(output)[0])
    return np.array(logits)


def undelegated(model: bytes) -> list[str]:
    """Operators that keep a model from being one XNNPACK partition; empty when it is one.

    The operators replaced by the delegate stay in the list; so one partition means one delegate node that reads only
    the model's input and constants, and writes the model's output.
    """
    interpreter = litert(model)
    operators = interpreter._get_ops_details()
    delegates = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    if len(delegates) != 1:
        return [f"{len(delegates)} partitions"]
    written = {index for operator in operators if operator is not delegates[0] for index in operator["outputs"]}
    outputs = {detail["index"] for detail in interpreter.get_output_details()}
    reads = [
        operator["op_name"]
        for operator in operators
        if set(operator["outputs"]) & set(delegates[0]["inputs"]) & written
    ]
    return reads + [f"writes {index}" for index in set(delegates[0]["outputs"]) - outputs]


def run_onnx(model: bytes, x: np.ndarray) -> np.ndarray:
    """Logits (batch, labels) of ONNX Runtime for x in the type that the file reads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not has_vnni():
        options.add_session_config_entry(X64_PRECISION_KEY, "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def fused_ops(model: bytes, folder: Path) -> Counter[str]:
    """Operator counts of the graph as ONNX Runtime executes it."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that an optimised model is for this machine only
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
