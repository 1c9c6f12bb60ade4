"""Tests run in parallel workers on few cores, so each gets one thread; read by OpenMP when torch is first imported."""

import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from edgekd import cli


@pytest.fixture
def edgekd(monkeypatch, capsys):
    """Runs a command line; returns its exit status, standard output and standard error."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgekd", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()
    return run
