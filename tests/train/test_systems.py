"""Systems of several trainings in one command: teachers given instead of a recipe's own, moved folders, runs that
differ in their stages alone, and mistakes that are found before anything is trained."""

import dataclasses
import shutil

import msgspec
import numpy as np
import pytest
from helpers.small_recipes import NETWORK, TABLES
from model_files import onnx_file
from onnx import helper

from edgekd import cli
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.experiments import crossval, sweep
from edgekd.experiments.jobs import Slot, Workers
from edgekd.experiments.plan import Fold, Plan, Setting
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import PAIRS_FILE, STAGES_FILE, TEACHERS_FOLDER, load_run
from edgekd.train.stages.confusions import PairReport
from edgekd.train.teach import teach
from edgekd.train.teachers.soft_labels import soft_labels

RATE = 8000
TONES = {"high": 2500.0, "low": 250.0, "mid": 900.0}
COMMON = (
    TABLES
    + """
[train]
epochs = 1
batch_size = 6
lr = 0.001
warmup_epochs = 0
test_every = 0
[qat]
epochs = 0
"""
)
BOX = """
kind = "black_box"
file = "sums.onnx"
sample_rate = 8000
"""
ONE_TEACHER = '[[teachers]]\nrecipe = "teacher.toml"\n'
TAPPED = '[distill]\nteaching = "live"\n[[distill.terms]]\nloss = "embedding"\n'
QUIET, RESUME = Options(threads=1, accelerator="cpu"), Options(threads=1, accelerator="cpu", resume=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a mono and a stereo store, of which recordings have two segments, and recipes of a teacher and a
    student."""
    folder = tmp_path_factory.mktemp("folder")
    for name, channels in (("store", 1), ("stereo", 2)):
        rng = np.random.default_rng(0)
        with StoreWriter(
            folder / name, name="tones", licence="CC0", sample_rate=RATE, channels=channels, synthetic=True
        ) as writer:
            for split, count in (("a", 4), ("b", 2)):
                for label, hertz in TONES.items():
                    for number in range(count):
                        wave = 6000 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)[:, None] + rng.normal(
                            0, 1000, (RATE, channels)
                        )
                        parent = f"{split}-{label}-{number // 2}"
                        writer.add(
                            Clip(f"{split}/{label}{number}.wav", label, split, parent=parent), wave.astype(np.int16)
                        )
            writer.finish()
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """The current directory, with recipes; stores are read where they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.toml").write_text(f'name = "t"\n{COMMON}\n[view]\nspan = "clip"\n[teacher]{NETWORK}')
    (tmp_path / "box.toml").write_text(
        f'name = "box"\n{COMMON}\n[view]\nspan = "clip"\n[init]\nadapt = "head"\n[teacher]{BOX}'
    )
    write_student(ONE_TEACHER)
    return made


def write_student(tables, name="student.toml"):
    with open(name, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f'name = "s"\n{COMMON}\n[student]{NETWORK}\n{tables}')
    return name


def sums(path, node=None, weights=None, shape=(1, "time")):
    """An ONNX file that takes waveforms of any length."""
    node = node or helper.make_node("ReduceSum", ["input", "axis"], ["logits"])
    return onnx_file(path, [node], {"axis": np.array([1])} if weights is None else weights, shape)


def test_given_teachers_replace_the_recipes_own(folder, tmp_path):
    own = distill("student.toml", folder / "store", tmp_path / "own", options=QUIET)
    given = tmp_path / "own" / TEACHERS_FOLDER / "t"
    cli.run(f"distill student.toml --data {folder / 'store'} --out given --teacher {given} --threads 1".split())
    cli.run(f"distill student.toml --data {folder / 'store'} --out alone --teacher none --threads 1".split())
    by_given, alone = load_run(tmp_path / "given"), load_run(tmp_path / "alone")
    assert (
        by_given.info.teachers
        == own.info.teachers
        == (soft_labels(load_run(given), ClipStore.open(folder / "store"))[0],)
    )
    assert by_given.weights_hash == own.weights_hash != alone.weights_hash
    assert alone.info.teachers == ()
    for run in (by_given, alone):
        assert not (run.path / TEACHERS_FOLDER).exists()
        assert not (run.path / STAGES_FILE).exists()
    with pytest.raises(InputError, match="--teacher none"):
        distill("student.toml", folder / "store", tmp_path / "x", ["none", given], options=QUIET)
    with pytest.raises(InputError, match="does not train its own teachers"):
        distill("student.toml", folder / "store", tmp_path / "given", options=RESUME)


def test_settings_of_teachers_reach_all_that_the_recipe_trains_and_not_the_student(folder, tmp_path):
    write_student(
        ONE_TEACHER + '[specialists]\nrecipe = "teacher.toml"\npairs = 1\nset = ["train.lr=1e-4"]\n'
        '[backend]\nkernels = ["linear"]\n[[backend.beside]]\nrecipe = "other.toml"\n'
    )
    (tmp_path / "other.toml").write_text(f'name = "o"\n{COMMON}\n[student]{NETWORK}\n{ONE_TEACHER}')
    settings = "--teach-set train.epochs=2 --teach-set train.lr=1e-5"
    cli.run(f"distill student.toml --data {folder / 'store'} --out out --threads 1 {settings}".split())
    taught = [path for path in tmp_path.glob(f"out/**/{TEACHERS_FOLDER}/*") if path.is_dir()]
    assert {path.name.partition("-")[0] for path in taught} == {"t", "chooser", "specialist"}
    assert len([path for path in taught if path.name == "t"]) == 2  # also that of the other system
    for path in taught:
        train = load_run(path).recipe.train
        assert (train.epochs, train.lr) == (2, 1e-5)
    assert load_run(tmp_path / "out").recipe.train.epochs == 1
    with pytest.raises(InputError, match="begun with another recipe"):
        distill("student.toml", folder / "store", tmp_path / "out", options=RESUME)


@pytest.mark.parametrize(
    ("tables", "given", "why"),
    [(ONE_TEACHER, ["none"], "with --teacher no teacher is trained"), ("", [], "recipe s has no teachers of its own")],
)
def test_settings_of_teachers_that_are_not_trained_are_refused(folder, tmp_path, tables, given, why):
    write_student(tables)
    with pytest.raises(InputError, match=f"--teach-set seed=1: {why}"):
        distill("student.toml", folder / "store", tmp_path / "out", given, options=QUIET, teacher_overrides=["seed=1"])


def test_settings_of_teachers_are_for_those_named_or_else_for_the_recipes_own(folder):  # noqa: ARG001
    for teachers, own in (((), ("seed=1",)), (("teacher.toml",), ())):
        (cross,) = crossval.chosen_settings(
            crossval.CrossvalOptions("student.toml", teachers=teachers, teacher_settings=("seed=1",))
        )
        swept, _ = sweep.chosen_settings(sweep.Grid(("student.toml",), (), (), teachers, ("seed=1",), None, "0", None))
        for setting in (cross, *swept):
            assert setting.recipe.teachers[0].set == own
            assert [teacher.seed for teacher in setting.teachers] == [1] * len(teachers)


def test_an_unknown_accelerator_leaves_no_folder_behind(folder, tmp_path):
    with pytest.raises(InputError, match="accelerator 'tpu' is unknown"):
        distill(
            "student.toml", folder / "store", tmp_path / "out", options=dataclasses.replace(QUIET, accelerator="tpu")
        )
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_moved_with_its_stages_is_resumed(folder, tmp_path):
    write_student(
        f'{ONE_TEACHER}[[teachers]]\nrecipe = "teacher.toml"\nname = "more"\nset = ["init.run=t"]\n[init]\nrun ='
        ' "teacher"\n'
    )
    first = distill("student.toml", folder / "store", tmp_path / "first", options=QUIET)
    shutil.move(first.path, tmp_path / "moved")
    again = distill("student.toml", folder / "store", tmp_path / "moved", options=RESUME)
    assert again.info == first.info
    # the teacher that begins with another one finds it in the moved folder
    shutil.rmtree(tmp_path / "moved" / TEACHERS_FOLDER / "more")
    again = distill("student.toml", folder / "store", tmp_path / "moved", options=RESUME)
    assert again.info == first.info


@pytest.mark.parametrize(
    "tables",
    [
        '[[teachers]]\nrecipe = "teacher.toml"\nset = ["train.lr=0.01"]\n',
        f'{ONE_TEACHER}[[teachers]]\nrecipe = "box.toml"\n',
        f'{ONE_TEACHER}[specialists]\nrecipe = "teacher.toml"\npairs = 1\n',
        f'{ONE_TEACHER}[specialists]\nrecipe = "teacher.toml"\npairs = 2\n',
        f"{ONE_TEACHER}[backend]\n",
        f'{ONE_TEACHER}[init]\nrun = "teacher"\n',
    ],
)
def test_settings_that_differ_in_their_stages_alone_are_different_runs(folder, tmp_path, tables):
    store = ClipStore.open(folder / "store")
    recipes = [
        load_recipe("student.toml"),
        load_recipe(write_student(tables, "other.toml")),
        load_recipe("student.toml"),
    ]
    names = []
    (tmp_path / "sw").mkdir()
    for recipe in recipes:
        plan = Plan(store, tmp_path / "sw")
        names.append(plan.add(Setting("s", recipe), Fold("b", ("a",), ("b",)), 0).name)
        [job] = plan.jobs(Workers((Slot(),), 1))
        assert "--teacher" not in job.command  # each run trains its own
    assert names[0] == names[2] != names[1]
    plan = Plan(store, tmp_path / "taught")
    given = {
        plan.add(Setting("s", recipe, (load_recipe("teacher.toml"),)), Fold("b", ("a",), ("b",)), 0).name
        for recipe in recipes
    }
    assert (len(given) == 1) == ("init" not in tables and "backend" not in tables)  # instead of stages


def test_a_changed_recipe_of_a_stage_is_another_run(folder, tmp_path):
    store = ClipStore.open(folder / "store")

    def name():
        return Plan(store, tmp_path).add(Setting("s", load_recipe("student.toml")), Fold("b", ("a",), ("b",)), 0).name

    first = name()
    assert name() == first
    (tmp_path / "teacher.toml").write_text((tmp_path / "teacher.toml").read_text().replace("lr = 0.001", "lr = 0.002"))
    assert name() != first
    (tmp_path / "teacher.toml").unlink()
    with pytest.raises(InputError, match=r"teacher\.toml: no such file"):
        name()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (TAPPED + 'student = "features.9"\n', r"no module 'features\.9'"),
        (TAPPED + 'teacher = "featurs"\n', r"no module 'featurs'.*features"),
        (TAPPED + "teachers = [3]\n", "names teacher 3, but there is one teacher"),
        (
            '[distill]\n[[distill.terms]]\nloss = "embedding"\n',
            "distill.teaching is 'clip'",
        ),
        (
            '[init]\nrun = "teacher"\n[[teachers]]\nrecipe = "box.toml"\n',
            r"init\.run = 'teacher': box is a black_box, but \[student\] of s is a cp_resnet",
        ),
        ('[view]\nchannels = "all"\n', None),
        ("[augment]\nmel_masks = 1\nmel_mask_bins = 3\nir_p = 0.5\n", "ir_folder is not set"),
    ],
)
def test_a_mistake_of_the_student_is_found_before_its_teachers_are_trained(folder, tmp_path, tables, message):
    sums(tmp_path / "sums.onnx")
    write_student(tables + ONE_TEACHER)
    if message is None:  # one channel is one channel
        assert distill("student.toml", folder / "store", tmp_path / "s", options=QUIET)
        return
    with pytest.raises(InputError, match=message) as caught:
        distill("student.toml", folder / "store", tmp_path / "s", options=QUIET)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "s").glob(f"{TEACHERS_FOLDER}/*"))


def test_specialists_without_teachers_are_refused(folder, tmp_path):
    write_student('[specialists]\nrecipe = "teacher.toml"\npairs = 1\n')
    with pytest.raises(InputError, match=r"\[specialists\] begin .*teachers"):
        distill("student.toml", folder / "store", tmp_path / "s", options=QUIET)
    assert not (tmp_path / "s").exists()


def test_a_specialist_confuses_its_pair_less_than_the_generalist(folder, tmp_path):
    write_student(
        ONE_TEACHER
        + """[specialists]
recipe = "teacher.toml"
pairs = 1
held_out = [0, 2]
set = ["train.epochs=20", "train.lr=0.01"]
"""
    )
    run = distill("student.toml", folder / "store", tmp_path / "s", options=QUIET)
    report = msgspec.json.decode((run.path / PAIRS_FILE).read_bytes(), type=PairReport)
    assert report.pairs
    assert sum(pair.specialist for pair in report.pairs) < sum(pair.generalist for pair in report.pairs)


def test_channels_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"channels is 1, but view\.channels = 'all' gives 2"):
        teach("teacher.toml", folder / "stereo", tmp_path / "t", ["view.channels=all"], QUIET)
    assert not (tmp_path / "t").exists()
    stereo = (
        f'name = "raw"\n{COMMON}\n[view]\nspan = "clip"\nchannels = "all"\n[teacher]\nkind = "raw_cnn"\nstem ='
        " 4\nwidths = [4]\n"
    )
    (tmp_path / "raw.toml").write_text(stereo)
    run = teach("raw.toml", folder / "stereo", tmp_path / "raw", options=QUIET)
    with pytest.raises(InputError, match=r"raw .*view\.channels is 'all' and not 'mean'"):
        distill("student.toml", folder / "stereo", tmp_path / "s", [run.path], ["distill.teaching=same"], QUIET)
    assert distill("student.toml", folder / "stereo", tmp_path / "s", [run.path], ["distill.teaching=live"], QUIET)


def test_a_cross_fitted_teacher_cannot_teach_live(folder, tmp_path):
    run = teach("teacher.toml", folder / "store", tmp_path / "t", options=QUIET, fits=2)
    for teaching in ("live", "same"):
        with pytest.raises(InputError, match=r"t: a cross-fitted teacher .*distill\.teaching"):
            distill(
                "student.toml", folder / "store", tmp_path / "s", [run.path], [f"distill.teaching={teaching}"], QUIET
            )
    assert not (tmp_path / "s").exists()
    assert distill(
        "student.toml",
        folder / "store",
        tmp_path / "s",
        [run.path],
        ["distill.teaching=views", "distill.views=2"],
        QUIET,
    )


def test_a_student_of_recordings_needs_teachers_of_recordings(folder, tmp_path):
    teachers = {
        span: teach("teacher.toml", folder / "store", tmp_path / span, [f"view.span={span}"], QUIET).path
        for span in ("clip", "parent")
    }
    parts = teach(
        "teacher.toml", folder / "store", tmp_path / "parts", ["view.span=parent", "view.segments=2"], QUIET
    ).path
    parent = ["view.span=parent"]
    with pytest.raises(InputError, match=r'parts: a teacher with view\.segments = 2 .*view\.span = "parent"'):
        distill("student.toml", folder / "store", tmp_path / "s", [parts], parent, QUIET)
    with pytest.raises(InputError, match=r'view\.span = "clip" .*train it with view\.span = "parent"'):
        distill("student.toml", folder / "store", tmp_path / "s", [teachers["clip"]], parent, QUIET)
    assert not (tmp_path / "s").exists()
    distill("student.toml", folder / "store", tmp_path / "s", [teachers["parent"]], parent, QUIET)
    distill(
        "student.toml",
        folder / "store",
        tmp_path / "same",
        [teachers["clip"]],
        [*parent, "distill.teaching=same"],
        QUIET,
    )
    distill("student.toml", folder / "store", tmp_path / "crops", [parts], options=QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.file=none.onnx"], r"none\.onnx"),
        (["teacher.sample_rate=16000"], r"sums\.onnx: .*16000 Hz .* 8000 Hz"),
        (
            ["teacher.file=short.onnx", "teacher.head=false", "init.adapt=none"],
            r"short\.onnx: .* 1 values, but there are 3 labels",
        ),
        (["teacher.output=inner"], "no tensor 'inner'"),
        (["teacher.head=true", "init.adapt=none"], 'adapt = "none" would keep a random head'),
        (["teacher.file=fixed.onnx"], r"fixed\.onnx: ONNX Runtime cannot run this model .*MatMul.*sizes"),
    ],
)
def test_a_black_box_that_does_not_fit_is_refused_before_anything_is_written(folder, tmp_path, settings, message):
    sums(tmp_path / "sums.onnx")
    sums(tmp_path / "short.onnx")
    sums(
        tmp_path / "fixed.onnx",
        helper.make_node("MatMul", ["input", "weight"], ["logits"]),
        {"weight": np.ones((5, 3), np.float32)},
    )
    with pytest.raises(InputError, match=message) as caught:
        teach("box.toml", folder / "store", tmp_path / "t", settings, QUIET)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_black_box_teaches_in_every_way_and_is_named_when_it_is_gone(folder, tmp_path):
    sums(tmp_path / "sums.onnx")
    run = teach("box.toml", folder / "store", tmp_path / "t", options=QUIET)
    for teaching in ("clip", "views", "live", "same"):
        assert distill(
            "student.toml", folder / "store", tmp_path / teaching, [run.path], [f"distill.teaching={teaching}"], QUIET
        )
    (tmp_path / "sums.onnx").unlink()
    with pytest.raises(InputError, match=r"sums\.onnx.*(no such file|No such file|cannot be read)"):
        distill("student.toml", folder / "store", tmp_path / "s", [run.path], ["distill.teaching=live"], QUIET)
    assert not (tmp_path / "s").exists()
