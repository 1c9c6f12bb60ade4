"""Instruction counts of emulated boards: how costs are computed from counts, and what the gate refuses. Nothing is
emulated here."""

import json
import re
import shutil
import subprocess
import sys

import arm_cost
import arm_cost_loops as loops
import pytest
from qgraph import toy

from edgekd.errors import GateError, InputError
from edgekd.modelfile import container
from edgekd.qgraph import tflite
from tests.tools.scripts import TOOLS, check_help, check_refused, run_script

SCRIPT, PLUGIN = TOOLS / "arm_cost.sh", TOOLS / "insn_marks.c"
MODEL = "student.int8.tflite"
START, SURROUNDINGS = 987_654, 321
"""Instructions before the loops of a stage, and around each loop; they must cancel."""
COSTS = {"network": 5000, "pipeline": 8000}


def write_counts(results, costs, repeat=1, cpu="cortex-a72", version="1.0", elsewhere=0.0):
    """Write the files of a process that takes so many instructions per iteration of each stage."""
    folder = results / "bookworm" / cpu
    folder.mkdir(parents=True, exist_ok=True)
    loops = {"engine": "litert", "stages": list(costs), "few": 16, "many": 116, "versions": {"ai-edge-litert": version}}
    (folder / f"{MODEL}.{repeat}").write_text(json.dumps(loops) + "\n")
    (folder / f"{MODEL}.{repeat}.log").write_text("")
    total, marks = START, []
    for each in costs.values():
        for iterations in (0, 16, 116):
            total += SURROUNDINGS + iterations * each
            marks.append(total)
    (folder / f"{MODEL}.{repeat}.marks").write_text(
        "".join(f"{number} {mark} {round(mark * (1 + elsewhere)) + number % 2}\n" for number, mark in enumerate(marks))
    )
    return folder / f"{MODEL}.{repeat}"


@pytest.fixture
def results(tmp_path):
    for repeat in (1, 2, 3):
        write_counts(tmp_path / "results", COSTS, repeat)
    return tmp_path / "results"


def compare(capsys, results, **options):
    """The JSON line, and the error if it failed."""
    error = None
    try:
        arm_cost.compare(results, **options)
    except GateError as raised:
        error = str(raised)
    return json.loads(capsys.readouterr().out.splitlines()[-1]), error


@pytest.fixture
def baseline(results, tmp_path, capsys):
    document, _ = compare(capsys, results, qemu="7.2")
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(document))
    return path


def test_the_cost_is_the_difference_of_two_loops(results, capsys):
    document, error = compare(capsys, results, qemu="7.2")
    (row,) = document["rows"]
    assert (row["instructions"], error, document["ok"]) == (COSTS, None, True)
    assert row["spread"] == {"network": 0, "pipeline": 0}
    assert (row["suite"], row["cpu"], row["model"], row["engine"], row["repeats"]) == (
        "bookworm",
        "cortex-a72",
        MODEL,
        "litert",
        3,
    )
    assert row["versions"] == {"ai-edge-litert": "1.0", "qemu": "7.2"}


def test_counts_that_differ_between_processes_by_more_than_a_thousandth_fail(results, capsys):
    write_counts(results, {**COSTS, "network": 5004}, 3)
    document, error = compare(capsys, results)
    assert error is None
    assert document["rows"][0]["spread"]["network"] == pytest.approx(0.0008)
    write_counts(results, {**COSTS, "network": 5006}, 3)
    document, error = compare(capsys, results)
    assert not document["ok"]
    assert "network" in error
    assert "differs by 0.12 % between processes" in error


def test_instructions_of_other_threads_are_not_counted_and_fail_above_a_share(tmp_path, capsys):
    write_counts(tmp_path / "little", COSTS, elsewhere=0.01)
    document, error = compare(capsys, tmp_path / "little")
    assert (document["rows"][0]["instructions"], error) == (COSTS, None)
    assert document["rows"][0]["elsewhere"] == pytest.approx(0.01 / 1.01, abs=1e-4)
    write_counts(tmp_path / "much", COSTS, elsewhere=1.0)
    _, error = compare(capsys, tmp_path / "much")
    assert "50.0 % of the instructions are other threads'" in error


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("Segmentation fault\n"),
        lambda path: path.with_name(path.name + ".marks").write_text("0 12 12\n1 30 30\n"),
        lambda path: path.with_name(path.name + ".marks").unlink(),
    ],
)
def test_a_process_that_crashed_fails_and_the_others_are_still_reported(results, damage, capsys):
    damage(write_counts(results, COSTS, 2, "cortex-a53"))
    document, error = compare(capsys, results)
    assert error == f"{MODEL} on cortex-a53, bookworm: 1 of 1 processes crashed"
    assert [row["cpu"] for row in document["rows"]] == ["cortex-a72"]


def test_nothing_counted_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no counts"):
        arm_cost.compare(tmp_path)


def test_growth_beyond_the_tolerance_fails_and_names_what_grew(tmp_path, baseline, capsys):
    for repeat in (1, 2, 3):
        write_counts(tmp_path / "new", {"network": 5100, "pipeline": 8000}, repeat, version="1.1")
    document, error = compare(capsys, tmp_path / "new", baseline=baseline)
    assert not document["ok"]
    assert document["failures"] == [error]
    assert (
        f"the network of {MODEL} in litert on cortex-a72, bookworm has grown by 2.00 %, from 5,000 to 5,100"
        " instructions" in error
    )
    assert "ai-edge-litert 1.0 to 1.1" in error
    assert "pipeline" not in error


@pytest.mark.parametrize(("network", "tolerance"), [(5050, 0.01), (5100, 0.02), (4000, 0.01), (5000, 0.0)])
def test_growth_within_the_tolerance_and_savings_pass(tmp_path, baseline, network, tolerance, capsys):
    write_counts(tmp_path / "new", {**COSTS, "network": network})
    assert compare(capsys, tmp_path / "new", baseline=baseline, tolerance=tolerance)[1] is None


def test_a_model_without_baseline_is_ignored_and_a_baseline_without_all_models_is_refused(tmp_path, baseline, capsys):
    write_counts(tmp_path / "new", COSTS)
    write_counts(tmp_path / "new", {"network": 10**9}, cpu="cortex-a53")
    assert compare(capsys, tmp_path / "new", baseline=baseline)[1] is None
    write_counts(tmp_path / "other", COSTS, cpu="cortex-a76")
    with pytest.raises(InputError, match="holds none of the models counted"):
        arm_cost.compare(tmp_path / "other", baseline=baseline)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"rows": [], "ok": true}',
        b"\xff\xfe",
        (
            b'{"rows": [{"suite": "bookworm", "cpu": "cortex-a72", "model": "m", "engine": "litert", "instructions":'
            b' {"network": 0}, "spread": {}, "elsewhere": 0, "repeats": 3, "versions": {}}], "ok": true}'
        ),
        (
            b'{"rows": [{"suite": "bookworm", "cpu": "cortex-a72", "model": "m", "engine": "litert", "instructions":'
            b' {"network": "many"}, "spread": {}, "elsewhere": 0, "repeats": 3, "versions": {}}], "ok": true}'
        ),
    ],
)
def test_a_malformed_baseline_is_refused_before_anything_is_counted(tmp_path, content):
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no baseline .*arm_cost\.sh MODEL"):
        arm_cost.check(baseline=path)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_outside_0_to_1_is_refused(tolerance):
    with pytest.raises(InputError, match="--tolerance is"):
        arm_cost.check(tolerance=tolerance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no MODEL given"),
        (["--repeats", "0", "MODEL"], "--repeats is '0'"),
        (["--windows", "5", "MODEL"], "unknown option --windows"),
        (["--cpus", "max", "MODEL"], "unknown cpu 'max'"),
        (["--python", sys.executable, "--baseline", "absent.json", "MODEL"], "absent.json cannot be read"),
        (["--python", sys.executable, "--tolerance", "3", "MODEL"], "--tolerance is 3"),
    ],
)
def test_bad_arguments_exit_2_with_one_line_before_anything_is_done(tmp_path, arguments, message):
    model = tmp_path / MODEL
    model.write_bytes(b"")
    done = run_script(SCRIPT, *(model if each == "MODEL" else each for each in arguments))
    check_refused(done, "arm_cost", message)


def test_the_help_describes_every_option():
    shared = ("--suites", "--cpus", "--jobs", "--cache", "--python", "--mirror")
    check_help(SCRIPT, ("--baseline", "--tolerance", "--repeats", *shared))


def test_each_stage_runs_between_its_marks(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    graph = toy.every_op()
    path = tmp_path / "toy.int8.tflite"
    container.write(path, tflite.emit(graph), toy.manifest(graph, "tflite"))
    seen = []
    monkeypatch.setattr(loops, "HOP_S", 0.25)
    monkeypatch.setattr(
        loops, "stages_of", lambda _: {"first": lambda: seen.append("first"), "second": lambda: seen.append("second")}
    )
    monkeypatch.setattr(loops, "mark_stage", lambda _, number: seen.append(number))
    run = loops.run(path)
    assert run.stages == ("first", "second", "stream")
    few, many, warm = run.few, run.many, loops.WARM_UP
    assert seen == [
        *["first"] * warm,
        0,
        *["first"] * few,
        1,
        *["first"] * many,
        2,
        *["second"] * warm,
        3,
        *["second"] * few,
        4,
        *["second"] * many,
        5,
        6,
        7,
        8,
    ]
    assert set(run.versions) == {"python", "numpy", "ai-edge-litert"}


def test_the_stages_are_those_of_bench_and_the_stream(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    graph = toy.every_op()
    path = tmp_path / "toy.int8.tflite"
    container.write(path, tflite.emit(graph), toy.manifest(graph, "tflite"))
    monkeypatch.setattr(loops, "HOP_S", 0.25)
    monkeypatch.setattr(loops, "MANY", loops.FEW + 1)
    assert set(loops.run(path).stages) == set(arm_cost.STAGE_HEADERS)  # marks without the plugin have no effect


def test_the_plugin_and_the_loops_have_the_same_mark():
    base, shift = re.search(r"#define MARK UINT64_C\((\w+)\) << (\d+)", PLUGIN.read_text()).groups()
    assert int(base, 16) << int(shift) == loops.MARK


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_plugin_compiles_without_a_warning(tmp_path):
    subprocess.run(
        [
            "gcc",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-DAPI=1",
            "-o",
            tmp_path / "insn_marks.so",
            PLUGIN,
        ],
        check=True,
    )
