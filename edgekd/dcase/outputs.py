"""What the models of a DCASE submission say: of the evaluation set, and of the development set with the scores that the
meta file has."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.decode import decode
from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.waveform import to_waveform, window_starts
from edgekd.data.sets import tau22_evaluation
from edgekd.data.store.store import INFO_FILE, ClipStore
from edgekd.dcase.forms import GENERAL, Form, main_key, no_scores, scores
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import EvaluationReport, evaluate_file
from edgekd.evaluation.inference import Waveform, window_logits
from edgekd.evaluation.predict import audio_files
from edgekd.metrics.scores import Floats, clip_probabilities, softmax
from edgekd.modelfile.engine import Model
from edgekd.text import listing

HOP_S = 1.0


@dataclass(frozen=True)
class EvaluationSet:
    """Clips to judge.

    Attributes:
        names: of the files, without folders, each once.
        recorders: of each, "" where it is not told.
        waveforms: (indices, Hz) -> float32 (time,) in [-1, 1] of each.
    """

    names: tuple[str, ...]
    recorders: tuple[str, ...]
    waveforms: Callable[[Sequence[int], int], Iterator[Waveform]]


def open_evaluation(place: Path) -> EvaluationSet:
    """The clips of a store, of the evaluation set's folder, or of any folder of audio files.

    Raises:
        InputError: none of them, damaged, incomplete, or two files of one name.
    """
    if (place / INFO_FILE).is_file():
        store = ClipStore.open(place)

        def stored(indices: Sequence[int], rate: int) -> Iterator[Waveform]:
            if rate != store.sample_rate:
                raise InputError(
                    f"{place} holds audio at {store.sample_rate} Hz, the model hears {rate} Hz; prepare it again with "
                    f"--sample-rate {rate}, or give the folder of the evaluation set"
                )
            return (store.waveform(index) for index in indices)

        return _named(place, [(clip.path, clip.recorder) for clip in store.clips], stored)
    if any((place / table).is_file() for table in tau22_evaluation.LISTS):
        sources = [(source.file, source.clip.recorder) for source in tau22_evaluation.read(place).sources]
    else:
        sources = [(file, "") for file in audio_files(place)]

    def decoded(indices: Sequence[int], rate: int) -> Iterator[Waveform]:
        return map_in_order(lambda index: to_waveform(decode(sources[index][0], rate, 1)), indices)

    return _named(place, [(str(file), recorder) for file, recorder in sources], decoded)


def _named(
    place: Path, clips: Sequence[tuple[str, str]], waveforms: Callable[[Sequence[int], int], Iterator[Waveform]]
) -> EvaluationSet:
    names = [path.replace("\\", "/").rpartition("/")[2] for path, _ in clips]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"{place}: files of one name in several folders ({listing(twice)}); an output tells files by their names"
            " alone"
        )
    return EvaluationSet(tuple(names), tuple(recorder for _, recorder in clips), waveforms)


def judge(clips: EvaluationSet, models: Mapping[str, Model]) -> tuple[Floats, int]:
    """Probabilities of all clips, each by the model of its recorder, else by the general one.

    Returns:
        (clips, labels), and how many clips are digital silence, of which all labels are equally likely.
    """
    probabilities = np.full((len(clips.names), len(next(iter(models.values())).manifest.labels)), np.nan)
    silent = 0
    for key, indices in by_model(clips.recorders, models).items():
        waveforms = clips.waveforms(indices.tolist(), models[key].manifest.frontend.sample_rate)
        probabilities[indices], unheard = _probabilities(models[key], waveforms)
        silent += unheard
    return probabilities, silent


def by_model(recorders: Sequence[str], models: Mapping[str, object]) -> dict[str, NDArray[np.int64]]:
    """Key of a model -> indices of the clips that it judges, only where there are some."""
    keys = np.array(
        [
            recorder if recorder in models else GENERAL if GENERAL in models else next(iter(models))
            for recorder in recorders
        ]
    )
    return {key: np.flatnonzero(keys == key) for key in models if (keys == key).any()}


def _probabilities(model: Model, waveforms: Iterator[Waveform]) -> tuple[Floats, int]:
    window, step = model.manifest.window, round(HOP_S * model.manifest.frontend.sample_rate)
    counts: list[int] = []

    def parts() -> Iterator[Waveform]:
        for waveform in waveforms:
            padded = np.pad(waveform, (0, max(0, window - len(waveform))))
            starts = window_starts(len(padded), window, step)
            counts.append(len(starts))
            yield from (padded[start : start + window] for start in starts)

    logits, silent = window_logits(model, parts())
    clip_of = np.repeat(np.arange(len(counts)), counts)
    found, unheard = clip_probabilities(softmax(logits, model.manifest.temperature), silent, clip_of, len(counts))
    found[unheard] = 1 / found.shape[1]
    return found, int(unheard.sum())


def development(
    paths: Mapping[str, Path], form: Form, data: Path | None, splits: Sequence[str]
) -> dict[str, dict[str, object]]:
    """The results of each block of the form, empty ones without a store.

    Raises:
        InputError: as `evaluate_file`.
    """
    if data is None:
        return {name: no_scores() for name in form.results}
    reports = {key: evaluate_file(path, data, splits) for key, path in paths.items()}
    if form.package:
        return {"device_specific": _scores(reports), "general": _scores({GENERAL: reports[GENERAL]})}
    found = {f"split_{key}": _scores({GENERAL: report}) for key, report in reports.items()}
    main = _scores({GENERAL: reports[main_key(reports)]})
    return {name: found.get(name, no_scores()) if name else main for name in form.results}


def _scores(reports: Mapping[str, EvaluationReport]) -> dict[str, object]:
    """Of clips that are each judged by the model of their recorder."""
    answers = reports[GENERAL].answers
    probabilities, heard = np.zeros((len(answers.truth), len(answers.labels))), np.zeros(len(answers.truth), bool)
    for key, indices in by_model(answers.recorders, reports).items():
        said = reports[key].answers
        found, silent = clip_probabilities(
            softmax(said.logits, said.temperature), said.silent, said.clip_of, len(said.truth)
        )
        ordered = found[:, [said.labels.index(label) for label in answers.labels]]
        probabilities[indices], heard[indices] = ordered[indices], ~silent[indices]
    return scores(probabilities, heard, answers.truth, answers.labels, answers.recorders)
