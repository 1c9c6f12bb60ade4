"""Pairs of labels that a generalist confuses most, and how often they are confused with a specialist of each pair (Jung
et al. 2020). numpy only."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.text import columns, json_bytes, markdown_table

log = logging.getLogger(__name__)

SILENT = -1
"""The prediction of a silent window or clip, which counts as no confusion."""

Index = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Network = Literal["float", "qat"]


@dataclass(frozen=True)
class Pair:
    """Two labels by index, the smaller first, and how many windows or clips of one were taken for the other."""

    first: int
    second: int
    errors: int

    def of(self, labels: Sequence[str]) -> tuple[str, str]:
        """Their names."""
        return labels[self.first], labels[self.second]


def predicted(probabilities: Floats, silent: NDArray[np.bool_]) -> Index:
    """(items,) labels by index, of (items, labels) probabilities or logits; `SILENT` where an item is silent."""
    return np.where(silent, SILENT, probabilities.argmax(axis=1))


def confusion(predictions: Index, truth: Index, labels: int) -> Index:
    """(labels, labels) int64 counts of clips or windows: rows are the truth, columns the prediction.

    Args:
        predictions: (clips,) labels by index; `SILENT` is left out.
        truth: (clips,) labels by index.
        labels: how many.
    """
    matrix = np.zeros((labels, labels), np.int64)
    sounding = predictions != SILENT
    np.add.at(matrix, (truth[sounding], predictions[sounding]), 1)
    return matrix


def confusing_pairs(matrix: Index, count: int) -> list[Pair]:
    """The pairs with the largest entries of M + M^T off the diagonal, largest first, equal ones in the order of labels.

    Pairs that are confused as often as the last one are taken too. Pairs that are never confused are not; where that
    leaves fewer than `count`, it is logged.

    Args:
        matrix: (labels, labels), see `confusion`.
        count: how many, at least 1.
    """
    both = matrix + matrix.T
    first, second = np.nonzero(np.triu(both, k=1))
    found = sorted(
        (Pair(int(i), int(j), int(both[i, j])) for i, j in zip(first, second, strict=True)),
        key=lambda pair: -pair.errors,
    )
    if len(found) < count:
        log.info("%d pairs of labels were asked for, but only %d are ever confused", count, len(found))
    return [pair for pair in found if pair.errors >= found[:count][-1].errors]


def pair_errors(predictions: Index, truth: Index, pair: tuple[int, int]) -> int:
    """M_ij + M_ji: clips of one label of a pair that were taken for the other."""
    i, j = pair
    return int((((truth == i) & (predictions == j)) | ((truth == j) & (predictions == i))).sum())


class PairErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Confusions of one pair.

    Attributes:
        labels: the pair.
        chosen: confused windows of the part by which pairs were chosen.
        clips: clips of the two labels in the test side.
        generalist, specialist, teachers, student: how many of `clips` were taken for the other label by the generalist,
            by the pair's specialist, by the mean of all teachers' probabilities, and by the student.
    """

    labels: tuple[str, str]
    chosen: int
    clips: int
    generalist: int
    specialist: int
    teachers: int
    student: int


ERRORS = ("generalist", "specialist", "teachers", "student")
"""Of `PairErrors`, in the order of the tables."""


class PairReport(msgspec.Struct, frozen=True, kw_only=True):
    """pairs.json. test_clips: clips of the test side that are not silent. network: of the student that was tested."""

    test_clips: int
    network: Network
    pairs: tuple[PairErrors, ...]

    def to_json(self) -> bytes:
        """Indented, with a newline."""
        return json_bytes(self)

    def to_text(self) -> str:
        """A table for people."""
        header, *rows = self.rows()
        return "\n".join(columns(header, rows))

    def markdown(self) -> str:
        """The same table in Markdown."""
        header, *rows = self.rows()
        return markdown_table(header, rows)

    def rows(self) -> list[list[str]]:
        """A header, a row for each pair, and their sums where there are several."""
        student = "student" if self.network == "float" else "student int8-aware"
        header = ["confused on the test side", "clips", "generalist", "specialist", "mean of teachers", student]
        rows = [
            [" / ".join(pair.labels), *(str(getattr(pair, name)) for name in ("clips", *ERRORS))] for pair in self.pairs
        ]
        if len(self.pairs) > 1:  # pairs may share labels, so that their clips are no sum
            rows.append(["all pairs", "", *(str(sum(getattr(pair, name) for pair in self.pairs)) for name in ERRORS)])
        return [header, *rows]


def pair_report(
    pairs: Sequence[Pair],
    labels: Sequence[str],
    truth: Index,
    predictions: Mapping[str, Index],
    by_specialist: Sequence[Index],
    network: Network,
) -> PairReport:
    """The confusions of each pair by all networks.

    Args:
        pairs: the chosen ones.
        labels: names.
        truth: (clips,) labels of the test side by index, silent clips left out.
        predictions: (clips,) predictions of the "generalist", of the mean of "teachers", and of the "student".
        by_specialist: (clips,) predictions of the specialist of each pair.
        network: of the student.
    """
    found = []
    for pair, specialist in zip(pairs, by_specialist, strict=True):
        both = (pair.first, pair.second)
        errors = {
            name: pair_errors(each, truth, both) for name, each in (*predictions.items(), ("specialist", specialist))
        }
        found.append(
            PairErrors(labels=pair.of(labels), chosen=pair.errors, clips=int(np.isin(truth, both).sum()), **errors)
        )
    return PairReport(test_clips=len(truth), network=network, pairs=tuple(found))
