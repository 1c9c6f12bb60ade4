"""`check` and `info` on a file with a manifest, and on the same file damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.complexity.check import CheckOptions, check, render, require_ok
from edgekd.complexity.counts import frontend_macs
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile import container
from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.qgraph import onnx, tflite
from edgekd.qgraph.graph import ConvOp, Edge, QGraph
from edgekd.report.model_info import info

LABELS = tuple(f"label{index}" for index in range(14))
MACS = 2 * 128 * 14 + 14 * 2 * 128 * 14
EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Manifest(
        name="toy",
        student="linear",
        precision="int8",
        labels=LABELS,
        frontend=FrontEnd(mean=-3.5, std=2.0),
        window=16_000,
        input=TensorQuant("int8", 0.05, 0),
        output=TensorQuant("int8", 0.1, 3),
        counts=GraphCounts(MACS, MACS + 14, MACS + 56),
        provenance=Provenance(
            "toy-recipe",
            "abc123",
            "scenes",
            "def456",
            "CC0",
            True,
            "0.1.0",
            "2025-01-01T00:00:00Z",
            ("teacher-1",),
            {"float_clip_accuracy": 0.5},
        ),
    )


@pytest.fixture(params=EMITTERS)
def model(request: pytest.FixtureRequest, tmp_path: Path, manifest: Manifest) -> Path:
    rng = np.random.default_rng(0)
    stem = ConvOp(
        "stem",
        "input",
        "stem",
        np.array([[[[1]]], [[[2]]]], np.int8),
        np.full(2, 0.01, np.float32),
        np.arange(2, dtype=np.int32),
        stride=(2, 2),
    )
    dense = ConvOp(
        "dense",
        "stem",
        "head",
        rng.integers(-127, 128, (14, 2, 128, 14)).astype(np.int8),
        np.full(14, 0.01, np.float32),
        np.arange(14, dtype=np.int32),
    )
    edges = {
        edge.name: edge
        for edge in (
            Edge("input", (1, 256, 28), 0.05, 0),
            Edge("stem", (2, 128, 14), 0.05, 0),
            Edge("head", (14, 1, 1), 0.1, 3),
        )
    }
    graph = QGraph(edges, (stem, dense), "input", "head")
    path = tmp_path / f"toy.{request.param}"
    container.write(path, EMITTERS[request.param](graph), manifest)
    return path


def test_check_reads_the_front_end_from_the_manifest(model, manifest):
    checked = check([model], CheckOptions())
    document = json.loads(render(checked, "json"))
    assert document["frontend_macs"] == frontend_macs(manifest.frontend, manifest.window) > 0
    assert document["file_bytes"] == model.stat().st_size
    assert document["conventions"]["exact"]["macs"] == MACS
    assert document["target"] == "dcase2023"
    assert checked[0].ok
    require_ok(checked)


def test_info_shows_the_manifest(model):
    text = info(model, as_json=False)
    for words in (
        "toy",
        "trained on synthetic data",
        "label0, label1",
        "(14 in all)",
        "16000 samples at 16000 Hz (1 s)",
        "256 x 28 log-mel (fant)",
        "0..8000 Hz",
        "int8, scale 0.1, zero point 3",
        "53,760 macs",
        "licence CC0",
        "toy-recipe (abc123)",
        "teacher-1",
        "float_clip_accuracy 0.5000",
    ):
        assert words in text


def test_info_json_is_the_manifest(model):
    document = json.loads(info(model, as_json=True))
    assert document["model"] == str(model)
    assert document["file_bytes"] == model.stat().st_size
    assert document["manifest"]["labels"] == list(LABELS)
    assert document["manifest"]["frontend"]["n_mels"] == 256
    assert document["manifest"]["counts"]["macs"] == MACS


def test_a_damaged_manifest_is_refused_by_both(model):
    model.write_bytes(model.read_bytes().replace(b'"labels"', b'"labelz"'))
    with pytest.raises(InputError, match=model.name):
        info(model, as_json=False)
    with pytest.raises(InputError, match=model.name):
        check([model], CheckOptions())
