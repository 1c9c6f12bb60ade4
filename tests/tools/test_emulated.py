"""Tools for emulated boards: cases, their replay, the table of results, and the script's checks of its arguments."""

import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import emulated_cases as cases
import emulated_listen
import emulated_parity as parity
import msgspec
import numpy as np
import pytest
from qgraph import toy

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import GateError, InputError
from edgekd.modelfile import container, golden
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.manifest import TensorQuant
from edgekd.modelfile.verify import verify
from edgekd.qgraph import onnx, reference, tflite
from edgekd.runtime.decision import to_json
from edgekd.runtime.listen import listen
from tests.tools.scripts import TOOLS, check_help, check_refused, run_script

pytest.importorskip("onnxruntime")

SCRIPT, SHARED = TOOLS / "emulated_pi.sh", TOOLS / "emulated_root.sh"
CPU_INFO = 'program=test; source "$1"; cpuinfo "$2"'
POOL = """program=test; source "$1"; work=$2; jobs=2; trap clean_up EXIT
for name in a b c; do spawn "$name" bash -c 'echo "output of $0"; echo why >&2; [[ $0 != b ]]' "$name"; done
reap_all; cat "$work/results/"[abc]"""
INTERRUPTED = """program=test; source "$1"; work=$2; trap clean_up EXIT; trap 'exit 130' INT
spawn sleeper sleep 300; echo "${!running[@]}"; kill -INT $$; reap_all"""


@pytest.fixture(scope="module")
def graph():
    return toy.every_op()


@pytest.fixture(scope="module")
def models(tmp_path_factory, graph):
    """A file per engine with golden vectors, as export writes them, and a float one."""
    folder = tmp_path_factory.mktemp("models")
    source, output = graph.edges[graph.input], graph.edges[graph.output]

    def run(features):
        return reference.dequantize(reference.run(graph, reference.quantize(features[:, None], source)), output)

    for kind, emit in (("tflite", tflite.emit), ("onnx", onnx.emit)):
        manifest = toy.manifest(graph, kind)
        vectors = golden.make(
            manifest.frontend, manifest.window, TensorQuant("int8", source.scale, source.zero_point), output.scale, run
        )
        container.write(folder / f"toy.int8.{kind}", emit(graph), msgspec.structs.replace(manifest, golden=vectors))
    container.write(folder / "toy.float.onnx", onnx.emit(graph, True), toy.manifest(graph, "onnx", "float"))
    return folder


@pytest.fixture
def store(tmp_path):
    """Four clips of a second at the models' rate, the second of them silent but for its end."""
    pcm = np.random.default_rng(0).integers(-9000, 9000, (8000, 1)).astype(np.int16)
    with StoreWriter(
        tmp_path / "store", name="noise", licence="CC0", sample_rate=8000, channels=1, synthetic=True
    ) as writer:
        for index in range(4):
            quiet = pcm * (np.arange(8000)[:, None] > 6000) if index == 1 else pcm + np.int16(index)
            writer.add(Clip(f"{index}.wav", f"label{index}", "a"), quiet.astype(np.int16))
        return writer.finish().path


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_saved_cases_agree_on_the_same_machine(models, tmp_path, capsys):
    files = [models / "toy.int8.tflite", models / "toy.int8.onnx"]
    cases.main(files, tmp_path, count=100)
    parity.replay(tmp_path, files)
    found = last_json(capsys)
    assert [each["engine"] for each in found] == ["litert", "onnxruntime"]
    assert all(each["windows"] == 100 and each["max_steps"] == 0 and each["ok"] for each in found)
    with np.load(tmp_path / "toy.int8.tflite.npz") as case:
        assert case["input"].dtype == np.int8
        assert len(np.unique(case["input"], axis=0)) == 100  # each window another waveform


def test_the_reference_of_a_run_is_found_by_the_golden_vectors(models, graph, tmp_path, monkeypatch):
    other = toy.every_op(seed=7)
    for file in ("toy.int8.tflite", "toy.int8.onnx"):
        model = open_model(models / file)
        assert cases.matching_run(model, {"other": other, "own": graph}) == "own"
        assert cases.matching_run(model, {"other": other}) == ""
    monkeypatch.setattr(cases, "lowered", lambda _: other)
    with pytest.raises(InputError, match="none of the runs run"):
        cases.main([models / "toy.int8.onnx"], tmp_path, run=[Path("run")])
    assert cases.fingerprint(other) != cases.fingerprint(graph)
    assert cases.fingerprint(toy.every_op()) == cases.fingerprint(graph)


def test_both_files_of_a_student_share_one_case_and_agree_with_its_reference(
    models, graph, store, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cases, "lowered", lambda _: graph)
    files = [models / "toy.int8.tflite", models / "toy.int8.onnx"]
    cases.main(files, tmp_path / "cases", tmp_path / "cache", data=store, hop=0.1, run=[Path("run")])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    parity.replay(tmp_path / "cases", files)
    found = last_json(capsys)
    assert [each["against"] for each in found] == ["reference of run"] * 2
    assert all(each["max_steps"] <= 2 for each in found)


def test_a_saved_case_is_used_again_and_other_options_make_another_case(models, store, tmp_path, monkeypatch):
    file, cache = [models / "toy.int8.tflite"], tmp_path / "cache"
    cases.main(file, tmp_path / "a", cache, data=store)
    monkeypatch.setattr(cases, "steps", lambda *_: pytest.fail("computed again"))
    cases.main(file, tmp_path / "b", cache, data=store)
    assert (tmp_path / "b" / "toy.int8.tflite.npz").read_bytes() == (
        tmp_path / "a" / "toy.int8.tflite.npz"
    ).read_bytes()
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        cases.main(file, tmp_path / "c", cache, data=store, hop=0.25)


def test_windows_of_a_store_are_evenly_chosen_and_never_silent(models, store):
    model = open_model(models / "toy.int8.tflite")
    every = list(cases.waveforms(model, cases.ClipStore.open(store), "a", 0.1, 1000))
    assert all(each.any() for each in every)
    clips = -(-(8000 - model.manifest.window + 1) // 800)
    assert 3 * clips < len(every) < 4 * clips  # those of the silent part are left out
    few = list(cases.waveforms(model, cases.ClipStore.open(store), "a", 0.1, 3))
    assert [
        np.array_equal(each, every[index])
        for each, index in zip(few, (0, round((len(every) - 1) / 2), -1), strict=True)
    ] == [True] * 3


def test_other_logits_fail(models, tmp_path, capsys):
    path = models / "toy.int8.tflite"
    cases.main([path], tmp_path, count=3)
    with np.load(tmp_path / f"{path.name}.npz") as kept:
        changed = dict(kept)
    changed["steps"][1, 2] ^= 0x40
    (tmp_path / f"{path.name}.npz").unlink()  # it may share its bytes with the kept one
    np.savez(tmp_path / f"{path.name}.npz", **changed)
    with pytest.raises(GateError, match=r"toy.int8.tflite in litert"):
        parity.replay(tmp_path, [path])
    assert last_json(capsys)[0]["ok"] is False
    with pytest.raises(InputError, match=r"no cases of toy\.int8\.onnx"):
        parity.replay(tmp_path, [models / "toy.int8.onnx"])
    (tmp_path / f"{path.name}.npz").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(InputError, match="cannot be read as cases"):
        parity.replay(tmp_path, [path])


def test_a_float_model_is_no_case(models, tmp_path):
    with pytest.raises(InputError, match="a float model"):
        cases.main([models / "toy.float.onnx"], tmp_path)


@pytest.fixture
def results(models, tmp_path, capsys):
    """The results of two processors for one model: bookworm/CPU/MODEL.verify and .parity."""
    path = models / "toy.int8.tflite"
    cases.main([path], tmp_path / "cases", count=5)
    parity.replay(tmp_path / "cases", [path])
    replayed = capsys.readouterr().out
    for cpu in ("cortex-a53", "cortex-a76"):
        folder = tmp_path / "results" / "bookworm" / cpu
        folder.mkdir(parents=True)
        (folder / f"{path.name}.verify").write_bytes(verify(path).to_json())
        (folder / f"{path.name}.parity").write_text(replayed)
    return tmp_path / "results"


def test_the_table_has_a_row_per_processor_and_ends_with_one_json_line(results, capsys):
    parity.table(results)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["bookworm", cpu, "litert", "toy.int8.tflite", "ok"] for cpu in ("cortex-a53", "cortex-a76")
    ]
    document = json.loads(lines[-1])
    assert document["ok"] is True
    assert document["features_max_error"] <= 1e-4
    assert [row["parity"]["windows"] for row in document["rows"]] == [5, 5]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("toy.int8.tflite.verify", b""),
        ("toy.int8.tflite.parity", b"Segmentation fault"),
        (
            "toy.int8.tflite.verify",
            b'{"ok":false,"features_max_error":0.5,"input_agreement":0.2,"engines":{"litert":{}}}',
        ),
    ],
)
def test_a_crash_or_a_difference_fails_the_table(results, file, content, capsys):
    (results / "bookworm" / "cortex-a76" / file).write_bytes(content)
    with pytest.raises(GateError, match=r"toy\.int8\.tflite on bookworm"):
        parity.table(results)
    assert [row["ok"] for row in last_json(capsys)["rows"]] == [True, False]


def test_a_release_without_a_parity_run_needs_verify_alone(results, capsys):
    (results / "bookworm" / "cortex-a76" / "toy.int8.tflite.parity").unlink()
    parity.table(results)
    assert last_json(capsys)["rows"][1]["parity"] is None


@pytest.fixture
def compare(models, tmp_path):
    """Compares the decisions of this machine on a recording with changed ones, as of an emulated machine."""
    wav = tmp_path / "noise.wav"
    with wave.open(str(wav), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, 16000).astype("<i2").tobytes())
    here = [to_json(each) for each in listen(str(wav), models / "toy.int8.tflite", hop_s=0.25)]

    def run(change):
        for board, lines in (("host/x86_64", here), ("trixie/cortex-a72", change(here))):
            (tmp_path / board).mkdir(parents=True, exist_ok=True)
            (tmp_path / board / "toy.int8.tflite.listen").write_text("\n".join(lines))
        emulated_listen.main(tmp_path, [models / "toy.int8.tflite"])

    return run


def changed(line, **fields):
    return json.dumps({**json.loads(line), **fields})


def test_decisions_on_a_recording_are_compared_line_by_line(compare, capsys):
    compare(lambda lines: lines)
    document = last_json(capsys)
    (row,) = document["rows"]
    assert document["ok"] is True
    assert (row["suite"], row["cpu"], row["differing"], row["max_apart"]) == ("trixie", "cortex-a72", 0, 0.0)
    assert row["lines"] > 3


def test_a_probability_may_be_one_step_of_a_logit_away_and_no_more(compare, models, capsys):
    manifest = open_model(models / "toy.int8.tflite").manifest

    def moved(lines, steps):
        top = json.loads(lines[1])["top"]
        odds = top[0][1] / (1.0 - top[0][1]) * np.exp(steps * manifest.output.scale / manifest.temperature)
        return [lines[0], changed(lines[1], top=[[top[0][0], odds / (1.0 + odds)], *top[1:]]), *lines[2:]]

    compare(lambda lines: moved(lines, 0.9))
    row = last_json(capsys)["rows"][0]
    assert (row["differing"], row["beyond"]) == (1, 0)
    with pytest.raises(GateError, match=r"toy on trixie, cortex-a72"):
        compare(lambda lines: moved(lines, 3.0))
    assert last_json(capsys)["rows"][0]["beyond"] == 1


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        (lambda lines: [changed(lines[0], label="another"), *lines[1:]], 1),
        (lambda lines: [changed(lines[0], t=0.5), *lines[1:]], 1),
        (lambda lines: lines[:-1], 1),
        (lambda _: ["Segmentation fault"], None),
    ],
)
def test_another_label_time_or_number_of_decisions_fails(compare, change, labels, capsys):
    with pytest.raises(GateError, match="other decisions"):
        compare(change)
    assert labels in (None, last_json(capsys)["rows"][0]["labels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no MODEL given"),
        (["--recording", "nothing.wav", "MODEL"], "nothing.wav: no such file"),
        (["--suites"], "--suites needs a value"),
        (["--colour", "red"], "unknown option --colour"),
        (["nothing.tflite"], "nothing.tflite: no such file"),
        (["--suites", "sid", SCRIPT], "not a .tflite or .onnx file"),
        (["--suites", "sid", "MODEL"], "unknown suite 'sid'"),
        (["--cpus", "max", "MODEL"], "unknown cpu 'max'"),
        (["--cpus", " ", "MODEL"], "no cpu given"),
        (["--windows", "0", "MODEL"], "--windows is '0'"),
        (["--jobs", "two", "MODEL"], "--jobs is 'two'"),
        (
            ["--suites", "trixie", "--parity-suites", "bookworm", "MODEL"],
            "unknown suite of the parity run 'bookworm'; allowed: trixie",
        ),
        (["MODEL", "MODEL"], "two models have the same file name"),
    ],
)
def test_bad_arguments_exit_2_with_one_line_before_anything_is_done(models, arguments, message):
    done = run_script(SCRIPT, *(models / "toy.int8.tflite" if each == "MODEL" else each for each in arguments))
    check_refused(done, "emulated_pi", message)


def test_the_help_describes_every_option():
    shared = ("--suites", "--cpus", "--jobs", "--cache", "--python", "--mirror")
    check_help(SCRIPT, ("--windows", "--data", "--run", "--recording", *shared))


@pytest.mark.parametrize(
    ("cpu", "part", "dot_products"),
    [("cortex-a53", "0xd03", False), ("cortex-a72", "0xd08", False), ("cortex-a76", "0xd0b", True)],
)
def test_the_emulated_boards_describe_their_processor(cpu, part, dot_products):
    done = subprocess.run(["bash", "-c", CPU_INFO, "_", SHARED, cpu], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"CPU part\t: {part}\n") == 4
    assert ("asimddp" in done.stdout) is dot_products
    assert "Raspberry Pi" in done.stdout.splitlines()[-1]


def test_processes_run_side_by_side_and_failures_are_shown(tmp_path):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", POOL, "_", SHARED, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-3:] == ["output of a", "output of b", "output of c"]
    assert "b: exit status 1" in done.stdout
    assert done.stderr == "why\n"  # of b alone
    assert not tmp_path.exists()


def test_an_interrupted_run_leaves_neither_processes_nor_its_folder(tmp_path):
    # a job in the background has its interrupts ignored
    shell = ["env", "--default-signal=INT", "bash", "-euo", "pipefail"]
    done = subprocess.run(
        [*shell, "-c", INTERRUPTED, "_", SHARED, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 130
    assert not Path("/proc", done.stdout.strip()).exists()
    assert not tmp_path.exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        ["shellcheck", "-x", *sorted(TOOLS.glob("*.sh"))], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("tool", "arguments"), [("emulated_parity", ["replay", "nothing"]), ("emulated_cases", ["--out", "out"])]
)
def test_the_tools_run_as_programs(models, tmp_path, tool, arguments):
    done = subprocess.run(
        [sys.executable, TOOLS / f"{tool}.py", *arguments, models / "toy.float.onnx"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tool}: ")
    assert done.stderr.count("\n") == 1
