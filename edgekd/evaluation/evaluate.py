"""`edgekd evaluate`: scores of an exported file, run in its engine over the clips of a store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.microphone_makes import MicSplit
from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.clips import UNLABELLED
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.evaluation.inference import hop_samples, window_logits
from edgekd.evaluation.microphones import Microphones, ShiftReport, evaluate_microphones
from edgekd.metrics.predictions import LabelledPredictions
from edgekd.metrics.scores import Evaluation, Scores, evaluate
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.manifest import Manifest
from edgekd.text import columns, counted, listing, printable

ALL_SPLITS = "all"
"""`EvaluationReport.split` when no split was chosen."""


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of a model file, and what they were measured on.

    Attributes:
        model: path of the file.
        split: names of splits joined by commas, or "all".
        engine: "litert" or "onnxruntime".
        data: name of the data set.
        synthetic: whether a program made the data set.
        scores: of windows, clips, labels and recorders.
        temperature: divisor of the logits.
        fitted_here: whether the temperature was fitted on some of these clips.
        trained_here: whether these are all clips of the store that the model was trained on.
        predictions: what `scores` are of.
        shift: scores of the same clips through other microphones; None where none were given.
    """

    model: str
    split: str
    engine: str
    data: str
    synthetic: bool
    scores: Evaluation
    temperature: float
    fitted_here: bool
    trained_here: bool
    predictions: LabelledPredictions
    shift: ShiftReport | None = None

    def to_json(self) -> bytes:
        """The document of `evaluate --json`."""
        scores = self.scores
        document = {
            "model": self.model,
            "split": self.split,
            "engine": self.engine,
            "windows": scores.windows,
            "clips": scores.clips,
            "per_label": scores.per_label,
            "per_recorder": scores.per_recorder,
            "temperature": self.temperature,
            "temperature_fitted_here": self.fitted_here,
        }
        return msgspec.json.encode(
            document if self.shift is None else document | {"microphones": self.shift.to_builtins()}
        )

    def where(self) -> str:
        """Engine and clips, in words."""
        clips = self.scores.clips.count + self.scores.clips.silent
        which = (
            "all clips, whatever their split (choose with --split)"
            if self.split == ALL_SPLITS
            else f"split {self.split}"
        )
        return (
            f"{self.engine} on {self.data}{' (synthetic)' if self.synthetic else ''}, {which}: {counted(clips, 'clip')}"
        )

    def trained_note(self) -> str:
        """A warning that the model was trained on these clips, or ""."""
        if not self.trained_here:
            return ""
        return "the model was trained on some of these clips, which flatters all scores; choose others with --split"

    def fit_note(self) -> str:
        """A warning that the temperature was fitted on these clips, or ""."""
        if not self.fitted_here:
            return ""
        return (
            f"the temperature {self.temperature:g} was fitted on some of these clips, which flatters log loss and"
            " calibration"
        )

    def to_text(self) -> str:
        """A table for people."""
        lines = [
            f"{printable(self.model)} in {self.where()}",
            "",
            *columns(
                ["", "count", "silent", "accuracy", "macro", "log loss", "calibration"],
                [_row("windows", self.scores.windows), _row("clips", self.scores.clips)],
            ),
        ]
        lines += [note for note in (self.trained_note(), self.fit_note()) if note]
        for title, accuracies in (("label", self.scores.per_label), ("recorder", self.scores.per_recorder)):
            if accuracies:
                rows = [[name, f"{100 * accuracy:.1f} %"] for name, accuracy in accuracies.items()]
                lines += ["", f"clip accuracy per {title}", *columns([], rows, indent="  ")]
        return "\n".join(lines if self.shift is None else [*lines, "", self.shift.to_text()])

    def require(self, min_accuracy: float | None, max_drop: float | None = None) -> None:
        """Fail where the clip accuracy, or that through the worst microphone, is too low.

        Raises:
            GateError: the clip accuracy is below `min_accuracy`, 0..1; see `ShiftReport.require`.
        """
        accuracy = self.scores.clips.accuracy
        if min_accuracy is not None and accuracy < min_accuracy:
            raise GateError(f"{self.model}: clip accuracy {accuracy:.4f} is below --min-accuracy {min_accuracy:g}")
        if self.shift is not None:
            self.shift.require(max_drop)


def evaluate_file(
    model_path: Path,
    data: Path,
    splits: Sequence[str] = (),
    *,
    engine: str | None = None,
    hop: float = 1.0,
    threads: int = 1,
    min_accuracy: float | None = None,
    microphones: tuple[Path, MicSplit] | None = None,
    equalise: int | None = None,
) -> EvaluationReport:
    """Run a model file over the clips of a store and score it.

    Args:
        model_path: .tflite or .onnx with a manifest.
        data: the store.
        splits: names of splits to score; none scores all clips.
        engine: a key of `engine.ENGINES`; None chooses by the file.
        hop: seconds between the starts of two windows of a clip.
        threads: of the engine.
        min_accuracy: is only checked to be a fraction, before the work; `EvaluationReport.require` applies it.
        microphones: a folder of impulse responses and which of its makes to score the clips through as well.
        equalise: number of clips of other splits from which an equaliser of each microphone is made; None uses none.

    Raises:
        InputError: a file or store that can't be read, of another sample rate or with other labels; an unknown split;
            bad numbers; see `Microphones.read`.
    """
    if min_accuracy is not None and not 0.0 <= min_accuracy <= 1.0:
        raise InputError(f"--min-accuracy is {min_accuracy:g}; give a fraction from 0 to 1, for instance 0.7")
    model = open_model(model_path, engine, threads)
    manifest = model.manifest
    step = hop_samples(manifest, hop)
    store = ClipStore.open(data)
    check_labelled(store)
    chosen = store.indices(splits) if splits else np.arange(len(store.clips))
    truth = match_labels(manifest, store, chosen, str(model_path))
    through = None if microphones is None else Microphones.read(*microphones, manifest.frontend.sample_rate)
    starts = [window_starts(int(store.lengths[index]), manifest.window, step) for index in chosen]
    clip_of = np.repeat(np.arange(len(chosen)), [len(of_clip) for of_clip in starts])
    logits, silent = window_logits(model, window_waveforms(store, chosen, starts, manifest.window))
    clips = [store.clips[index] for index in chosen]
    predictions = LabelledPredictions(
        logits,
        silent,
        clip_of,
        truth,
        store.group_ids(chosen),
        manifest.labels,
        tuple(clip.path for clip in clips),
        tuple(clip.recorder for clip in clips),
        manifest.temperature,
    )
    scores = evaluate(
        logits,
        silent,
        clip_of,
        truth,
        labels=manifest.labels,
        recorders=predictions.recorders,
        temperature=manifest.temperature,
    )
    split = ",".join(splits) if splits else ALL_SPLITS
    fit = manifest.calibration
    fitted_here = fit is not None and fit.data_hash == store.hash and any(clip.split in fit.splits for clip in clips)
    trained_here = not splits and manifest.provenance.data_hash == store.hash
    shift = (
        None if through is None else evaluate_microphones(model, store, chosen, starts, predictions, through, equalise)
    )
    return EvaluationReport(
        str(model_path),
        split,
        model.engine,
        store.name,
        store.synthetic,
        scores,
        manifest.temperature,
        fitted_here,
        trained_here,
        predictions,
        shift,
    )


def check_labelled(store: ClipStore) -> None:
    """Raise an error for a data set without labels.

    Raises:
        InputError: there are none.
    """
    if UNLABELLED in store.labels:
        raise InputError(
            f"{store.path}: {store.name} has no labels to score against; give its folder to edgekd predict"
        )


def window_waveforms(
    store: ClipStore, clips: NDArray[np.int64], starts: Sequence[Sequence[int]], window: int
) -> Iterator[NDArray[np.float32]]:
    """Windows of clips in order, float32 (window,) each; `starts` holds the first samples of each clip's windows."""
    for index, of_clip in zip(clips, starts, strict=True):
        for start in of_clip:
            yield store.window(int(index), start, window)


def match_labels(manifest: Manifest, store: ClipStore, clips: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """(clips,) int64: each clip's label as an index into the model's labels.

    Raises:
        InputError: the store has another sample rate than the front end, or clips have labels that the model doesn't
            know.
    """
    if store.sample_rate != manifest.frontend.sample_rate:
        raise InputError(
            f"{store.path} holds audio at {store.sample_rate} Hz, {where} expects {manifest.frontend.sample_rate} Hz; "
            f"prepare the store again with --sample-rate {manifest.frontend.sample_rate}"
        )
    position = {label: index for index, label in enumerate(manifest.labels)}
    strange = sorted({store.clips[index].label for index in clips} - set(position))
    if strange:
        raise InputError(
            f"{where} knows no label {listing(strange)} of {store.path} (it knows {listing(manifest.labels)}); "
            "evaluate it on data with its labels"
        )
    return np.array([position[store.clips[index].label] for index in clips], dtype=np.int64)


def _row(name: str, scores: Scores) -> list[str]:
    return [
        name,
        str(scores.count),
        str(scores.silent),
        f"{100 * scores.accuracy:.1f} %",
        f"{100 * scores.macro_accuracy:.1f} %",
        f"{scores.log_loss:.3f}",
        f"{scores.calibration_error:.4f}",
    ]
