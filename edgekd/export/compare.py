"""Compares several executions of one student on the same held-out windows: distance of logits, accuracy,
calibration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.clips import Clip, shared_origins
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import match_labels, window_waveforms
from edgekd.evaluation.inference import BATCH, hop_samples
from edgekd.export.executions import FLOAT, LogitsFunction
from edgekd.frontend import log_mel
from edgekd.metrics.agreement import MAX_STEPS, Agreement, agreement
from edgekd.metrics.calibration import Fit, calibrate
from edgekd.metrics.scores import Evaluation, evaluate
from edgekd.modelfile.manifest import Manifest
from edgekd.text import columns, counted
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Export

SHOWN_LABELS = 5
"""Labels and recorders in the text: those whose accuracy changes most."""


@dataclass(frozen=True)
class HeldOut:
    """Windows that the student was not trained on.

    Attributes:
        store: the clips.
        manifest: of the student.
        splits: that the windows are of.
        left_out: number of clips of these splits that share a recording with training clips.
        clips: (clips,) indices in the store.
        truth: (clips,) index of each label.
        starts: first samples of each clip's windows.
        clip_of: (windows,) position in `clips` of each window's clip.
    """

    store: ClipStore
    manifest: Manifest
    splits: tuple[str, ...]
    left_out: int
    clips: NDArray[np.int64]
    truth: NDArray[np.int64]
    starts: list[list[int]]
    clip_of: NDArray[np.int64]

    def waveforms(self) -> Iterator[NDArray[np.float32]]:
        """The windows in order, float32 (window,)."""
        return window_waveforms(self.store, self.clips, self.starts, self.manifest.window)

    def groups(self) -> NDArray[np.int64]:
        """(windows,) number of the recording or location that a window comes from."""
        ids: dict[str, int] = {}
        clips = [self.store.clips[index] for index in self.clips]
        return np.array([ids.setdefault(clip.group or clip.parent or clip.path, len(ids)) for clip in clips], np.int64)[
            self.clip_of
        ]


def held_out(store: ClipStore, recipe: Recipe, manifest: Manifest, splits: Sequence[str], hop: float) -> HeldOut:
    """The windows of splits that the student was not trained on.

    Args:
        store: of the student's data set, or of another one.
        recipe: of the training.
        manifest: of the student.
        splits: names.
        hop: seconds between the starts of two windows.

    Raises:
        InputError: an unknown split, one that the student was trained on, another sample rate, unknown labels, or
            nothing left.
    """
    clips = store.indices(splits)
    kept = clips
    if store.name == manifest.provenance.data:
        trained = sorted(set(splits) & set(recipe.data.train))
        if trained:
            raise InputError(
                f"{store.path}: the student was trained on split '{trained[0]}'; choose a held-out one, "
                f"for instance {', '.join(recipe.data.test)}"
            )
        trained_origins = _trained_origins(store, recipe)
        kept = np.array(
            [index for index in clips if trained_origins.isdisjoint(shared_origins([store.clips[index]]))], np.int64
        )
        if not len(kept):
            raise InputError(
                f"{store.path}: all clips of {', '.join(splits)} share a recording with training clips; choose another"
                " split"
            )
    starts = [window_starts(int(store.lengths[index]), manifest.window, hop_samples(manifest, hop)) for index in kept]
    clip_of = np.repeat(np.arange(len(kept)), [len(of_clip) for of_clip in starts])
    truth = match_labels(manifest, store, kept, manifest.name)
    return HeldOut(store, manifest, tuple(sorted(set(splits))), len(clips) - len(kept), kept, truth, starts, clip_of)


def _trained_origins(store: ClipStore, recipe: Recipe) -> set[str]:
    """Groups and parents of the clips that the student was trained on. Training has left out clips that share a
    recording with the test split."""
    if recipe.data.allow_leaks:
        return set()
    tested = shared_origins(clip for clip in store.clips if clip.split in recipe.data.test)

    def used(clip: Clip) -> bool:
        return clip.split in recipe.data.train and tested.isdisjoint(shared_origins([clip]))

    return shared_origins(clip for clip in store.clips if used(clip))


@dataclass(frozen=True)
class WindowLogits:
    """logits: name of the execution -> float32 (windows, labels), zeros where silent. silent: (windows,) which windows
    are digital silence."""

    logits: dict[str, NDArray[np.float32]]
    silent: NDArray[np.bool_]


def run_all(held: HeldOut, executions: Mapping[str, LogitsFunction]) -> WindowLogits:
    """Run every execution on every window that is not silent; features are computed once."""
    labels, remaining = len(held.manifest.labels), held.waveforms()
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in executions}
    silences = []
    while batch := list(islice(remaining, BATCH)):
        waveforms = np.stack(batch)  # (batch, window)
        silent = np.logical_not(waveforms.any(axis=1))
        silences.append(silent)
        features = None if silent.all() else log_mel(held.manifest.frontend, waveforms[~silent])
        for name, run in executions.items():
            logits = np.zeros((len(waveforms), labels), np.float32)
            if features is not None:
                logits[~silent] = run(features)
            parts[name].append(logits)
    return WindowLogits({name: np.concatenate(each) for name, each in parts.items()}, np.concatenate(silences))


def fit(held: HeldOut, logits: NDArray[np.float32], silent: NDArray[np.bool_]) -> Fit:
    """The temperature of (windows, labels) logits.

    Raises:
        InputError: fewer than two recordings that are not silent.
    """
    sounding = ~silent
    return calibrate(logits[sounding], held.truth[held.clip_of][sounding], held.groups()[sounding])


@dataclass(frozen=True)
class Comparison:
    """The executions of a student, compared.

    Attributes:
        data: name of the store.
        splits: that the windows are of.
        windows: number of windows that are not silent.
        left_out: see `HeldOut`.
        temperature: of the probabilities.
        scores: name of the execution -> scores; "float" is the float network.
        anchor: the name that `agreement` compares with.
        agreement: name -> logits against the anchor's, in steps of the output's scale.
    """

    data: str
    splits: tuple[str, ...]
    windows: int
    left_out: int
    temperature: float
    scores: dict[str, Evaluation]
    anchor: str
    agreement: dict[str, Agreement]

    def failures(self, thresholds: Export) -> list[str]:
        """The thresholds that the files miss, one phrase each. The rows of files have the names of engines."""
        found = []
        expected = self.scores[FLOAT].windows.accuracy
        for name in (name for name in self.scores if name in MAX_STEPS):
            accuracy = self.scores[name].windows.accuracy
            if accuracy < expected - thresholds.max_accuracy_drop:
                found.append(
                    f"{name}: window accuracy {accuracy:.4f} is more than {thresholds.max_accuracy_drop:g} below"
                    f" {expected:.4f} of the float network"
                )
            if name not in self.agreement:
                continue
            each, most = self.agreement[name], MAX_STEPS[name] if thresholds.max_steps is None else thresholds.max_steps
            if round(each.max_steps, 2) > most:
                found.append(
                    f"{name}: {counted(each.max_steps, 'step', form='.3g')} from {self.anchor}, more than {most}"
                )
            if each.label_agreement < thresholds.min_label_agreement:
                found.append(
                    f"{name}: the label of {self.anchor} in {100 * each.label_agreement:.2f} % of windows, less than "
                    f"{100 * thresholds.min_label_agreement:g} %"
                )
        return found

    def to_text(self) -> str:
        """Tables for a terminal."""
        left_out = (
            f"; {counted(self.left_out, 'clip')} left out for sharing a recording with training"
            if self.left_out
            else ""
        )
        first = next(iter(self.scores.values()))
        rows = [
            [
                name,
                *(f"{100 * share:.2f} %" for share in (scores.windows.accuracy, scores.clips.accuracy)),
                f"{scores.windows.log_loss:.3f}",
                f"{scores.windows.calibration_error:.4f}",
                *self._agreement_cells(name),
            ]
            for name, scores in self.scores.items()
        ]
        header = ["accuracy of", "windows", "clips", "log loss", "calibration", "steps", "differing", "same label"]
        lines = [
            (
                f"{self.data}, split {', '.join(self.splits)}: {counted(first.clips.count, 'clip')},"
                f" {counted(self.windows, 'window')} and {counted(first.windows.silent, 'silent one')}, temperature"
                f" {self.temperature:g}{left_out}; steps, differing logits and same label against {self.anchor}"
            ),
            *columns(header, rows, indent="  "),
            *self._changes("recorder", {name: scores.per_recorder for name, scores in self.scores.items()}),
            *self._changes("label", {name: scores.per_label for name, scores in self.scores.items()}),
        ]
        return "\n".join(lines)

    def _agreement_cells(self, name: str) -> list[str]:
        each = self.agreement.get(name)
        if each is None:
            return ["", "", ""]
        return [f"{each.max_steps:.3g}", *(f"{100 * share:.2f} %" for share in (each.differing, each.label_agreement))]

    def _changes(self, title: str, accuracies: dict[str, dict[str, float]]) -> list[str]:
        """Clip accuracies per recorder or label, those first that change most from the float network's. accuracies:
        name of the execution -> recorder or label -> accuracy."""
        names = list(accuracies[FLOAT])
        if not names:
            return []
        change = {
            name: max(abs(each[name] - accuracies[FLOAT][name]) for each in accuracies.values()) for name in names
        }
        shown = sorted(names, key=lambda name: -change[name])[:SHOWN_LABELS]
        which = "" if len(shown) == len(names) else f" (the {len(shown)} of {len(names)} that change most)"
        rows = [[name, *(f"{100 * each[name]:.1f} %" for each in accuracies.values())] for name in shown]
        return ["", f"  clip accuracy per {title}{which}", *columns([title, *accuracies], rows, indent="  ")]


def compare(
    held: HeldOut, outputs: WindowLogits, anchor: str, step: float, temperature: float, *, integers: bool
) -> Comparison:
    """Score every execution.

    Args:
        held: the windows.
        outputs: logits of these windows by "float", the anchor, and any other executions.
        anchor: the execution that logits are compared with.
        step: logit units of one step of the output.
        temperature: divides the logits of all executions.
        integers: whether all executions but "float" are on the same integer grid; if not, only engines are compared
            with the anchor.

    Raises:
        InputError: all windows are silent, or logits are not finite.
    """
    recorders = [held.store.clips[index].recorder for index in held.clips]
    scores = {
        name: evaluate(
            logits,
            outputs.silent,
            held.clip_of,
            held.truth,
            labels=held.manifest.labels,
            recorders=recorders,
            temperature=temperature,
        )
        for name, logits in outputs.logits.items()
    }
    rounded = np.rint if integers else np.asarray
    compared = [name for name in outputs.logits if name in MAX_STEPS or (integers and name != FLOAT)]
    steps = {name: rounded(outputs.logits[name][~outputs.silent] / step) for name in compared}
    agreed = {name: agreement(steps[anchor], each) for name, each in steps.items() if name != anchor}
    return Comparison(
        held.store.name, held.splits, int((~outputs.silent).sum()), held.left_out, temperature, scores, anchor, agreed
    )
