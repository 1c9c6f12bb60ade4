"""`edgekd crossval` and `edgekd sweep` on a few clips: which runs are planned, what the reports hold, and which options
are refused.

Past 400 lines because both commands share the clips, the recipes and the stand-in for processes.
"""

import csv
import json

import msgspec
import numpy as np
import pytest
from helpers.small_recipes import NETWORK, RATE, TABLES, write_two_tones

from edgekd import cli
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import GateError, InputError
from edgekd.experiments import runs as runs_module
from edgekd.experiments.crossval import CrossvalOptions, crossval
from edgekd.experiments.crossval_summary import crossval_summary
from edgekd.experiments.folder import experiment_folder
from edgekd.experiments.jobs import Slot, Workers
from edgekd.experiments.plan import Fold, Plan, Setting, cross_folds, seed_list
from edgekd.experiments.sweep import Grid, sweep, varied
from edgekd.export.export import export_run
from edgekd.modelfile.container import read_manifest
from edgekd.report.model_info import info
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.recipe.schema import Data
from edgekd.train.run.folder import load_run

ONE = Workers((Slot(),), 1)
COMMON = (
    TABLES
    + """
[train]
epochs = 1
batch_size = 8
lr = 0.01
test_every = 0
[qat]
epochs = 1
freeze_epochs = 0
"""
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store of three splits, a teacher recipe and a student recipe."""
    folder = tmp_path_factory.mktemp("place")
    write_two_tones(folder / "store", dict.fromkeys("abc", 8), seconds=0.5, clips_of_a_group=2)
    (folder / "teacher.toml").write_text(f'name = "t"\n{COMMON}\n[view]\nspan = "clip"\n[teacher]{NETWORK}')
    (folder / "student.toml").write_text(f'name = "s"\n{COMMON}\n[view]\nseconds = 0.25\n[student]{NETWORK}')
    return folder


@pytest.fixture
def trained(monkeypatch, jobs_here):
    """The names of the jobs that were run, in this process."""
    monkeypatch.setattr(runs_module, "run_jobs", jobs_here)
    return jobs_here.ran


def quiet(_):
    return None


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def distill(place, out, *settings):
    """Train the student with some keys set."""
    given = [word for each in settings for word in ("--set", each)]
    store = str(place / "store")
    cli.run(["distill", str(place / "student.toml"), "--data", store, "--out", str(out), "--threads", "1", *given])


def test_every_fold_is_tested_once_by_networks_of_the_others(place, tmp_path, trained):
    options = CrossvalOptions(
        str(place / "student.toml"),
        ("qat.epochs=0",),
        folds="a,b",
        seeds="0",
        against_settings=("train.lr=0.001",),
        choose=True,
    )
    report = crossval(options, place / "store", tmp_path / "cv", ONE, quiet)
    rows = rows_of(tmp_path / "cv" / "results.csv")
    assert [(row["setting"], row["fold"]) for row in rows[:4]] == [
        ("s", "a"),
        ("s train.lr=0.001", "a"),
        ("s", "b"),
        ("s train.lr=0.001", "b"),
    ]
    assert [row["fold"] for row in rows[4:]] == ["a-inner", "a-inner", "b-inner", "b-inner"]
    store = ClipStore.open(place / "store")
    for row in rows:
        run = load_run(tmp_path / "cv" / "runs" / row["run"])
        fold = row["fold"][0]
        assert (run.recipe.data.test, run.recipe.data.train) == ((fold,), ("b" if fold == "a" else "a",))
        with np.load(run.path / "test-float.npz") as kept:
            tested = {store.clips[clip].split for clip in kept["clip"]}
        assert tested == set(run.recipe.data.train if row["fold"].endswith("inner") else run.recipe.data.test)
        assert float(row["float_clip_accuracy"]) == pytest.approx(run.info.metrics["float_clip_accuracy"], abs=1e-6)
        assert float(row["float_window_accuracy"]) == pytest.approx(run.info.metrics["float_window_accuracy"], abs=1e-6)
    _check_summary(report.summary, rows)
    assert json.loads((tmp_path / "cv" / "summary.json").read_bytes()) == json.loads(report.to_json())
    before = (tmp_path / "cv" / "results.csv").read_bytes(), report.markdown
    trained.clear()
    again = crossval(options, place / "store", tmp_path / "cv", ONE, quiet)
    assert ((tmp_path / "cv" / "results.csv").read_bytes(), again.markdown) == before
    assert trained == []


def _check_summary(summary, rows):
    """Means are over folds, differences are of means, and the chosen recipe has the better inner runs."""
    both = ("s", "s train.lr=0.001")
    accuracy = {(row["setting"], row["fold"]): float(row["float_clip_accuracy"]) for row in rows}
    figures = {label: summary["networks"][label]["float"] for label in (*both, "chosen")}
    for label in both:
        each = figures[label]["mean"]["clips"]["accuracy"]
        assert each["mean"] == pytest.approx((accuracy[label, "a"] + accuracy[label, "b"]) / 2, abs=1e-6)
        assert each["low"] <= each["mean"] <= each["high"]
    difference = summary["differences"]["float"]["clips"]["accuracy"]
    assert difference["mean"] == pytest.approx(
        np.subtract(*(figures[label]["mean"]["clips"]["accuracy"]["mean"] for label in both))
    )
    assert difference["excludes_zero"] == (difference["low"] > 0 or difference["high"] < 0)
    for fold in "ab":
        chosen = summary["choice"][fold]["chosen"]
        assert accuracy[chosen, f"{fold}-inner"] == max(accuracy[label, f"{fold}-inner"] for label in both)
        assert figures["chosen"]["folds"][fold] == figures[chosen]["folds"][fold]


def test_official_folds_that_take_no_part_are_reported(place, tmp_path, trained):
    store = ClipStore.open(place / "store")
    with StoreWriter(
        tmp_path / "store", name="tones", licence="CC0", sample_rate=RATE, channels=1, official_folds=True
    ) as writer:
        for number, clip in enumerate(store.clips):
            writer.add(clip, store.clip_pcm(number))
        writer.finish()
    options = CrossvalOptions(str(place / "teacher.toml"), seeds="0", folds="a,c")
    report = crossval(options, tmp_path / "store", tmp_path / "some", ONE, print)
    assert "The official folds b take no part" in report.markdown
    assert report.summary["folds_left_out"] == ["b"]
    complete = crossval(
        CrossvalOptions(str(place / "teacher.toml"), seeds="0", folds="a,b,c"),
        tmp_path / "store",
        tmp_path / "all",
        ONE,
        print,
    )
    assert ("take no part" in complete.markdown, complete.summary["folds_left_out"]) == (False, [])
    assert len(trained) == 5
    with pytest.raises(InputError, match=r"held_out = \[0, 4\] .*tones"):
        ClipStore.open(tmp_path / "store").partition(["a", "b", "c"], [], held_out=[0, 4])
    assert len(ClipStore.open(tmp_path / "store").partition(["a", "b"], [], held_out=[0, 4]).test) > 0
    final = Data(train=("a", "b", "c"), test=(), held_out=(0, 4), mixed_folds=True).sides(
        ClipStore.open(tmp_path / "store")
    )
    assert (len(final.train) + len(final.test), len(final.test) > 0) == (len(store.clips), True)


def test_the_folder_of_another_crossval_is_refused_and_seeds_may_be_added(place, tmp_path, trained):
    options = CrossvalOptions(str(place / "teacher.toml"), folds="a,b", seeds="0")
    crossval(options, place / "store", tmp_path / "cv", ONE, quiet)
    with pytest.raises(InputError, match="started with another recipe"):
        crossval(
            CrossvalOptions(str(place / "teacher.toml"), ("train.lr=0.1",), folds="a,b"),
            place / "store",
            tmp_path / "cv",
            ONE,
            quiet,
        )
    assert len(trained) == 2
    crossval(
        CrossvalOptions(str(place / "teacher.toml"), folds="a,b", seeds="1,0"),
        place / "store",
        tmp_path / "cv",
        ONE,
        quiet,
    )
    assert len(trained) == 4


@pytest.mark.usefixtures("trained")
@pytest.mark.slow
def test_a_model_carries_the_crossval_of_its_own_recipe_and_of_no_other(place, tmp_path):
    options = CrossvalOptions(str(place / "student.toml"), folds="a,b", seeds="0", against_settings=("train.lr=0.001",))
    summary = crossval(options, place / "store", tmp_path / "cv", ONE, quiet).summary
    for row in rows_of(tmp_path / "cv" / "results.csv")[:2]:
        run = tmp_path / "cv" / "runs" / row["run"]
        report = export_run(
            run,
            "int8",
            "onnx",
            tmp_path / row["setting"],
            card=True,
            crossval=crossval_summary(tmp_path / "cv", run, "int8"),
        )
        found, figures = read_manifest(report.files[0]).crossval, summary["networks"][row["setting"]]["qat"]["mean"]
        assert (found.folds, found.seeds, found.network, found.data) == (("a", "b"), (0,), "qat", "tones")
        assert msgspec.to_builtins(found.clips) == figures["clips"]["accuracy"]
        assert msgspec.to_builtins(found.windows) == figures["windows"]["accuracy"]
        assert f"Cross-validated: {100 * found.clips.mean:.1f} % (" in report.card.read_text()
        assert f"{100 * found.windows.mean:.1f} % (" in info(report.files[0], False)
    changes = ('data.train=["a","b","c"]', "data.test=[]", "data.held_out=[0,4]", "data.mixed_folds=true")
    distill(place, tmp_path / "all", *changes, "seed=3", "train.precision=bf16")
    own = tmp_path / "cv" / "runs" / rows_of(tmp_path / "cv" / "results.csv")[0]["run"]
    same, quoted = (crossval_summary(tmp_path / "cv", run, "int8") for run in (own, tmp_path / "all"))
    assert quoted == same
    distill(place, tmp_path / "other", "train.lr=0.1")
    with pytest.raises(InputError, match=r"s train\.lr=0\.001, none of which is s "):
        crossval_summary(tmp_path / "cv", tmp_path / "other", "int8")
    with pytest.raises(InputError, match="no folder of a finished"):
        crossval_summary(place, tmp_path / "all", "int8")


@pytest.mark.usefixtures("trained")
def test_a_crossval_with_a_failed_run_names_it_and_gives_no_mean(place, tmp_path):
    with pytest.raises(GateError, match=r"2 runs of 2 .*\nt-a-.*the loss"):
        crossval(
            CrossvalOptions(str(place / "teacher.toml"), ("train.lr=1e30",), folds="a,b", seeds="0"),
            place / "store",
            tmp_path / "cv",
            ONE,
            quiet,
        )
    assert [row["state"] for row in rows_of(tmp_path / "cv" / "results.csv")] == ["failed", "failed"]
    assert not (tmp_path / "cv" / "summary.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": "a,x"}, "no split 'x'"),
        ({"folds": "a"}, "one fold leaves nothing to train on"),
        ({"folds": "a,b,a"}, "'a' is named twice"),
        ({"seeds": "0,one"}, "'one' is not a whole number"),
        ({"seeds": "1,01"}, "'1' is named twice"),
        ({"seeds": "1,"}, "write values with commas"),
        ({"choose": True}, "name the other with --against"),
        ({"cross_fit": 2}, "name them with --teach"),
        ({"against_settings": ("seed=3",)}, "there is nothing to compare"),
        ({"teachers": ("STUDENT",)}, r"give one with a \[teacher\] table"),
        ({"settings": ("data.held_out=[0, 2]",)}, "folds decide what is tested"),
        ({"teachers": ("TEACHER",), "cross_fit": 99}, "cannot be divided into 99 parts"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(place, tmp_path, trained, changes, message):
    changes = {
        name: (
            tuple(
                each.replace("STUDENT", str(place / "student.toml")).replace("TEACHER", str(place / "teacher.toml"))
                for each in value
            )
            if isinstance(value, tuple)
            else value
        )
        for name, value in changes.items()
    }
    with pytest.raises(InputError, match=message):
        crossval(CrossvalOptions(str(place / "student.toml"), **changes), place / "store", tmp_path / "cv", ONE, quiet)
    assert not (tmp_path / "cv").exists()
    assert not trained


def test_teachers_are_shared_by_seeds_and_cross_fitted_on_demand(place, tmp_path):
    recipe, teacher = (load_recipe(str(place / f"{name}.toml")) for name in ("student", "teacher"))
    plan = Plan(ClipStore.open(place / "store"), tmp_path, cross_fit=3)
    for seed in (0, 1):
        plan.add(Setting("s", recipe, (teacher,)), Fold("a", ("b", "c"), ("a",)), seed)
    first, *students = plan.jobs(ONE)
    assert first.command[first.command.index("--cross-fit") :] == ("--cross-fit", "3")
    assert "teach" in first.command
    assert [job.needs for job in students] == [(first.name,)] * 2
    assert all(job.command[-2:] == ("--teacher", str(tmp_path / "runs" / first.name)) for job in students)
    assert len({job.name for job in (first, *students)}) == 3


def test_folds_are_all_splits_of_the_recipe(place):
    store = ClipStore.open(place / "store")
    folds = cross_folds(load_recipe(str(place / "student.toml")), store, None)
    assert [(fold.name, fold.train, fold.test) for fold in folds] == [("a", ("b",), ("a",)), ("b", ("a",), ("b",))]
    assert cross_folds(load_recipe(str(place / "student.toml")), store, "c,a,b")[0].train == ("a", "b")
    assert seed_list(" 3,0") == [3, 0]


def test_a_folder_belongs_to_one_process_and_one_experiment(tmp_path):
    with (
        experiment_folder(tmp_path / "x", {"store": "1"}),
        pytest.raises(InputError, match="in use by another edgekd process"),
        experiment_folder(tmp_path / "x", {"store": "1"}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"another store \(1, now 2\)"),
        experiment_folder(tmp_path / "x", {"store": "2"}),
    ):
        pass
    (tmp_path / "x" / "plan.json").unlink()
    (tmp_path / "x" / "mine.txt").touch()
    with (
        pytest.raises(InputError, match="no folder of a crossval or sweep"),
        experiment_folder(tmp_path / "x", {"store": "1"}),
    ):
        pass


def test_a_sweep_tries_all_combinations_and_reports_failed_runs(place, tmp_path, trained):
    teacher, student = (str(place / f"{name}.toml") for name in ("teacher", "student"))
    grid = Grid((teacher, student), vary=("train.lr=0.01,1e30",), teachers=(teacher,))
    report = sweep(grid, place / "store", tmp_path / "sw", ONE, quiet)
    rows = rows_of(tmp_path / "sw" / "results.csv")
    assert [(row["setting"], row["state"]) for row in rows] == [
        ("t train.lr=0.01", "done"),
        ("t train.lr=1e30", "failed"),
        ("s train.lr=0.01", "done"),
        ("s train.lr=1e30", "failed"),
        ("teacher t", "done"),
    ]
    assert rows[4]["run"] == rows[0]["run"]
    assert "lower the phase's lr" in rows[1]["error"]
    assert len(trained) == 4  # the teacher of the students is the first run of the teacher
    assert (rows[0]["qat_clip_accuracy"], rows[1]["float_clip_accuracy"]) == ("", "")
    mean = report.summary["settings"]["s train.lr=0.01"]["networks"]["qat"]["clips"]["accuracy"]["mean"]
    assert mean == pytest.approx(float(rows[2]["qat_clip_accuracy"]), abs=1e-6)
    assert report.summary["settings"]["s train.lr=1e30"]["networks"] == {}
    with pytest.raises(GateError, match="2 runs not done"):
        report.require()
    kept = {
        name: (tmp_path / "sw" / name).read_bytes()
        for name in ("results.csv", "results.md", "results.png", "results.svg")
    }
    assert kept["results.png"].startswith(b"\x89PNG")
    sweep(grid, place / "store", tmp_path / "sw", ONE, quiet)
    assert len(trained) == 6  # failed runs are tried again
    assert {name: (tmp_path / "sw" / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": ("train.lr",)}, "write key=value,value"),
        ({"vary": ("train.lr=1,1",)}, "1 is named twice"),
        ({"vary": ("train.lr=1,",)}, "a value is empty"),
        ({"vary": ("seed=1,2",)}, "use --seeds for that"),
        ({"vary": ("train.lr=1", "train.lr=2")}, "--vary train.lr is given twice"),
        ({"vary": ("train.lr=0.1,fast",)}, "train.lr: expected `float`.*'fast'"),
        ({"recipes": 2}, "there is another recipe of the name 's'"),
        ({"cross_fit": 2}, "of teachers named with --teach"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_written(place, tmp_path, trained, changes, message):
    recipes = (str(place / "student.toml"),) * changes.pop("recipes", 1)
    with pytest.raises(InputError, match=message):
        sweep(Grid(recipes, **changes), place / "store", tmp_path / "sw", ONE, quiet)
    assert not (tmp_path / "sw").exists()
    assert not trained


def test_commas_inside_values_do_not_separate_them():
    assert varied("student.widths=[8, 16],[8]") == ["student.widths=[8, 16]", "student.widths=[8]"]
    assert varied('augment.mixup_domain="a,b",loudness') == [
        'augment.mixup_domain="a,b"',
        "augment.mixup_domain=loudness",
    ]


@pytest.mark.slow
def test_the_commands_train_in_processes_of_their_own(place, tmp_path, capsys):
    words = [
        "sweep",
        str(place / "teacher.toml"),
        "--data",
        str(place / "store"),
        "--out",
        str(tmp_path / "sw"),
        "--jobs",
        "1",
        "--json",
    ]
    cli.run(words)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["failed"] == {}
    assert "1 of 1: t-b-seed0-" in printed.err
    [log] = (tmp_path / "sw" / "jobs").glob("*.log")
    assert "float epoch 1/1" in log.read_text()
