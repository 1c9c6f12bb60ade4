"""Predictions of a DCASE submission's models for the evaluation set, and their scores on the development set."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.streamed import StreamedFile
from edgekd.data.audio.tree import audio_files
from edgekd.data.audio.waveform import stream_windows
from edgekd.data.sets import tau22_evaluation
from edgekd.data.store.store import INFO_FILE, ClipStore
from edgekd.dcase.forms import GENERAL, Form, development_scores, empty_scores, main_key
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import EvaluationReport, evaluate_file
from edgekd.evaluation.inference import Waveform, window_logits
from edgekd.metrics.scores import Floats, clip_means, softmax
from edgekd.modelfile.engine import Model
from edgekd.text import listing

HOP_S = 1.0
"""Seconds between the starts of two windows of a clip."""

Chunks = Iterable[Waveform]


@dataclass(frozen=True)
class EvaluationSet:
    """Clips to predict.

    Attributes:
        names: of the files, without folders, each once.
        recorders: of each clip, "" where it is not known.
        waveforms: (indices, Hz) -> chunks of the waveform of each of these clips, float32 (time,) in [-1, 1].
    """

    names: tuple[str, ...]
    recorders: tuple[str, ...]
    waveforms: Callable[[Sequence[int], int], Iterator[Chunks]]


def open_evaluation(path: Path) -> EvaluationSet:
    """The clips of a store, of the evaluation set's folder, or of any folder of audio files.

    Raises:
        InputError: no such store or folder, damaged, missing or left out files, or two files of one name.
    """
    if (path / INFO_FILE).is_file():
        store = ClipStore.open(path)

        def stored(indices: Sequence[int], rate: int) -> Iterator[Chunks]:
            if rate != store.sample_rate:
                raise InputError(
                    f"{path} holds audio at {store.sample_rate} Hz, the model needs {rate} Hz; prepare it again with "
                    f"--sample-rate {rate}, or give the folder of the evaluation set"
                )
            return ([store.waveform(index)] for index in indices)

        return _named(path, [(clip.path, clip.recorder) for clip in store.clips], stored)
    if any((path / table).is_file() for table in tau22_evaluation.LISTS):
        sources = [(source.file, source.clip.recorder) for source in tau22_evaluation.read(path).sources]
    else:
        tree = audio_files(path)
        if tree.missing:  # an output holds every clip of the set
            raise InputError(f"{path}: not every clip can be read: {tree.missing[0]}")
        sources = [(file, "") for file in tree.files]

    def decoded(indices: Sequence[int], rate: int) -> Iterator[Chunks]:
        return (file.chunks() for file in map_in_order(lambda index: StreamedFile(sources[index][0], rate), indices))

    return _named(path, [(str(file), recorder) for file, recorder in sources], decoded)


def _named(
    path: Path, clips: Sequence[tuple[str, str]], waveforms: Callable[[Sequence[int], int], Iterator[Chunks]]
) -> EvaluationSet:
    names = [file.replace("\\", "/").rpartition("/")[2] for file, _ in clips]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"{path}: files of one name in several folders ({listing(twice)}); an output names files without their"
            " folders"
        )
    return EvaluationSet(tuple(names), tuple(recorder for _, recorder in clips), waveforms)


def predict_set(clips: EvaluationSet, models: Mapping[str, Model]) -> tuple[Floats, int]:
    """Probabilities of all clips, each by the model of its recorder, or by the general model.

    Returns:
        Probabilities (clips, labels), and the number of clips that are digital silence. For these all labels have the
        same probability.
    """
    probabilities = np.full((len(clips.names), len(next(iter(models.values())).manifest.labels)), np.nan)
    silent = 0
    for key, indices in by_model(clips.recorders, models).items():
        waveforms = clips.waveforms(indices.tolist(), models[key].manifest.frontend.sample_rate)
        probabilities[indices], count = _probabilities(models[key], waveforms)
        silent += count
    return probabilities, silent


def by_model(recorders: Sequence[str], models: Mapping[str, object]) -> dict[str, NDArray[np.int64]]:
    """Key of a model -> indices of the clips that it predicts. Models without such clips are left out."""
    keys = np.array(
        [
            recorder if recorder in models else GENERAL if GENERAL in models else next(iter(models))
            for recorder in recorders
        ]
    )
    return {key: np.flatnonzero(keys == key) for key in models if (keys == key).any()}


def _probabilities(model: Model, waveforms: Iterator[Chunks]) -> tuple[Floats, int]:
    """As `predict_set`, by one model."""
    window, step = model.manifest.window, round(HOP_S * model.manifest.frontend.sample_rate)
    counts: list[int] = []

    def window_parts() -> Iterator[Waveform]:
        for chunks in waveforms:
            counts.append(0)
            for part in stream_windows(chunks, window, step):
                counts[-1] += 1
                yield part

    logits, silent = window_logits(model, window_parts())
    clip_of = np.repeat(np.arange(len(counts)), counts)
    found, silent_clips = clip_means(softmax(logits, model.manifest.temperature), silent, clip_of, len(counts))
    found[silent_clips] = 1 / found.shape[1]
    return found, int(silent_clips.sum())


def development(
    paths: Mapping[str, Path], form: Form, data: Path | None, splits: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Block of the form's results -> scores on a store of the development set; empty scores without a store.

    Raises:
        InputError: see `evaluate_file`.
    """
    if data is None:
        return {name: empty_scores() for name in form.results}
    reports = {key: evaluate_file(path, data, splits) for key, path in paths.items()}
    if form.package:
        return {"device_specific": _scores(reports), "general": _scores({GENERAL: reports[GENERAL]})}
    found = {f"split_{key}": _scores({GENERAL: report}) for key, report in reports.items()}
    main = _scores({GENERAL: reports[main_key(reports)]})
    return {name: found.get(name, empty_scores()) if name else main for name in form.results}


def _scores(reports: Mapping[str, EvaluationReport]) -> dict[str, object]:
    """Scores of clips that are each predicted by the model of their recorder. reports: key of a model -> its report."""
    general = reports[GENERAL].predictions
    clips = len(general.truth)
    probabilities, sounding = np.zeros((clips, len(general.labels))), np.zeros(clips, bool)
    for key, indices in by_model(general.recorders, reports).items():
        own = reports[key].predictions
        found, silent = own.clip_probabilities()
        ordered = found[:, [own.labels.index(label) for label in general.labels]]
        probabilities[indices], sounding[indices] = ordered[indices], ~silent[indices]
    return development_scores(probabilities, sounding, general.truth, general.labels, general.recorders)
