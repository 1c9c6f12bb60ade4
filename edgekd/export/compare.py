"""Several executions of one student over the same held-out windows: how far apart, how accurate, how well
calibrated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from edgekd.frontend import log_mel
from edgekd.metrics.agreement import MAX_STEPS, Agreement, agreement
from edgekd.metrics.calibration import Fit, calibrate
from edgekd.metrics.scores import Evaluation, evaluate
from edgekd.modelfile.manifest import Manifest
from edgekd.text import counted
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Export

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Features (batch, mel, frame) to logits (batch, labels)."""
FLOAT = "float"
"""The row that accuracies are compared with."""
SHOWN_LABELS = 5
"""Labels in the text: those whose accuracy changes most."""


@dataclass(frozen=True)
class HeldOut:
    """Windows that the student was not trained on.

    Attributes:
        store, splits: where they come from. manifest: of the student.
        left_out: how many clips of the splits share a recording with training clips.
        clips: (clips,) indices in the store. truth: (clips,) index of each label.
        starts: first samples of each clip's windows. clip_of: (windows,) each window's clip.
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
        """(windows,) an id of the recording or place that a window comes from."""
        ids: dict[str, int] = {}
        clips = [self.store.clips[index] for index in self.clips]
        return np.array([ids.setdefault(clip.group or clip.parent or clip.path, len(ids)) for clip in clips], np.int64)[
            self.clip_of
        ]


def held_out(store: ClipStore, recipe: Recipe, manifest: Manifest, splits: Sequence[str], hop: float) -> HeldOut:
    """The windows of splits that had no part in the training.

    Args:
        store: of the data set that the student was trained on, or of another one.
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
        heard = _heard(store, recipe)
        kept = np.array([index for index in clips if heard.isdisjoint(shared_origins([store.clips[index]]))], np.int64)
        if not len(kept):
            raise InputError(
                f"{store.path}: all clips of {', '.join(splits)} share a recording with training clips; choose another"
                " split"
            )
    starts = [window_starts(int(store.lengths[index]), manifest.window, hop_samples(manifest, hop)) for index in kept]
    clip_of = np.repeat(np.arange(len(kept)), [len(of_clip) for of_clip in starts])
    truth = match_labels(manifest, store, kept, manifest.name)
    return HeldOut(store, manifest, tuple(sorted(set(splits))), len(clips) - len(kept), kept, truth, starts, clip_of)


def _heard(store: ClipStore, recipe: Recipe) -> set[str]:
    """Groups and parents of the clips that were trained on; clips that leak into the test split were left out of
    training."""
    if recipe.data.allow_leaks:
        return set()
    tested = shared_origins(clip for clip in store.clips if clip.split in recipe.data.test)

    def used(clip: Clip) -> bool:
        return clip.split in recipe.data.train and tested.isdisjoint(shared_origins([clip]))

    return shared_origins(clip for clip in store.clips if used(clip))


@dataclass(frozen=True)
class Outputs:
    """logits: name -> float32 (windows, labels), zeros where silent. silent: (windows,) windows of digital silence."""

    logits: dict[str, NDArray[np.float32]]
    silent: NDArray[np.bool_]


def run_all(held: HeldOut, models: Mapping[str, Runner]) -> Outputs:
    """Every model on every window that is not silent; features are computed once."""
    labels, remaining = len(held.manifest.labels), held.waveforms()
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in models}
    silences = []
    while batch := list(islice(remaining, BATCH)):
        waves = np.stack(batch)  # (batch, window)
        silent = np.logical_not(waves.any(axis=1))
        silences.append(silent)
        features = None if silent.all() else log_mel(held.manifest.frontend, waves[~silent])
        for name, run in models.items():
            logits = np.zeros((len(waves), labels), np.float32)
            if features is not None:
                logits[~silent] = run(features)
            parts[name].append(logits)
    return Outputs({name: np.concatenate(each) for name, each in parts.items()}, np.concatenate(silences))


def fit(held: HeldOut, logits: NDArray[np.float32], silent: NDArray[np.bool_]) -> Fit:
    """The temperature of (windows, labels) logits.

    Raises:
        InputError: fewer than two recordings with sound.
    """
    heard = ~silent
    return calibrate(logits[heard], held.truth[held.clip_of][heard], held.groups()[heard])


@dataclass(frozen=True)
class Comparison:
    """How the executions of a student did.

    Attributes:
        data, splits: what they were compared on. windows: compared, without silent ones. left_out: see `HeldOut`.
        temperature: of the probabilities.
        scores: name -> scores; "float" is the float network.
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
        """What the files (the engines' rows) miss, one phrase each."""
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
        """Tables for people."""
        left_out = (
            f"; {counted(self.left_out, 'clip')} left out for sharing a recording with training"
            if self.left_out
            else ""
        )
        some = next(iter(self.scores.values()))
        lines = [
            (
                f"{self.data}, split {', '.join(self.splits)}: {counted(some.clips.count, 'clip')},"
                f" {counted(self.windows, 'window')} and {counted(some.windows.silent, 'silent one')}, temperature"
                f" {self.temperature:g}{left_out}"
            ),
            (
                f"  {'accuracy of':12}{'windows':>10}{'clips':>10}{'log loss':>10}{'calibration':>13}"
                f"   steps, differing, same label as {self.anchor}"
            ),
        ]
        for name, scores in self.scores.items():
            apart = self.agreement.get(name)
            steps = (
                f"   {apart.max_steps:5.3g}{100 * apart.differing:9.2f} %{100 * apart.label_agreement:9.2f} %"
                if apart
                else ""
            )
            lines.append(
                f"  {name:12}{100 * scores.windows.accuracy:8.2f} %{100 * scores.clips.accuracy:8.2f} %"
                f"{scores.windows.log_loss:10.3f}{scores.windows.calibration_error:13.4f}{steps}"
            )
        lines += self._rows("recorder", {name: scores.per_recorder for name, scores in self.scores.items()})
        return "\n".join(lines + self._rows("label", {name: scores.per_label for name, scores in self.scores.items()}))

    def _rows(self, title: str, columns: dict[str, dict[str, float]]) -> list[str]:
        """Clip accuracies per recorder or label, those first that change most from the float network's."""
        names = list(columns[FLOAT])
        if not names:
            return []
        change = {name: max(abs(column[name] - columns[FLOAT][name]) for column in columns.values()) for name in names}
        shown = sorted(names, key=lambda name: -change[name])[:SHOWN_LABELS]
        width = max(len(title), *map(len, shown))
        which = "" if len(shown) == len(names) else f" (the {len(shown)} of {len(names)} that change most)"
        lines = [
            "",
            f"  clip accuracy per {title}{which}",
            f"  {title:{width}}" + "".join(f"{name:>13}" for name in columns),
        ]
        return lines + [
            f"  {name:{width}}" + "".join(f"{100 * column[name]:11.1f} %" for column in columns.values())
            for name in shown
        ]


def compare(
    held: HeldOut, outputs: Outputs, anchor: str, step: float, temperature: float, *, integers: bool
) -> Comparison:
    """Score every execution.

    Args:
        held: the windows.
        outputs: of a row "float", the anchor, and any others, on them.
        anchor: the row that logits are compared with.
        step: logit units of one step of the output.
        temperature: that divides the logits of all rows.
        integers: whether all rows but "float" are on the same integer grid; if not, only engines are compared with the
            anchor.

    Raises:
        InputError: nothing but silence, or logits that are not finite.
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
    whole = np.rint if integers else np.asarray
    compared = [name for name in outputs.logits if name in MAX_STEPS or (integers and name != FLOAT)]
    steps = {name: whole(outputs.logits[name][~outputs.silent] / step) for name in compared}
    agreed = {name: agreement(steps[anchor], each) for name, each in steps.items() if name != anchor}
    return Comparison(
        held.store.name, held.splits, int((~outputs.silent).sum()), held.left_out, temperature, scores, anchor, agreed
    )
