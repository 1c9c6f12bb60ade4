"""`edgekd teach` and `edgekd distill` on a few clips, by recipes on disk."""

import os
import shutil
import sys

import numpy as np
import pytest
from helpers.html_page import parsed
from helpers.small_recipes import NETWORK, RATE, TABLES, write_two_tones

from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.train import launch
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options
from edgekd.train.run.folder import METRICS_FILE, REPORT_FILE, SOFT_LABELS_FOLDER, TEST_FILES, load_run
from edgekd.train.run.report import write_report
from edgekd.train.teach import teach

COMMON = (
    TABLES
    + """
[train]
epochs = 12
batch_size = 4
lr = 0.01
[qat]
epochs = 1
freeze_epochs = 0
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a store of two kinds of tones, a teacher recipe and a student recipe."""
    folder = tmp_path_factory.mktemp("folder")
    write_two_tones(folder / "store", {"a": 8, "b": 4}, seconds=1.0)
    (folder / "teacher.toml").write_text(f'name = "t"\n{COMMON}\n[view]\nspan = "clip"\n[teacher]{NETWORK}')
    (folder / "student.toml").write_text(f'name = "s"\n{COMMON}\n[student]{NETWORK}')
    return folder


@pytest.fixture(scope="module")
def teacher(folder):
    return teach(str(folder / "teacher.toml"), folder / "store", folder / "t")


def test_a_teacher_learns_and_leaves_its_soft_labels(teacher):
    assert teacher.info.metrics["float_clip_accuracy"] == 1.0
    assert len(list((teacher.path / SOFT_LABELS_FOLDER).glob("*.npy"))) == 1


def test_a_teacher_may_be_cross_fitted(folder):
    run = teach(str(folder / "teacher.toml"), folder / "store", folder / "cross", ["train.epochs=1"], fits=2)
    assert run.info.cross_fit == 2
    assert "training clips out of fold" in run.summary()
    assert [len(list((run.path / fit / SOFT_LABELS_FOLDER).glob("*.npy"))) for fit in ("fit0", "fit1")] == [1, 1]


@pytest.fixture(scope="module")
def student(folder, teacher):
    return distill(str(folder / "student.toml"), folder / "store", folder / "s", [teacher.path, teacher.path])


def test_a_student_learns_from_it_in_both_phases(student):
    run = student
    assert run.info.metrics["float_clip_accuracy"] == run.info.metrics["qat_clip_accuracy"] == 1.0
    assert "float 100.0 %" in run.summary()
    assert len(run.info.teachers) == 2


def test_a_run_has_a_page_with_its_curves_scores_and_teachers(student):
    page = parsed((student.path / REPORT_FILE).read_bytes())
    assert "student cp_resnet trained on tones, a; tested on 8 clips of b" in page.text
    assert "float, clips 8 0 100.0 % (100.0 to 100.0)" in page.text
    assert "int8-aware, clips 8 0 100.0 % (100.0 to 100.0)" in page.text
    captions = [each["aria-label"] for each in page.tags("svg")]
    for term in ("loss", "label", "kd"):
        assert any(text.startswith(f"{term} from ") and text.endswith(" in epoch 12") for text in captions)
    assert not any("weighted" in text for text in captions)
    assert "t cp_resnet 100.0 % t cp_resnet 100.0 % mean of 2 100.0 % 100.0 %" in page.text
    assert "No clip was taken for another label." in page.text
    assert '"kd_weight":' in page.text  # the recipe


def test_a_teacher_has_a_page_too(teacher):
    page = parsed((teacher.path / REPORT_FILE).read_bytes())
    assert "teacher cp_resnet trained on tones" in page.text
    assert "labels alone" in page.text


def test_the_page_of_a_finished_run_is_made_again_with_the_same_bytes(folder, teacher, student):
    page = student.path / REPORT_FILE
    before = page.read_bytes()
    page.unlink()
    distill(
        str(folder / "student.toml"),
        folder / "store",
        folder / "s",
        [teacher.path, teacher.path],
        options=Options(resume=True),
    )
    assert page.read_bytes() == before


def test_a_page_leaves_out_damaged_predictions(folder, student, tmp_path):
    shutil.copytree(student.path, tmp_path / "s")
    (tmp_path / "s" / TEST_FILES["qat"]).write_bytes(b"no zip")
    (tmp_path / "s" / METRICS_FILE).unlink()
    write_report(load_run(tmp_path / "s"), ClipStore.open(folder / "store"))
    text = parsed((tmp_path / "s" / REPORT_FILE).read_bytes()).text
    assert "The int8-aware network has no scores" in text
    assert "float, clips 8" in text
    assert "Float phase" not in text


def test_a_page_that_cannot_be_written_is_named(folder, student, tmp_path):
    shutil.copytree(student.path, tmp_path / "s")
    (tmp_path / "s" / REPORT_FILE).unlink()
    (tmp_path / "s" / REPORT_FILE).mkdir()
    with pytest.raises(InputError, match=r"report\.html .*--resume"):
        write_report(load_run(tmp_path / "s"), ClipStore.open(folder / "store"))


def test_a_run_with_a_page_can_be_begun_anew(folder):
    for force in (False, True):
        run = teach(
            str(folder / "teacher.toml"), folder / "store", folder / "again", ["train.epochs=1"], Options(force=force)
        )
        assert (run.path / REPORT_FILE).is_file()


def test_the_recipe_of_the_other_command_is_refused_with_the_command(folder):
    with pytest.raises(InputError, match="edgekd teach"):
        distill(str(folder / "teacher.toml"), folder / "store", folder / "x")
    with pytest.raises(InputError, match="edgekd distill"):
        teach(str(folder / "student.toml"), folder / "store", folder / "x")


def test_a_label_on_one_side_only_is_refused_before_anything_is_written(folder, tmp_path):
    with StoreWriter(tmp_path / "store", name="x", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for label, split in (("high", "a"), ("high", "b"), ("low", "a")):
            writer.add(Clip(f"{label}{split}", label, split), np.ones((RATE, 1), np.int16))
        writer.finish()
    with pytest.raises(InputError, match="label low is in training only"):
        distill(str(folder / "student.toml"), tmp_path / "store", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("test_sample", "message"), [(0, "digital silence"), (1, "are they all silent")])
def test_a_store_of_silence_is_refused(folder, tmp_path, test_sample, message):
    with StoreWriter(tmp_path / "store", name="x", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for label in ("high", "low"):
            for split in ("a", "b"):
                pcm = np.full((RATE, 1), test_sample if split == "b" else 0, np.int16)
                writer.add(Clip(f"{label}{split}", label, split), pcm)
        writer.finish()
    with pytest.raises(InputError, match=message):
        distill(str(folder / "student.toml"), tmp_path / "store", tmp_path / "x")


def test_only_the_program_itself_is_started_anew_and_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.delenv(launch.MARKER, raising=False)
    launch.relaunch_once()  # under pytest
    assert not started
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/edgekd", "teach"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "/usr/bin/edgekd", "teach"])
    launch.relaunch_once()
    [(program, arguments, environment)] = started
    assert (program, arguments) == (sys.executable, [sys.executable, "/usr/bin/edgekd", "teach"])
    assert environment.items() >= launch.ALLOCATOR.items()
    monkeypatch.setenv(launch.MARKER, "1")
    launch.relaunch_once()
    assert len(started) == 1
