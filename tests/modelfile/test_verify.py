"""`edgekd verify` on the tone model: what it prints, and what makes it fail."""

import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgekd.cli import app
from edgekd.errors import GateError, InputError
from edgekd.modelfile import container, golden
from edgekd.modelfile.manifest import TensorQuant
from edgekd.modelfile.verify import verify
from edgekd.qgraph import onnx, reference, tflite

STEP = 0.1


@pytest.fixture(scope="module")
def golden_models(tone_fixtures, tmp_path_factory):
    """{"litert": .tflite, "onnxruntime": .onnx} with golden vectors of the reference."""
    graph, folder = tone_fixtures.low_or_high_graph(), tmp_path_factory.mktemp("golden")
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    quant = TensorQuant("int8", source.scale, source.zero_point)
    vectors = golden.make(
        tone_fixtures.FRONTEND,
        tone_fixtures.WINDOW,
        quant,
        STEP,
        lambda features: reference.dequantize(
            reference.run(graph, reference.quantize(features[:, None], source)), output
        ),
    )
    paths = {"litert": folder / "tones.int8.tflite", "onnxruntime": folder / "tones.int8.onnx"}
    container.write(paths["litert"], tflite.emit(graph), tone_fixtures.manifest_for(golden=vectors))
    container.write(
        paths["onnxruntime"], onnx.emit(graph), tone_fixtures.manifest_for(shift=128, dtype="uint8", golden=vectors)
    )
    return paths


def rewritten(path, target, change):
    """A copy of a model file whose manifest's golden vectors were changed."""
    file = container.read(path)
    container.write(target, file.content, msgspec.structs.replace(file.manifest, golden=change(file.manifest.golden)))
    return target


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_json_holds_the_documented_fields(golden_models, engine):
    result = CliRunner().invoke(app, ["verify", str(golden_models[engine]), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert set(document) == {"model", "ok", "features_max_error", "engines", "input_agreement", "vectors"}
    assert document["model"] == str(golden_models[engine])
    assert document["ok"] is True
    assert document["features_max_error"] < 1e-6
    assert document["engines"] == {engine: {"max_steps": 0.0, "label_agreement": 1.0}}
    assert (document["input_agreement"], document["vectors"]) == (1.0, golden.VECTORS)


def test_the_text_names_each_figure_and_its_limit(golden_models):
    lines = CliRunner().invoke(app, ["verify", str(golden_models["litert"]), "--engine", "litert"]).stdout.splitlines()
    assert lines[0].endswith("4 golden waveforms")
    assert lines[1].split()[0] == "features"
    assert "(limit 0.0001)" in lines[1]
    assert "at most 0 steps away (limit 1), same label in 100.0 %" in lines[3]
    assert lines[-1].endswith(": ok")


def shifted(steps):
    def change(kept):
        vectors = tuple(
            msgspec.structs.replace(each, logits=(each.logits[0] + steps, each.logits[1])) for each in kept.vectors
        )
        return msgspec.structs.replace(kept, vectors=vectors)

    return change


@pytest.mark.parametrize(
    ("engine", "steps", "ok"),
    [("litert", 1, True), ("litert", 2, False), ("onnxruntime", 2, True), ("onnxruntime", 3, False)],
)
def test_an_engine_may_be_one_step_away_onnx_runtime_two(golden_models, tmp_path, engine, steps, ok):
    path = rewritten(golden_models[engine], tmp_path / golden_models[engine].name, shifted(steps))
    report = verify(path)
    assert report.engines[engine].max_steps == steps
    assert json.loads(report.to_json())["ok"] is ok
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert (result.exception is None) is ok
    if not ok:
        assert isinstance(result.exception, GateError)
        assert f"{engine} is {steps} steps away" in str(result.exception)
        assert result.stdout.rstrip().endswith("differs")


def test_other_features_fail(golden_models, tmp_path):
    def change(kept):
        probes = [(np.frombuffer(each.probes, np.float32) + np.float32(1e-4)).tobytes() for each in kept.vectors]
        return msgspec.structs.replace(
            kept,
            vectors=tuple(
                msgspec.structs.replace(each, probes=raw) for each, raw in zip(kept.vectors, probes, strict=True)
            ),
        )

    report = verify(rewritten(golden_models["litert"], tmp_path / "m.tflite", change))
    assert report.features_max_error == pytest.approx(4e-4, rel=0.05)  # in log units: the front end divides by 4
    with pytest.raises(GateError, match=r"the features are 0\.0004 log units away"):
        report.require()


def test_a_file_of_manifest_format_1_opens_but_has_no_golden_vectors(golden_models, tmp_path):
    file = container.read(golden_models["litert"])
    old = msgspec.to_builtins(file.manifest)
    del old["golden"], old["calibration"]
    path = tmp_path / "old.tflite"
    encoded = msgspec.json.encode({**old, "format_version": 1})
    path.write_bytes(container.sealed(".tflite", file.content, encoded))
    assert container.read(path).manifest == msgspec.structs.replace(file.manifest, golden=None)
    with pytest.raises(InputError, match=r"old\.tflite: carries no golden vectors"):
        verify(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.tflite"], "cannot be read"),
        (["MODEL", "--engine", "onnxruntime"], "does not open .tflite"),
        (["MODEL", "--engine", "litrt"], "did you mean 'litert'"),
    ],
)
def test_wrong_input_is_another_error_than_a_failed_check(golden_models, arguments, message):
    words = [str(golden_models["litert"]) if each == "MODEL" else each for each in arguments]
    result = CliRunner().invoke(app, ["verify", *words])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
