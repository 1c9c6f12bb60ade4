"""`edgekd evaluate --report`: the page of a model of tones, and what is refused before anything is evaluated."""

import os

import pytest
from helpers.html_page import parsed
from typer.testing import CliRunner

from edgekd.cli import app
from edgekd.complexity.counts import count_model
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError, MissingExtraError
from edgekd.evaluation import report as reporting
from edgekd.evaluation.bench import Benchmark, StageTimes
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.evaluation.report import page_of, plan_report
from edgekd.modelfile import container
from edgekd.modelfile.manifest import Calibration
from edgekd.qgraph import tflite

EVIL = "<script>alert('x')</script>"


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tone_models, tone_fixtures, tmp_path_factory):
    """(what the command printed as JSON without and with a report, the page)."""
    folder = tmp_path_factory.mktemp("page")
    items = [
        (Clip(f"{label}/{i}.wav", label, "a", recorder=f"r{i}"), tone_fixtures.tone(label, 1.0, i))
        for label in tone_fixtures.LABELS
        for i in (0, 1)
    ]
    items.append((Clip("rare/wrong.wav", "low", "a"), tone_fixtures.tone("high", 1.0)))
    tone_fixtures.write_store(folder / "store", items)
    arguments = [tone_models["litert"], "--data", folder / "store", "--split", "a", "--json"]
    plain, reported = run(*arguments), run(*arguments, "--report", folder / "report.html")
    assert (plain.exit_code, reported.exit_code) == (0, 0), reported.output
    return plain.stdout, reported.stdout, parsed((folder / "report.html").read_bytes())


def test_what_is_printed_stays_as_it_was(finished):
    plain, reported, _ = finished
    assert plain == reported


def test_the_page_has_scores_mistakes_costs_times_and_the_model(finished):
    text = finished[2].text
    assert "tones.int8.tflite" in text
    assert "in litert on tones (synthetic), split a: 5 clips" in text
    assert "80.0 %" in text
    assert "high and low 1 of 5 clips" in text
    assert "rare/wrong.wav low high" in text
    assert "r0 100.0 % 2 of 2" in text
    assert "dcase2023: ok" in text
    assert "whole pipeline" in text
    assert "Of the machine that made this page" in text
    assert "student hand_made, int8, trained on synthetic data" in text
    assert "licence CC0" in text
    assert "Synthetic clips" in text


def test_costs_are_those_of_check(tone_model, tone_store, tmp_path):
    plan = plan_report(tmp_path / "x.html", tone_model, tone_store, None, force=False)
    text = parsed(reporting.render(page_of(plan, evaluate_file(tone_model, tone_store), "why not"))).text
    counts = count_model(tone_model).conventions["exact"]
    assert f"exact {counts.macs:,} {counts.params:,} {counts.param_bytes:,}" in text
    assert f"of {plan.target.name}" in text
    assert "Not measured: why not" in text


def test_another_target_gives_the_budgets(tone_model, tone_store, tmp_path):
    target = tmp_path / "tiny.toml"
    target.write_text('name = "tiny"\ndescription = "x"\nsource = "x"\n[budgets]\nparam_bytes = 10\n')
    done = run(tone_model, "--data", tone_store, "--report", tmp_path / "x.html", "--target", target)
    assert done.exit_code == 0  # the page shows it; 'edgekd check' is the gate
    page = parsed((tmp_path / "x.html").read_bytes())
    assert "tiny: over budget" in page.text
    assert "tile bad" in [each.get("class") for each in page.tags("div")]


@pytest.mark.parametrize(
    ("machine", "verdict"),
    [
        ("Raspberry Pi 4 Model B (asimd)", "latency_ms over 900 125"),
        ("AMD EPYC", "not measured as asked, but on AMD EPYC"),
    ],
)
def test_a_latency_budget_applies_on_its_own_board_alone(tone_model, tone_store, tmp_path, machine, verdict):
    plan = plan_report(tmp_path / "x.html", tone_model, tone_store, "pi-4", force=False)
    slow = StageTimes(900.0, 900.0, 900.0, 900.0)
    timed = Benchmark(
        model=str(tone_model),
        engine="litert",
        threads=1,
        precision="int8",
        frontend_ms=slow,
        network_ms=slow,
        network_warm_ms=slow,
        pipeline_ms=slow,
        of_float=None,
        of_float_warm=None,
        rss_mb=None,
        start_s=1.0,
        repeats=50,
        machine=machine,
    )
    assert verdict in parsed(reporting.render(page_of(plan, evaluate_file(tone_model, tone_store), timed))).text


def test_equal_evaluations_give_equal_pages(tone_model, tone_store, tmp_path):
    plan = plan_report(tmp_path / "x.html", tone_model, tone_store, None, force=False)
    assert len({reporting.render(page_of(plan, evaluate_file(tone_model, tone_store), "none")) for _ in range(2)}) == 1


def test_labels_and_paths_are_inert(tone_fixtures, tmp_path):
    model = tmp_path / "evil.tflite"
    container.write(
        model, tflite.emit(tone_fixtures.low_or_high_graph()), tone_fixtures.manifest_for(labels=(EVIL, "low"))
    )
    items = [
        (Clip(f"{EVIL}{i}.wav", EVIL, "a", recorder=EVIL), tone_fixtures.tone("low" if i else "high", 1.0, i))
        for i in (0, 1)
    ]
    store = tone_fixtures.write_store(tmp_path / "store", items)
    plan = plan_report(tmp_path / "x.html", model, store.path, None, force=False)
    raw = reporting.render(page_of(plan, evaluate_file(model, store.path), EVIL))
    assert parsed(raw).text.count(EVIL) > 6
    assert b"<script" not in raw


def test_a_file_that_exists_is_kept_without_force_and_replaced_with_it(tone_model, tone_store, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("mine")
    arguments = [tone_model, "--data", tone_store, "--report", page]
    done = run(*arguments)
    assert isinstance(done.exception, InputError)
    assert "exists; replace it with --force" in str(done.exception)
    assert page.read_text() == "mine"
    assert run(*arguments, "--force").exit_code == 0
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is a folder; give --report a file name"),
        ("none/report.html", "there is no folder .*none; make it"),
        ("store/audio.i16", "is part of what is evaluated"),
        ("store/clips.csv", "is part of what is evaluated"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_before_the_model_runs(
    tone_model, tone_store, tmp_path, monkeypatch, path, message
):
    monkeypatch.setattr("edgekd.evaluation.evaluate.evaluate_file", lambda *_, **__: pytest.fail("evaluated"))
    done = run(tone_model, "--data", tone_store, "--report", tmp_path / path, "--force")
    assert isinstance(done.exception, InputError)
    with pytest.raises(InputError, match=message):
        raise done.exception
    assert ClipStore.open(tone_store).clips


def test_the_model_itself_is_not_replaced(tone_model, tone_store):
    with pytest.raises(InputError, match="part of what is evaluated"):
        plan_report(tone_model, tone_model, tone_store, None, force=True)


def test_a_folder_that_cannot_be_written_is_refused_first(tone_model, tone_store, tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(reporting.tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=r"No space left on device.*--report"):
        plan_report(tmp_path / "x.html", tone_model, tone_store, None, force=False)


def test_an_unknown_target_is_refused_first(tone_model, tone_store, tmp_path):
    with pytest.raises(InputError, match=r"'dcase2032' .*did you mean"):
        plan_report(tmp_path / "x.html", tone_model, tone_store, "dcase2032", force=False)


@pytest.mark.parametrize(
    ("target", "force", "option"), [("dcase2023", False, "--target dcase2023"), (None, True, "--force")]
)
def test_options_of_a_report_are_refused_without_one(tone_model, tone_store, target, force, option):
    with pytest.raises(InputError, match=f"{option} without --report FILE"):
        plan_report(None, tone_model, tone_store, target, force=force)


def test_a_device_without_the_readers_of_check_still_gets_its_page(tone_model, tone_store, tmp_path, monkeypatch):
    def missing(_):
        raise MissingExtraError("ai-edge-litert", "check")

    monkeypatch.setattr(reporting, "count_model", missing)
    plan = plan_report(tmp_path / "x.html", tone_model, tone_store, None, force=False)
    text = parsed(reporting.render(page_of(plan, evaluate_file(tone_model, tone_store), "none"))).text
    assert "Not counted: ai-edge-litert is not installed; install it with: pip install 'edgekd[check]'" in text


def test_a_warning_comes_with_a_temperature_that_was_fitted_on_these_clips(tone_fixtures, tone_store, tmp_path):
    store, model = ClipStore.open(tone_store), tmp_path / "fitted.tflite"
    fit = Calibration("tones", store.hash, ("a",), 8, 0.1, 0.05, 0.6, 0.5)
    container.write(
        model,
        tflite.emit(tone_fixtures.low_or_high_graph()),
        tone_fixtures.manifest_for(calibration=fit, temperature=1.5),
    )
    plan = plan_report(tmp_path / "x.html", model, tone_store, None, force=False)
    text = parsed(reporting.render(page_of(plan, evaluate_file(model, tone_store), "none"))).text
    assert "The temperature 1.5 was fitted on some of these clips" in text
    assert "the model's temperature, 1.5" in text
