"""`edgekd export` of a tiny untrained student whose run folder is made by hand."""

import importlib.util
import json
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edgekd import quant
from edgekd.cli import app
from edgekd.data.store.clips import Clip
from edgekd.errors import GateError, InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.export import executions, export
from edgekd.export import parity as parity_module
from edgekd.export.compare import Comparison
from edgekd.export.export import chosen_precision, export_run, lower_run
from edgekd.export.graph_manifest import count
from edgekd.export.parity import ParityOptions
from edgekd.frontend import FrontEnd
from edgekd.metrics.calibration import Fit
from edgekd.modelfile.container import read_manifest
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.verify import verify
from edgekd.models import build
from edgekd.qgraph import reference
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.claim import claim
from edgekd.train.run.folder import (
    MODEL_FILE,
    QAT_FILE,
    DataInfo,
    RunInfo,
    load_run,
    model_config,
    save_weights,
    write_info,
)

FRONTEND = {"n_mels": 32, "mean": -4.0, "std": 3.0}
LABELS = ("bus", "park", "tram")


def make_run(path, role="student"):
    """A finished run of random weights."""
    network = {
        "kind": "cp_resnet",
        "stem": 4,
        "widths": [4, 8],
        "kernels": [[3, 1], [1, 1]],
        "groups": [1, 1],
        "pools": [1],
    }
    recipe = decode(
        {"name": "tiny", "data": {"train": ["a"], "test": ["b"]}, "frontend": FRONTEND, role: network}, "tiny"
    )
    info = RunInfo(
        status="training",
        name="tiny",
        recipe_hash=recipe.hash,
        data=DataInfo("tones", "abc", "CC0", True),
        labels=LABELS,
        frontend=FrontEnd(**FRONTEND),
        window=16000,
        created="2024-01-01T00:00:00+00:00",
        edgekd_version="0",
    )
    claim(path, info, recipe, force=False, resume=False)
    torch.manual_seed(0)
    model = build(model_config(recipe), len(LABELS)).eval()
    save_weights(path / MODEL_FILE, model)
    if role == "student":
        qat = quant.to_qat(model)
        quant.calibrate(qat, [torch.randn(16, 1, 32, 28)])
        save_weights(path / QAT_FILE, qat)
    write_info(path, msgspec.structs.replace(info, status="finished", metrics={"qat_clip_accuracy": 0.5}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def test_both_files_carry_the_manifest_and_compute_the_graph(run, tmp_path):
    report = export_run(run, "int8", out=tmp_path / "m")
    assert [path.name for path in report.files] == ["tiny.int8.tflite", "tiny.int8.onnx"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["tiny.int8.onnx", "tiny.int8.tflite"]
    assert all(each.max_steps <= 2 for each in report.agreement.values())
    features = np.random.default_rng(1).standard_normal((4, 32, 28), np.float32)
    for path in report.files:
        model = open_model(path)
        assert model.logits(features).shape == (4, 3)
        manifest = model.manifest
        assert (manifest.name, manifest.student, manifest.precision, manifest.window) == (
            "tiny",
            "cp_resnet",
            "int8",
            16000,
        )
        assert manifest.labels == LABELS
        assert manifest.frontend == FrontEnd(**FRONTEND)
        assert manifest.counts == report.counts
        assert manifest.provenance.synthetic
        assert manifest.provenance.scores == {"qat_clip_accuracy": 0.5}
    assert [read_manifest(path).input.dtype for path in report.files] == ["int8", "uint8"]
    assert read_manifest(report.files[1]).input.zero_point == read_manifest(report.files[0]).input.zero_point + 128


def test_the_float_twin_is_near_the_integers(run, tmp_path):
    integers = export_run(run, "int8", "tflite", tmp_path / "m").files[0]
    twins = export_run(run, "float", out=tmp_path / "m").files
    assert [path.name for path in twins] == ["tiny.float.tflite", "tiny.float.onnx"]
    features = np.random.default_rng(1).standard_normal((16, 32, 28), np.float32)
    expected = open_model(integers).logits(features)
    for path in twins:
        logits = open_model(path).logits(features)
        assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)
        assert read_manifest(path).input.dtype == "float32"


def test_counts_follow_the_float_network(run):
    graph = lower_run(load_run(run))
    counts, twin = count(graph, "int8"), count(graph, "float")
    # stem 1x4x5x5; block 1: 3x3 and 1x1, 4 to 4; block 2: 1x1 4 to 8, 1x1 8 to 8, shortcut 4 to 8; dense 8 to 3; a bias
    # per output
    weights, biases = 100 + 144 + 16 + 32 + 64 + 32 + 24, 4 + 4 + 4 + 8 + 8 + 8 + 3
    assert (counts.params, counts.param_bytes) == (weights + biases, weights + 4 * biases)
    assert (twin.params, twin.param_bytes) == (counts.params, 4 * counts.params)
    assert counts.macs == twin.macs == (100 + 144 + 16) * 16 * 14 + (32 + 64 + 32) * 8 * 7 + 24


def test_files_are_replaced_only_with_force(run, tmp_path):
    export_run(run, "int8", "tflite", tmp_path)
    before = (tmp_path / "tiny.int8.tflite").read_bytes()
    with pytest.raises(InputError, match=r"tiny\.int8\.tflite exist .*--force"):
        export_run(run, "int8", "onnx,tflite", tmp_path)
    assert not (tmp_path / "tiny.int8.onnx").exists()
    assert (tmp_path / "tiny.int8.tflite").read_bytes() == before
    export_run(run, "int8", "tflite", tmp_path, force=True)


def test_files_go_into_the_run_by_default(tmp_path):
    run = make_run(tmp_path / "run")
    assert export_run(run, "int8", "onnx").files == (run / "export" / "tiny.int8.onnx",)


def test_nothing_is_kept_when_an_engine_disagrees(run, tmp_path, monkeypatch):
    true_run = executions.reference.run
    monkeypatch.setattr(executions.reference, "run", lambda graph, x: true_run(graph, x) // 2)
    (tmp_path / "tiny.int8.tflite").write_bytes(b"an older export")
    with pytest.raises(GateError, match="steps away from the graph"):
        export_run(run, "int8", "tflite", tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.int8.tflite"]
    assert (tmp_path / "tiny.int8.tflite").read_bytes() == b"an older export"


@pytest.mark.parametrize(
    ("formats", "message"), [("tflight", "'tflight' .*did you mean 'tflite'"), (" , ", "--format is empty")]
)
def test_unknown_formats_are_refused(run, tmp_path, formats, message):
    with pytest.raises(InputError, match=message):
        export_run(run, "int8", formats, tmp_path)


def test_exactly_one_precision_is_asked_for():
    assert chosen_precision(int8=True, as_float=False) == "int8"
    assert chosen_precision(int8=False, as_float=True) == "float"
    with pytest.raises(InputError, match="both of --int8 and --float"):
        chosen_precision(int8=True, as_float=True)
    with pytest.raises(InputError, match="neither of --int8 and --float"):
        chosen_precision(int8=False, as_float=False)


def test_a_teacher_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a teacher"):
        export_run(make_run(tmp_path / "teacher", "teacher"), "int8")


def test_a_run_without_quantised_weights_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    (run / QAT_FILE).unlink()
    with pytest.raises(InputError, match=r"qat\.epochs above 0"):
        export_run(run, "int8")
    assert not (run / "export").exists()


def test_a_file_in_place_of_the_folder_is_refused(run, tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(InputError, match="is a file"):
        export_run(run, "int8", out=tmp_path / "m")


def test_the_parity_tool_compares_every_pair(run, tmp_path, tone_fixtures, capsys):
    export_run(run, "int8", out=tmp_path / "m")
    clips = [(Clip(f"{label}.wav", label, "a"), tone_fixtures.tone("low", 2.0, rate=16000)) for label in LABELS]
    store = tone_fixtures.write_store(tmp_path / "store", clips, rate=16000)
    spec = importlib.util.spec_from_file_location("parity", Path(__file__).parents[2] / "tools" / "parity.py")
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    parity.main(run, tmp_path / "m", store.path, split=["a"], hop=0.5)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["windows"] == 9
    assert len(document["pairs"]) == 3
    assert all(pair["max_steps"] <= 2 for pair in document["pairs"].values())


def parity_store(tone_fixtures, path):
    """Two clips of each label in the test split b and in c; one in a, which was trained on."""
    clips = [
        (
            Clip(f"{split}{label}{i}.wav", label, split, recorder=f"r{i}"),
            tone_fixtures.tone(tone, 1.5, seed=i, rate=16000),
        )
        for split, count in (("a", 1), ("b", 2), ("c", 2))
        for label, tone in zip(LABELS, ("low", "high", "low"), strict=True)
        for i in range(count)
    ]
    return tone_fixtures.write_store(path, clips, rate=16000).path


@pytest.fixture(scope="module")
def lenient_run(tmp_path_factory):
    """A run whose thresholds an untrained network meets."""
    run = make_run(tmp_path_factory.mktemp("runs") / "lenient")
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(
        json.dumps({**recipe, "export": {"min_label_agreement": 0, "max_accuracy_drop": 1}})
    )
    return run


def test_files_carry_golden_vectors_of_the_reference(run, tmp_path):
    files = export_run(run, "int8", out=tmp_path).files
    graph = lower_run(load_run(run))
    for path in files:
        report = verify(path)
        assert report.failures == []
        assert report.features_max_error < 1e-6
        vectors = read_manifest(path).golden.vectors
        inputs = np.stack(
            [np.frombuffer(zlib.decompress(vector.input), np.int8).reshape(1, 32, 28) for vector in vectors]
        )
        expected = reference.run(graph, inputs).astype(int) - graph.edges[graph.output].zero_point
        assert [list(vector.logits) for vector in vectors] == expected.tolist()
    for path in export_run(run, "float", out=tmp_path).files:
        assert verify(path).failures == []


def test_a_file_that_would_not_verify_is_not_kept(run, tmp_path, monkeypatch):
    true_make = export.golden.make
    monkeypatch.setattr(
        export.golden,
        "make",
        lambda fe, window, source, step, expected: true_make(
            fe, window, source, step, lambda features: expected(features) + np.float32(4 * step)
        ),
    )
    with pytest.raises(GateError, match=r"tiny\.int8\.tflite: .*litert is 4 steps"):
        export_run(run, "int8", "tflite", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_ends_with_a_comparison_on_held_out_windows(lenient_run, tone_fixtures, tmp_path, monkeypatch):
    monkeypatch.setattr(parity_module, "fit", lambda *_: Fit(1.5, 0.2, 0.1, 2.0, 1.0))
    store = parity_store(tone_fixtures, tmp_path / "store")
    arguments = [
        "export",
        str(lenient_run),
        "--int8",
        "--out",
        str(tmp_path / "m"),
        "--data",
        str(store),
        "--hop",
        "0.5",
        "--json",
    ]
    result = CliRunner().invoke(app, [*arguments, "--calibrate-split", "c"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    parity = document["trial"]
    assert (document["ok"], parity["splits"], parity["windows"], len(document["files"])) == (True, ["b"], 12, 2)
    assert list(parity["scores"]) == ["float", "qat", "reference", "litert", "onnxruntime"]
    assert set(parity["scores"]["litert"]["per_recorder"]) == {"r0", "r1"}
    assert set(parity["scores"]["litert"]["per_label"]) == set(LABELS)
    assert set(parity["agreement"]) == {"qat", "litert", "onnxruntime"}
    assert parity["agreement"]["litert"]["max_steps"] <= 1
    for path in document["files"]:
        manifest = read_manifest(path)
        assert manifest.temperature == parity["temperature"] == 1.5
        assert (manifest.calibration.splits, manifest.calibration.windows, manifest.calibration.data) == (
            ("c",),
            12,
            "tones",
        )
    assert evaluate_file(Path(document["files"][0]), store, ["c"]).fitted_here
    assert not evaluate_file(Path(document["files"][0]), store, ["b"]).fitted_here


def test_the_temperature_stays_one_where_nobody_names_a_split(lenient_run, tone_fixtures, tmp_path):
    report = export_run(
        lenient_run,
        "float",
        "tflite",
        tmp_path / "m",
        parity=ParityOptions(parity_store(tone_fixtures, tmp_path / "store")),
    )
    manifest = read_manifest(report.files[0])
    assert (manifest.temperature, manifest.calibration) == (1.0, None)
    assert list(report.parity.comparison.scores) == ["float", "qat", "litert"]
    assert "no split was named to fit it on" in report.to_text()


def test_files_that_miss_a_threshold_are_reported_and_not_kept(lenient_run, tone_fixtures, tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "failures", lambda *_: ["litert: too far"])
    store = parity_store(tone_fixtures, tmp_path / "store")
    result = CliRunner().invoke(
        app, ["export", str(lenient_run), "--int8", "--out", str(tmp_path / "m"), "--data", str(store)]
    )
    assert isinstance(result.exception, GateError)
    assert str(result.exception).startswith("litert: too far; nothing was written")
    assert "clip accuracy per recorder" in result.stdout
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "b"], "--split without --data"),
        (["--calibrate-split", "b"], "--calibrate-split without --data"),
        (["--data", "STORE", "--split", "a"], "trained on split 'a'"),
        (["--data", "STORE", "--calibrate-split", "a"], "trained on split 'a'"),
        (["--data", "STORE", "--split", "bb"], "no split 'bb'; did you mean 'b'"),
        (["--data", "STORE", "--hop", "0"], "--hop is 0"),
        (["--data", "missing"], "missing does not exist"),
    ],
)
def test_parity_options_that_contradict_each_other_are_refused_before_anything_is_written(
    run, tone_fixtures, tmp_path, options, message
):
    store = parity_store(tone_fixtures, tmp_path / "store")
    arguments = [str(store) if each == "STORE" else each for each in options]
    result = CliRunner().invoke(app, ["export", str(run), "--int8", "--out", str(tmp_path / "m"), *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "m").exists()


def test_a_card_is_written_beside_the_files_and_printed_of_each(run, tmp_path):
    report = export_run(run, "int8", out=tmp_path, card=True)
    assert report.card == tmp_path / "tiny.int8.md"
    text = report.card.read_text()
    assert "Files: `tiny.int8.tflite`, `tiny.int8.onnx`." in text
    assert "qat\\_clip\\_accuracy | 0.5000" in text
    printed = CliRunner().invoke(app, ["info", str(tmp_path / "tiny.int8.onnx"), "--card"]).stdout
    assert printed.startswith("---\nlicense: cc0-1.0\n")
    assert "edgekd[onnx-runtime,mic]" in printed
    with pytest.raises(InputError, match=r"tiny\.int8\.md"):
        export_run(run, "int8", "onnx", tmp_path / ".", card=True)
    assert CliRunner().invoke(app, ["info", str(tmp_path / "tiny.int8.onnx"), "--card", "--json"]).exit_code != 0


def test_without_card_none_is_written(run, tmp_path):
    assert export_run(run, "int8", "onnx", tmp_path).card is None
    assert not list(tmp_path.glob("*.md"))
