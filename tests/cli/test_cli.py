"""The command line as a user meets it: help everywhere, one line and the right exit status for every mistake."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edgekd.cli import app, main
from edgekd.data import info

BASELINE = Path(__file__).parents[3] / "shared" / "data" / "models" / "dcase2022_baseline.tflite"

needs_baseline = pytest.mark.skipif(
    not BASELINE.is_file(), reason="needs ../shared/data/models/dcase2022_baseline.tflite"
)


def commands(group: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, as the words that call it."""
    found = [prefix]
    for name, command in group.commands.items():
        words = (*prefix, name)
        found += commands(command, words) if hasattr(command, "commands") else [words]
    return found


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status and what was printed, without a new interpreter."""
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgekd", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("words", commands(typer.main.get_command(app)), ids=" ".join)
def test_help_of_every_command(words, capsys):
    status, out, _ = in_process(capsys, *words, "--help")
    assert status == 0
    assert "Usage:" in out


@pytest.mark.parametrize("words", commands(typer.main.get_command(app)), ids=" ".join)
def test_an_unknown_option_exits_2(words, capsys):
    status, out, err = in_process(capsys, *words, "--no-such-option")
    assert status == 2
    assert out == ""
    assert err.startswith("edgekd: No such option")
    assert err.endswith(f"see {' '.join(('edgekd', *words)).strip()} --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "synth"), "edgekd: Missing option '--out'; see edgekd data synth --help\n"),
        (("zzz",), "edgekd: No such command 'zzz'; see edgekd --help\n"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_2(arguments, message, capsys):
    assert in_process(capsys, *arguments) == (2, "", message)


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_no_command_gets_the_help(arguments, capsys):
    status, out, err = in_process(capsys, *arguments)
    assert status == 2
    assert "Commands:" in out + err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("interrupted in epoch 2"), 130, "interrupted in epoch 2"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "a/b: No space left on device"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'edgekd[train]'"),
    ],
)
def test_whatever_stops_a_command_gets_one_line(error, status, message, capsys, monkeypatch):
    def fail(_path):
        raise error

    monkeypatch.setattr(info, "info", fail)
    got, out, err = in_process(capsys, "data", "info", "store")
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert message in err


def test_a_reader_that_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "edgekd.cli", "--help"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_bug_shows_its_traceback(monkeypatch):
    def fail(_path):
        raise ModuleNotFoundError("No module named 'edgekd.nothing'", name="edgekd.nothing")

    monkeypatch.setattr(info, "info", fail)
    monkeypatch.setattr(sys, "argv", ["edgekd", "data", "info", "store"])
    with pytest.raises(ModuleNotFoundError):
        main()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "nothing.tflite"),
        ("check", "model.bin"),
        ("check", "nothing.tflite", "--target", "dcase2032"),
        ("check", "nothing.tflite", "--format", "xml"),
        ("info", "nothing.tflite"),
        ("info", "nothing.onnx", "--json"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(arguments, capsys):
    status, out, err = in_process(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("edgekd: ")
    assert err.count("\n") == 1


@needs_baseline
def test_check_of_a_foreign_model_within_its_budgets(capsys):
    status, out, err = in_process(capsys, "check", BASELINE, "--format", "json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["ok"] is True
    assert document["target"] == "dcase2023"
    assert document["conventions"]["nessi_tflite"]["macs"] == 29_234_920


@needs_baseline
def test_check_over_budget_exits_1_and_says_by_how_much(tmp_path, capsys):
    path = tmp_path / "small.toml"
    path.write_text(
        'name = "small"\ndescription = "d"\nsource = "s"\n[budgets]\nparam_bytes = 46_511\nmacs = 30_000_000\n'
    )
    status, out, err = in_process(capsys, "check", BASELINE, "--target", path)
    assert status == 1
    assert out.startswith("small: over budget\n")
    assert (
        err == f"edgekd: {BASELINE}: over the budgets of small: param_bytes 46,512 > 46,511; export a smaller student\n"
    )


@needs_baseline
def test_a_file_name_that_is_not_text_is_printed_somehow(tmp_path):
    path = tmp_path / os.fsdecode(b"m\xff.tflite")
    path.write_bytes(BASELINE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "edgekd.cli", "check", path],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"m\\udcff.tflite" in done.stdout


@needs_baseline
def test_info_of_a_model_without_a_manifest_exits_2(capsys):
    status, _, err = in_process(capsys, "info", BASELINE)
    assert status == 2
    assert str(BASELINE) in err
    assert "manifest" in err


def test_the_module_runs_in_an_interpreter_of_its_own():
    done = subprocess.run([sys.executable, "-m", "edgekd.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "check" in done.stdout
