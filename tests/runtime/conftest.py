"""`edgekd listen` on the toy model, in the process of the test."""

import sys
import tempfile
from types import SimpleNamespace

import pytest
from runtime.toy_listener import ToyModel

from edgekd.runtime import listen, replay


@pytest.fixture
def listen_command(edgekd, monkeypatch):
    """Runs `edgekd listen`: exit status, standard output and standard error. stdin: bytes of standard input."""

    def run(*arguments, stdin=b"", model=ToyModel):
        for module in (listen, replay):
            monkeypatch.setattr(module, "open_model", lambda *_: model())
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
            return edgekd("listen", *arguments)

    return run
