"""The model that comes with edgekd: it is what it says, within the budget, and heard where no model is named."""

import json
import os
import subprocess
import sys
import wave

import numpy as np
import pytest

from edgekd import engine
from edgekd.complexity.gate import judge
from edgekd.complexity.ledger import count
from edgekd.engine import bundled_model, open_model
from edgekd.errors import InputError
from edgekd.pipeline.verify import verify
from edgekd.runtime.config import Config, ModelTable
from edgekd.target import load_target


@pytest.mark.parametrize("name", ["litert", "onnxruntime"])
def test_it_opens_verifies_and_says_what_it_was_made_of(name):
    model = open_model(bundled_model(name))
    assert (model.engine, len(model.manifest.labels)) == (name, 50)
    provenance = model.manifest.provenance
    assert (provenance.data_licence, provenance.synthetic) == ("CC BY-NC 3.0", False)
    assert model.manifest.temperature > 0.0
    verify(bundled_model(name)).require()
    assert judge(count(bundled_model(name)), load_target("dcase2023")).ok


def test_it_is_heard_where_no_model_is_named(tmp_path):
    samples = (np.random.default_rng(0).standard_normal(32000) * 3000).astype("<i2")
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    command = [sys.executable, "-m", "edgekd.cli", "listen", str(tmp_path / "noise.wav"), "--json"]
    lines = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines()]
    assert [round(line["t"], 1) for line in lines] == [1.0, 1.5, 2.0]
    assert {line["label"] for line in lines} <= set(open_model(bundled_model()).manifest.labels)


def test_the_file_is_of_the_engine_asked_for_or_installed(monkeypatch):
    assert bundled_model("onnxruntime").suffix == ".onnx"
    assert Config(model=ModelTable(engine="onnxruntime")).model_file.suffix == ".onnx"
    for installed, suffix in ((("ai_edge_litert", "onnxruntime"), ".tflite"), (("tflite_runtime",), ".tflite"),
                              (("onnxruntime",), ".onnx"), ((), ".tflite")):
        monkeypatch.setattr(engine, "find_spec", lambda package, installed=installed: package in installed or None)
        assert bundled_model().suffix == suffix
    with pytest.raises(InputError, match="unknown engine 'lite'"):
        bundled_model("lite")


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process in /proc")
def test_listening_starts_no_threads_for_small_products(tmp_path):
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))
    program = ("import os, sys; from edgekd import cli\n"
               "assert 'numpy' not in sys.modules\n"
               f"sys.argv = ['edgekd', 'listen', {str(tmp_path / 'noise.wav')!r}]\n"
               "try: cli.main()\n"
               "except SystemExit as stopped: assert not stopped.code\n"
               "print(len(os.listdir('/proc/self/task')))")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "1"
