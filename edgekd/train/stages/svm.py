"""`edgekd svm`: support vector machines on the embeddings of finished runs, one a run, and the sum of their scores."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgekd.data.store.store import ClipStore, listing
from edgekd.errors import InputError
from edgekd.metrics import svm
from edgekd.metrics.scores import Floats
from edgekd.models import Taps, front
from edgekd.models.taps import EMBEDDING
from edgekd.text import counted
from edgekd.train.batches.crops import Index
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.loop.validation import hear, judge
from edgekd.train.run.folder import Run, load_run

ENSEMBLE = "score sum"


@dataclass(frozen=True)
class System:
    """One run. softmax_accuracy, svm_accuracy: of test clips, 0..1. kernel, penalty: chosen, with inner_accuracy 0..1
    on a part of the training clips. width: of the embedding."""

    run: str
    width: int
    softmax_accuracy: float
    svm_accuracy: float
    kernel: str
    penalty: float
    inner_accuracy: float


@dataclass(frozen=True)
class SvmReport:
    """data: name of the store. train_clips, test_clips: how many. systems: one a run. accuracy: of test clips by the
    mean of all systems' scores, 0..1."""

    data: str
    train_clips: int
    test_clips: int
    systems: tuple[System, ...]
    accuracy: float

    def to_json(self) -> bytes:
        """One JSON document."""
        return msgspec.json.encode(self)

    def to_text(self) -> str:
        """A table for people."""
        width = max(len(ENSEMBLE), *(len(each.run) for each in self.systems))
        lines = [
            (
                f"{self.data}: {counted(self.test_clips, 'test clip')}, machines fitted on"
                f" {counted(self.train_clips, 'training clip')}"
            ),
            f"  {'accuracy':{width}}{'softmax':>10}{'svm':>10}   kernel",
        ]
        for each in self.systems:
            lines.append(
                f"  {each.run:{width}}{100 * each.softmax_accuracy:8.2f} %{100 * each.svm_accuracy:8.2f} %  "
                f" {each.kernel}, C {each.penalty:g}, of {each.width} values"
            )
        return "\n".join([*lines, f"  {ENSEMBLE:{width}}{'':10}{100 * self.accuracy:8.2f} %"])


@dataclass(frozen=True)
class SvmScores:
    """scores: float64 (systems + 1, clips, labels), the last row being the mean of the systems. clip: int64 (clips,) in
    the store."""

    scores: Floats
    clip: Index

    def to_npz(self) -> bytes:
        """A .npz file with these two arrays by name."""
        buffer = io.BytesIO()
        np.savez(buffer, scores=self.scores, clip=self.clip)
        return buffer.getvalue()


def svm_of_runs(
    paths: Sequence[Path], data: Path, kernels: Sequence[str] = svm.DEFAULT_KERNELS, threads: int | None = None
) -> SvmReport:
    """Open runs and a store, and judge them.

    Args:
        paths: run folders.
        data: the store that they were trained on.
        kernels: to choose from.
        threads: of torch; None leaves its own number.

    Raises:
        InputError: see `score_sum`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return score_sum([load_run(path) for path in paths], ClipStore.open(data), kernels)


def score_sum(runs: Sequence[Run], store: ClipStore, kernels: Sequence[str] = svm.DEFAULT_KERNELS) -> SvmReport:
    """`judged`, without the scores."""
    return judged(runs, store, kernels)[0]


def judged(
    runs: Sequence[Run], store: ClipStore, kernels: Sequence[str] = svm.DEFAULT_KERNELS
) -> tuple[SvmReport, SvmScores]:
    """Fit a machine on each run's embeddings of the training clips, and test each, and the mean of their scores, on the
    test clips.

    A clip's embedding is the mean over its windows that are not silent, as its run's view hears them without
    augmentation.

    Args:
        runs: finished teachers or students of the same labels, training clips and test clips; their float networks are
            heard.
        store: that they were trained on.
        kernels: of `edgekd.metrics.svm.KERNELS`, to choose from, on a part of the training clips.

    Raises:
        InputError: no run, another store, runs that differ in what they must share, a cross-fitted teacher, or see
            `svm.fit`.
    """
    svm.check_kernels(kernels)
    train, test = _common_sides(runs, store)
    truth, recording = store.label_index, store.recordings(train)
    systems, scores = [], []
    for run in runs:
        of_train, of_test, softmax_accuracy = _embeddings(run, store, train, test)
        machine = svm.fit(of_train, truth[train], recording, store.labels, kernels)
        scores.append(machine.scores(of_test))
        systems.append(
            System(
                str(run.path),
                of_train.shape[1],
                softmax_accuracy,
                _accuracy(scores[-1], truth[test]),
                machine.kernel,
                machine.penalty,
                machine.inner_accuracy,
            )
        )
    total = svm.score_sum(scores)
    report = SvmReport(store.name, len(train), len(test), tuple(systems), _accuracy(total, truth[test]))
    return report, SvmScores(np.stack([*scores, total]), test)


def _accuracy(scores: Floats, truth: Index) -> float:
    return float((scores.argmax(axis=1) == truth).mean())


def _common_sides(runs: Sequence[Run], store: ClipStore) -> tuple[Index, Index]:
    """Training and test clips that all runs share.

    Raises:
        InputError: they do not, or not the store or its labels.
    """
    if not runs:
        raise InputError("no run whose embeddings could be judged; give one or more run folders")
    sides: dict[str, Index] = {}
    for run in runs:
        if run.info.data.hash != store.hash:
            raise InputError(
                f"{run.path}: was trained on another store ({run.info.data.name} {run.info.data.hash[:8]}, {store.path}"
                f" is {store.hash[:8]}); give --data of its training"
            )
        if run.labels != store.labels:
            raise InputError(
                f"{run.path}: has the labels {listing(run.labels)}, {store.path} has {listing(store.labels)}; train it"
                " again"
            )
        parts = partition_clips(run.recipe, store)
        for what, clips in (("training", parts.train), ("test", parts.test)):
            first = sides.setdefault(what, clips)
            if not np.array_equal(first, clips):
                apart = len(np.setxor1d(first, clips))
                raise InputError(
                    f"{run.path}: its {what} clips differ in {apart} from those of {runs[0].path}; give runs of the"
                    " same data.train, data.test and data.held_out"
                )
    if not len(sides["test"]):
        raise InputError(f"{runs[0].path}: has no test clips; give runs with data.test or data.held_out")
    return sides["training"], sides["test"]


class _Told(nn.Module):
    """A network that gives its logits and behind them its embedding: (batch, labels + width)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._taps = Taps(model, (EMBEDDING,))

    def forward(self, x: Tensor) -> Tensor:
        logits, taps = self._taps(x)
        return torch.cat([logits, taps[EMBEDDING].flatten(1)], dim=1)


def _embeddings(run: Run, store: ClipStore, train: Index, test: Index) -> tuple[Floats, Floats, float]:
    """Embeddings float64 (clips, width) of training and of test clips, and the accuracy of the run's own softmax on
    test clips."""
    told, ear, labels = _Told(run.float_model()), front(run.config, run.frontend), len(run.labels)
    heard = [hear(told, ear, store, clips, run.recipe.view) for clips in (train, test)]
    of_train, of_test = (_clip_means(each.logits[:, labels:], each.silent, each.clip) for each in heard)
    score = judge(heard[1].logits[:, :labels], heard[1].silent, heard[1].clip, store.label_index)
    return of_train, of_test, score.clip_accuracy


def _clip_means(values: Floats, silent: np.ndarray, owner: Index) -> Floats:
    """(clips, width) from (windows, width), the windows of a clip being neighbours; silent ones count where all of a
    clip are silent."""
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    place = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(owner)]))
    sounding = np.bincount(place, weights=~silent) > 0
    weight = np.where(sounding[place], ~silent, True).astype(np.float64)
    return np.add.reduceat(values * weight[:, None], first, axis=0) / np.add.reduceat(weight, first)[:, None]
