"""The manifest of an exported file: complexity and quantisation of the graph, and where the student comes from."""

import datetime
import importlib.metadata
from typing import Literal

from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.qgraph.graph import ConstantOp, ConvOp, Edge, QGraph
from edgekd.train.run.folder import Run

Precision = Literal["int8", "float"]
INT8_BYTES, INT32_BYTES, FLOAT32_BYTES = 1, 4, 4
UINT8_SHIFT = 128
"""ONNX files hold int8 activations as uint8, shifted by this."""


def count(graph: QGraph, precision: Precision) -> GraphCounts:
    """Complexity of the graph's convolutions and dense layers: weights, biases and other trained constants, and exact
    MACs of one window.

    Pools have no parameters here, although an emitter may write them as convolutions with constant weights. `edgekd
    check` counts what a file contains.
    """
    weight_bytes, bias_bytes = (INT8_BYTES, INT32_BYTES) if precision == "int8" else (FLOAT32_BYTES, FLOAT32_BYTES)
    macs = params = param_bytes = 0
    for op in graph.ops:
        if isinstance(op, ConvOp):
            _, mel, frame = graph.edges[op.output].shape
            macs += op.weight.size * mel * frame
            params += op.weight.size + op.bias.size
            param_bytes += op.weight.size * weight_bytes + op.bias.size * bias_bytes
        elif isinstance(op, ConstantOp):
            params += op.value.size
            param_bytes += op.value.size * weight_bytes
    return GraphCounts(macs, params, param_bytes)


def manifest_of(run: Run, graph: QGraph, precision: Precision, kind: str) -> Manifest:
    """The manifest of a file of a run. kind: format of the file, "tflite" or "onnx"."""
    info, recipe = run.info, run.recipe
    return Manifest(
        name=recipe.name,
        student=str(recipe.model["kind"]),
        precision=precision,
        labels=info.labels,
        frontend=info.frontend,
        window=info.window,
        input=_file_quant(graph.edges[graph.input], precision, kind),
        output=_file_quant(graph.edges[graph.output], precision, kind),
        counts=count(graph, precision),
        spectrum=info.spectrum,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_hash=recipe.hash,
            data=info.data.name,
            data_hash=info.data.hash,
            data_licence=info.data.licence,
            synthetic=info.data.synthetic,
            edgekd_version=importlib.metadata.version("edgekd"),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            teachers=info.teachers,
            scores=info.metrics,
        ),
    )


def _file_quant(edge: Edge, precision: Precision, kind: str) -> TensorQuant:
    """How a file of one format holds an edge."""
    if precision == "float":
        return TensorQuant("float32", 1.0, 0)
    if kind == "onnx":
        return TensorQuant("uint8", edge.scale, edge.zero_point + UINT8_SHIFT)
    return int8_quant(edge)


def int8_quant(edge: Edge) -> TensorQuant:
    """How the graph holds an edge."""
    return TensorQuant("int8", edge.scale, edge.zero_point)
