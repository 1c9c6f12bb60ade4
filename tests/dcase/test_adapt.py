"""`edgekd adapt`: a model for each recorder, on tones that each recorder has at another pitch."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.trainings import RATE, recipe_dict, tone

from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.dcase.adapt import Tuning, adapt, recorder_recipe
from edgekd.errors import GateError, InputError
from edgekd.modelfile.engine import open_model
from edgekd.train.loop.training import Options, train
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.recipe.recipe import decode, load_recipe
from edgekd.train.run.folder import load_run

FAST = Options(threads=1, accelerator="cpu")
SHORT = Tuning(epochs=1, qat_epochs=1, min_clips=4, target="dcase2023")
CLIPS = {"a": {"x": 8, "y": 4, "z": 1}, "b": {"x": 4, "y": 2, "s": 2}}
"""Split -> recorder -> clips of each of three labels, but of z, which has one of one label."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "recorded"
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=RATE, channels=1, synthetic=True) as writer:
        for split, recorders in CLIPS.items():
            for recorder, count in recorders.items():
                for label, hertz in list({"high": 3000.0, "low": 300.0, "mid": 1000.0}.items())[
                    : 1 if recorder == "z" else None
                ]:
                    for number in range(count):
                        pcm = tone(
                            hertz * (0.8 if recorder == "y" else 1), 1.0, [len(split + recorder), number, int(hertz)]
                        )
                        writer.add(Clip(f"{split}/{recorder}{label}{number}.wav", label, split, recorder=recorder), pcm)
        return writer.finish()


@pytest.fixture(scope="module")
def student(store, tmp_path_factory):
    recipe = decode(recipe_dict(augment={}, train={"epochs": 2, "batch_size": 8}, qat={"epochs": 1}), "tones")
    return train(recipe, store, tmp_path_factory.mktemp("runs") / "student", options=FAST)


def test_recorders_filter_what_trains_and_not_what_tests(store):
    every = partition_clips(decode(recipe_dict(), ""), store)
    own = partition_clips(decode(recipe_dict(data={"recorders": ["x", "z"]}), ""), store)
    assert {store.clips[clip].recorder for clip in own.train} == {"x", "z"}
    assert (len(every.train), len(own.train)) == (37, 25)
    np.testing.assert_array_equal(own.test, every.test)


@pytest.mark.parametrize(
    ("recorder", "message"),
    [
        ("xx", "'xx' of data.recorders .*'x'"),
        ("s", "'s' of data.recorders .*x, y, z"),
    ],
)
def test_a_recorder_without_training_clips_is_refused(store, recorder, message):
    with pytest.raises(InputError, match=message):
        partition_clips(decode(recipe_dict(data={"recorders": [recorder]}), ""), store)


def test_recorders_change_the_hash_of_a_recipe():
    assert load_recipe("esc50-serfr32", ['data.recorders=["a"]']).hash != load_recipe("esc50-serfr32").hash


@pytest.mark.slow
def test_each_recorder_with_enough_clips_gets_a_model_and_goes_on(student, store, tmp_path):
    lines = []
    report = adapt(student.path, store.path, tmp_path / "out", tuning=SHORT, options=FAST, log=lines.append)
    assert lines == ["recorder 1 of 2: x, 24 training clips", "recorder 2 of 2: y, 12 training clips"]
    rows = {row.recorder: row for row in report.rows}
    assert {name: (row.train_clips, row.test_clips) for name, row in rows.items()} == {
        "s": (0, 6),
        "x": (24, 12),
        "y": (12, 6),
        "z": (1, 0),
    }
    assert rows["y"].difference.mean == pytest.approx(rows["y"].adapted.mean - rows["y"].general.mean)
    assert rows["s"].general is not None
    assert (rows["s"].adapted, rows["z"].general, rows["z"].adapted) == (None, None, None)
    index = json.loads((tmp_path / "out" / "models" / "index.json").read_bytes())
    assert (set(index["recorders"]), index["labels"]) == ({"x", "y"}, ["high", "low", "mid"])
    for files in (index["general"], *index["recorders"].values()):
        assert set(files) == {"tflite", "onnx"}
        assert open_model(tmp_path / "out" / "models" / files["tflite"]).manifest.labels == ("high", "low", "mid")
    run = load_run(tmp_path / "out" / "runs" / "y")
    assert run.info.init == student.weights_hash
    assert run.frontend == student.frontend
    assert run.weights_hash != student.weights_hash
    assert "| y | 12 | 6 |" in (tmp_path / "out" / "results.md").read_text()
    trained = (tmp_path / "out" / "runs" / "y" / "model.pt").stat().st_mtime_ns
    again = adapt(student.path, store.path, tmp_path / "out", tuning=SHORT, options=FAST, log=lines.append)
    assert again.rows == report.rows
    assert (tmp_path / "out" / "runs" / "y" / "model.pt").stat().st_mtime_ns == trained
    with pytest.raises(InputError, match=r"--lr \(0.0001, now 0.001\)"):
        adapt(
            student.path,
            store.path,
            tmp_path / "out",
            tuning=dataclasses.replace(SHORT, lr=1e-3),
            options=FAST,
            log=lines.append,
        )


def test_fine_tuning_keeps_the_front_end_and_begins_with_the_student(student):
    recipe = recorder_recipe(student, "s 1/2", Tuning(epochs=3, lr=1e-5))
    assert (recipe.name, recipe.data.recorders) == ("tones-student-s_1_2", ("s 1/2",))
    assert (recipe.frontend, recipe.normalize) == (student.frontend, False)
    assert (recipe.train.epochs, recipe.train.lr, recipe.init.run) == (3, 1e-5, str(student.path.resolve()))


@pytest.mark.parametrize(
    ("recorders", "tuning", "message"),
    [
        ("x,q", SHORT, "--recorders: .* has no recorder 'q'"),
        ("s", SHORT, "'s' has no training clips in"),
        (None, Tuning(min_clips=50), r"50 .*\(s 0, x 24, y 12, z 1\)"),
    ],
)
def test_what_cannot_be_adapted_is_refused(student, store, tmp_path, recorders, tuning, message):
    with pytest.raises(InputError, match=message):
        adapt(student.path, store.path, tmp_path / "out", recorders=recorders, tuning=tuning, options=FAST, log=print)
    assert not (tmp_path / "out").exists()


def test_another_store_and_a_model_over_budget_are_refused(student, store, tmp_path):
    with StoreWriter(tmp_path / "other", name="other", licence="CC0", sample_rate=RATE, channels=1) as writer:
        writer.add(Clip("1.wav", "low", "a", recorder="x"), tone(300.0, 1.0, 0))
        other = writer.finish()
    assert isinstance(other, ClipStore)
    with pytest.raises(InputError, match="was trained on another store"):
        adapt(student.path, other.path, tmp_path / "out", tuning=SHORT, options=FAST, log=print)
    small = tmp_path / "small.toml"
    small.write_text('name = "small"\ndescription = "a budget of nothing"\nsource = "this test"\n[budgets]\nmacs = 5\n')
    report = adapt(
        student.path,
        store.path,
        tmp_path / "out",
        recorders="y",
        options=FAST,
        log=print,
        tuning=Tuning(epochs=1, qat_epochs=1, min_clips=4, target=str(small)),
    )
    assert len(report.failed) == 4
    with pytest.raises(GateError, match="over the budgets of small"):
        report.require()
