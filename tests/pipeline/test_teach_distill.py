"""`edgekd teach` and `edgekd distill` on a few clips, by recipes on disk."""

import os
import sys

import numpy as np
import pytest

from edgekd.data.store import Clip
from edgekd.data.writer import StoreWriter
from edgekd.distill.run import SOFT_LABELS_FOLDER
from edgekd.errors import InputError
from edgekd.pipeline import launch
from edgekd.pipeline.distill import distill
from edgekd.pipeline.teach import teach
from tests.pipeline.small import NETWORK, TABLES

RATE = 8000
COMMON = TABLES + """
[train]
epochs = 12
batch_size = 4
lr = 0.01
[qat]
epochs = 1
freeze_epochs = 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store of two kinds of tones, a teacher recipe and a student recipe."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    with StoreWriter(folder / "store", name="tones", licence="CC0", sample_rate=RATE, channels=1, synthetic=True) as writer:
        for split, count in (("a", 8), ("b", 4)):
            for label, hertz in (("high", 2500.0), ("low", 250.0)):
                for number in range(count):
                    wave = 6000 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE) + rng.normal(0, 1000, RATE)
                    writer.add(Clip(f"{split}/{label}{number}.wav", label, split), wave.astype(np.int16)[:, None])
        writer.finish()
    (folder / "teacher.toml").write_text(f'name = "t"\n{COMMON}\n[view]\nspan = "clip"\n[teacher]{NETWORK}')
    (folder / "student.toml").write_text(f'name = "s"\n{COMMON}\n[student]{NETWORK}')
    return folder


@pytest.fixture(scope="module")
def teacher(place):
    return teach(str(place / "teacher.toml"), place / "store", place / "t")


def test_a_teacher_learns_and_leaves_its_soft_labels(teacher):
    assert teacher.info.metrics["float_clip_accuracy"] == 1.0
    assert len(list((teacher.path / SOFT_LABELS_FOLDER).glob("*.npy"))) == 1


def test_a_teacher_may_be_cross_fitted(place):
    run = teach(str(place / "teacher.toml"), place / "store", place / "cross", ["train.epochs=1"], fits=2)
    assert run.info.cross_fit == 2
    assert "training clips out of fold" in run.summary()
    assert [len(list((run.path / fit / SOFT_LABELS_FOLDER).glob("*.npy"))) for fit in ("fit0", "fit1")] == [1, 1]


def test_a_student_learns_from_it_in_both_phases(place, teacher):
    run = distill(str(place / "student.toml"), place / "store", place / "s", [teacher.path, teacher.path])
    assert run.info.metrics["float_clip_accuracy"] == run.info.metrics["qat_clip_accuracy"] == 1.0
    assert "float 100.0 %" in run.summary()
    assert len(run.info.teachers) == 2


def test_the_recipe_of_the_other_command_is_refused_with_the_command(place):
    with pytest.raises(InputError, match="edgekd teach"):
        distill(str(place / "teacher.toml"), place / "store", place / "x")
    with pytest.raises(InputError, match="edgekd distill"):
        teach(str(place / "student.toml"), place / "store", place / "x")


def test_a_label_on_one_side_only_is_refused_before_anything_is_written(place, tmp_path):
    with StoreWriter(tmp_path / "store", name="x", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for label, split in (("high", "a"), ("high", "b"), ("low", "a")):
            writer.add(Clip(f"{label}{split}", label, split), np.ones((RATE, 1), np.int16))
        writer.finish()
    with pytest.raises(InputError, match="label low is in training only"):
        distill(str(place / "student.toml"), tmp_path / "store", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_store_of_silence_is_refused(place, tmp_path):
    with StoreWriter(tmp_path / "store", name="x", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for label in ("high", "low"):
            for split in ("a", "b"):
                writer.add(Clip(f"{label}{split}", label, split), np.zeros((RATE, 1), np.int16))
        writer.finish()
    with pytest.raises(InputError, match="are they all silent"):
        distill(str(place / "student.toml"), tmp_path / "store", tmp_path / "x")


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
