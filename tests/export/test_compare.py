"""Executions of one student compared, with known faults."""

import msgspec
import numpy as np
import pytest

from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.export.compare import compare, fit, held_out, run_all
from edgekd.qgraph import reference
from edgekd.train.recipe.recipe import decode
from edgekd.train.recipe.schema import Export

STEP = 0.1


@pytest.fixture
def recipe():
    return decode({"name": "tones", "data": {"train": ["b"], "test": ["a"]}, "student": {"kind": "hand_made"}}, "test")


@pytest.fixture
def store(tone_store):
    return ClipStore.open(tone_store)


@pytest.fixture
def right(tone_fixtures):
    """The hand-made graph, always right on these tones."""
    graph = tone_fixtures.low_or_high_graph()
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    return lambda features: reference.dequantize(
        reference.run(graph, reference.quantize(features[:, None], source)), output
    )


@pytest.fixture
def windows(store, recipe, tone_fixtures):
    return held_out(store, recipe, tone_fixtures.manifest_for(), ["a"], 1.0)


def compared(windows, right, **engines):
    outputs = run_all(windows, {"float": right, "reference": right, **engines})
    return compare(windows, outputs, "reference", STEP, 1.0, integers=True)


def test_rows_that_agree_pass(windows, right):
    found = compared(windows, right, litert=right, onnxruntime=right)
    assert (found.windows, found.scores["litert"].windows.silent, found.scores["litert"].clips.accuracy) == (8, 2, 1.0)
    assert found.agreement["litert"].max_steps == 0
    assert set(found.agreement) == {"litert", "onnxruntime"}
    assert found.failures(Export()) == []
    text = found.to_text()
    assert "tones, split a: 4 clips, 8 windows and 2 silent ones" in text
    assert "clip accuracy per recorder" in text


def test_a_file_two_steps_away_is_too_far_for_litert_and_not_for_onnx_runtime(windows, right):
    def apart(features):
        return right(features) + np.float32(2 * STEP)

    found = compared(windows, right, litert=apart, onnxruntime=apart)
    assert found.failures(Export()) == ["litert: 2 steps from reference, more than 1"]
    assert len(found.failures(Export(max_steps=1))) == 2
    assert found.failures(Export(max_steps=2)) == []


def test_a_file_with_other_predictions_fails_on_accuracy_and_agreement(windows, right):
    found = compared(windows, right, litert=lambda features: right(features)[:, ::-1])
    steps, labels, accuracy = (
        "steps from reference",
        "the label of reference in 0.00 % of windows",
        "window accuracy 0.0000",
    )
    failures = found.failures(Export())
    assert [any(words in each for each in failures) for words in (steps, labels, accuracy)] == [True] * 3
    assert found.failures(Export(max_steps=255, min_label_agreement=0.0, max_accuracy_drop=1.0)) == []


def test_without_a_grid_only_engines_are_compared(windows, right):
    outputs = run_all(
        windows, {"float": right, "qat": right, "litert": right, "onnxruntime": lambda x: right(x) + np.float32(0.001)}
    )
    found = compare(windows, outputs, "litert", STEP, 1.0, integers=False)
    assert set(found.agreement) == {"onnxruntime"}
    assert found.agreement["onnxruntime"].max_steps == pytest.approx(0.01, rel=0.1)


def test_temperatures_are_fitted_on_windows_that_are_not_silent(windows, right):
    outputs = run_all(windows, {"reference": lambda features: np.sign(right(features)) * np.float32(0.1)})
    found = fit(windows, outputs.logits["reference"], outputs.silent)
    assert found.temperature < 0.1  # always right and hardly sure
    assert found.error_before > 0.4
    assert found.error_after < 0.01


def test_splits_that_were_trained_on_are_refused(store, recipe, tone_fixtures):
    with pytest.raises(InputError, match=r"split 'b'; .*for instance a"):
        held_out(store, recipe, tone_fixtures.manifest_for(), ["a", "b"], 1.0)


def test_another_data_set_may_name_its_splits_as_it_likes(store, recipe, tone_fixtures):
    manifest = tone_fixtures.manifest_for()
    other = msgspec.structs.replace(manifest, provenance=msgspec.structs.replace(manifest.provenance, data="other"))
    assert len(held_out(store, recipe, other, ["b"], 1.0).clips) == 2


def leaking_store(tone_fixtures, path):
    """Official folds: clip t1 shares its recording with h1, t2 with the test clip e1."""
    rows = [
        ("t1", "train", "r1"),
        ("t2", "train", "r2"),
        ("e1", "test", "r2"),
        ("h1", "spare", "r1"),
        ("h2", "spare", "r2"),
        ("h3", "spare", ""),
    ]
    with StoreWriter(
        path, name="tones", licence="CC0", sample_rate=tone_fixtures.RATE, channels=1, official_folds=True
    ) as writer:
        for name, split, group in rows:
            for label in tone_fixtures.LABELS:
                clip = Clip(f"{name}{label}.wav", label, split, group=group and group + label)
                writer.add(clip, tone_fixtures.tone(label, 1.0)[:, None])
        return writer.finish()


def test_clips_that_share_a_recording_with_training_are_left_out(tone_fixtures, tmp_path):
    store = leaking_store(tone_fixtures, tmp_path / "store")
    data = {"train": ["train"], "test": ["test"]}
    recipe = decode({"name": "tones", "data": data, "student": {"kind": "hand_made"}}, "test")
    held = held_out(store, recipe, tone_fixtures.manifest_for(), ["spare"], 1.0)
    # t2 was left out of training, so that h2 shares no recording with it
    assert {store.clips[index].path[:2] for index in held.clips} == {"h2", "h3"}
    assert held.left_out == 2
    assert len(set(held.groups())) == 4
    allowed = decode({"name": "tones", "data": {**data, "allow_leaks": True}, "student": {"kind": "hand_made"}}, "test")
    assert held_out(store, allowed, tone_fixtures.manifest_for(), ["spare"], 1.0).left_out == 0
