"""Tests run in parallel workers on few cores, so each gets one thread; read by OpenMP when torch is first imported."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from edgekd import cli

WEIGHTS = Path(__file__).parents[2] / "shared" / "data" / "models"
"""Published weights that the recipes name, where they are at hand."""
if WEIGHTS.is_dir():
    os.environ.setdefault("EDGEKD_WEIGHTS", str(WEIGHTS))

pytest_plugins = ["helpers.file_server", "helpers.tones", "helpers.trainings", "helpers.shipped_recipes"]


@pytest.fixture
def edgekd(monkeypatch, capsys):
    """Runs a command line; returns its exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgekd", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(name)`: files of that name cannot be written any more; gives the way back."""

    def fill(name):
        replace = Path.replace

        def refuse(self, target):
            if Path(target).name == name:
                raise OSError(28, "No space left on device", str(target))
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", refuse)
        return lambda: monkeypatch.setattr(Path, "replace", replace)

    return fill
