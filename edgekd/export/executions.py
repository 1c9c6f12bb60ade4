"""The executions of one student, each from features to logits: the float network, the quantization-aware network, the
integer reference, and the files in their engines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.errors import GateError
from edgekd.export.graph_manifest import Precision
from edgekd.metrics.agreement import Agreement, agreement
from edgekd.modelfile.engine import Model, open_model
from edgekd.qgraph import reference
from edgekd.qgraph.graph import QGraph
from edgekd.train.run.folder import Run

Floats32 = NDArray[np.float32]
LogitsFunction = Callable[[Floats32], Floats32]
"""Features (batch, mel, frame) -> logits (batch, labels)."""

FLOAT, QAT, REFERENCE = "float", "qat", "reference"
"""Names of executions; a file has the name of its engine."""
MAX_STEPS = 2
"""Largest difference on noise between a file in its engine and the integer reference, in steps of the output's
scale."""
NOISE_WINDOWS = 64
"""Windows of seeded noise that every file is run on before it is kept."""
NOISE_SEED = 0


@dataclass(frozen=True)
class Executions:
    """The executions of one student.

    Attributes:
        logits: name -> features to logits.
        anchor: the name that logits are compared with, and on which the temperature is fitted.
        step: logit units of one step of the output.
        integers: whether all executions but the float network are on the same integer grid.
    """

    logits: Mapping[str, LogitsFunction]
    anchor: str
    step: float
    integers: bool


def executions(run: Run, graph: QGraph, files: Sequence[Model], precision: Precision) -> Executions:
    """Every execution of a student, from the float network to its files."""
    functions: dict[str, LogitsFunction] = {
        FLOAT: network_logits(run.float_model()),
        QAT: network_logits(run.qat_model()),
    }
    if precision == "int8":
        functions[REFERENCE] = reference_logits(graph)
    functions |= {model.engine: model.logits for model in files}
    return Executions(
        functions,
        REFERENCE if precision == "int8" else files[0].engine,
        graph.edges[graph.output].scale,
        integers=precision == "int8",
    )


def reference_logits(graph: QGraph) -> LogitsFunction:
    """The integer reference of a graph."""
    source, output = graph.edges[graph.input], graph.edges[graph.output]

    def logits(features: Floats32) -> Floats32:
        return reference.dequantize(reference.run(graph, reference.quantize(features[:, None], source)), output)

    return logits


def network_logits(network: nn.Module) -> LogitsFunction:
    """A torch network in eval mode."""

    def logits(features: Floats32) -> Floats32:
        with torch.inference_mode():
            computed: Floats32 = network(torch.from_numpy(features)[:, None]).float().numpy()
        return computed

    return logits


def check_agreement(graph: QGraph, paths: Sequence[Path], precision: Precision) -> dict[str, Agreement]:
    """Run files in their engines on seeded noise.

    Args:
        graph: that the files compute.
        paths: files with manifests.
        precision: int8 files are compared with the reference, float files with the first of them.

    Returns:
        File name -> agreement, in steps of the graph's output scale.

    Raises:
        GateError: logits differ by more than `MAX_STEPS`.
    """
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    # (windows, mel, frame)
    features = np.random.default_rng(NOISE_SEED).standard_normal((NOISE_WINDOWS, *source.shape[1:]), np.float32)
    logits = {path.name: open_model(path).logits(features) for path in paths}
    if precision == "int8":
        expected = reference_logits(graph)(features)
    else:
        name, expected = next(iter(logits.items()))
        del logits[name]
    rounded = np.rint if precision == "int8" else np.asarray
    agreed = {
        name: agreement(rounded(expected / output.scale), rounded(each / output.scale)) for name, each in logits.items()
    }
    for name, each in agreed.items():
        if round(each.max_steps, 2) > MAX_STEPS:
            raise GateError(
                f"{name}: its engine is {each.max_steps:.2f} steps away from the graph on noise, more than {MAX_STEPS};"
                " nothing was written"
            )
    return agreed
