"""Run and experiment folders of version 1, which hashed recipes by other rules: they open and export, and what would
compare their hashes with new ones is refused in one line that names the command."""

import json
import shutil

import msgspec
import pytest
from helpers.trainings import recipe_dict

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.experiments.crossval_summary import crossval_summary
from edgekd.experiments.folder import experiment_folder
from edgekd.export.export import export_run
from edgekd.modelfile.container import read_manifest
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options, train
from edgekd.train.recipe.recipe import decode
from edgekd.train.run.folder import RECIPE_FILE, RUN_FILE, RUN_VERSION, STAGES_FILE, load_run, read_info
from edgekd.train.teach import teach
from edgekd.train.teachers.cross_fit import cross_fit
from edgekd.train.teachers.soft_labels import soft_labels

OLD_HASH = "0123456789abcdef"
LATER_KEYS = {
    "data": ("recorders", "mixed_folds"),
    "distill": ("repeat",),
    "augment": ("ir_split", "speed", "filter_p"),
}
"""Keys of recipes that edgekd got while it wrote version 1; early recipe.json files lack them."""
QUICK = Options(threads=1, accelerator="cpu")
RESUME = Options(resume=True, threads=1, accelerator="cpu")


def rewrite(path, **changes):
    """Change or, with None, remove values of a JSON file."""
    document = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def make_version_1(run):
    """Bring a run folder to what an early edgekd of version 1 wrote."""
    rewrite(run / RUN_FILE, version=1, recipe_hash=OLD_HASH, spectrum=None)
    recipe = json.loads((run / RECIPE_FILE).read_bytes())
    for table, keys in LATER_KEYS.items():
        for key in keys:
            del recipe[table][key]
    (run / RECIPE_FILE).write_text(json.dumps(recipe))
    if (run / STAGES_FILE).is_file():
        rewrite(run / STAGES_FILE, version=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with teacher.json and student.json."""
    folder = tmp_path_factory.mktemp("recipes")
    for role in ("teacher", "student"):
        tables = recipe_dict(role, train={"epochs": 1}, qat={"epochs": 1, "freeze_epochs": 0})
        (folder / f"{role}.json").write_text(json.dumps(tables))
    return folder


@pytest.fixture(scope="module")
def runs(store, files, tmp_path_factory):
    """A teacher and its student, both of version 1."""
    folder = tmp_path_factory.mktemp("runs")
    teach(str(files / "teacher.json"), store.path, folder / "teacher", options=QUICK)
    distill(str(files / "student.json"), store.path, folder / "student", [folder / "teacher"], options=QUICK)
    for name in ("teacher", "student"):
        make_version_1(folder / name)
    return folder


def test_a_run_of_version_1_opens_with_the_hash_of_today(runs):
    run = load_run(runs / "student")
    assert (run.info.version, run.info.recipe_hash) == (RUN_VERSION, run.recipe.hash)
    assert run.info.recipe_hash != OLD_HASH
    assert run.info.metrics["qat_clip_accuracy"] >= 0


def test_a_run_of_version_1_is_exported(runs, tmp_path):
    run = load_run(runs / "student")
    manifest = read_manifest(export_run(run.path, "int8", "onnx", tmp_path).files[0])
    assert manifest.provenance.recipe_hash == run.recipe.hash
    assert manifest.provenance.teachers == run.info.teachers


def test_a_teacher_of_version_1_teaches_by_the_soft_labels_that_it_has(runs, store, tmp_path):
    teacher = load_run(runs / "teacher")
    key, _ = soft_labels(teacher, store)
    assert load_run(runs / "student").info.teachers == (key,)
    recipe = decode(recipe_dict(train={"epochs": 1}, qat={"epochs": 0}), "student")
    assert train(recipe, store, tmp_path / "student", [teacher.path], QUICK).info.teachers == (key,)


def test_a_number_without_a_decimal_point_is_the_same_run(store, tmp_path):
    recipe = decode(recipe_dict("teacher", train={"epochs": 1, "weight_decay": 0.0}), "teacher")
    whole = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, weight_decay=0))
    run = train(whole, store, tmp_path / "run", options=QUICK)
    assert train(recipe, store, tmp_path / "run", options=RESUME).info == run.info


@pytest.mark.parametrize("version", [0, RUN_VERSION + 1, "1", None])
def test_an_unknown_version_is_refused(runs, tmp_path, version):
    shutil.copytree(runs / "teacher", tmp_path / "run")
    rewrite(tmp_path / "run" / RUN_FILE, version=version)
    with pytest.raises(InputError, match=f"run version {version!r} is unknown"):
        read_info(tmp_path / "run")


def test_a_teacher_of_version_1_is_not_resumed(runs, store, files):
    out = runs / "teacher"
    with pytest.raises(InputError, match=f"edgekd teach .*--out {out} --force$"):
        teach(str(files / "teacher.json"), store.path, out, options=RESUME)


def test_a_student_of_version_1_is_not_resumed(runs, store, files):
    out = runs / "student"
    with pytest.raises(InputError, match=f"edgekd distill .*--out {out} --force$"):
        distill(str(files / "student.json"), store.path, out, [runs / "teacher"], options=RESUME)


def test_a_cross_fit_of_version_1_is_not_resumed(store, tmp_path):
    recipe = decode(recipe_dict("teacher", train={"epochs": 1}), "teacher")
    cross_fit(recipe, store, tmp_path / "fits", 2, QUICK)
    make_version_1(tmp_path / "fits")
    with pytest.raises(InputError, match=r"--cross-fit 2 --out \S*fits --force$"):
        cross_fit(recipe, store, tmp_path / "fits", 2, RESUME)


def test_a_run_with_stages_of_version_1_is_not_resumed_however_far_it_came(store, files, tmp_path):
    tables = recipe_dict(teachers=[{"recipe": str(files / "teacher.json")}], train={"epochs": 1}, qat={"epochs": 0})
    (tmp_path / "student.json").write_text(json.dumps(tables))
    out = distill(str(tmp_path / "student.json"), store.path, tmp_path / "run", options=QUICK).path
    for run in (out, *(out / "teachers").iterdir()):
        make_version_1(run)
    for _ in ("finished", "interrupted among its stages"):
        with pytest.raises(InputError, match=f"edgekd distill .*--out {out} --force$"):
            distill(str(tmp_path / "student.json"), store.path, out, options=RESUME)
        (out / RUN_FILE).unlink(missing_ok=True)


def test_an_experiment_of_version_1_is_neither_continued_nor_quoted(runs, store, tmp_path):
    assert ClipStore.open(store.path).hash == store.hash
    for command in ("crossval", "sweep", "reproduce synth --smoke"):
        out = tmp_path / command.split()[0]
        with experiment_folder(out, {"command": command, "store": store.hash}):
            pass
        with experiment_folder(out, {"command": command, "store": store.hash}):
            pass
        rewrite(out / "plan.json", version=None)
        with (
            pytest.raises(InputError, match=rf"edgekd {command} \.\.\. --out {out}$"),
            experiment_folder(out, {"command": command, "store": store.hash}),
        ):
            pass
    (tmp_path / "crossval" / "results.csv").write_text("setting,run\n")
    summary = {"store": {"name": store.name, "hash": store.hash}, "folds": [], "seeds": [], "networks": {}}
    (tmp_path / "crossval" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="edgekd crossval"):
        crossval_summary(tmp_path / "crossval", runs / "student", "int8")


def test_an_experiment_of_a_later_version_is_refused(tmp_path):
    with experiment_folder(tmp_path / "out", {"command": "sweep"}):
        pass
    rewrite(tmp_path / "out" / "plan.json", version=3)
    with (
        pytest.raises(InputError, match="version 3 is unknown"),
        experiment_folder(tmp_path / "out", {"command": "sweep"}),
    ):
        pass
