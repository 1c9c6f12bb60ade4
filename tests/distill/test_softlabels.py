"""Soft labels: computed once, keyed, refused when damaged; teachers that don't fit are refused."""

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
    import shutil

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
