"""`edgekd svm`: support vector machines on the embeddings of finished runs, one a run, and the sum of their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.metrics import svm
from edgekd.metrics.predictions import npz_bytes, read_arrays
from edgekd.metrics.scores import Floats, clip_means, score
from edgekd.models import Taps, front
from edgekd.models.taps import EMBEDDING
from edgekd.text import columns, counted, listing
from edgekd.train.batches.crops import Index
from edgekd.train.loop.validation import predict_clips
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.run.folder import Run, load_run

ENSEMBLE = "score sum"


@dataclass(frozen=True)
class SvmSystem:
    """One run and its machine.

    Attributes:
        run: the run folder.
        width: of the embedding.
        softmax_accuracy, svm_accuracy: 0..1 of test clips, by the network's own softmax and by the machine.
        kernel, penalty: the chosen ones.
        inner_accuracy: 0..1 of that choice, on a part of the training clips.
    """

    run: str
    width: int
    softmax_accuracy: float
    svm_accuracy: float
    kernel: str
    penalty: float
    inner_accuracy: float


@dataclass(frozen=True)
class SvmReport:
    """Accuracies of machines on the test clips of their runs.

    Attributes:
        data: name of the store.
        train_clips, test_clips: how many, silent ones left out.
        systems: one per run.
        accuracy: 0..1 of test clips by the mean of all systems' scores.
        silent_clips: training and test clips that are digital silence and in no count.
    """

    data: str
    train_clips: int
    test_clips: int
    systems: tuple[SvmSystem, ...]
    accuracy: float
    silent_clips: int = 0

    def to_json(self) -> bytes:
        """One JSON document."""
        return msgspec.json.encode(self)

    def to_text(self) -> str:
        """A table for people."""
        silent = f"; {counted(self.silent_clips, 'silent clip')} left out" if self.silent_clips else ""
        rows = [
            [
                each.run,
                f"{each.kernel}, C {each.penalty:g}, of {each.width} values",
                _percent(each.softmax_accuracy),
                _percent(each.svm_accuracy),
            ]
            for each in self.systems
        ]
        return "\n".join(
            [
                f"{self.data}: {counted(self.test_clips, 'test clip')}, machines fitted on"
                f" {counted(self.train_clips, 'training clip')}{silent}",
                *columns(
                    ["accuracy", "kernel", "softmax", "svm"],
                    [*rows, [ENSEMBLE, "", "", _percent(self.accuracy)]],
                    left=2,
                    indent="  ",
                ),
            ]
        )


@dataclass(frozen=True)
class SvmScores:
    """Scores of the test clips.

    Attributes:
        scores: float64 (systems + 1, clips, labels), larger where a label is likelier; NaN for silent clips. The last
            row is the mean of the systems.
        clip: int64 (clips,) index in the store.
    """

    scores: Floats
    clip: Index

    @property
    def silent(self) -> NDArray[np.bool_]:
        """(systems + 1, clips) which clips are silent in the windows of a system, or of any system."""
        return np.isnan(self.scores[..., 0])

    def accuracies(self, truth: Index) -> list[float]:
        """(systems + 1) accuracies 0..1 of clips that are not silent; truth: (clips,) index of the label."""
        pairs = zip(self.scores.argmax(axis=2) == truth, self.silent, strict=True)
        return [float(correct[~silent].mean()) for correct, silent in pairs]

    def to_npz(self) -> bytes:
        """A .npz file with these two arrays by name."""
        return npz_bytes(scores=self.scores, clip=self.clip)


def read_svm_scores(path: Path, clips: Index) -> SvmScores:
    """Scores of a finished run, clips in table order.

    Args:
        path: a file of `SvmScores.to_npz` in the run folder.
        clips: (clips,) indices that it must be of.

    Raises:
        InputError: the file is missing, damaged, or of other clips.
    """
    scores, clip = read_arrays(path, ("scores", "clip"), clips)
    order = np.argsort(clip)
    return SvmScores(scores[:, order], clip[order])


def svm_of_runs(
    paths: Sequence[Path], data: Path, kernels: Sequence[str] = svm.DEFAULT_KERNELS, threads: int | None = None
) -> SvmReport:
    """`fit_systems` on run folders and a store.

    Args:
        paths: run folders.
        data: the store that they were trained on.
        kernels: to choose from.
        threads: of torch; None leaves its own number.

    Raises:
        InputError: see `fit_systems`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return fit_systems([load_run(path) for path in paths], ClipStore.open(data), kernels)[0]


def fit_systems(
    runs: Sequence[Run], store: ClipStore, kernels: Sequence[str] = svm.DEFAULT_KERNELS
) -> tuple[SvmReport, SvmScores]:
    """Fit a machine on each run's embeddings of the training clips; test each, and the mean of all scores, on the test
    clips.

    A clip's embedding is the mean over the windows of its run's view, without augmentation. Silent windows and clips
    are left out: silent clips are neither fitted on nor tested.

    Args:
        runs: finished teachers or students with the same labels, training clips and test clips; their float networks
            are used.
        store: that they were trained on.
        kernels: of `edgekd.metrics.svm.KERNELS`, to choose from, on a part of the training clips.

    Raises:
        InputError: no run, another store, runs that differ in what they must share, a cross-fitted teacher, test clips
            that are all silent in the view of one or another run, or see `svm.fit`.
    """
    svm.check_kernels(kernels)
    train, test = _common_sides(runs, store)
    truth, recording = store.label_index, store.group_ids(train)
    fitted: list[tuple[Run, svm.Svm, int, float]] = []
    scores, silent_train = [], np.zeros(len(train), bool)
    for run in runs:
        of_train, of_test, softmax_accuracy = _embeddings(run, store, train, test)
        sounding = ~of_train.silent
        silent_train |= of_train.silent
        machine = svm.fit(of_train.means[sounding], truth[train[sounding]], recording[sounding], store.labels, kernels)
        scores.append(np.where(of_test.silent[:, None], np.nan, machine.scores(of_test.means)))
        fitted.append((run, machine, of_train.means.shape[1], softmax_accuracy))
    if np.isnan(np.stack(scores)).any(axis=(0, 2)).all():
        raise InputError(
            f"{runs[0].path}: every test clip is silence in the view of a run; give runs of other test clips"
        )
    found = SvmScores(np.stack([*scores, svm.score_sum(scores)]), test)
    *accuracies, accuracy = found.accuracies(truth[test])
    systems = tuple(
        SvmSystem(
            run=str(run.path),
            width=width,
            softmax_accuracy=softmax_accuracy,
            svm_accuracy=svm_accuracy,
            kernel=machine.kernel,
            penalty=machine.penalty,
            inner_accuracy=machine.inner_accuracy,
        )
        for (run, machine, width, softmax_accuracy), svm_accuracy in zip(fitted, accuracies, strict=True)
    )
    silent_test = found.silent[-1]
    report = SvmReport(
        data=store.name,
        train_clips=int((~silent_train).sum()),
        test_clips=int((~silent_test).sum()),
        systems=systems,
        accuracy=accuracy,
        silent_clips=int(silent_train.sum() + silent_test.sum()),
    )
    return report, found


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _common_sides(runs: Sequence[Run], store: ClipStore) -> tuple[Index, Index]:
    """Training and test clips that all runs share.

    Raises:
        InputError: they do not, or not the store or its labels.
    """
    if not runs:
        raise InputError("no run; give one or more run folders")
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


class _WithEmbedding(nn.Module):
    """A network that gives its logits and after them its embedding: (batch, labels + width)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._taps = Taps(model, (EMBEDDING,))

    def forward(self, x: Tensor) -> Tensor:
        logits, taps = self._taps(x)
        return torch.cat([logits, taps[EMBEDDING].flatten(1)], dim=1)


@dataclass(frozen=True)
class _ClipEmbeddings:
    """means: float64 (clips, width), zeros for silent clips. silent: bool (clips,)."""

    means: Floats
    silent: NDArray[np.bool_]


def _embeddings(
    run: Run, store: ClipStore, train: Index, test: Index
) -> tuple[_ClipEmbeddings, _ClipEmbeddings, float]:
    """Embeddings of training and of test clips, and the accuracy of the run's own softmax on test clips."""
    model, log_mel, labels = _WithEmbedding(run.float_model()), front(run.config, run.frontend), len(run.labels)
    found = []
    for clips in (train, test):
        predictions = predict_clips(model, log_mel, store, clips, run.recipe.view)
        clip_of = np.searchsorted(clips, predictions.clip)  # clips are in table order
        embeddings = predictions.logits[:, labels:]
        found.append(_ClipEmbeddings(*clip_means(embeddings, predictions.silent, clip_of, len(clips))))
    # of the test clips, the last in the loop
    of_clips = score(predictions.logits[:, :labels], predictions.silent, clip_of, store.label_index[test])[1]
    return found[0], found[1], of_clips.accuracy
