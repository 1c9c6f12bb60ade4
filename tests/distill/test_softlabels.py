"""Soft labels: computed once, keyed, refused when damaged; teachers that don't fit are refused."""

import shutil

import numpy as np
import pytest
import torch

from edgekd.distill import softlabels
from edgekd.distill.run import MODEL_FILE, SOFT_LABELS_FOLDER, load_run
from edgekd.distill.softlabels import soft_labels, teacher_score
from edgekd.distill.training import train
from edgekd.errors import InputError
from tests.distill.conftest import write_store


@pytest.fixture(scope="module")
def teacher_path(store, tmp_path_factory):
    from edgekd.distill.recipe import decode
    from tests.distill.conftest import recipe_dict

    path = tmp_path_factory.mktemp("teachers") / "t"
    train(decode(recipe_dict("teacher", train={"epochs": 1}), "t"), store, path)
    return path


@pytest.fixture
def teacher(teacher_path, tmp_path):
    shutil.copytree(teacher_path, tmp_path / "t")
    return load_run(tmp_path / "t")


def test_they_are_the_logits_of_every_clip_and_computed_once(teacher, store, monkeypatch):
    key, logits = soft_labels(teacher, store)
    assert (logits.shape, logits.dtype) == ((len(store.clips), 3), np.float16)
    monkeypatch.setattr(softlabels, "_compute", lambda *_: pytest.fail("computed again"))
    again, cached = soft_labels(load_run(teacher.path), store)
    assert again == key
    assert np.array_equal(cached, logits)


def test_other_weights_give_another_key(teacher, store):
    key, logits = soft_labels(teacher, store)
    state = torch.load(teacher.path / MODEL_FILE, weights_only=True)
    state["classifier.conv.bias" if "classifier.conv.bias" in state else list(state)[-1]] += 1.0
    torch.save(state, teacher.path / MODEL_FILE)
    other, changed = soft_labels(load_run(teacher.path), store)
    assert other != key
    assert not np.array_equal(changed, logits)


def test_a_changed_file_is_refused(teacher, store):
    key, logits = soft_labels(teacher, store)
    np.save(teacher.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy", logits + 1)
    with pytest.raises(InputError, match="delete the file"):
        soft_labels(teacher, store)


def test_a_teacher_of_other_labels_is_refused(teacher, tmp_path):
    other = write_store(tmp_path / "other", {"high": 3000.0, "deep": 100.0, "mid": 1000.0}, (("a", 1), ("b", 1)))
    with pytest.raises(InputError, match="not in both: deep, low"):
        soft_labels(teacher, other)


def test_a_score_of_perfect_logits_is_perfect(store):
    logits = 10 * np.eye(3, dtype=np.float32)[store.label_index]
    result = teacher_score(logits, store, store.indices(["b"]))
    assert (result.clip_accuracy, result.window_accuracy) == (1.0, 1.0)
    assert result.clip_log_loss < 0.001


def test_parts_survive_an_interruption_and_change_nothing(teacher, store, monkeypatch):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 8)  # 21 clips: three parts
    key, straight = soft_labels(teacher, store)
    folder = teacher.path / SOFT_LABELS_FOLDER
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 2
    for path in folder.iterdir():
        path.unlink()
    compute, computed = softlabels._compute, []

    def cut_after(parts):
        def limited(run, store, clips):
            if len(computed) == parts:
                raise KeyboardInterrupt
            computed.append(clips[0])
            return compute(run, store, clips)

        return limited

    monkeypatch.setattr(softlabels, "_compute", cut_after(2))
    with pytest.raises(KeyboardInterrupt):
        soft_labels(teacher, store)
    stale = folder / f"{key[:16]}-0-8.npz"
    assert stale.is_file()
    np.savez(stale, key=np.array("0" * 64), logits=straight[:8] + 1)
    monkeypatch.setattr(softlabels, "_compute", cut_after(99))
    assert soft_labels(teacher, store)[0] == key
    assert computed == [0, 8, 0, 16]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_full_disk_keeps_the_parts_that_are_done(teacher, store, monkeypatch):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 8)
    key = softlabels._key(teacher, store)
    folder = teacher.path / SOFT_LABELS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / f"{key[:16]}-8-16.npz.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"-8-16\.npz cannot be written \(No space left on device\); free space"):
        soft_labels(teacher, store)
    assert [path.name for path in folder.iterdir()] == [f"{key[:16]}-0-8.npz"]
    assert soft_labels(teacher, store)[0] == key


def test_memory_that_runs_out_is_told(teacher, store, monkeypatch):
    def exhausted(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(softlabels, "_compute", exhausted)
    with pytest.raises(InputError, match=r"memory ran out in the soft labels of .*9 TiB.*free memory"):
        soft_labels(teacher, store)
