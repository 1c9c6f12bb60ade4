"""The script that runs the service under a real systemd: its checks before it touches anything, and that its own source
is a service's."""

import re
import subprocess
from pathlib import Path

import pytest

from edgekd.service.paths import template

SCRIPT = Path(__file__).parents[2] / "tools" / "service_check.sh"


def script(*arguments):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give two models"),
        (["a.tflite"], "give two models"),
        (["a.tflite", "none.tflite"], "none.tflite: no .tflite file"),
        (["a.tflite", "same.tflite"], "are the same"),
        (["--suite"], "--suite needs a value"),
        (["--colour", "red"], "unknown option --colour"),
    ],
)
def test_bad_arguments_exit_2_with_one_line_before_anything_is_done(tmp_path, arguments, message):
    for name in ("a.tflite", "same.tflite"):
        (tmp_path / name).write_bytes(b"")
    done = script(*(tmp_path / each if each.endswith(".tflite") else each for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("service_check: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_help_tells_every_option():
    done = script("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--suite", "--cache", "--mirror", "--python"))
    assert "set -e" not in done.stdout


def test_what_it_changes_in_the_configuration_is_there_to_be_changed():
    changes = re.search(r"sed -i '([^']*)' /etc/edgekd/listen\.toml", SCRIPT.read_text())[1]
    done = subprocess.run(["sed", changes], input=template("listen.toml"), capture_output=True, text=True, check=True)
    assert '\ncommand = "/usr/local/bin/noise"' in done.stdout
    assert "\nrate = 48000" in done.stdout
