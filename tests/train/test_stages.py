"""Teachers and specialists that a student's recipe trains first: their folders, their clips, and what --resume and
--force do with them."""

import dataclasses
import logging
import shutil

import msgspec
import numpy as np
import pytest
from helpers.small_recipes import NETWORK, TABLES
from helpers.trainings import write_store

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.train.loop.training import Options
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.claim import check_run_folder
from edgekd.train.run.folder import STAGES_FILE, TEST_FILES, load_run, read_recipe
from edgekd.train.stages import stages
from edgekd.train.stages.confusions import PairReport
from edgekd.train.stages.specialists import check_specialists, report_pairs, specialist_names, train_specialists
from edgekd.train.stages.stages import (
    held_for_stages,
    runs_that_teach,
    teacher_path,
    teacher_recipes,
    train_or_resume,
    train_teachers,
    with_initial_run,
)

COMMON = (
    TABLES
    + """
[train]
epochs = 1
batch_size = 4
lr = 1e-4
[qat]
epochs = 0
"""
)
TEACHERS = """
[[teachers]]
recipe = "cnn.toml"
[[teachers]]
recipe = "cnn.toml"
name = "second"
set = ["seed=7", "init.run=cnn"]
"""
SPECIALISTS = """
[specialists]
recipe = "cnn.toml"
pairs = 1
held_out = [1, 3]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "tones"
    write_store(path, clips=(("a", 6), ("b", 2), ("c", 2)))
    return ClipStore.open(path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory, with recipes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cnn.toml").write_text(f'name = "cnn"\n{COMMON}\n[view]\nspan = "clip"\n[teacher]{NETWORK}')
    (tmp_path / "other.toml").write_text(f'name = "other"\n{COMMON}\n[student]{NETWORK}')
    return tmp_path


def student(tables=TEACHERS, overrides=("data.train=['a','c']", "seed=3")):
    with open("student.toml", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f'name = "s"\n{COMMON}\n[student]{NETWORK}\n{tables}')
    return load_recipe("student.toml", overrides)


def all_stages(recipe, store, out, options=Options(threads=1)):  # noqa: B008
    """What `edgekd distill` does."""
    with held_for_stages(out, options):
        made = train_teachers(recipe, store, out, options)
        teachers = runs_that_teach(recipe, made)
        generalist = teachers[0]
        specialists = train_specialists(recipe, store, out, generalist, options) if recipe.specialists else []
        teachers += specialists
    run = train_or_resume(with_initial_run(recipe, made), store, out, teachers, options)
    return run, specialists, report_pairs(run, store, generalist, specialists, teachers) if recipe.specialists else None


@pytest.fixture
def counted(monkeypatch):
    """Names of the run folders that `train` is called for, and whether it resumes them."""
    seen = []
    really = stages.train

    def train(recipe, store, out, teachers, options):
        seen.append((out.name, options.resume))
        return really(recipe, store, out, teachers, options)

    monkeypatch.setattr(stages, "train", train)
    return seen


def test_teachers_take_the_students_splits_and_its_seed_unless_they_set_one(folder):
    recipe = student()
    (first, cnn), (second, with_seed) = teacher_recipes(recipe, folder / "out")
    assert (first, second) == ("cnn", "second")
    assert cnn.data == with_seed.data == recipe.data
    assert cnn.data.train == ("a", "c")
    assert (cnn.seed, with_seed.seed) == (3, 7)
    held_out = teacher_recipes(student(overrides=["data.held_out=[0,2]", "data.test=[]"]), folder / "out")[0][1].data
    assert (held_out.held_out, held_out.test) == ((0, 2), ())


def test_a_teacher_begins_with_an_earlier_one_by_name(folder):
    recipes = dict(teacher_recipes(student(), folder / "out"))
    assert recipes["cnn"].init.run == ""
    assert recipes["second"].init.run == str(folder / "out" / "teachers" / "cnn")
    swapped = TEACHERS.replace("seed=7", "seed=8").split("[[teachers]]")
    with pytest.raises(InputError, match=r"'second' has init\.run = 'cnn'"):
        teacher_recipes(student(f"[[teachers]]{swapped[2]}[[teachers]]{swapped[1]}"), folder / "out")


def test_a_teacher_that_only_initialises_does_not_teach(folder):
    recipe = student(TEACHERS.replace('"cnn.toml"\n[[', '"cnn.toml"\nteaches = false\n[['))
    assert runs_that_teach(recipe, {"cnn": folder / "x", "second": folder / "y"}) == [folder / "y"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (TEACHERS.replace('name = "second"', ""), "two are called 'cnn'"),
        (TEACHERS.replace('"second"', '"../second"'), "name '../second'"),
        (
            TEACHERS.replace("cnn.toml", "other.toml"),
            r"'other.toml' has a \[student\] table; name a recipe with a \[teacher\] table",
        ),
        (TEACHERS.replace("seed=7", "data.train=['b']"), r"'cnn.toml' with data.train: a stage uses"),
        (TEACHERS.replace("cnn.toml", "absent.toml"), "absent.toml: no such file"),
        (TEACHERS.replace('"second"', '"chooser"') + SPECIALISTS, "the name 'chooser'"),
    ],
)
def test_teachers_that_cannot_be_trained_are_refused(folder, tables, message):
    with pytest.raises(InputError, match=message):
        teacher_recipes(student(tables), folder / "out")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (SPECIALISTS, r"there is none; add one"),
        (TEACHERS + SPECIALISTS.replace("[1, 3]", "[3, 3]"), "there is no part 3 of 3"),
        (TEACHERS + SPECIALISTS + 'set = ["train.batch_size=1"]', "train.batch_size 1"),
        (TEACHERS + SPECIALISTS + "set = [\"data.pair=['high','low']\"]", "pairs are chosen by confusions"),
    ],
)
def test_specialists_that_cannot_be_trained_are_refused_before_teachers_are(tables, message):
    with pytest.raises(InputError, match=message):
        check_specialists(student(tables))


def test_one_command_trains_all_and_resumes_where_it_stopped(folder, store, counted, monkeypatch):
    recipe, out = student(), folder / "out"
    really = stages.train

    def stopped(recipe, store, path, teachers, options):
        if path.name == "second":
            raise KeyboardInterrupt(f"{path}: interrupted in epoch 1; go on with --resume")
        return really(recipe, store, path, teachers, options)

    monkeypatch.setattr(stages, "train", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"out: .*second: interrupted in epoch 1; .*--resume"):
        all_stages(recipe, store, out)
    monkeypatch.setattr(stages, "train", really)
    with pytest.raises(InputError, match="out exists; go on with --resume"):
        all_stages(recipe, store, out)
    counted.clear()
    run, _, _ = all_stages(recipe, store, out, Options(threads=1, resume=True))
    assert counted == [("cnn", True), ("second", False), ("out", False)]
    assert len(run.info.teachers) == 2
    weights = load_run(teacher_path(out, "cnn")).weights_hash
    counted.clear()
    again, _, _ = all_stages(recipe, store, out, Options(threads=1, resume=True))
    assert counted == [("cnn", True), ("second", True), ("out", True)]
    assert (again.info, load_run(teacher_path(out, "cnn")).weights_hash) == (run.info, weights)
    with pytest.raises(InputError, match=r"--force .*cnn"):
        check_run_folder(out, [teacher_path(out, "cnn")], force=True, resume=False)


def test_a_stage_of_another_recipe_is_refused_and_force_begins_all_anew(folder, store, counted):
    out = folder / "out"
    all_stages(student(), store, out)
    changed = student(TEACHERS.replace("seed=7", "seed=8"))
    with pytest.raises(InputError, match="second: begun with another recipe"):
        all_stages(changed, store, out, Options(threads=1, resume=True))
    (out / "teachers" / "cnn" / "old").touch()
    counted.clear()
    all_stages(changed, store, out, Options(threads=1, force=True))
    assert counted == [("cnn", False), ("second", False), ("out", False)]
    assert not (out / "teachers" / "cnn" / "old").exists()
    assert read_recipe(teacher_path(out, "second")).seed == 8


def test_folders_of_the_user_are_not_taken_for_stages(folder, store):
    mine = folder / "mine"
    (mine / "teachers").mkdir(parents=True)
    for options in (Options(), Options(force=True), Options(resume=True)):
        with pytest.raises(InputError, match="not an edgekd run folder"), held_for_stages(mine, options):
            pass
    run = train_or_resume(load_recipe("other.toml"), store, folder / "alone", options=Options(threads=1))
    with (
        pytest.raises(InputError, match="does not train its own teachers"),
        held_for_stages(run.path, Options(resume=True)),
    ):
        pass
    (run.path / "teachers").mkdir()
    with pytest.raises(InputError, match=r"\(teachers\)"):
        check_run_folder(run.path, (), force=True, resume=False)


def test_a_folder_is_locked_while_its_stages_are_trained(folder):
    out = folder / "out"
    with (
        held_for_stages(out),
        pytest.raises(InputError, match="being trained by another process"),
        held_for_stages(out, Options(resume=True)),
    ):
        pass
    assert (out / STAGES_FILE).is_file()
    with held_for_stages(out, Options(resume=True)):
        pass


def test_a_student_that_cannot_be_trained_is_refused_before_its_teachers_are_trained(folder, store):
    for overrides, message in (
        (["frontend.sample_rate=16000"], "holds 8000 Hz"),
        (["data.train=['z']"], "'z'"),
        (["student.kind=nothing"], "unknown kind"),
    ):
        with pytest.raises(InputError, match=message):
            all_stages(
                student(overrides=overrides), store, folder / "out", Options(threads=1, force=(folder / "out").exists())
            )
        assert list((folder / "out" / "teachers").iterdir()) == []


@pytest.fixture
def specialised(folder, store):
    recipe = student(TEACHERS + SPECIALISTS)
    return recipe, *all_stages(recipe, store, folder / "out")


def test_specialists_are_for_the_pairs_that_a_generalist_confuses_on_clips_it_was_not_trained_on(
    specialised, folder, store
):
    recipe, run, specialists, report = specialised
    chooser = load_run(teacher_path(folder / "out", "chooser"))
    assert chooser.recipe.data.held_out == (1, 3)
    side = store.partition(("a", "c"), ("b",), held_out=(1, 3))
    with np.load(chooser.path / TEST_FILES["float"]) as kept:
        assert set(kept["clip"]) == set(side.test)
    assert specialists
    assert len(run.info.teachers) == 2 + len(specialists)
    for path, pair in zip(specialists, report.pairs, strict=True):
        made = read_recipe(path)
        assert path.name == "specialist-" + "-".join(pair.labels)
        assert made.data.pair == pair.labels
        assert msgspec.structs.replace(made.data, pair=()) == recipe.data
        assert made.init.run == str(folder / "out" / "teachers" / "cnn")
        assert made.seed == 3


def test_the_report_is_of_the_students_test_side(specialised, folder, store):
    _, run, specialists, report = specialised
    test = store.indices(["b"])
    assert report.test_clips == len(test)
    assert msgspec.json.decode((folder / "out" / "pairs.json").read_bytes(), type=PairReport) == report
    (pair, *_), truth = report.pairs, store.label_index[test]
    i, j = (store.labels.index(label) for label in pair.labels)
    assert pair.clips == np.isin(truth, (i, j)).sum()
    for path, reported in ((teacher_path(run.path, "cnn"), pair.generalist), (specialists[0], pair.specialist)):
        with np.load(path / TEST_FILES["float"]) as kept:  # whole clips: one window each
            predicted = kept["logits"].argmax(axis=1)
        assert reported == sum((a, b) in {(i, j), (j, i)} for a, b in zip(truth, predicted, strict=True))
    assert pair.student <= round((1 - run.info.metrics["float_clip_accuracy"]) * len(test))


def test_specialists_are_reused_and_a_generalist_from_elsewhere_is_tested_on_the_same_clips(
    specialised, folder, store, counted
):
    recipe, run, specialists, report = specialised
    _, _, again = all_stages(recipe, store, folder / "out", Options(threads=1, resume=True))
    assert again == report
    assert all(resumed for _, resumed in counted)
    elsewhere = msgspec.structs.replace(
        load_recipe("cnn.toml"), data=msgspec.structs.replace(recipe.data, held_out=(0, 2))
    )
    other = train_or_resume(elsewhere, store, folder / "elsewhere", options=Options(threads=1)).path
    assert report_pairs(run, store, other, specialists, [other]).test_clips == report.test_clips
    shutil.copytree(run.path, folder / "copy")
    (folder / "copy" / TEST_FILES["float"]).unlink()
    with pytest.raises(InputError, match=r"test-float\.npz"):
        report_pairs(dataclasses.replace(run, path=folder / "copy"), store, other, specialists, [other])


def test_a_generalist_that_confuses_nothing_has_no_specialists(folder, store, monkeypatch, caplog):
    monkeypatch.setattr("edgekd.train.stages.specialists._confusions", lambda *_: np.diag([4, 4, 4]))
    caplog.set_level(logging.INFO, "edgekd")
    run, specialists, report = all_stages(student(TEACHERS + SPECIALISTS), store, folder / "out")
    assert (specialists, report.pairs, len(run.info.teachers)) == ([], (), 2)
    assert "no specialist is trained" in caplog.text


def test_folders_are_named_by_labels_whatever_they_hold():
    pairs = [("a b", "c/d"), ("a_b", "c:d"), ("A_B", "c d"), ("x", "y")]
    assert specialist_names(pairs) == [
        "specialist-a_b-c_d",
        "specialist-a_b-c_d~2",
        "specialist-A_B-c_d~3",
        "specialist-x-y",
    ]
