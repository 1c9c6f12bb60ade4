"""`edgekd predict`: a model file over a folder of recordings, with one row of probabilities per file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.read import AudioFileError, loud_note
from edgekd.data.audio.source_facts import channels_cancel
from edgekd.data.audio.streamed import StreamedFile
from edgekd.data.audio.tree import audio_files
from edgekd.data.audio.waveform import stream_windows
from edgekd.errors import InputError
from edgekd.evaluation.inference import RunnableModel, Waveform, hop_samples, window_logits
from edgekd.files import output_file
from edgekd.metrics.scores import clip_means, softmax
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import with_equaliser
from edgekd.text import counted, csv_bytes, listing, printable

PROBABILITY_FORMAT = ".6f"


@dataclass(frozen=True)
class Prediction:
    """One file. label, and probabilities float64 (labels,); both None where all windows are digital silence."""

    filename: str
    label: str | None
    probabilities: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None


@dataclass(frozen=True)
class PredictReport:
    """Result of `predict_folder`.

    Attributes:
        csv: the file that was written.
        rows: number of files in it.
        silent: names of files of digital silence, whose label and probabilities are empty.
        unreadable: one message per file, or other thing below the folder, that was left out.
        loud: name of each file with float samples above full scale, which were scaled down to it -> their peak.
        cancelled: those of `silent` whose channels are of opposite phase and cancel in their mean.
    """

    csv: Path
    rows: int
    silent: tuple[str, ...]
    unreadable: tuple[str, ...]
    loud: dict[str, float] = field(default_factory=dict)
    cancelled: tuple[str, ...] = ()

    def to_text(self) -> str:
        """A summary for people."""
        lines = [f"{self.csv}: {counted(self.rows, 'file')}"]
        if self.silent:
            lines.append(f"digital silence, without a label ({len(self.silent)}): {listing(self.silent)}")
        if self.cancelled:
            lines.append(
                f"of these, of opposite phase, whose channels cancel ({len(self.cancelled)}): "
                f"{listing(self.cancelled)}; invert one channel, or keep one only"
            )
        if self.loud:
            lines.append(loud_note(self.loud))
        if self.unreadable:
            lines += [
                f"left out ({len(self.unreadable)}):",
                *(f"  {printable(message)}" for message in self.unreadable),
            ]
        return "\n".join(lines)


def predict_folder(
    model_path: Path,
    folder: Path,
    csv_path: Path,
    *,
    engine: str | None = None,
    hop: float = 1.0,
    threads: int = 1,
    force: bool = False,
    equaliser: Path | None = None,
) -> PredictReport:
    """Classify every audio file below a folder and write a CSV of `filename,label,` and one probability column per
    label.

    Args:
        model_path: .tflite or .onnx with a manifest.
        folder: with all its subfolders, also those that links lead to, in name order; or a single audio file.
        csv_path: the result; file names in it are relative to `folder`.
        engine: a key of `engine.ENGINES`; None chooses by the file.
        hop: seconds between the starts of two windows of a file.
        threads: of the engine.
        force: replace a CSV that exists.
        equaliser: a file of `edgekd equalise` for the microphone of the recordings.

    Raises:
        InputError: no audio file, none readable, a CSV that exists or can't be written, or a damaged model.
        MissingExtraError: no decoder or no engine is installed.
    """
    if csv_path.is_dir():
        raise InputError(f"{csv_path} is a folder; give --csv a file name, for instance {csv_path / 'predictions.csv'}")
    if csv_path.exists() and not force:
        raise InputError(f"{csv_path} exists; replace it with --force or choose another --csv")
    tree = audio_files(folder)
    files = tree.files
    model = with_equaliser(open_model(model_path, engine, threads), equaliser)
    step = hop_samples(model.manifest, hop)
    base = folder if folder.is_dir() else folder.parent
    predictions, unreadable = [], []
    loud: dict[str, float] = {}
    recordings = map_in_order(lambda path: StreamedFile(path, model.manifest.frontend.sample_rate), files)
    for path, recording in zip(files, recordings, strict=True):
        name = path.relative_to(base).as_posix()
        try:
            predictions.append(_predict(model, name, recording.chunks(), step))
        except AudioFileError as error:
            unreadable.append(str(error))
            continue
        if recording.peak is not None:
            loud[name] = recording.peak
    if not predictions:
        raise InputError(
            f"{folder}: {counted(len(files), 'audio file')}, none of them readable (first: {unreadable[0]})"
        )
    write_csv(csv_path, model.manifest.labels, predictions)
    silent = tuple(prediction.filename for prediction in predictions if prediction.label is None)
    cancelled = tuple(name for name in silent if channels_cancel(base / name))
    return PredictReport(csv_path, len(predictions), silent, (*unreadable, *tree.left_out), loud, cancelled)


def write_csv(path: Path, labels: tuple[str, ...], predictions: list[Prediction]) -> None:
    """Write a row for each prediction.

    Raises:
        InputError: the file can't be written.
    """
    rows = []
    for prediction in predictions:
        known = prediction.probabilities
        values = [""] * len(labels) if known is None else [format(value, PROBABILITY_FORMAT) for value in known]
        rows.append([prediction.filename, prediction.label or "", *values])
    # names of files need not be UTF-8
    table = csv_bytes(["filename", "label", *labels], rows, errors="surrogateescape")
    with output_file(path, "--csv") as unfinished:
        unfinished.write_bytes(table)


def _predict(model: RunnableModel, filename: str, chunks: Iterable[Waveform], step: int) -> Prediction:
    """The prediction of a recording, which comes in chunks; one shorter than a window is padded with zeros."""
    logits, silent = window_logits(model, stream_windows(chunks, model.manifest.window, step))
    clips, silent_clips = clip_means(
        softmax(logits, model.manifest.temperature), silent, np.zeros(len(logits), np.int64), 1
    )
    if silent_clips[0]:
        return Prediction(filename, None, None)
    return Prediction(filename, model.manifest.labels[int(clips[0].argmax())], clips[0])
