"""Training, manifest and `edgekd evaluate` score the same windows alike, also where clips are silent."""

import shutil

import numpy as np
import pytest
from helpers.trainings import RATE, TONES, recipe_dict, tone

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.export.export import export_run
from edgekd.metrics.predictions import read_predictions
from edgekd.metrics.scores import evaluate
from edgekd.modelfile.container import read_manifest
from edgekd.train.batches.silence import silent_clips
from edgekd.train.loop.training import Options, train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import TEST_FILES, load_run
from edgekd.train.stages.specialists import report_pairs
from edgekd.train.stages.svm import fit_systems, read_svm_scores
from edgekd.train.teachers.soft_labels import clip_probabilities, soft_labels, teacher_scores

OPTIONS = Options(threads=1, accelerator="cpu")
TEST_CLIPS = 5
"""Per label; the first of "high" is silent, as is the second window of the first of "low"."""


def recipe(role="student", **changes):
    short = {
        "train": {"epochs": 2, "test_every": 1},
        "qat": {"epochs": 1, "freeze_epochs": 0},
        "view": {"span": "crop"},
    }
    alone = {"distill": {"kd_weight": 0.0, "label_weight": 1.0}} if role == "student" else {}
    return decode(recipe_dict(role, **(short | alone | changes)), "test recipe")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("silent") / "store"
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=RATE, channels=1, synthetic=True) as writer:
        for split, count in (("a", 5), ("b", TEST_CLIPS)):
            for label, hertz in TONES.items():
                for number in range(count):
                    pcm = tone(hertz, 2.0, [number, int(hertz), len(split + label), ord(split)])
                    if (label, number) == ("high", 0):
                        pcm[:] = 0
                    if (split, label, number) == ("b", "low", 0):
                        pcm[RATE:] = 0
                    writer.add(Clip(f"{split}/{label}{number}.wav", label, split), pcm)
        return writer.finish()


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return train(recipe(), store, tmp_path_factory.mktemp("runs") / "student", options=OPTIONS)


@pytest.mark.parametrize("network", ["float", "qat"])
def test_the_metrics_of_a_run_are_what_evaluate_gives_for_its_predictions(run, store, network):
    clips = store.indices(["b"])
    kept = read_predictions(run.path / TEST_FILES[network], clips)
    found = evaluate(
        kept.logits,
        kept.silent,
        np.searchsorted(clips, kept.clip),
        store.label_index[clips],
        labels=store.labels,
        recorders=[""] * len(clips),
    )
    assert (found.clips.count, found.clips.silent) == (3 * TEST_CLIPS - 1, 1)
    assert (found.windows.count, found.windows.silent) == (2 * (3 * TEST_CLIPS - 1) - 1, 3)
    metrics = run.info.metrics
    assert metrics[f"{network}_clip_accuracy"] == found.clips.accuracy
    assert metrics[f"{network}_window_accuracy"] == found.windows.accuracy
    assert metrics[f"{network}_clip_log_loss"] == found.clips.log_loss


def test_the_manifest_keeps_what_evaluate_gives_for_the_exported_file(run, store, tmp_path):
    report = export_run(run.path, "int8", out=tmp_path / "model")
    for path in report.files:
        found, manifest = evaluate_file(path, store.path, ["b"]), read_manifest(path)
        scores = manifest.provenance.scores
        assert scores == run.info.metrics
        assert (found.scores.clips.silent, found.scores.windows.silent) == (1, 3)
        assert scores["qat_clip_accuracy"] == found.scores.clips.accuracy
        assert scores["qat_window_accuracy"] == found.scores.windows.accuracy
        # engines may round a logit to the next step of the int8 output
        step = manifest.output.scale
        assert scores["qat_clip_log_loss"] == pytest.approx(found.scores.clips.log_loss, abs=step)


def test_a_teacher_is_scored_without_silent_clips(store, tmp_path_factory):
    teacher = train(recipe("teacher"), store, tmp_path_factory.mktemp("runs") / "teacher", options=OPTIONS)
    clips = store.indices(["b"])
    found = teacher_scores(clip_probabilities(soft_labels(teacher, store)[1]), store, clips)
    assert (found.count, found.silent) == (3 * TEST_CLIPS - 1, 1)
    assert found.accuracy == teacher.info.metrics["float_clip_accuracy"]
    report, scores = fit_systems([teacher], store)
    assert (report.train_clips, report.test_clips, report.silent_clips) == (14, 3 * TEST_CLIPS - 1, 2)
    assert report.systems[0].softmax_accuracy == teacher.info.metrics["float_clip_accuracy"]
    path = teacher.path / "test-svm.npz"
    path.write_bytes(scores.to_npz())
    kept = read_svm_scores(path, clips)
    silent = silent_clips(store)[clips]
    assert kept.silent.tolist() == [silent.tolist()] * 2
    correct = kept.scores[0].argmax(axis=1) == store.label_index[clips]
    assert report.systems[0].svm_accuracy == correct[~silent].mean()


def test_pairs_are_counted_without_silent_clips(run, store, tmp_path):
    teacher = train(recipe("teacher"), store, tmp_path / "teacher", options=OPTIONS).path
    pair = {"train": ["a"], "test": ["b"], "pair": ["high", "low"]}
    specialist = train(recipe("teacher", data=pair), store, tmp_path / "specialist", options=OPTIONS).path
    shutil.copytree(run.path, tmp_path / "student")
    shutil.copytree(teacher, tmp_path / "student" / "teachers" / "chooser")
    report = report_pairs(load_run(tmp_path / "student"), store, teacher, [specialist], [teacher])
    assert (report.test_clips, report.pairs[0].clips) == (3 * TEST_CLIPS - 1, 2 * TEST_CLIPS - 1)


def test_one_sample_in_the_last_part_of_a_block_is_sound(tmp_path):
    with StoreWriter(tmp_path / "s", name="x", licence="CC0", sample_rate=RATE, channels=2) as writer:
        for number in range(3):
            pcm = np.zeros((RATE + 33, 2), np.int16)
            if number == 1:
                pcm[-1, 1] = 1
            writer.add(Clip(f"{number}.wav", "x", "a"), pcm)
        store = writer.finish()
    assert silent_clips(store).tolist() == [True, False, True]


def test_a_test_side_of_silence_is_refused_before_the_training(tmp_path):
    with StoreWriter(tmp_path / "store", name="tones", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for split in "ab":
            for label, hertz in TONES.items():
                pcm = tone(hertz, 1.0, [int(hertz)])
                writer.add(Clip(f"{split}/{label}.wav", label, split), pcm if split == "a" else 0 * pcm)
        store = writer.finish()
    with pytest.raises(InputError, match=r"3 test clips .*\(3 windows\)"):
        train(recipe(), store, tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
