"""The script that installs edgekd on emulated systems: the checks of its arguments, and its table of results."""

import json
import shutil
import subprocess

import pytest

from tests.tools.scripts import TOOLS, check_help, check_refused, run_script

SCRIPT = TOOLS / "clean_install.sh"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no MODEL given"),
        (["--limit"], "--limit needs a value"),
        (["--limit", "little", "m.tflite"], "--limit is 'little'"),
        (["--suites", "sid", "m.tflite"], "unknown suite 'sid'"),
        (["--cpus", "cortex-a53 cortex-a72", "m.tflite"], "give one processor"),
        (["m.onnx"], "give one MODEL, a .tflite file"),
        (["m.tflite", "other.tflite"], "give one MODEL"),
        (["--colour", "red", "m.tflite"], "unknown option --colour"),
    ],
)
def test_bad_arguments_exit_2_with_one_line_before_anything_is_done(tmp_path, arguments, message):
    for name in ("m.tflite", "other.tflite", "m.onnx"):
        (tmp_path / name).write_bytes(b"")
    done = run_script(SCRIPT, *(tmp_path / each if each.startswith(("m.", "other.")) else each for each in arguments))
    check_refused(done, "clean_install", message)


def test_the_help_describes_every_option():
    check_help(SCRIPT, ("--suites", "--cpus", "--limit", "--jobs", "--cache", "--python", "--mirror"))


@pytest.mark.parametrize(
    ("trixie", "ok"),
    [
        ("      0.50 s  rain\n110.5 120.0 1", True),
        ("130.0 150.0 9", True),
        ("130.1 150.0 9", False),
        ("110.5 120.0 0", False),
        ("Segmentation fault", False),
        ("", False),
    ],
)
def test_an_installation_that_is_too_large_or_makes_no_decisions_fails(tmp_path, trixie, ok):
    for name in (SCRIPT.name, "emulated_root.sh"):
        shutil.copy(TOOLS / name, tmp_path)
    copy = tmp_path / SCRIPT.name
    copy.write_text(copy.read_text().replace('main "$@"', "work=$1; report"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "bookworm").write_text("earlier output\n116.2 125.1 3\n")
    (tmp_path / "results" / "trixie").write_text(f"{trixie}\n" if trixie else "")
    done = subprocess.run(["bash", copy, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if ok else 1), done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["ok"] is ok
    assert document["rows"][0] == {
        "release": "bookworm",
        "installed_mb": 116.2,
        "after_mb": 125.1,
        "decisions": 3,
        "ok": True,
    }
    assert document["rows"][1]["ok"] is ok
