"""`edgekd demo` with few clips: every step runs, and only a demo's folder is replaced."""

import shlex

import pytest

from edgekd import demo
from edgekd.demo import DemoReport, Settings, check_accuracy, claim_folder, linear_accuracy, run_demo
from edgekd.errors import GateError, InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.modelfile.container import read_manifest

SMALL = Settings(
    clips=80,
    seconds=1.0,
    teach=("train.epochs=1", "view.seconds=1.0", "train.test_every=0"),
    distill=("train.epochs=1", "train.test_every=0", "qat.epochs=1", "qat.calibration_clips=32"),
    margin=-1.0,
)


def test_every_step_runs_and_the_named_files_exist(tmp_path):
    shown = []
    report = run_demo(tmp_path / "demo", shown.append, keep=True, settings=SMALL)
    text = "\n".join(shown)
    for number in range(1, 8):
        assert f"== {number}/7" in text
    assert [path.suffix for path in report.files] == [".tflite", ".onnx"]
    assert read_manifest(report.files[0]).provenance.synthetic
    assert len(read_manifest(report.files[0]).provenance.teachers) == 2
    again = evaluate_file(report.files[0], tmp_path / "demo" / "store", ["test"])
    assert report.exported["student synth-serfr24.int8.tflite in litert"] == again.scores.clips.accuracy
    assert report.baselines["chance"] == pytest.approx(0.1)
    for path in (*report.files, tmp_path / "demo" / "recording.wav"):
        assert str(path) in text
        assert path.is_file()
    assert (tmp_path / "demo" / "demo.txt").read_text().startswith("edgekd demo")
    with pytest.raises(InputError, match="exists; replace it with --force"):
        run_demo(tmp_path / "demo", shown.append, settings=SMALL)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (KeyboardInterrupt("teacher: interrupted in epoch 2; go on with --resume"), "interrupted"),
        (
            InputError(
                "run.json cannot be written (No space left on device); free space there and go on with --resume: it is"
                " kept"
            ),
            r"run\.json .*No space left on device",
        ),
    ],
)
def test_the_error_of_a_demo_that_ends_early_names_the_command_that_begins_anew(tmp_path, monkeypatch, stop, message):
    def teach(*_):
        raise stop

    monkeypatch.setattr(demo, "teach", teach)
    out = tmp_path / "my demo"
    with pytest.raises(type(stop), match=message) as stopped:
        run_demo(out, [].append, keep=True, settings=SMALL)
    _, _, advice = str(stopped.value).partition("begin anew with: ")
    assert shlex.split(advice) == ["edgekd", "demo", "--out", str(out), "--keep", "--force"]
    assert "--resume" not in str(stopped.value)
    claim_folder(out, force=True)  # as that command does


def report_with(exported):
    return DemoReport(baselines={"chance": 0.1, "linear": 0.2}, trained={}, exported=exported, files=(), seconds=1.0)


def test_a_student_near_the_baselines_fails_the_demo():
    check_accuracy(report_with({"good": 0.6}), margin=0.3)
    with pytest.raises(GateError, match=r"bad: accuracy 0\.450 is below 0\.500"):
        check_accuracy(report_with({"good": 0.6, "bad": 0.45}), margin=0.3)


def test_a_linear_model_does_not_solve_the_scenes(tmp_path):
    from edgekd.data.prepare import synth
    from edgekd.frontend import FrontEnd

    store = synth(tmp_path / "store", clips=200, seconds=1.0).store
    assert linear_accuracy(store, FrontEnd(n_mels=32, n_fft=512, win_length=512)) < 0.4


def test_only_a_demo_is_replaced(tmp_path):
    folder = tmp_path / "demo"
    claim_folder(folder, force=False)
    with pytest.raises(InputError, match="--force"):
        claim_folder(folder, force=False)
    (folder / "models").mkdir()
    claim_folder(folder, force=True)
    assert [child.name for child in folder.iterdir()] == ["demo.txt"]
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="no demo's"):
        claim_folder(folder, force=True)
    assert (folder / "thesis.tex").read_text() == "mine"


def test_a_folder_that_only_looks_like_a_demo_is_not_replaced(tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="no demo's"):
        claim_folder(tmp_path, force=True)
    (tmp_path / "demo.txt").write_text("my notes")
    with pytest.raises(InputError, match="no demo's"):
        claim_folder(tmp_path, force=True)
    assert (tmp_path / "models").is_dir()


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "demo", force=True)
