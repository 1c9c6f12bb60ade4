"""`edgekd svm`: machines on the embeddings of trained runs, their score sum, and what runs must share."""

import json
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from edgekd.data.store.clips import Clip
from edgekd.errors import InputError
from edgekd.metrics import svm
from edgekd.models import front
from edgekd.train.batches.crops import scored_windows
from edgekd.train.loop.training import Options, train
from edgekd.train.loop.validation import window_logits
from edgekd.train.recipe import recipe as recipes
from edgekd.train.run.folder import load_run
from edgekd.train.stages import svm as svm_stage
from edgekd.train.stages.svm import fit_systems, svm_of_runs

RATE = 8000
QUIET = Options(threads=1, accelerator="cpu")


def recipe(role="teacher", **changes):
    raw = {
        "name": f"tones-{role}",
        "data": {"train": ["a"], "test": ["b"]},
        "frontend": {"sample_rate": RATE, "n_fft": 256, "win_length": 256, "hop_length": 128, "n_mels": 8},
        role: {"kind": "cp_resnet", "stem": 4, "widths": [6], "kernels": [[3, 1]], "groups": [1], "pools": [1]},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.01, "warmup_epochs": 0, "test_every": 0},
        "qat": {"epochs": 0},
        **changes,
    }
    return recipes.decode(raw, "test recipe")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("svm")


@pytest.fixture(scope="module")
def store(place, tone_fixtures):
    """Eight clips a label to train on, one of them half silent, four to test."""
    items = []
    for split, count in (("a", 8), ("b", 4)):
        for label in tone_fixtures.LABELS:
            for number in range(count):
                pcm = tone_fixtures.tone(label, 2.0, number + len(items))
                if (split, number) == ("a", 0):
                    pcm[:RATE] = 0
                items.append((Clip(f"{split}/{label}{number}.wav", label, split), pcm))
    return tone_fixtures.write_store(place / "store", items)


@pytest.fixture(scope="module")
def runs(place, store):
    """A teacher of windows and a student of whole clips."""
    return [
        train(recipe(), store, place / "first", options=QUIET),
        train(
            recipe("student", view={"span": "clip"}, seed=1, distill={"kd_weight": 0.0, "label_weight": 1.0}),
            store,
            place / "second",
            options=QUIET,
        ),
    ]


def clip_embeddings(run, store, clips):
    """(clips, width) as the classifier's input, window by window, silent windows left out."""
    model, found = run.float_model(), []
    pooled = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for clip in clips:
        places = scored_windows(store, np.array([clip]), run.recipe.view)
        values, silent = window_logits(pooled, front(run.config, run.frontend), store, places)
        found.append(values[~silent].double().mean(0).numpy())
    return np.stack(found)


def test_the_sum_is_of_machines_on_the_means_of_windows(runs, store):
    report, _ = fit_systems(runs, store, ("rbf",))
    train_clips, test_clips = store.indices(["a"]), store.indices(["b"])
    truth, expected = store.label_index, []
    for run, system in zip(runs, report.systems, strict=True):
        machine = svm.fit(
            clip_embeddings(run, store, train_clips),
            truth[train_clips],
            store.group_ids(train_clips),
            store.labels,
            ("rbf",),
        )
        expected.append(machine.scores(clip_embeddings(run, store, test_clips)))
        assert system.svm_accuracy == (expected[-1].argmax(1) == truth[test_clips]).mean()
        assert (system.kernel, system.penalty, system.run) == ("rbf", machine.penalty, str(run.path))
        assert system.softmax_accuracy == run.info.metrics["float_clip_accuracy"]
    assert report.accuracy == ((expected[0] + expected[1]).argmax(1) == truth[test_clips]).mean()
    assert report.accuracy > 0.9
    assert (report.train_clips, report.test_clips) == (16, 8)


def test_the_table_and_the_document_say_the_same(runs, store):
    report = svm_of_runs([run.path for run in runs], store.path, threads=1)
    document = json.loads(report.to_json())
    assert document["accuracy"] == report.accuracy
    assert [each["run"] for each in document["systems"]] == [str(run.path) for run in runs]
    assert all(each["kernel"] in ("linear", "rbf") for each in document["systems"])
    lines = report.to_text().splitlines()
    assert lines[-1].split() == ["score", "sum", f"{100 * report.accuracy:.2f}", "%"]
    assert len(lines) == 5


def test_runs_must_have_the_same_sides(runs, store, place, tone_fixtures):
    held_out = train(
        recipe(data={"train": ["a"], "test": ["b"], "held_out": [0, 4]}), store, place / "held", options=QUIET
    )
    with pytest.raises(InputError, match=r"held: .*differ in 4 from those of"):
        fit_systems([runs[0], held_out], store)
    other = tone_fixtures.write_store(
        place / "other",
        [
            (Clip(f"{split}{label}{i}", label, split), tone_fixtures.tone(label, 1.0, i))
            for split in "ab"
            for label in tone_fixtures.LABELS
            for i in range(2)
        ],
    )
    with pytest.raises(InputError, match=r"first: .*another store \(tones"):
        fit_systems(runs, other)
    with pytest.raises(InputError, match="no run"):
        fit_systems([], store)
    with pytest.raises(InputError, match="'rfb'; did you mean 'rbf'"):
        fit_systems(runs, store, ("rfb",))


def test_opened_runs_are_left_as_they_were(runs, store):
    before = load_run(runs[0].path).weights_hash
    first, second = (fit_systems(runs, store)[0] for _ in range(2))
    assert first == second
    assert load_run(runs[0].path).weights_hash == before


def test_test_clips_that_are_all_silent_are_refused(runs, store, monkeypatch):
    embeddings = svm_stage._embeddings

    def silent(*given):
        of_train, of_test, accuracy = embeddings(*given)
        return of_train, replace(of_test, silent=np.ones(len(of_test.silent), bool)), accuracy

    monkeypatch.setattr(svm_stage, "_embeddings", silent)
    with pytest.raises(InputError, match="every test clip is silence"):
        fit_systems(runs, store)
