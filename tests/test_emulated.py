"""The tools around emulated boards: the parity of kept cases, and the script's checks before it touches anything."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qgraph import toy

from edgekd import modelfile
from edgekd.errors import GateError, InputError
from edgekd.qgraph import onnx, tflite

pytest.importorskip("onnxruntime")

TOOLS = Path(__file__).parents[1] / "tools"
SCRIPT = TOOLS / "emulated_pi.sh"
CPU_INFO = r'source <(sed "/^main \"/d" "$1"); cpuinfo "$2"'


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("emulated_parity", TOOLS / "emulated_parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder, graph = tmp_path_factory.mktemp("models"), toy.every_op()
    for kind, emit in (("tflite", tflite.emit), ("onnx", onnx.emit)):
        modelfile.write(folder / f"toy.int8.{kind}", emit(graph), toy.manifest(graph, kind))
    modelfile.write(folder / "toy.float.onnx", onnx.emit(graph, True), toy.manifest(graph, "onnx", "float"))
    return folder


def script(*arguments):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_kept_cases_are_found_again_on_this_machine(parity, models, tmp_path, capsys):
    files = [models / "toy.int8.tflite", models / "toy.int8.onnx"]
    parity.make(files, tmp_path / "cases.npz", count=100)
    parity.replay(tmp_path / "cases.npz", files)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [document[path.name]["engine"] for path in files] == ["litert", "onnxruntime"]
    assert all(row["windows"] == 100 and row["max_steps"] == 0 for row in document.values())
    with np.load(tmp_path / "cases.npz") as cases:
        assert cases["toy.int8.tflite/input"].dtype == np.int8
        assert len(np.unique(cases["toy.int8.tflite/input"], axis=0)) == 100  # each window another waveform


def test_other_logits_fail(parity, models, tmp_path):
    path = models / "toy.int8.tflite"
    parity.make([path], tmp_path / "cases.npz", count=3)
    with np.load(tmp_path / "cases.npz") as kept:
        cases = dict(kept)
    cases[f"{path.name}/logits"][1, 2] ^= 0x40
    np.savez(tmp_path / "other.npz", **cases)
    with pytest.raises(GateError, match=r"other logits .*toy.int8.tflite in litert"):
        parity.replay(tmp_path / "other.npz", [path])
    with pytest.raises(InputError, match=r"no cases of toy\.int8\.onnx"):
        parity.replay(tmp_path / "other.npz", [models / "toy.int8.onnx"])


def test_windows_of_a_store(parity, tone_store_for_tools, tmp_path):
    store, model = tone_store_for_tools
    parity.make([model], tmp_path / "cases.npz", count=5, data=store, split="a")
    with np.load(tmp_path / "cases.npz") as cases:
        assert cases[f"{model.name}/input"].shape == (5, 32, 19)


@pytest.fixture
def tone_store_for_tools(models, tmp_path):
    """A store at the model's rate, and the model."""
    from edgekd.data.store import Clip
    from edgekd.data.writer import StoreWriter

    pcm = np.random.default_rng(0).integers(-9000, 9000, (8000, 1)).astype(np.int16)
    with StoreWriter(tmp_path / "store", name="noise", licence="CC0", sample_rate=8000, channels=1, synthetic=True) as writer:
        for index in range(4):
            writer.add(Clip(f"{index}.wav", f"label{index}", "a"), pcm)
        return writer.finish().path, models / "toy.int8.tflite"


def test_a_float_model_is_no_case(parity, models, tmp_path):
    with pytest.raises(InputError, match="a float model"):
        parity.make([models / "toy.float.onnx"], tmp_path / "cases.npz")


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "no MODEL given"),
    (["--suites"], "--suites needs a value"),
    (["--colour", "red"], "unknown option --colour"),
    (["nothing.tflite"], "nothing.tflite: no such file"),
    (["--suites", "sid", SCRIPT], "not a .tflite or .onnx file"),
    (["--suites", "sid", "MODEL"], "unknown suite 'sid'"),
    (["--cpus", "max", "MODEL"], "unknown cpu 'max'"),
    (["--windows", "0", "MODEL"], "--windows is '0'"),
    (["MODEL", "MODEL"], "two models have the same file name"),
])
def test_bad_arguments_exit_2_with_one_line_before_anything_is_done(models, arguments, message):
    done = script(*(models / "toy.int8.tflite" if each == "MODEL" else each for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("emulated_pi: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_help_tells_every_option():
    done = script("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--suites", "--cpus", "--windows", "--data", "--cache", "--python", "--mirror"))
    assert "set -e" not in done.stdout


@pytest.mark.parametrize(("cpu", "part", "dot_products"), [("cortex-a53", "0xd03", False), ("cortex-a72", "0xd08", False),
                                                          ("cortex-a76", "0xd0b", True)])
def test_the_emulated_boards_say_what_they_are(cpu, part, dot_products):
    done = subprocess.run(["bash", "-c", CPU_INFO, "_", SCRIPT, cpu], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"CPU part\t: {part}\n") == 4
    assert ("asimddp" in done.stdout) is dot_products
    assert "Raspberry Pi" in done.stdout.splitlines()[-1]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_parity_tool_runs_as_a_program(models, tmp_path):
    done = subprocess.run([sys.executable, TOOLS / "emulated_parity.py", "replay", tmp_path / "nothing.npz", models / "toy.int8.onnx"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("emulated_parity: ")
    assert done.stderr.count("\n") == 1
