"""`edgekd reproduce`: tables as data, from a made-up folder in its official layout to the paper's and the measured
figures.

Past 400 lines because all tables share one made-up folder and the stand-in for processes.
"""

import csv
import json
import os
import sys

import pytest
from helpers.small_recipes import NETWORK, TABLES

from edgekd import cli
from edgekd.data.sets import toy_sets
from edgekd.errors import GateError, InputError
from edgekd.experiments import budget
from edgekd.experiments import runs as runs_module
from edgekd.experiments.budget import estimate
from edgekd.experiments.jobs import Slot, Workers
from edgekd.experiments.published_table import load_table
from edgekd.experiments.reproduce import chosen_settings, reproduce
from edgekd.experiments.reproduce_report import figures_of_paper
from edgekd.experiments.smoke import few_steps
from edgekd.experiments.speed import ClipTimes, measure
from edgekd.models import build
from edgekd.resources import names
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import RUN_FILE, STAGES_FILE, load_run, model_config, resolved

TABLES_HERE = names("reproductions")
ALL_TABLES = "EDGEKD_TEST_TABLES"
"""Set, every shipped table is trained for a few steps; else only the one in the command's help, by the test of
examples."""
ONE = Workers((Slot(),), 1)
COMMON = (
    TABLES.replace('["a"]', '["train"]').replace('["b"]', '["evaluate"]')
    + """
[view]
seconds = 0.5
[train]
epochs = 2
batch_size = 4
lr = 0.01
warmup_epochs = 0
test_every = 0
"""
)
TABLE = """
title = "Tones"
paper = "Nobody 2000"
figures = ["accuracy", "macro_accuracy", "log_loss", "params"]
[data]
set = "tau19"
sample_rate = 8000
train = 12
test = 3
clips = 18
seconds = 0.5
labels = 10
"""
ROWS = """
[[rows]]
label = "teacher"
recipe = "teacher.toml"
[[rows]]
label = "taught"
recipe = "student.toml"
network = "qat"
paper = { accuracy = 0.5, log_loss = 2.0 }
source = "Table 1"
[[rows]]
label = "alone"
recipe = "student.toml"
teachers = "none"
[[rows]]
label = "both"
mean_of = ["teacher", "alone"]
[[rows]]
label = "machine"
recipe = "judged.toml"
judge = "svm"
[[rows]]
label = "its teacher"
recipe = "judged.toml"
part = "teachers/t"
[[rows]]
label = "taught by its teacher"
recipe = "judged.toml"
set = ["distill.temperature=4.0"]
teachers_of = "machine"
[[rows]]
label = "theirs"
not_reproduced = "it is nowhere to be had"
paper = { accuracy = 0.9 }
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory, with recipes, a table and a data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.toml").write_text(f'name = "t"\n{COMMON}\n[teacher]{NETWORK}')
    student = f'{COMMON}\n[qat]\nepochs = 1\n[student]{NETWORK}\n[[teachers]]\nrecipe = "teacher.toml"\n'
    (tmp_path / "student.toml").write_text(f'name = "s"\n{student}')
    judged = student.replace("[qat]\nepochs = 1", "[qat]\nepochs = 0")
    (tmp_path / "judged.toml").write_text(f'name = "j"\n{judged}\n[backend]\nkernels = ["linear"]\n')
    (tmp_path / "table.toml").write_text(TABLE + ROWS)
    toy_sets.scenes(tmp_path / "tau19", seconds=0.5)
    return tmp_path


@pytest.fixture
def trained(monkeypatch, jobs_here):
    """The names of the jobs that were run, in this process."""
    monkeypatch.setenv("EDGEKD_LAUNCHED", "1")
    monkeypatch.setattr(runs_module, "run_jobs", jobs_here)
    return jobs_here.ran


def quiet(_):
    return None


def test_a_table_is_trained_and_scored_and_continues(place, trained):
    report = reproduce("table.toml", place / "tau19", place / "out", "0,1", ONE, quiet)
    # per seed: teacher, student, student alone, student with a machine, taught by its teacher; and the teacher that
    # students share is that of seed 0
    assert len(trained) == 10
    rows = {each.row.label: each for each in report.rows}
    assert all(
        (each.done, each.runs) == ((4, 4) if each.row.mean_of else (2, 2))
        for each in report.rows
        if not each.row.not_reproduced
    )
    runs = sorted((place / "out" / "runs").iterdir())
    taught = [load_run(path) for path in runs if path.name.startswith("s-") and load_run(path).info.teachers]
    assert len(taught) == 2
    measured = rows["taught"].figures["accuracy"]
    assert measured["measured"] == pytest.approx(sum(run.info.metrics["qat_clip_accuracy"] for run in taught) / 2)
    assert measured["low"] <= measured["measured"] <= measured["high"]
    assert measured["difference"] == pytest.approx(measured["measured"] - 0.5)
    # one clip a label
    assert rows["taught"].figures["macro_accuracy"]["measured"] == pytest.approx(measured["measured"])
    # labels of the whole data set, not of the three that were made up
    network = build(model_config(taught[0].recipe), 10)
    assert rows["taught"].figures["params"]["measured"] == sum(each.numel() for each in network.parameters())
    with_machine = [path for path in runs if (path / "svm.json").is_file()]
    machines = [json.loads((path / "svm.json").read_bytes())["systems"][0]["svm_accuracy"] for path in with_machine]
    assert rows["machine"].figures["accuracy"]["measured"] == pytest.approx(sum(machines) / 2)
    assert "log_loss" not in rows["machine"].figures
    its = [load_run(path / "teachers" / "t").info.metrics["float_clip_accuracy"] for path in with_machine]
    assert rows["its teacher"].figures["accuracy"]["measured"] == pytest.approx(sum(its) / 2)
    others = [load_run(path) for path in runs if path.name.startswith("j-") and path not in with_machine]
    assert [run.recipe.distill.temperature for run in others] == [4.0, 4.0]
    assert all(run.info.teachers for run in others)
    with (place / "out" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    with_paper = next(line for line in lines if line["paper"])
    columns = ("system", "judged", "source", "paper")
    assert tuple(with_paper[name] for name in columns) == ("taught", "int8-aware", "Table 1", "0.5")
    text = (place / "out" / "results.md").read_text()
    assert "| taught | int8-aware | log loss | 2.000 |" in text
    assert "| theirs | float | accuracy | 90.0 % | not reproduced: it is nowhere to be had | - | - |" in text
    theirs = next(line for line in lines if line["system"] == "theirs")
    assert (theirs["paper"], theirs["measured"], theirs["not_reproduced"]) == ("0.9", "", "it is nowhere to be had")
    summary = json.loads((place / "out" / "summary.json").read_bytes())["rows"]
    assert [each["not_reproduced"] for each in summary if each["not_reproduced"]] == ["it is nowhere to be had"]
    assert "| both | float | accuracy | - |" in text
    done = len(trained)
    assert reproduce("table.toml", None, place / "out", "0,1", ONE, quiet).rows == report.rows
    assert len(trained) == done


@pytest.mark.usefixtures("trained")
def test_a_failed_run_leaves_its_row_without_figures(place):
    rows = ROWS.replace('label = "alone"\n', 'label = "alone"\nset = ["view.seconds=0.001"]\n').split(
        '[[rows]]\nlabel = "both"'
    )[0]
    (place / "table.toml").write_text(TABLE + rows)
    report = reproduce("table.toml", place / "tau19", place / "out", "0", ONE, quiet)
    figures = {each.row.label: each.figures["accuracy"]["measured"] for each in report.rows}
    assert figures["alone"] is None
    assert figures["taught"] is not None
    assert "0 of 1" in report.to_markdown()
    with pytest.raises(GateError, match="1 run not done"):
        report.require()


def test_a_smoke_run_makes_its_own_data_set_and_shortens_every_training(place, trained):
    (place / "table.toml").write_text(TABLE + '[[rows]]\nlabel = "taught"\nrecipe = "judged.toml"\n')
    report = reproduce("table.toml", None, place / "out", None, ONE, quiet, smoke=True)
    run = load_run(place / "out" / "runs" / trained[0])
    assert (run.recipe.train.epochs, load_run(run.path / "teachers" / "t").recipe.train.epochs) == (1, 1)
    assert (place / "out" / "tree" / "meta.csv").is_file()
    assert "its figures mean nothing" in report.to_markdown()
    with pytest.raises(InputError, match="started with another command"):
        reproduce("table.toml", place / "tau19", place / "out", None, ONE, quiet)


def test_an_interrupted_run_with_stages_resumes_by_the_file_of_its_stages(place, monkeypatch):
    jobs = []
    monkeypatch.setattr(runs_module, "run_jobs", lambda found, *_: jobs.extend(found) or exit_now())

    def exit_now():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="out: interrupted"):
        reproduce("table.toml", place / "tau19", place / "out", "0", ONE, quiet)
    begun = {job.name[:2]: job.resume_file.name for job in jobs if not job.needs}
    assert begun == {"t-": RUN_FILE, "s-": RUN_FILE, "j-": STAGES_FILE}
    by_teacher = next(job for job in jobs if job.needs and job.name.startswith("j-"))
    assert by_teacher.command[-2:] == (
        "--teacher",
        str((place / "out" / "runs" / by_teacher.needs[0]).resolve() / "teachers" / "t"),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('label = "alone"', 'label = "taught"', "row 'taught': another row"),
        (
            'mean_of = ["teacher", "alone"]',
            'mean_of = ["tutor"]',
            "row 'both': names 'tutor'",
        ),
        ('part = "teachers/t"', 'part = "../t"', "part '../t' is no stage of a run"),
        ('mean_of = ["teacher", "alone"]', "", "a recipe, mean_of or not_reproduced"),
        (
            'mean_of = ["teacher", "alone"]',
            'mean_of = ["teacher"]\nnot_reproduced = "no"',
            "a recipe, mean_of or not_reproduced",
        ),
        ("paper = { accuracy = 0.9 }", "", "row 'theirs': is not reproduced"),
        (
            'judge = "svm"',
            'judge = "svm"\npaper = { log_loss = 1.0 }',
            "no probabilities",
        ),
        ('teachers = "none"', 'teacher = "none"', "teacher"),
        ('figures = ["accuracy",', 'figures = ["acuracy",', "'acuracy' is unknown"),
        ('judge = "svm"', 'network = "qat"', "row 'machine': recipe judged.toml"),
    ],
)
def test_a_table_with_contradictions_is_refused(place, old, new, message):
    text = TABLE + ROWS
    assert old in text
    (place / "table.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        chosen_settings(load_table("table.toml"))


def test_missing_data_and_data_of_another_set_are_refused(place, tmp_path):
    with pytest.raises(
        InputError,
        match=(r"edgekd data fetch tau19.*--smoke"),
    ):
        reproduce("table.toml", None, place / "out", None, ONE, quiet)
    assert not (place / "out").exists()
    cli.run(["data", "synth", "--out", "synth", "--clips", "60", "--seconds", "1"])
    with pytest.raises(InputError, match="this table wants tau19"):
        reproduce("table.toml", tmp_path / "synth", place / "out", None, ONE, quiet)


def test_a_store_of_another_split_than_the_tables_is_refused(place, trained):
    text = (TABLE + ROWS).replace("train = 12", "train = 6\noptions = { subset = 25 }")
    (place / "table.toml").write_text(text)
    run = ("data", "prepare", "tau19", str(place / "tau19"), "--out", str(place / "store"), "--sample-rate", "8000")
    cli.run(list(run))
    with pytest.raises(
        InputError,
        match=r"12 clips .* 6; .*tau19 --subset 25 ",
    ):
        reproduce("table.toml", place / "store", place / "out", "0", ONE, quiet)
    assert trained == []


@pytest.mark.parametrize("name", TABLES_HERE)
def test_every_shipped_table_can_be_planned_in_full_and_for_smoke(name):
    table = load_table(name)
    for smoke in (False, True):
        settings = chosen_settings(table, smoke=smoke)
        assert all(setting.recipe.frontend.sample_rate == table.data.sample_rate for setting in settings.values())
        assert all((setting.recipe.train.epochs == 1) == smoke for setting in settings.values())
    assert all(figure in table.figures for row in table.rows for figure in figures_of_paper(row))


FOLDS = """
[[rows]]
label = "teacher"
recipe = "teacher.toml"
[[rows]]
label = "alone"
recipe = "student.toml"
teachers = "none"
[[rows]]
label = "both"
mean_of = ["teacher", "alone"]
"""


@pytest.mark.slow
def test_each_fold_of_a_table_is_tested_once(place, trained, monkeypatch):
    text = (
        (TABLE + FOLDS)
        .replace('set = "tau19"', 'set = "esc50"')
        .replace("figures =", 'folds = ["fold1", "fold3", "fold5"]\nfigures =')
    )
    (place / "table.toml").write_text(text)
    report = reproduce("table.toml", toy_sets.esc50(place / "esc50", 0.5), place / "out", "0", ONE, quiet)
    assert report.where == "esc50: 9 test clips in 3 folds"
    assert [(each.done, each.runs) for each in report.rows] == [(3, 3), (3, 3), (6, 6)]
    runs = [load_run(path) for path in (place / "out" / "runs").iterdir()]
    assert {(run.recipe.data.train, run.recipe.data.test) for run in runs} == {
        (("fold3", "fold5"), ("fold1",)),
        (("fold1", "fold5"), ("fold3",)),
        (("fold1", "fold3"), ("fold5",)),
    }
    teachers = [run.info.metrics["float_clip_accuracy"] for run in runs if run.recipe.name == "t"]
    assert len(teachers) == 3
    assert report.rows[0].figures["accuracy"]["measured"] == pytest.approx(sum(teachers) / 3)
    monkeypatch.setattr(budget, "measure", lambda *_: ClipTimes(1.0, 10.0, 0.5, 4))
    assert [line.runs for line in estimate("table.toml", "0,1", Workers((Slot(),), 1), quiet).lines] == [6, 6]
    trained.clear()
    reproduce("table.toml", None, place / "short", None, ONE, quiet, smoke=True).require()
    assert len(trained) == 4  # two rows, two of the folds
    (place / "table.toml").write_text(text.replace('"fold3"', '"fold1"'))
    with pytest.raises(InputError, match=r"folds = \['fold1', 'fold1', 'fold5'\]"):
        load_table("table.toml")


def test_a_table_without_a_trained_row_is_refused(tmp_path):
    (tmp_path / "table.toml").write_text(
        TABLE + '[[rows]]\nlabel = "theirs"\nnot_reproduced = "no"\npaper = { accuracy = 0.9 }\n'
    )
    with pytest.raises(InputError, match=r"table.toml: has no \[\[rows\]\]"):
        load_table(str(tmp_path / "table.toml"))


def test_cp_mobile_of_2023_names_the_replacements_of_its_teachers():
    table = load_table("cp-mobile2023")
    taught = chosen_settings(table)[table.row("CP-Mobile 128k, taught by AST and CP-ResNet").key]
    assert [recipe.model["kind"] for recipe in taught.teachers] == ["cp_resnet"] * 3 + ["ast"] * 3
    assert "PaSST is replaced by AST" in table.notes[0]
    others = [row for row in table.rows if row.not_reproduced]
    assert all("PaSST" in row.label or "evaluation set" in row.label for row in others)
    assert {row.paper.macro_accuracy for row in others} == {0.658, 0.627, 0.587}
    assert all(row.paper.macro_accuracy is None for row in table.rows if row.trained)


def test_vtuad_is_trained_on_its_publishers_split_whose_ships_are_on_both_sides():
    settings = chosen_settings(load_table("ssatkd-vtuad"))
    assert all(setting.recipe.data.allow_leaks for setting in settings.values())


def test_a_budget_and_a_short_run_fetch_no_weights():
    pytest.importorskip("transformers", reason="needs transformers, the extra 'hub'")
    sizes = ("teacher.weights=nobody/nothing", "teacher.hidden=24", "teacher.heads=2", "teacher.layers=1")
    teacher = load_recipe("tau22-cp-mobile2023-ast", sizes)
    assert measure(resolved(teacher), load_table("cp-mobile2023").data, "cpu", 1.0).train > 0
    short = load_recipe("tau22-cp-mobile2023-ast", few_steps(load_recipe("tau22-cp-mobile2023-ast")))
    assert (short.model["weights"], short.model["hidden"]) == ("", 24)


def test_a_budget_adds_up_steps_tests_stages_and_seeds(place, monkeypatch):
    monkeypatch.setattr(budget, "measure", lambda *_: ClipTimes(1.0, 10.0, 0.5, 4))
    found = estimate("table.toml", "0,1,2", Workers((Slot(), Slot()), 1), quiet)
    lines = {line.what: line for line in found.lines}
    # 2 epochs of 12 clips, a test of 3 at half a second, and a teacher labels all 18 clips
    teacher = 2 * 12 + 0.5 * (3 + 18)
    assert "teacher t" not in lines  # it is the run of the teacher's own row with seed 0
    assert (lines["teacher"].runs, lines["teacher"].seconds) == (3, teacher)
    others = {line.what: line for line in estimate("table.toml", "1,2", Workers((Slot(),), 1), quiet).lines}
    assert (others["teacher t"].runs, others["teacher"].runs, others["teacher t"].seconds) == (1, 2, teacher)
    assert (lines["taught"].runs, lines["taught"].seconds) == (3, 2 * 12 + 1.5 + 12 * 10 + 1.5)
    assert (lines["machine"].seconds, lines["machine"].trainings) == (teacher + 2 * 12 + 1.5, 2)
    assert lines["taught by its teacher"].seconds == 2 * 12 + 1.5
    assert found.summed == pytest.approx(sum(line.runs * line.seconds for line in found.lines))
    assert found.total == pytest.approx(found.prepare_s + found.summed / 2)
    assert "An estimate from a short measurement" in found.to_text()
    assert json.loads(found.to_json())["total_s"] == pytest.approx(found.total, abs=0.1)
    assert not (place / "out").exists()


@pytest.mark.usefixtures("place")
def test_a_network_is_measured_in_batches_up_to_the_recipes_own():
    table = load_table("table.toml")
    pace = measure(chosen_settings(table)[table.row("taught").key].recipe, table.data, "cpu", 5.0)
    assert min(pace.train, pace.qat, pace.predict) > 0
    assert pace.batch == 4


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get(ALL_TABLES), reason=f"takes minutes; set {ALL_TABLES}=1")
@pytest.mark.parametrize("name", TABLES_HERE)
def test_every_shipped_table_reaches_its_end_on_a_made_up_data_set(name, tmp_path):
    report = reproduce(name, None, tmp_path / "out", None, ONE, quiet, smoke=True)
    report.require()
    for each in report.rows:
        assert all(cell["measured"] is not None for cell in each.figures.values()), each.row.label


def test_the_command_without_a_folder_and_an_unknown_table_is_one_line(monkeypatch, capsys):
    for arguments, message in (
        (["heo2019", "--smoke"], "--out DIR"),
        (["heo2091", "--out", "out", "--smoke"], "did you mean 'heo2019'"),
    ):
        monkeypatch.setattr(sys, "argv", ["edgekd", "reproduce", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
