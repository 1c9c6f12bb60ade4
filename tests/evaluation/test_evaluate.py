"""`edgekd evaluate` on a store of tones with a model whose predictions are known."""

import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgekd.cli import app
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.modelfile import container
from edgekd.qgraph import tflite


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_scores_are_those_of_the_exported_file(tone_models, tone_store, engine):
    report = evaluate_file(tone_models[engine], tone_store, ["a"])
    assert report.engine == engine
    # 2.5 s clips hold two whole windows; the silent clip of 2 s holds two silent ones
    assert (report.scores.windows.count, report.scores.windows.silent, report.scores.windows.accuracy) == (8, 2, 1.0)
    assert (report.scores.clips.count, report.scores.clips.silent, report.scores.clips.accuracy) == (4, 1, 1.0)
    assert report.scores.per_recorder == {"r0": 1.0, "r1": 1.0}


def test_a_clip_shorter_than_a_window_is_padded_and_silent_windows_do_not_count(tone_model, tone_store):
    scores = evaluate_file(tone_model, tone_store, ["b"]).scores
    assert (scores.windows.count, scores.windows.silent) == (2, 1)
    assert scores.clips.accuracy == 0.5
    assert scores.confusion.tolist() == [[0, 0], [1, 1]]


def test_hop_sets_the_windows(tone_model, tone_store):
    scores = evaluate_file(tone_model, tone_store, ["a"], hop=0.5).scores
    assert scores.windows.count == 16  # starts at 0, 0.5, 1.0 and 1.5 s of four clips


def test_all_clips_are_scored_when_no_split_is_named(tone_model, tone_store):
    report = evaluate_file(tone_model, tone_store)
    assert report.split == "all"
    assert report.scores.clips.count + report.scores.clips.silent == 7
    assert "all clips, whatever their split" in report.to_text()


def test_a_warning_comes_with_scores_on_the_clips_of_the_training(tone_model, tone_store, tone_fixtures, tmp_path):
    manifest = tone_fixtures.manifest_for()
    provenance = msgspec.structs.replace(manifest.provenance, data_hash=ClipStore.open(tone_store).hash)
    own = msgspec.structs.replace(manifest, provenance=provenance)
    container.write(tmp_path / "own.tflite", tflite.emit(tone_fixtures.low_or_high_graph()), own)
    warning = "the model was trained on some of these clips"
    page = tmp_path / "report.html"
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "own.tflite"), "--data", str(tone_store), "--report", str(page)]
    )
    assert warning in result.stdout
    assert warning in page.read_text().replace("The model", "the model")
    assert warning not in evaluate_file(tmp_path / "own.tflite", tone_store, ["b"]).to_text()
    assert warning not in evaluate_file(tone_model, tone_store).to_text()  # trained on another store


def test_json_holds_the_documented_fields_and_nothing_else_is_printed(tone_model, tone_store):
    result = CliRunner().invoke(
        app, ["evaluate", str(tone_model), "--data", str(tone_store), "--split", "a", "--split", "b", "--json"]
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert set(document) == {
        "model",
        "split",
        "engine",
        "windows",
        "clips",
        "per_label",
        "per_recorder",
        "temperature",
        "temperature_fitted_here",
    }
    assert document["split"] == "a,b"
    assert (
        set(document["windows"])
        == set(document["clips"])
        == {"count", "silent", "accuracy", "macro_accuracy", "log_loss", "calibration_error"}
    )
    assert document["per_label"] == {"high": 1.0, "low": 0.75}


def test_accuracy_below_the_gate_fails_and_above_passes(tone_model, tone_store):
    report = evaluate_file(tone_model, tone_store, ["b"], min_accuracy=0.5)
    report.require(0.5)
    report.require(None)
    with pytest.raises(GateError, match=r"0\.5000 .*--min-accuracy 0\.6"):
        report.require(0.6)


def test_percentages_are_refused_as_a_gate(tone_model, tone_store):
    with pytest.raises(InputError, match="--min-accuracy is 70"):
        evaluate_file(tone_model, tone_store, min_accuracy=70)


def test_an_unknown_split_names_the_nearest(tone_model, tone_store):
    with pytest.raises(InputError, match="no split 'aa'; did you mean 'a'"):
        evaluate_file(tone_model, tone_store, ["aa"])


@pytest.mark.parametrize("hop", [0.0, -1.0, float("nan"), float("inf"), 1e308])
def test_a_hop_that_is_no_time_is_refused(tone_model, tone_store, hop):
    with pytest.raises(InputError, match="--hop"):
        evaluate_file(tone_model, tone_store, hop=hop)


def test_another_sample_rate_is_refused(tone_model, tone_fixtures, tmp_path):
    store = tone_fixtures.write_store(
        tmp_path / "fast", [(Clip("a.wav", "low", "a"), tone_fixtures.tone("low", 1.0))], rate=16000
    )
    with pytest.raises(InputError, match=r"16000 Hz.*--sample-rate 8000"):
        evaluate_file(tone_model, store.path)


def test_labels_that_the_model_does_not_know_are_refused(tone_model, tone_fixtures, tmp_path):
    store = tone_fixtures.write_store(
        tmp_path / "other", [(Clip("a.wav", "middle", "a"), tone_fixtures.tone("low", 1.0))]
    )
    with pytest.raises(InputError, match="knows no label middle"):
        evaluate_file(tone_model, store.path)


def test_labels_are_matched_by_name_when_the_store_has_fewer(tone_fixtures, tmp_path):
    model = tmp_path / "three.tflite"
    store = tone_fixtures.write_store(tmp_path / "low", [(Clip("a.wav", "low", "a"), tone_fixtures.tone("low", 1.0))])
    container.write(model, tflite.emit(tone_fixtures.low_or_high_graph()), tone_fixtures.manifest_for())
    assert evaluate_file(model, store.path).scores.per_label == {"low": 1.0}


def test_nothing_but_silence_is_refused(tone_model, tone_fixtures, tmp_path):
    store = tone_fixtures.write_store(tmp_path / "silent", [(Clip("a.wav", "low", "a"), np.zeros(16000, np.int16))])
    with pytest.raises(InputError, match="digital silence"):
        evaluate_file(tone_model, store.path)
