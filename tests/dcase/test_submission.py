"""`edgekd submission` with hand-made models of the ten scenes: files of each year, the inference package, energy by a
stand-in.

Past 400 lines because all years share the hand-made models and the form.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from edgekd.cli import app
from edgekd.data.sets import tau22_evaluation
from edgekd.data.store.clips import Clip
from edgekd.dcase import check as submission_check
from edgekd.dcase import energy, submission
from edgekd.dcase.check import check_submissions
from edgekd.dcase.forms import RECORDERS, SCENES
from edgekd.dcase.submission import SubmissionOptions, parse_models, write_submission, write_template
from edgekd.errors import InputError, MissingExtraError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.evaluation.inference import window_logits
from edgekd.metrics.scores import softmax
from edgekd.modelfile import container
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import onnx, tflite
from edgekd.qgraph.graph import ConvOp, Edge, QGraph

LABEL = "Last_Inst_task1_1"
RATE = 8000
CLIPS = 6
EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}


def scene_graph(frames, seed):
    """One convolution of random weights over the whole map."""
    rng = np.random.default_rng(seed)
    edges = {"log_mel": Edge("log_mel", (1, 8, frames), 0.03, 0), "sum": Edge("sum", (10, 1, 1), 0.1, 0)}
    weight = rng.integers(-127, 128, (10, 1, 8, frames)).astype(np.int8)
    graph = QGraph(
        edges,
        (ConvOp("sum", "log_mel", "sum", weight, np.full(10, 2e-4, np.float32), rng.integers(-9, 9, 10, np.int32)),),
        "log_mel",
        "sum",
    )
    graph.validate()
    return graph


@pytest.fixture(scope="module")
def make_model(tmp_path_factory, tone_fixtures):
    """(format, seed) -> an exported file of the ten scenes; labels are not in alphabetical order."""
    folder = tmp_path_factory.mktemp("scene_models")

    def make(kind, seed=0):
        fe = tone_fixtures.FRONTEND
        path = folder / f"scenes{seed}.{kind}"
        shift, dtype = (128, "uint8") if kind == "onnx" else (0, "int8")
        manifest = tone_fixtures.manifest_for(
            labels=(*SCENES[5:], *SCENES[:5]), shift=shift, dtype=dtype, temperature=1.5
        )
        container.write(path, EMITTERS[kind](scene_graph(fe.frames(tone_fixtures.WINDOW), seed)), manifest)
        return path

    return make


@pytest.fixture
def system(tmp_path):
    path = write_template(tmp_path / "system.toml")
    path.write_text(path.read_text().replace('inference_code = ""', 'inference_code = "https://host.example/code"'))
    return path


@pytest.fixture
def evaluation(tmp_path):
    """An evaluation set of the official layout, with recorders as in 2025; the first clip has float samples far above
    full scale, the last one is silent."""
    folder = tmp_path / "TAU-evaluation"
    (folder / "audio").mkdir(parents=True)
    (folder / "evaluation_setup").mkdir()
    rows = ["filename\tdevice_id"]
    for number in range(CLIPS):
        noise = np.random.default_rng(number).normal(0, 0.1 * (number < CLIPS - 1), RATE)
        gain, subtype = (1.0, "PCM_24") if number else (50.0, "FLOAT")
        soundfile.write(folder / "audio" / f"{number}.wav", gain * noise, RATE, subtype=subtype)
        rows.append(f"audio/{number}.wav\t{('a', 's9')[number % 2]}")
    (folder / "evaluation_setup" / "fold1_test.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def development(tmp_path, tone_fixtures):
    """A clip of each scene by each recorder."""
    items = [
        (
            Clip(f"{scene}-{recorder}.wav", scene, "evaluate", recorder=recorder),
            np.random.default_rng([s, r]).normal(0, 900, RATE).astype(np.int16),
        )
        for s, scene in enumerate(SCENES)
        for r, recorder in enumerate(RECORDERS)
    ]
    return tone_fixtures.write_store(tmp_path / "development", items).path


def read_output(path):
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return header, rows


def read_meta(folder):
    return yaml.safe_load((folder / "task1" / LABEL / f"{LABEL}.meta.yaml").read_text())


def test_the_files_of_2023_hold_the_models_predictions_and_pass_the_check(
    make_model, system, evaluation, development, tmp_path
):
    model = make_model("tflite")
    out = tmp_path / "out"
    report = write_submission(
        SubmissionOptions((str(model),), 2023, LABEL, system, out, development, evaluation=evaluation)
    )
    assert report.findings == ()
    header, rows = read_output(out / "task1" / LABEL / f"{LABEL}.output.csv")
    assert header == ["filename", "scene_label", *SCENES]
    assert [row[0] for row in rows] == [f"{number}.wav" for number in range(CLIPS)]
    opened = open_model(model)
    waveform, _ = soundfile.read(evaluation / "audio" / "3.wav", dtype="float32")
    logits, _ = window_logits(opened, [np.rint(waveform * 32768).astype(np.float32) / 32768])
    expected = dict(zip(opened.manifest.labels, softmax(logits, 1.5)[0], strict=True))
    assert rows[3][1] == max(expected, key=expected.get)
    np.testing.assert_allclose(
        [float(value) for value in rows[3][2:]], [expected[scene] for scene in SCENES], atol=1e-6
    )
    assert set(rows[-1][2:]) == {"0.10000000"}
    assert any("1 clip is digital silence" in note for note in report.notes)
    assert any(f"has {CLIPS} files and the evaluation set of 2023 135,730" in note for note in report.notes)
    document = read_meta(out)
    scored = evaluate_file(model, development, ["evaluate"]).scores
    results = document["results"]["development_dataset"]
    assert results["overall"]["accuracy"] == pytest.approx(100 * scored.clips.macro_accuracy, abs=1e-2)
    assert results["overall"]["logloss"] == pytest.approx(scored.clips.log_loss, abs=1e-4)
    assert results["class_wise"]["tram"]["accuracy"] == pytest.approx(100 * scored.per_label["tram"], abs=1e-2)
    assert results["device_wise"]["s6"]["accuracy"] == pytest.approx(100 * scored.per_recorder["s6"], abs=1e-2)
    kernels = 10 * 8 * 61
    complexity = document["system"]["complexity"]
    assert complexity["macs"] >= kernels
    assert complexity["total_parameters"] >= kernels + 10
    assert complexity["total_parameters_non_zero"] < complexity["total_parameters"]
    assert document["system"]["description"]["input_sampling_rate"] == "8kHz"
    assert document["system"]["energy_consumption"] == {"training": None, "inference": None, "baseline_inference": None}


def test_2024_has_an_output_and_results_of_each_split(make_model, system, evaluation, development, tmp_path):
    models = tuple(f"{split}={make_model('tflite', seed)}" for seed, split in enumerate(("5", "10", "25", "50", "100")))
    out = tmp_path / "out"
    report = write_submission(SubmissionOptions(models, 2024, LABEL, system, out, development, evaluation=evaluation))
    assert report.findings == ()
    outputs = {
        split: (out / "task1" / LABEL / f"{LABEL}.output.split_{split}.csv").read_text()
        for split in ("5", "10", "25", "50", "100")
    }
    assert len(set(outputs.values())) == 5
    results = read_meta(out)["results"]["development_dataset"]
    assert results["overall"] == results["split_100"]["overall"]
    assert results["split_5"] != results["split_100"]
    assert check_submissions(out, evaluation=evaluation).notes == (f"{LABEL}: checked by the form of 2024",)


@pytest.mark.slow
def test_2025_uses_each_recorders_model_and_its_package_predicts_the_same(
    make_model, system, evaluation, development, tmp_path
):
    general, own = make_model("onnx", 0), make_model("onnx", 1)
    out = tmp_path / "out"
    report = write_submission(
        SubmissionOptions((str(general), f"a={own}"), 2025, LABEL, system, out, development, evaluation=evaluation)
    )
    assert report.findings == ()
    assert check_submissions(out, evaluation=evaluation).findings == ()
    document = read_meta(out)
    results = document["results"]["development_dataset"]
    assert results["device_specific"]["device_wise"]["s1"] == results["general"]["device_wise"]["s1"]
    assert results["device_specific"]["device_wise"]["a"] != results["general"]["device_wise"]["a"]
    alone = evaluate_file(own, development, ["evaluate"]).scores.per_recorder["a"]
    assert results["device_specific"]["device_wise"]["a"]["accuracy"] == pytest.approx(100 * alone, abs=1e-2)
    assert document["system"]["description"]["num_models_at_inference"] == 2
    kernels = 10 * 8 * 61
    # int8 kernels, int32 biases, as torch holds them
    assert document["system"]["complexity"]["total_model_size"] == kernels + 4 * 10
    _, rows = read_output(out / "task1" / LABEL / f"{LABEL}.output.csv")
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--target",
            str(site),
            str(out / "inference"),
        ],
        check=True,
        capture_output=True,
    )
    probabilities = predict_by_package(
        site, [evaluation / row[0].join(("audio/", "")) for row in rows], ["a", "s9"] * (CLIPS // 2)
    )
    expected = np.array([[float(value) for value in row[2:]] for row in rows])
    np.testing.assert_allclose(probabilities[:-1], expected[:-1], atol=0.03)  # two engines, a step of the logits is 0.1


def predict_by_package(site, files, devices):
    """Probabilities (files, scenes) of an installed package, in a process that knows no edgekd."""
    code = """
import importlib, json, sys
sys.modules["edgekd"] = None
site, files, devices = json.loads(sys.argv[1])
sys.path.insert(0, site)
api = importlib.import_module("Last_Inst_task1.Last_Inst_task1_1")
assert api.__file__.startswith(site)
import torch
logits, scenes = api.predict(file_paths=files, device_ids=devices, model_file_path=None, use_cuda=False)
model = api.load_model()
(x,) = api.load_inputs(files[:1], devices[:1], model)
network = api.get_model_for_device(model, devices[0])
assert torch.equal(network(x)[0], logits[0])
order = [scenes.index(scene) for scene in sorted(scenes)]
print(json.dumps(torch.softmax(torch.stack(logits), 1)[:, order].tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, json.dumps([str(site), [str(file) for file in files], devices])],
        capture_output=True,
        text=True,
        check=False,
        cwd=site,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


def test_a_package_needs_onnx_files(make_model, system, tmp_path):
    with pytest.raises(InputError, match=r"\.onnx files"):
        write_submission(SubmissionOptions((str(make_model("tflite")),), 2025, LABEL, system, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("year", "models", "message"),
    [
        (2023, ["a.tflite", "b.tflite"], "the second model for 'general'"),
        (2024, ["a.tflite"], "a model of each split"),
        (2024, ["5=a.tflite", "10=b.tflite"], "no model for 25, 50, 100"),
        (2025, ["a=a.onnx"], "no model for general"),
        (2025, ["x.onnx", "s4=a.onnx"], "'s4' is none of general, a, b, c"),
        (2022, ["5=a.tflite"], "'5' is none of general"),
    ],
)
def test_models_that_do_not_fit_the_year_are_refused(year, models, message):
    with pytest.raises(InputError, match=message):
        parse_models(models, submission.form_of(year))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "Last-task1"}, "LASTNAME_INSTITUTE_task1_N"),
        ({"year": 2021}, "wanted 2022, 2023, 2024, 2025"),
        ({"system": None}, "--init"),
        ({"energy": "FIN", "year": 2022}, "the form of 2022 has no energy"),
        ({"energy": "Finland"}, "three letters"),
    ],
)
def test_bad_options_write_nothing(make_model, system, tmp_path, changes, message):
    options = {
        "models": (str(make_model("tflite")),),
        "year": 2023,
        "label": LABEL,
        "system": system,
        "out": tmp_path / "out",
    } | changes
    with pytest.raises(InputError, match=message):
        write_submission(SubmissionOptions(**options))
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_labels_is_refused(tone_model, system, tmp_path):
    with pytest.raises(InputError, match="its labels are high, low"):
        write_submission(SubmissionOptions((str(tone_model),), 2023, LABEL, system, tmp_path / "out"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("corresponding = true", "corresponding = false", "mark exactly one"),
        ('abbreviation = "edgekd" ', 'abbreviation = "elevenchars" ', "has 11 characters"),
        ("data_augmentation", "augmentation", "not in the form of 2023"),
        ("lastname", "surname", "surname|lastname"),
    ],
)
def test_a_system_file_that_the_organisers_would_refuse_is_refused(make_model, system, tmp_path, old, new, message):
    system.write_text(system.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        write_submission(SubmissionOptions((str(make_model("tflite")),), 2023, LABEL, system, tmp_path / "out"))


class StandIn:
    """codecarbon's tracker, with the kWh of each measurement, one after the other."""

    def __init__(self, kwh):
        self.kwh, self.running = kwh, []

    def __call__(self):
        return self

    def start(self):
        self.running.append("start")

    def stop(self):
        self.running.append("stop")
        self.final_emissions_data = SimpleNamespace(energy_consumed=self.kwh.pop(0))


def test_energy_is_reported_in_units_of_the_baselines(make_model, system, tmp_path, monkeypatch):
    codecarbon = ModuleType("codecarbon")
    codecarbon.__spec__ = ModuleSpec("codecarbon", None)
    kwh, asked = [4e-5, 2e-5], []
    codecarbon.OfflineEmissionsTracker = lambda **options: asked.append(options) or StandIn([kwh.pop(0)])
    monkeypatch.setitem(sys.modules, "codecarbon", codecarbon)
    monkeypatch.setattr(energy, "WINDOWS", 3)
    report = write_submission(
        SubmissionOptions(
            (str(make_model("tflite")),),
            2023,
            LABEL,
            system,
            tmp_path / "out",
            energy="FIN",
            energy_baseline=make_model("tflite", 1),
        )
    )
    assert [options["country_iso_code"] for options in asked] == ["FIN", "FIN"]
    consumed = read_meta(tmp_path / "out")["system"]["energy_consumption"]
    assert consumed == {"training": None, "inference": 4e-5, "baseline_inference": 2e-5}
    assert any("2.000 of the baseline's" in note for note in report.notes)


def test_energy_without_a_baseline_is_not_normalised(make_model):
    used = energy.measure(make_model("tflite"), None, StandIn([1e-6]), windows=2)
    assert (used.inference, used.baseline_inference, used.normalised) == (1e-6, None, None)


def test_a_tracker_without_a_reading_is_refused(make_model):
    with pytest.raises(InputError, match="no energy"):
        energy.measure(make_model("tflite"), None, StandIn([0.0]), windows=1)


def test_codecarbon_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[energy\]"):
        energy.require("FIN")


def test_recorders_of_an_evaluation_set_come_into_the_store(evaluation):
    assert [source.clip.recorder for source in tau22_evaluation.read(evaluation).sources] == ["a", "s9"] * (CLIPS // 2)


def test_a_folder_with_two_files_of_one_name_is_refused(make_model, system, evaluation, tmp_path):
    plain = tmp_path / "plain"
    for part in ("x", "y"):
        (plain / part).mkdir(parents=True)
        shutil.copy(evaluation / "audio" / "0.wav", plain / part / "0.wav")
    with pytest.raises(InputError, match="files of one name"):
        write_submission(
            SubmissionOptions((str(make_model("tflite")),), 2023, LABEL, system, tmp_path / "out", evaluation=plain)
        )


def test_the_command_prints_findings_with_status_1_and_checks_existing_files(make_model, system, evaluation, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "submission",
        str(make_model("tflite")),
        "--year",
        "2022",
        "--label",
        LABEL,
        "--system",
        str(system),
        "--out",
        str(out),
    ]
    run = CliRunner().invoke(app, arguments)
    assert "Last_Inst_task1_1.output.csv: the file is missing" in run.stdout
    assert run.exit_code == 1
    assert CliRunner().invoke(app, [*arguments, "--force", "--evaluation", str(evaluation)]).exit_code == 0
    assert CliRunner().invoke(app, ["submission", "--check", str(out)]).exit_code == 0
    assert CliRunner().invoke(app, ["submission"]).exit_code != 0


def test_init_writes_a_form_once(tmp_path):
    path = tmp_path / "system.toml"
    assert CliRunner().invoke(app, ["submission", "--init", str(path)]).exit_code == 0
    with pytest.raises(InputError, match="--force"):
        write_template(path)


def test_a_package_that_was_changed_is_checked(make_model, system, evaluation, tmp_path):
    out = tmp_path / "out"
    write_submission(SubmissionOptions((str(make_model("onnx")),), 2025, LABEL, system, out, evaluation=evaluation))
    module = out / "inference" / "Last_Inst_task1" / f"{LABEL}.py"
    module.write_text(module.read_text().replace("def load_inputs", "def load_input"))
    (finding,) = check_submissions(out).findings
    assert finding.startswith(f"{LABEL}.py: load_inputs: the function is missing; write it")
    (module.parent / "ckpts" / LABEL / "general.onnx").write_bytes(b"\x08not a model")
    with pytest.raises(InputError, match=r"models\.json: .*cannot be read"):
        check_submissions(out)


def test_a_model_over_the_budget_of_its_year_is_a_finding(make_model, system, evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(submission_check, "MAX_BYTES", 4000)
    models = (str(make_model("onnx")), f"s2={make_model('onnx', 1)}")
    report = write_submission(SubmissionOptions(models, 2025, LABEL, system, tmp_path / "out", evaluation=evaluation))
    over = "Params of the model are over the budget of 4,000 (found 4,920); use a smaller model"
    assert report.findings == (f"{LABEL}.py: general: {over}", f"{LABEL}.py: s2: {over}")


def test_awkward_texts_come_back_from_the_meta_file(make_model, system, tmp_path, edgekd):
    texts = {"name": "  1e3 \x07\x85\u2028🎧: # ", "data_augmentation": "yes", "external_data_usage": "0o17"}
    form = system.read_text().replace("Distilled int8 student", json.dumps(texts["name"], ensure_ascii=False)[1:-1])
    for key in ("data_augmentation", "external_data_usage"):
        form = form.replace(f'{key} = ""', f'{key} = "{texts[key]}"')
    system.write_text(form)
    model = shutil.copy(make_model("tflite"), tmp_path / "a\nb\x07\x85.tflite")  # a comment of the file names it
    command = ("--year", 2023, "--label", LABEL, "--system", system, "--out", tmp_path / "out")
    edgekd("submission", model, *command)
    meta = read_meta(tmp_path / "out")
    assert meta["submission"]["name"] == texts.pop("name")
    assert {key: meta["system"]["description"][key] for key in texts} == texts


def test_without_a_yaml_reader_nothing_is_written(make_model, system, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match="pyyaml"):
        write_submission(SubmissionOptions((str(make_model("tflite")),), 2023, LABEL, system, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
