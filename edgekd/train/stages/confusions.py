"""Specialists (Jung et al. 2020): which pairs of labels a generalist confuses most, and what a specialist of each
changed. numpy only."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

UNHEARD = -1
"""The prediction of a clip of nothing but silence, which is no confusion."""

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


def predicted(probabilities: Floats) -> Index:
    """(clips,) labels by index, of (clips, labels) probabilities; `UNHEARD` where all are zero."""
    return np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), UNHEARD)


def confusion(predictions: Index, truth: Index, labels: int) -> Index:
    """(labels, labels) int64 counts of clips or windows: rows are the truth, columns the prediction.

    Args:
        predictions: (clips,) labels by index, `UNHEARD` for those to leave out.
        truth: (clips,) likewise.
        labels: how many there are.
    """
    matrix = np.zeros((labels, labels), np.int64)
    heard = predictions != UNHEARD
    np.add.at(matrix, (truth[heard], predictions[heard]), 1)
    return matrix


def confusing_pairs(matrix: Index, count: int) -> list[Pair]:
    """The pairs with the largest entries of M + M^T off the diagonal, largest first, equal ones in the order of labels.

    Pairs as often confused as the last one are taken too, pairs that are never confused are not; where that leaves
    fewer, it is said.

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
    """One pair. chosen: confusions on the part that pairs were chosen by. clips: of the two labels in the test side.
    The others: how many of these were taken for the other label, by the generalist (before), by the pair's specialist
    (after), by the mean of all teachers' probabilities, and by the student."""

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
    """pairs.json. test_clips: of the whole test side. network: of the student that was tested."""

    test_clips: int
    network: Network
    pairs: tuple[PairErrors, ...]

    def to_json(self) -> bytes:
        """Indented, with a newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def to_text(self) -> str:
        """A table for people."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            f"{row[0]:{widths[0]}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        )

    def markdown(self) -> str:
        """The same table in Markdown."""
        header, *rows = self.rows()
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

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
    said: Mapping[str, Index],
    by_specialist: Sequence[Index],
    network: Network,
) -> PairReport:
    """Count what all concerned made of each pair.

    Args:
        pairs: as they were chosen.
        labels: names.
        truth: (clips,) of the test side.
        said: (clips,) predictions of the "generalist", of the mean of "teachers", and of the "student".
        by_specialist: (clips,) predictions of the specialist of each pair.
        network: of the student.
    """
    found = []
    for pair, specialist in zip(pairs, by_specialist, strict=True):
        both = (pair.first, pair.second)
        errors = {name: pair_errors(each, truth, both) for name, each in (*said.items(), ("specialist", specialist))}
        found.append(
            PairErrors(labels=pair.of(labels), chosen=pair.errors, clips=int(np.isin(truth, both).sum()), **errors)
        )
    return PairReport(test_clips=len(truth), network=network, pairs=tuple(found))
