"""The models that come with edgekd: they verify, are within the budget, and commands take them by name or by
default."""

import json
import os
import subprocess
import sys
import wave

import numpy as np
import pytest

from edgekd.complexity.counts import count_model
from edgekd.complexity.gate import check_counts
from edgekd.complexity.target import load_target
from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.export.card import card_of
from edgekd.modelfile import zoo
from edgekd.modelfile.container import read_manifest
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.verify import verify
from edgekd.modelfile.zoo import DEFAULT, ZOO, model_file, zoo_card, zoo_files, zoo_model, zoo_names
from edgekd.runtime.config import Config, ModelTable, read_config

FILES = [path for name in zoo_names() for path in zoo_files(name)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_verifies_is_within_the_budget_and_names_its_data(file, tmp_path):
    model = open_model(file)
    provenance = model.manifest.provenance
    assert not provenance.synthetic
    assert provenance.data_licence not in {"", "unknown"}
    assert model.manifest.temperature > 0.0
    verify(file).require()
    assert check_counts(count_model(file), load_target("dcase2023")).ok
    rate = model.manifest.frontend.sample_rate
    with StoreWriter(
        tmp_path / "store", name="noise", licence="CC0", sample_rate=rate, channels=1, synthetic=True
    ) as writer:
        noise = np.random.default_rng(0).normal(0, 300, model.manifest.window).astype(np.int16)
        writer.add(Clip("noise.wav", model.manifest.labels[0], "test"), noise[:, None])
        writer.finish()
    assert evaluate_file(file, tmp_path / "store").scores.clips.count == 1


@pytest.mark.parametrize("name", zoo_names())
def test_every_model_has_a_file_for_each_engine_a_card_and_a_command_that_makes_it(name):
    files = zoo_files(name)
    assert [path.suffix for path in files] == [".tflite", ".onnx"]
    assert zoo_card(name).read_text(encoding="utf-8") == card_of(files)
    assert read_manifest(files[0]).name == name
    readme = (ZOO / "README.md").read_text(encoding="utf-8")
    assert f"edgekd distill {name} " in readme


def test_the_small_model_fits_a_microcontroller():
    assert check_counts(count_model(zoo_model("litert", "esc50-small")), load_target("cortex-m7")).ok


def test_the_zoo_has_no_other_files():
    known = {path for name in zoo_names() for path in (*zoo_files(name), zoo_card(name))} | {ZOO / "README.md"}
    assert {path for path in ZOO.iterdir() if path.is_file()} == known


def test_listen_uses_the_default_model(tmp_path):
    samples = (np.random.default_rng(0).standard_normal(32000) * 3000).astype("<i2")
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    command = [sys.executable, "-m", "edgekd.cli", "listen", str(tmp_path / "noise.wav"), "--json"]
    lines = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines()]
    assert [round(line["t"], 1) for line in lines] == [1.0, 1.5, 2.0]
    assert {line["label"] for line in lines} <= set(open_model(zoo_model()).manifest.labels)


def test_the_file_is_for_the_engine_named_or_installed(monkeypatch):
    assert zoo_model("onnxruntime").suffix == ".onnx"
    assert Config(model=ModelTable(engine="onnxruntime")).model_file.suffix == ".onnx"
    for installed, suffix in (
        (("ai_edge_litert", "onnxruntime"), ".tflite"),
        (("tflite_runtime",), ".tflite"),
        (("onnxruntime",), ".onnx"),
        ((), ".tflite"),
    ):
        monkeypatch.setattr(zoo, "find_spec", lambda package, installed=installed: package in installed or None)
        assert zoo_model().suffix == suffix
    with pytest.raises(InputError, match="unknown engine 'lite'"):
        zoo_model("lite")


def test_a_name_stands_for_a_file_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_file(DEFAULT, "onnxruntime") == zoo_model("onnxruntime")
    for path in ("own.tflite", f"folder/{DEFAULT}", f"./{DEFAULT}.onnx"):
        assert str(model_file(path)) == path.removeprefix("./")
    with pytest.raises(InputError, match=f"'esc50-bset' .*; did you mean '{DEFAULT}'"):
        model_file("esc50-bset")
    (tmp_path / DEFAULT).mkdir()
    assert str(model_file(DEFAULT)) == DEFAULT


def test_a_configuration_may_name_a_model_and_a_file_of_that_name_comes_first(tmp_path):
    (tmp_path / "listen.toml").write_text(f'[model]\nfile = "{DEFAULT}"\nengine = "onnxruntime"\n')
    assert read_config(tmp_path / "listen.toml").model_file == zoo_model("onnxruntime")
    (tmp_path / DEFAULT).touch()
    assert read_config(tmp_path / "listen.toml").model_file == tmp_path / DEFAULT


def test_every_command_takes_a_name(edgekd, tmp_path):
    engine = ("--engine", "onnxruntime")
    (tmp_path / "audio").mkdir()
    with wave.open(str(tmp_path / "audio" / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((np.random.default_rng(0).standard_normal(16000) * 3000).astype("<i2").tobytes())
    for command in (("info",), ("verify",), ("verify", *engine), ("check",), ("bench", "--repeats", 2, *engine)):
        status, out, err = edgekd(command[0], DEFAULT, *command[1:])
        assert (status, err) == (0, "")
        assert f"{DEFAULT}.int8.{'onnx' if engine[0] in command else 'tflite'}" in out
    assert edgekd("predict", DEFAULT, tmp_path / "audio", "--csv", tmp_path / "out.csv", *engine)[0] == 0
    status, out, _ = edgekd("listen", tmp_path / "audio" / "noise.wav", "--model", DEFAULT, "--json")
    assert (status, json.loads(out)["t"]) == (0, 1.0)
    assert edgekd("evaluate", "esc50-bset", "--data", tmp_path)[2].endswith(f"did you mean '{DEFAULT}'?\n")


def test_the_zoo_command_lists_all_models_and_shows_the_card_of_one(edgekd):
    status, out, _ = edgekd("zoo")
    assert status == 0
    for name in zoo_names():
        manifest = read_manifest(zoo_files(name)[0])
        (line,) = [line for line in out.splitlines() if line.startswith((f"{name} ", f"{name}* "))]
        assert f"{manifest.counts.param_bytes:,}" in line
        assert manifest.provenance.data_licence in line
        assert (f"{name}* " in line) == (name == DEFAULT)
    models = {each["name"]: each for each in json.loads(edgekd("zoo", "--json")[1])["models"]}
    assert [*models] == zoo_names()
    assert edgekd("zoo", DEFAULT)[1] == zoo_card(DEFAULT).read_text(encoding="utf-8")
    assert json.loads(edgekd("zoo", DEFAULT, "--json")[1]) == models[DEFAULT]
    assert models[DEFAULT]["macs"] == read_manifest(zoo_model()).counts.macs
    assert edgekd("zoo", "esc50")[0] == 2


def test_without_pyyaml_only_a_new_card_is_refused(edgekd, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    for command in (("info", DEFAULT), ("info", DEFAULT, "--json"), ("zoo",), ("zoo", DEFAULT)):
        assert edgekd(*command)[0] == 0
    status, out, err = edgekd("info", DEFAULT, "--card")
    assert (status, out) == (2, "")
    assert "pip install 'edgekd[check]'" in err


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process in /proc")
def test_listening_starts_no_threads_for_small_products(tmp_path):
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))
    program = (
        "import os, sys; from edgekd import cli\n"
        "assert 'numpy' not in sys.modules\n"
        f"sys.argv = ['edgekd', 'listen', {str(tmp_path / 'noise.wav')!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "1"
