"""Support vector machines on embeddings in place of the softmax, and the sum of their scores (Heo et al. 2019)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.errors import InputError, nearest
from edgekd.metrics.scores import Floats, Integers

KERNELS = ("linear", "rbf", "poly", "sigmoid")
DEFAULT_KERNELS = ("linear", "rbf")
PENALTIES = (0.1, 1.0, 10.0)
"""Values of C that are tried with each kernel, for embeddings of deviation 1."""
INNER_PARTS = 4
"""Parts of the training clips, divided by recording. Kernel and C are chosen on one part, by machines that are fitted
on the others."""
SEED = 0


@dataclass(frozen=True)
class Svm:
    """A fitted machine.

    Attributes:
        kernel, penalty: the chosen ones.
        inner_accuracy: 0..1 of the choice on the inner part, 0 where there was no choice.
        machine: the fitted pipeline of scikit-learn.
    """

    kernel: str
    penalty: float
    inner_accuracy: float
    machine: Any

    def scores(self, embeddings: Floats) -> Floats:
        """(items, labels) scores of (items, width) embeddings, larger where a label is likelier: pairwise votes, with
        margins between equal ones. Machines of as many labels have the same scale, so that scores can be averaged."""
        scores: Floats = np.asarray(self.machine.decision_function(embeddings), np.float64)
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def check_kernels(kernels: Sequence[str]) -> None:
    """Check the names of kernels, before anything slow begins.

    Raises:
        InputError: an unknown kernel, or none.
    """
    for kernel in kernels:
        if kernel not in KERNELS:
            raise InputError(f"unknown kernel '{kernel}'{nearest(kernel, KERNELS)}")
    if not kernels:
        raise InputError(f"no kernel to choose from; give some of {', '.join(KERNELS)}")


def fit(
    embeddings: Floats,
    truth: Integers,
    recording: Integers,
    labels: Sequence[str],
    kernels: Sequence[str] = DEFAULT_KERNELS,
) -> Svm:
    """A machine fitted on training items; its kernel and C are chosen on a part of them.

    Args:
        embeddings: (items, width) of the training side alone.
        truth: (items,) index of the label.
        recording: (items,) number of the recording; no recording is on both sides of the choice.
        labels: names of all labels.
        kernels: of `KERNELS`, to choose from.

    Raises:
        InputError: an unknown kernel, none, fewer than two labels, a label without an item, or embeddings that are not
            finite.
    """
    check_kernels(kernels)
    if len(labels) < 2:
        raise InputError(
            f"a support vector machine needs at least two labels, there is {len(labels)}; give a store with more"
        )
    present = np.bincount(truth, minlength=len(labels)) > 0
    if not present.all():
        raise InputError(
            f"label '{labels[int(np.argmin(present))]}' has no training clip with sound; a support vector machine"
            " needs one of each label"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("embeddings are not finite: the network has diverged; train it again with a lower train.lr")
    candidates = [(kernel, penalty) for kernel in kernels for penalty in PENALTIES]
    accuracies = _inner_accuracies(embeddings, truth, recording, candidates)
    best = int(np.argmax(accuracies))  # the first of equal ones
    kernel, penalty = candidates[best]
    return Svm(kernel, penalty, float(accuracies[best]), _machine(kernel, penalty).fit(embeddings, truth))


def score_sum(scores: Sequence[Floats]) -> Floats:
    """(items, labels) mean of the scores of several systems."""
    mean: Floats = np.mean(np.stack(scores), axis=0)
    return mean


def _inner_accuracies(
    embeddings: Floats, truth: Integers, recording: Integers, candidates: Sequence[tuple[str, float]]
) -> Floats:
    """(candidates,) accuracies on the inner part; zeros, so that the first is chosen, where the items cannot be
    divided."""
    from sklearn.model_selection import StratifiedGroupKFold

    accuracies = np.zeros(len(candidates))
    count = min(INNER_PARTS, len(np.unique(recording)), int(np.bincount(truth).max()))
    if count < 2 or len(candidates) < 2:
        return accuracies
    parts = np.zeros(len(truth), np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The least populated class", UserWarning
        )  # a rare label may be on one side only
        for number, (_, part) in enumerate(splitter.split(embeddings, truth, recording)):
            parts[part] = number
    inner = parts == 0
    if not inner.any() or len(np.unique(truth[~inner])) < 2:
        return accuracies
    for index, candidate in enumerate(candidates):
        machine = _machine(*candidate).fit(embeddings[~inner], truth[~inner])
        accuracies[index] = (machine.predict(embeddings[inner]) == truth[inner]).mean()
    return accuracies


def _machine(kernel: str, penalty: float) -> Any:
    """A pipeline that is not fitted yet: embeddings to mean 0 and deviation 1, then the machine."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=penalty, kernel=kernel, decision_function_shape="ovr", cache_size=500))
