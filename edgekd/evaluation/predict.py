"""`edgekd predict`: a model file over a folder of recordings, with one row of probabilities per file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.data.audio.decode import decode, is_audio
from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.waveform import to_waveform, window_starts
from edgekd.errors import InputError
from edgekd.evaluation.inference import RunnableModel, Waveform, hop_samples, window_logits
from edgekd.files import check_output, output_file
from edgekd.metrics.scores import clip_means, softmax
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import with_equaliser
from edgekd.text import counted, csv_bytes, listing

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
        unreadable: one message per file that was left out.
    """

    csv: Path
    rows: int
    silent: tuple[str, ...]
    unreadable: tuple[str, ...]

    def to_text(self) -> str:
        """A summary for people."""
        lines = [f"{self.csv}: {counted(self.rows, 'file')}"]
        if self.silent:
            lines.append(f"digital silence, without a label ({len(self.silent)}): {listing(self.silent)}")
        if self.unreadable:
            lines += [
                f"left out, unreadable ({len(self.unreadable)}):",
                *(f"  {message}" for message in self.unreadable),
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
        folder: with all its subfolders, in name order; or a single audio file.
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
    check_output(csv_path, "--csv", force=force)
    files = audio_files(folder)
    model = with_equaliser(open_model(model_path, engine, threads), equaliser)
    step = hop_samples(model.manifest, hop)
    base = folder if folder.is_dir() else folder.parent
    predictions, unreadable = [], []

    def read(path: Path) -> Waveform | InputError:
        try:
            return to_waveform(decode(path, model.manifest.frontend.sample_rate, 1))
        except InputError as error:
            return error

    for path, waveform in zip(files, map_in_order(read, files), strict=True):
        if isinstance(waveform, InputError):
            unreadable.append(str(waveform))
        else:
            predictions.append(_predict(model, path.relative_to(base).as_posix(), waveform, step))
    if not predictions:
        raise InputError(
            f"{folder}: {counted(len(files), 'audio file')}, none of them readable (first: {unreadable[0]})"
        )
    write_csv(csv_path, model.manifest.labels, predictions)
    silent = tuple(prediction.filename for prediction in predictions if prediction.label is None)
    return PredictReport(csv_path, len(predictions), silent, tuple(unreadable))


def audio_files(folder: Path) -> list[Path]:
    """Audio files below a folder in name order, or the one file given.

    Raises:
        InputError: the folder doesn't exist or holds no audio.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; give a folder of audio files")
    files = sorted(path for path in folder.rglob("*") if is_audio(path) and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no audio file (wav, flac, ogg, mp3)")
    return files


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


def _predict(model: RunnableModel, filename: str, waveform: Waveform, step: int) -> Prediction:
    """The prediction of a recording; one shorter than a window is padded with zeros."""
    window = model.manifest.window
    padded = np.pad(waveform, (0, max(0, window - len(waveform))))
    starts = window_starts(len(padded), window, step)
    logits, silent = window_logits(model, (padded[start : start + window] for start in starts))
    clips, silent_clips = clip_means(
        softmax(logits, model.manifest.temperature), silent, np.zeros(len(starts), np.int64), 1
    )
    if silent_clips[0]:
        return Prediction(filename, None, None)
    return Prediction(filename, model.manifest.labels[int(clips[0].argmax())], clips[0])
