"""Cross-fitted teachers: out-of-fold soft labels, resumed runs, and changed fits, which are refused."""

import shutil

import msgspec
import numpy as np
import pytest
import torch
from helpers.trainings import recipe_dict, write_store

from edgekd.errors import InputError
from edgekd.train.loop.training import Options, train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import MODEL_FILE, load_run
from edgekd.train.teachers import cross_fit as crossfit
from edgekd.train.teachers.cross_fit import cross_fit
from edgekd.train.teachers.out_of_fold import ALL_FITS, assignment, combine
from edgekd.train.teachers.soft_labels import soft_labels


def recipe_of(role="teacher", **changes):
    return decode(recipe_dict(role, train={"epochs": 1}, qat={"epochs": 0}, **changes), role)


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    return cross_fit(recipe_of(), store, tmp_path_factory.mktemp("teachers") / "t", 2)


@pytest.fixture
def teacher(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "t")
    return load_run(tmp_path / "t")


def test_every_training_clip_has_the_logits_of_the_fit_that_was_not_trained_on_it(teacher, store):
    _, logits = soft_labels(teacher, store)
    fits = [load_run(teacher.path / f"fit{fit}") for fit in range(2)]
    each = [soft_labels(fit, store)[1] for fit in fits]
    trained = store.indices(["a"])
    for fit, own in zip(fits, each, strict=True):
        side = store.partition(fit.recipe.data.train, fit.recipe.data.test, held_out=fit.recipe.data.held_out)
        np.testing.assert_array_equal(np.sort(np.concatenate([side.train, side.test])), trained)
        np.testing.assert_array_equal(logits[side.test], own[side.test])
        assert not np.array_equal(logits[side.train], own[side.train])
    others = store.indices(["b"])
    mean = np.mean([own[others] for own in each], axis=0, dtype=np.float64)
    np.testing.assert_allclose(logits[others].astype(np.float64), mean, atol=1e-2)


def test_views_have_the_logits_of_the_same_fits(teacher, store):
    key, views = soft_labels(teacher, store, views=2)
    each = [soft_labels(load_run(teacher.path / f"fit{fit}"), store, views=2)[1] for fit in range(2)]
    fit_of = assignment(teacher.recipe, store, 2)
    assert views.shape == (2, len(store.clips), 1, 3)
    for clip in np.flatnonzero(fit_of != ALL_FITS):
        np.testing.assert_array_equal(views[:, clip], each[fit_of[clip]][:, clip])
    assert not np.array_equal(views[0], views[1])
    assert key != soft_labels(teacher, store)[0]


def test_logits_are_combined_by_the_assignment():
    first, second = np.zeros((3, 2)), np.full((3, 2), 4.0)
    np.testing.assert_array_equal(combine(np.array([1, 0, ALL_FITS]), [first, second]), [[4, 4], [0, 0], [2, 2]])


def test_a_cross_fitted_teacher_has_out_of_fold_accuracy_and_no_network(teacher, store):
    fit_of = assignment(teacher.recipe, store, 2)
    _, logits = soft_labels(teacher, store)
    of_one_fit = fit_of >= 0
    right = (logits.argmax(axis=1) == store.label_index)[of_one_fit].mean()
    assert teacher.info.metrics["out_of_fold_clip_accuracy"] == pytest.approx(right)
    assert f"training clips out of fold {100 * right:.1f} %" in teacher.summary()
    with pytest.raises(InputError, match="a cross-fitted teacher is 2 networks"):
        teacher.float_model()


def test_a_student_learns_from_a_cross_fitted_teacher(teacher, store, tmp_path):
    run = train(recipe_of("student"), store, tmp_path / "s", [teacher.path])
    assert run.info.teachers == (soft_labels(teacher, store)[0],)
    with pytest.raises(InputError, match="trained on split 'a'"):
        train(recipe_of("student", data={"train": ["b"], "test": ["a"]}), store, tmp_path / "x", [teacher.path])
    with pytest.raises(InputError, match=r"trained on \d+ of the clips"):
        train(recipe_of("student", data={"held_out": [0, 2]}), store, tmp_path / "x", [teacher.path])


def test_a_teacher_of_the_same_part_may_teach(store, tmp_path):
    train(recipe_of(data={"held_out": [0, 2]}), store, tmp_path / "t")
    run = train(recipe_of("student", data={"held_out": [0, 2]}), store, tmp_path / "s", [tmp_path / "t"])
    assert run.recipe.data.held_out == (0, 2)


def test_a_changed_fit_or_store_is_refused(teacher, store, tmp_path):
    other = write_store(tmp_path / "other", clips=(("a", 6), ("b", 2)))
    with pytest.raises(InputError, match="cross-fitted on another store"):
        soft_labels(teacher, other)
    path = teacher.path / "fit1" / MODEL_FILE
    state = torch.load(path, weights_only=True)
    state[list(state)[-1]] += 1.0
    torch.save(state, path)
    with pytest.raises(InputError, match="fit1: its weights have changed"):
        soft_labels(teacher, store)


def test_an_interrupted_cross_fit_resumes_to_the_same_result(made, store, tmp_path, monkeypatch):
    done = []

    def stopped(*arguments, **named):
        if done:
            raise KeyboardInterrupt
        done.append(train(*arguments, **named))
        return done[0]

    monkeypatch.setattr(crossfit, "train", stopped)
    with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
        cross_fit(recipe_of(), store, tmp_path / "t", 2)
    monkeypatch.setattr(crossfit, "train", train)
    (tmp_path / "t" / "fit1").mkdir()  # killed before it became a run
    with pytest.raises(InputError, match=r"another number of fits \(2, now 3\)"):
        cross_fit(recipe_of(), store, tmp_path / "t", 3, Options(resume=True))
    run = cross_fit(recipe_of(), store, tmp_path / "t", 2, Options(resume=True))
    assert soft_labels(run, store)[0] == soft_labels(made, store)[0]
    assert run.info.metrics == made.info.metrics
    assert cross_fit(recipe_of(), store, tmp_path / "t", 2, Options(force=True)).info.fits == made.info.fits


@pytest.mark.parametrize(("count", "message"), [(1, "at least 2 fits"), (99, "cannot be divided into 99 parts")])
def test_an_impossible_number_of_fits_is_refused_before_anything_is_written(store, tmp_path, count, message):
    with pytest.raises(InputError, match=message):
        cross_fit(recipe_of(), store, tmp_path / "t", count)
    assert not (tmp_path / "t").exists()


def test_the_logits_of_the_test_clips_are_saved(store, tmp_path):
    run = train(recipe_of("student"), store, tmp_path / "s")
    with np.load(run.path / "test-float.npz") as kept:
        right = kept["logits"].argmax(axis=1) == store.label_index[kept["clip"]]
        assert set(kept["clip"]) == set(store.indices(["b"]))
        assert right[~kept["silent"]].mean() == pytest.approx(run.info.metrics["float_window_accuracy"])
    assert msgspec.json.decode((run.path / "run.json").read_bytes())["cross_fit"] == 0
