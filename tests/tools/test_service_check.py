"""The script that runs the service under a real systemd: the checks of its arguments, and its change of the
configuration."""

import re
import subprocess

import pytest

from edgekd.service.paths import template
from tests.tools.scripts import TOOLS, check_help, check_refused, run_script

SCRIPT = TOOLS / "service_check.sh"


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
    done = run_script(SCRIPT, *(tmp_path / each if each.endswith(".tflite") else each for each in arguments))
    check_refused(done, "service_check", message)


def test_the_help_describes_every_option():
    check_help(SCRIPT, ("--suite", "--cache", "--mirror", "--python"))


def test_the_lines_that_it_changes_are_in_the_configuration():
    changes = re.search(r"sed -i '([^']*)' /etc/edgekd/listen\.toml", SCRIPT.read_text())[1]
    done = subprocess.run(["sed", changes], input=template("listen.toml"), capture_output=True, text=True, check=True)
    assert '\ncommand = "/usr/local/bin/noise"' in done.stdout
    assert "\nrate = 48000" in done.stdout
