"""`edgekd demo`: all steps from data to a live model on synthetic scenes, with the functions that the commands call."""

import shlex
import shutil
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgekd.complexity.check import CheckOptions, check, require_ok
from edgekd.complexity.gate import explained
from edgekd.data.audio.waveform import to_pcm
from edgekd.data.prepare import synth
from edgekd.data.sets import synth as scenes
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.evaluation.evaluate import evaluate_file
from edgekd.export.export import export_run
from edgekd.files import atomic_path, atomic_write
from edgekd.frontend import FrontEnd, log_mel
from edgekd.runtime.decision import to_text
from edgekd.runtime.listen import listen
from edgekd.text import columns
from edgekd.train.distill import distill
from edgekd.train.loop.training import Options
from edgekd.train.teach import teach

TEACHERS = ("synth-cp-resnet", "synth-mobilenetv2")
STUDENT = "synth-serfr24"
TARGET = "dcase2023"
TRAIN_SPLIT, TEST_SPLIT = "train", "test"
STORE, RUNS, STUDENT_RUN, MODELS, RECORDING, REPORT = (
    "store",
    "teachers",
    "student",
    "models",
    "recording.wav",
    "demo.txt",
)
"""Names in the demo's folder."""
REPORT_TITLE = "edgekd demo"
"""First line of the report. --force replaces only folders that hold such a report."""
RECORDED_SCENE, RECORDED_SEED, RECORDED_SECONDS, RECORDED_PLACE, RECORDER = "tram", 20240229, 6.0, "hartsmoor-99", "a"
"""The fresh recording. Its place and seed are not in the store."""
HOP_SECONDS = 1.0
OPTIONS = Options(threads=1)
"""Networks this small gain little from a second thread, and lose much where other programs use the machine."""
LINEAR_C = 0.1
"""Inverse regularisation of the linear model."""
LINEAR_STEPS = 2000

Show = Callable[[str], None]
"""Shows one or several lines to the user."""


@dataclass(frozen=True)
class Settings:
    """Sizes. clips, seconds: of the store. teach, distill: "key=value" settings of the recipes. margin: accuracy, 0..1,
    by which the student must be better than chance and a linear model."""

    clips: int = 600
    seconds: float = 3.0
    teach: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()
    margin: float = 0.3


@dataclass(frozen=True)
class DemoReport:
    """Clip accuracies on the test split, 0..1, by name.

    baselines: chance and a linear model. trained: the teachers, and the student before quantisation. exported: each
    model file in its engine. files: the model files, .tflite first. seconds: duration of the demo.
    """

    baselines: dict[str, float]
    trained: dict[str, float]
    exported: dict[str, float]
    files: tuple[Path, ...]
    seconds: float


def run_demo(
    out: Path, show: Show, *, keep: bool = False, force: bool = False, settings: Settings = Settings()
) -> DemoReport:
    """Synthesise scenes, train teachers and a student, then export, check, evaluate and listen.

    Args:
        out: folder of all files.
        show: shows progress and results.
        keep: keep the store and the teachers, which are most of the folder's bytes.
        force: replace the folder of an earlier demo.
        settings: sizes.

    Raises:
        InputError: the folder exists, or cannot be written.
        GateError: the exported student is over its budget, or not `settings.margin` better than chance and a linear
            model.
        KeyboardInterrupt: with the command that begins anew; a demo is too short to be resumed.
    """
    claim_folder(out, force=force)
    anew = f"begin anew with: edgekd demo --out {shlex.quote(str(out))}{' --keep' if keep else ''} --force"
    try:
        return _run_steps(out, show, keep=keep, settings=settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{out}: interrupted; {anew}") from None
    except InputError as error:
        what, _, advice = str(error).partition("; ")
        raise InputError(f"{what}; remove the cause, then {anew}") if "--resume" in advice else error from None


def _run_steps(out: Path, show: Show, *, keep: bool, settings: Settings) -> DemoReport:
    """Run all steps of the demo in its folder."""
    began = time.monotonic()
    step = _StepTimer(show)
    show(
        f"This demo uses synthetic scenes, made by a program and not recorded. Its folder is {out}. It takes about two"
        " minutes on two cores."
    )
    with step("1/7 data: ten scenes, several recorders; other cities and one more recorder in the test split"):
        store = synth(out / STORE, clips=settings.clips, seconds=settings.seconds).store
    with step(f"2/7 teachers: {' and '.join(TEACHERS)}, on whole clips"):
        teachers = [teach(name, out / STORE, out / RUNS / name, settings.teach, OPTIONS) for name in TEACHERS]
    with step(
        f"3/7 student: {STUDENT}, on windows of 1 s, float and then quantization-aware, with the teachers' soft labels"
    ):
        run = distill(
            STUDENT, out / STORE, out / STUDENT_RUN, [each.path for each in teachers], settings.distill, OPTIONS
        )
    with step("4/7 export: the integer graph as .tflite and .onnx"):
        exported = export_run(out / STUDENT_RUN, "int8", out=out / MODELS)
        show(exported.to_text())
    with step(f"5/7 check: the .tflite against the budgets of {TARGET}"):
        checked = check(exported.files[:1], CheckOptions(TARGET))
        show("\n".join(explained(budget) for budget in checked[0].verdict.budgets))
        require_ok(checked)
    with step("6/7 evaluate: the files in their engines, on the test split"):
        reports = [evaluate_file(path, out / STORE, [TEST_SPLIT]) for path in exported.files]
        show(reports[0].to_text())
        baselines = {
            "chance": 1 / len(store.labels),
            "linear model on the mean log-mel": linear_accuracy(store, run.frontend),
        }
    with step(f"7/7 listen: a fresh recording of a {RECORDED_SCENE}"):
        write_recording(out / RECORDING, store.sample_rate)
        decisions = listen(str(out / RECORDING), exported.files[0], hop_s=HOP_SECONDS)
        show("\n".join(map(to_text, decisions)))
    if not keep:
        for folder in (out / STORE, out / RUNS):
            shutil.rmtree(folder)
    trained = {
        f"{each.recipe.role} {each.recipe.name}, float": each.info.metrics["float_clip_accuracy"]
        for each in [*teachers, run]
    }
    in_engines = {f"student {Path(each.model).name} in {each.engine}": each.scores.clips.accuracy for each in reports}
    report = DemoReport(baselines, trained, in_engines, exported.files, time.monotonic() - began)
    text = summary(out, report, store_kept=keep)
    _write_report(out, text)
    show("\n" + text)
    check_accuracy(report, settings.margin)
    return report


class _StepTimer:
    """Shows the title of a step and how long it took."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._began = 0.0

    def __call__(self, title: str) -> "_StepTimer":
        self._show(f"\n== {title}")
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._show(f"   done in {time.monotonic() - self._began:.0f} s")


def claim_folder(out: Path, *, force: bool) -> None:
    """Make the demo's folder; with `force` replace that of an earlier demo.

    Raises:
        InputError: the folder exists or holds other files, or it cannot be written.
    """
    ours = {STORE, RUNS, STUDENT_RUN, MODELS, RECORDING, REPORT}
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; choose another --out")
        inside = {child.name for child in out.iterdir()} if out.exists() else set()
        if inside and not force:
            raise InputError(f"{out} exists; replace it with --force or choose another --out")
        if inside and (
            REPORT not in inside
            or inside - ours
            or not (out / REPORT).read_text(encoding="utf-8").startswith(REPORT_TITLE)
        ):
            raise InputError(
                f"{out} holds files that are no demo's; choose another --out (--force replaces demos only)"
            )
        if inside:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        _write_report(out, "not finished")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{out} cannot be used ({error}); choose another --out") from None


def _write_report(out: Path, text: str) -> None:
    atomic_write(out / REPORT, f"{REPORT_TITLE}\n{text}\n".encode())


def linear_accuracy(store: ClipStore, fe: FrontEnd) -> float:
    """Test accuracy, 0..1, of a logistic regression on each clip's mean log-mel, for which the scenes are too hard."""
    # (clips, mel)
    features = np.stack([log_mel(fe, store.waveform(index)).mean(axis=1) for index in range(len(store.clips))])
    train, test = store.indices([TRAIN_SPLIT]), store.indices([TEST_SPLIT])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=LINEAR_C, max_iter=LINEAR_STEPS))
    model.fit(features[train], store.label_index[train])
    return float(model.score(features[test], store.label_index[test]))


def write_recording(path: Path, sample_rate: int) -> None:
    """Write a 16-bit mono .wav of one scene."""
    rng = np.random.default_rng(RECORDED_SEED)
    waveform = scenes.recording(RECORDED_SCENE, rng, RECORDED_SECONDS, sample_rate, RECORDED_PLACE, RECORDER)
    with atomic_path(path) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(to_pcm(waveform).tobytes())


def check_accuracy(report: DemoReport, margin: float) -> None:
    """Refuse exported students that have not learned.

    Raises:
        GateError: the accuracy of one is not `margin` better than that of every baseline.
    """
    floor = max(report.baselines.values()) + margin
    for name, accuracy in report.exported.items():
        if accuracy < floor:
            raise GateError(
                f"{name}: accuracy {accuracy:.3f} is below {floor:.3f}, which is {margin:g} above chance and a linear"
                " model; something is wrong with this installation"
            )


def summary(out: Path, report: DemoReport, *, store_kept: bool) -> str:
    """Text for the user: accuracies, files, and commands to try next."""
    accuracies = report.baselines | report.trained | report.exported
    model = report.files[0]
    files = {
        **{str(path): f"the student in integers, {path.stat().st_size:,} bytes" for path in report.files},
        str(out / STUDENT_RUN): "its run folder: report.html, recipe, metrics, weights, TensorBoard",
        str(out / RECORDING): "the fresh recording",
        str(out / REPORT): "this summary",
    }
    if store_kept:
        files |= {str(out / STORE): "the clips", str(out / RUNS): "the teachers' run folders"}
        more = f"  edgekd evaluate {model} --data {out / STORE} --split {TEST_SPLIT}"
    else:
        more = f"  edgekd demo --out {out} --keep --force    also keeps the clips and the teachers"
    return "\n".join(
        [
            f"Results after {report.seconds:.0f} s: accuracy on the test clips (synthetic: the figures do not tell"
            " about real scenes)",
            *columns((), [(name, f"{100 * value:.1f} %") for name, value in accuracies.items()], indent="  "),
            "Files",
            *columns((), list(files.items()), left=2, indent="  "),
            "Try next",
            f"  edgekd info {model}",
            f"  edgekd check {model} --target {TARGET}",
            f"  edgekd listen {out / RECORDING} --model {model} --json",
            more,
        ]
    )
