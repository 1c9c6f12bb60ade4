"""Checks that all shell scripts of tools/ share: bad arguments, and the help."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script that has ended, with its output."""
    return subprocess.run(["bash", script, *map(str, arguments)], capture_output=True, text=True, check=False)


def check_refused(done: subprocess.CompletedProcess[str], program: str, message: str) -> None:
    """It ended with status 2 and one line of error, before any output."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{program}: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def check_help(script: Path, options: Iterable[str]) -> None:
    """`--help` prints the comment at the top of the script, which describes all options, and no code."""
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert [option for option in options if option not in done.stdout] == []
    assert "set -e" not in done.stdout
