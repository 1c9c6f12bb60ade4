"""`edgekd check` from its options to its reports and exit statuses, on a small exported model."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from model_files import ones, tflite_file

from edgekd.cli import main
from edgekd.complexity.check import CheckOptions, check, parse_reports, require_ok
from edgekd.errors import GateError, InputError

BOARD = """
[latency]
board = "Raspberry Pi 4"
engines = ["litert"]
threads = 1
limit_ms = 20
"""


@pytest.fixture
def make_target(tmp_path):
    def make(budgets: str, more: str = "") -> Path:
        path = tmp_path / "tiny.toml"
        path.write_text(f'name = "tiny"\ndescription = "d"\nsource = "s"\n[budgets]\n{budgets}\n{more}')
        return path

    return make


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgekd", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return command


def bench_document(path: Path, model: Path, **changes) -> Path:
    times = {"p50": 10.0, "p95": 15.0, "cpu_p50": 1.0, "cpu_p95": 1.0}
    document = {
        "model": str(model),
        "engine": "litert",
        "threads": 1,
        "precision": "int8",
        "frontend_ms": times,
        "network_ms": times,
        "pipeline_ms": times,
        "of_float": None,
        "rss_mb": None,
        "start_s": 1.0,
        "repeats": 300,
        "machine": "Raspberry Pi 4 Model B Rev 1.4 (asimd)",
        **changes,
    }
    path.write_text(json.dumps(document))
    return path


def test_over_a_budget_fails_and_names_it(tone_model, make_target):
    size = tone_model.stat().st_size
    checked = check([tone_model], CheckOptions(make_target(f"macs = 1_000_000\nfile_bytes = {size - 1}")))
    assert [budget.ok for budget in checked[0].verdict.budgets] == [True, False]
    with pytest.raises(GateError, match=f"tiny: file_bytes {size:,} > {size - 1:,}"):
        require_ok(checked)


def test_all_models_are_checked_and_one_failure_fails(tone_models, make_target, run):
    target = make_target("file_bytes = 1_000_000", '[rules]\nformats = ["onnx"]')
    status, out, err = run(*tone_models.values(), "--target", target, "--format", "json")
    assert status == 1
    assert [document["ok"] for document in json.loads(out)] == [False, True]
    assert err.startswith("edgekd: 1 of 2 models fail tiny: ")
    assert "formats tflite: only onnx" in err
    assert err.count("\n") == 1


def test_a_broken_rule_fails_by_name(tone_model, make_target, run):
    status, out, err = run(tone_model, "--target", make_target("macs = 1_000_000", '[rules]\noperators = ["ADD"]'))
    assert status == 1
    assert out.splitlines()[0] == "tiny: against the rules"
    assert re.search(r"fails tiny: operators .*CONV_2D.*: not among the 1 operator of tiny", err)


def test_an_op_with_weights_and_without_a_counting_rule_cannot_pass(run, tmp_path):
    model = tflite_file(
        tmp_path / "attention.tflite",
        [((1, 4), "FLOAT32", None), ((10, 4), "FLOAT32", ones(10, 4, dtype=np.float32)), ((1, 10), "FLOAT32", None)],
        [("CUSTOM:Attention", [0, 1], [2], None)],
        [0],
        [2],
    )
    status, out, err = run(model)
    assert status == 1
    assert "no counting rule: CUSTOM:Attention x 1 (40 parameters)" in out
    assert (
        "macs: no rule counts the MACs of CUSTOM:Attention (40 parameters), so the count is only a lower bound" in err
    )
    status, _, err = run(model, "--target", "cortex-m7")
    assert status == 1
    assert "operators CUSTOM:Attention: not among the 97 operators of cortex-m7" in err
    assert "forbidden_operators CUSTOM:Attention" in run(model, "--target", "pi-4")[2]


def test_several_reports_of_one_run(tone_model, make_target, run, tmp_path):
    reports = {name: tmp_path / f"report.{name}" for name in ("markdown", "junit", "json", "table")}
    badge = tmp_path / "badge.svg"
    options = [option for name, path in reports.items() for option in ("--report", f"{name}={path}")]
    status, out, err = run(tone_model, "--target", make_target("macs = 1"), *options, "--badge", badge)
    assert (status, err.count("\n")) == (1, 1)  # written although the model fails
    assert reports["table"].read_text() == out
    assert reports["markdown"].read_text().startswith("### ❌ `")
    assert json.loads(reports["json"].read_text())["ok"] is False
    assert ET.parse(reports["junit"]).getroot().get("failures") == "1"
    assert ET.parse(badge).getroot().get("aria-label").startswith("tiny: over: ")
    status, _, err = run(tone_model, "--badge", badge)
    assert status == 2
    assert "exists; replace it with --force" in err
    assert run(tone_model, "--badge", badge, "--force")[0] == 0
    assert ET.parse(badge).getroot().get("aria-label").startswith("dcase2023: ")


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        (["summary.md"], "'summary.md'; give FORMAT=FILE"),
        (["markdown="], "give FORMAT=FILE"),
        (["markdwn=s.md"], "'markdwn' .*did you mean 'markdown'"),
        (["json=no/such/s.json"], "the folder no/such does not exist"),
        (["json=a.txt", "table=a.txt"], "a.txt: named twice, or a model"),
        (["json=m.tflite"], "m.tflite: named twice, or a model"),
    ],
)
def test_reports_that_cannot_be_written_are_refused(reports, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        parse_reports(reports, None, [Path("m.tflite")], force=True)


def test_a_folder_as_the_file_of_a_report_is_refused(tmp_path):
    with pytest.raises(InputError, match="exists"):
        parse_reports([f"json={tmp_path}"], None, [], force=True)


def test_an_earlier_model_is_a_baseline(tone_model, tmp_path, run):
    status, out, _ = run(tone_model, "--baseline", tone_model)
    assert status == 0
    assert "no layer changed" in out
    stored = tmp_path / "old.json"
    assert run(tone_model, "--report", f"json={stored}")[0] == 0
    document = json.loads(stored.read_text())
    document["file_bytes"] -= 500
    stored.write_text(json.dumps(document))
    status, out, err = run(tone_model, "--baseline", stored, "--tolerance", "1%")
    assert status == 1
    assert out.splitlines()[0] == "dcase2023: grown"
    assert "fails dcase2023: file_bytes" in err
    assert run(tone_model, "--baseline", stored, "--tolerance", "50%")[0] == 0
    status, out, _ = run(tone_model, "--baseline", stored, "--format", "json")
    assert status == 1
    assert json.loads(out)["baseline"]["ok"] is False


def test_a_folder_of_earlier_versions_is_a_baseline(tone_models, tmp_path, run, monkeypatch):
    model = tone_models["litert"]
    (tmp_path / "now/sub").mkdir(parents=True)
    (tmp_path / "old/sub").mkdir(parents=True)
    (tmp_path / "now/sub/a.tflite").write_bytes(model.read_bytes())
    (tmp_path / "now/new.tflite").write_bytes(model.read_bytes())
    (tmp_path / "old/sub/a.tflite").write_bytes(model.read_bytes())
    monkeypatch.chdir(tmp_path / "now")
    status, out, _ = run("sub/a.tflite", "new.tflite", "--baseline", tmp_path / "old", "--format", "json")
    assert status == 0
    first, second = json.loads(out)
    assert first["baseline"]["ok"] is True
    assert second["baseline"] is None


def test_a_latency_is_checked_if_it_was_measured_on_the_board(tone_model, make_target, run, tmp_path):
    target = make_target("file_bytes = 1_000_000", BOARD)
    status, out, _ = run(tone_model, "--target", target)
    assert status == 0
    assert "not measured" in out
    assert run(tone_model, "--target", target, "--require-latency")[0] == 1
    assert run(tone_model, "--target", target, "--latency-ms", 20, "--board", "Raspberry Pi 4")[0] == 0
    status, _, err = run(tone_model, "--target", target, "--latency-ms", 21, "--board", "Raspberry Pi 4")
    assert status == 1
    assert "over the budgets of tiny: latency_ms 21 > 20" in err
    bench = bench_document(tmp_path / "bench.json", Path("/home/pi") / tone_model.name)
    status, out, _ = run(tone_model, "--target", target, "--bench", bench, "--require-latency", "--format", "json")
    assert status == 0
    assert json.loads(out)["budgets"][-1]["value"] == 15.0
    slow = bench_document(tmp_path / "slow.json", tone_model, pipeline_ms={"p50": 10.0, "p95": 25.0})
    assert run(tone_model, "--target", target, "--bench", slow)[0] == 1
    elsewhere = bench_document(tmp_path / "pc.json", tone_model, machine="AMD EPYC (avx2)")
    status, out, _ = run(tone_model, "--target", target, "--bench", elsewhere)
    assert status == 0
    assert "not measured as asked, but on AMD EPYC (avx2)" in out
    assert run(tone_model, "--target", target, "--bench", elsewhere, "--require-latency")[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tolerance", "2%"], "without --baseline"),
        (["--baseline", "MODEL", "--tolerance", "200%"], "200%"),
        (["--baseline", "weights.pt"], "neither a model file nor a stored report"),
        (["--baseline", "bench.json"], "another document"),
        (["--baseline", "no.tflite"], "cannot be read"),
        (["--latency-ms", "3"], "sets no latency budget"),
        (["--latency-ms", "3", "--target", "pi-4"], "needs --board"),
        (["--board", "pi-4"], "--board without --latency-ms"),
        (["--latency-ms", "3", "--board", "pi-5", "--target", "pi-4"], "is for Raspberry Pi 4"),
        (["--bench", "bench.json"], "sets no latency"),
        (["--bench", "bench.json", "--board", "pi-4", "--target", "pi-4"], "leave --latency-ms and --board out"),
        (["--bench", "weights.pt", "--target", "pi-4"], "cannot be read"),
        (["--require-latency"], "sets no latency budget"),
        (["MODEL", "--latency-ms", "3", "--board", "pi-4", "--target", "pi-4"], "one figure for 2 models"),
        (["--format", "jsn"], "--format: 'jsn' is unknown; did you mean 'json'"),
        (["--target", "pi-44"], "did you mean 'pi-4'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message, tone_model, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench_document(tmp_path / "bench.json", tone_model)
    status, out, err = run(tone_model, *(tone_model if option == "MODEL" else option for option in options))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_no_training_package_is_imported(tone_models):
    code = (
        "import sys; from edgekd.cli import main\ntry:\n    main()\nexcept SystemExit as stop:\n    print(stop.code,"
        " sorted({'torch', 'lightning', 'brevitas', 'onnxruntime', 'tensorflow'} & set(sys.modules)))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "check",
        *map(str, tone_models.values()),
        "--baseline",
        str(tone_models["litert"].parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
