"""Sections of a page: the values of each kind and their HTML. All text is escaped (`charts.escaped`)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.metrics.analysis import ConfusedPair, Mistake, Reliability, Share
from edgekd.metrics.scores import Integers
from edgekd.report import charts
from edgekd.report.charts import escaped
from edgekd.text import counted

MATRIX_LABELS = 120
"""Largest number of labels of which a confusion matrix is drawn; beyond it the confused pairs give the same."""
PAIRS, PATHS = 12, 30
"""Listed pairs of labels, and listed clips of each."""
OPEN_PAIRS = 3
"""Pairs whose clips are unfolded."""
PAIR_HEADER = ("clip", "is", "taken for", "probability", "of the truth")
CURVES = ("before", "after")
"""Classes in report.css of the curves that are drawn."""


@dataclass(frozen=True)
class Section(ABC):
    """A part of a page. title: above it, and in the list of sections."""

    title: str

    @abstractmethod
    def body(self) -> str:
        """HTML of the content."""

    def badge(self) -> str:
        """HTML beside the title."""
        return ""


@dataclass(frozen=True)
class TableSection(Section):
    """Rows of text.

    Attributes:
        rows: cells.
        header: titles of the columns; empty for a list of names and values.
        left: number of columns of words, before those of numbers.
        note: a paragraph above the table.
        verdict: shown next to the title, as good or bad by `ok`.
    """

    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()
    left: int = 1
    note: str = ""
    verdict: str = ""
    ok: bool = True

    def body(self) -> str:
        if self.header:
            return _note(self.note) + _table(self.title, self.header, self.rows, self.left)
        facts = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in self.rows)
        return _note(self.note) + (f'<dl class="facts">{facts}</dl>' if facts else "")

    def badge(self) -> str:
        return f' <em class="{"good" if self.ok else "bad"}">{escaped(self.verdict)}</em>' if self.verdict else ""


@dataclass(frozen=True)
class BarsSection(Section):
    """Accuracies by name."""

    shares: Sequence[Share]

    def body(self) -> str:
        return charts.bars(self.shares)


@dataclass(frozen=True)
class MatrixSection(Section):
    """(labels, labels) clip counts; rows are the truth."""

    labels: Sequence[str]
    confusion: Integers

    def body(self) -> str:
        if len(self.labels) > MATRIX_LABELS:
            return _note(
                f"{len(self.labels)} labels are too many for a matrix (at most {MATRIX_LABELS}); the pairs below list"
                " what is confused."
            )
        return _note(
            "Clips: a row for each true label, a column for each prediction. The stronger the colour, the larger the"
            " share of a row."
        ) + _scrolled(self.title, charts.matrix(self.labels, self.confusion))


@dataclass(frozen=True)
class PairsSection(Section):
    """The most confused pairs of labels with their clips. where: what the paths are relative to."""

    pairs: Sequence[ConfusedPair]
    where: str

    def body(self) -> str:
        if not self.pairs:
            return _note("No clip was taken for another label.")
        shown = self.pairs[:PAIRS]
        parts = [
            _note(f"{self.where} Probabilities are those of the whole clip."),
            *(_pair(pair, opened=number < OPEN_PAIRS) for number, pair in enumerate(shown)),
        ]
        if len(self.pairs) > PAIRS:
            parts.append(
                _note(
                    f"Not listed: {counted(len(self.pairs) - PAIRS, 'more pair')}, with at most "
                    f"{counted(len(shown[-1].mistakes), 'such clip')} each."
                )
            )
        return "".join(parts)


@dataclass(frozen=True)
class CalibrationSection(Section):
    """Accuracy by confidence. The first curve is drawn in the style "before", the second in "after"."""

    curves: Sequence[Reliability]
    note: str = ""

    def body(self) -> str:
        rows = [[each.name, f"{each.error:.4f}", f"{each.loss:.3f}"] for each in self.curves]
        drawn = dict(zip(CURVES, self.curves, strict=False))
        keys = "".join(f'<li class="{style}"><i></i>{escaped(each.name)}</li>' for style, each in drawn.items())
        return (
            _note(
                "Of windows. On the diagonal a confidence of 0.8 is correct in 80 % of the cases; below it the network"
                " is overconfident."
            )
            + _note(self.note)
            + f'<div class="beside"><figure>{charts.reliability(drawn)}<ul class="keys">{keys}</ul></figure>'
            f"<div>{_table(self.title, ('', 'calibration error', 'log loss'), rows)}"
            "<details><summary>the"
            f" bins</summary>{_table('bins', *charts.bins([*drawn.values()]))}</details></div></div>"
        )


@dataclass(frozen=True)
class CurvesSection(Section):
    """Quantities over the epochs of a phase. series: name -> (epoch, value)."""

    series: dict[str, list[tuple[int, float]]]
    note: str = ""

    def body(self) -> str:
        drawn = "".join(charts.lines(name, values) for name, values in self.series.items())
        return f'{_note(self.note)}<div class="curves">{drawn}</div>'


@dataclass(frozen=True)
class ListingSection(Section):
    """The text of a file, folded."""

    text: str

    def body(self) -> str:
        text = "\n".join(escaped(line) for line in self.text.splitlines())
        return f"<details><summary>show</summary>{_scrolled(self.title, f'<pre>{text}</pre>')}</details>"


def _pair(pair: ConfusedPair, *, opened: bool) -> str:
    title, count = " and ".join(pair.labels), len(pair.mistakes)
    rows = [_mistake(each) for each in pair.mistakes[:PATHS]]
    cut = _note(f"and {count - PATHS} more") if count > PATHS else ""
    return (
        f"<details{' open' if opened else ''}><summary><b>{escaped(title)}</b> {count} of"
        f" {counted(pair.clips, 'clip')}</summary>{_table(title, PAIR_HEADER, rows, left=3)}{cut}</details>"
    )


def _mistake(each: Mistake) -> list[str]:
    return [each.path, each.truth, each.predicted, f"{each.probability:.2f}", f"{each.of_truth:.2f}"]


def _note(text: str) -> str:
    return f"<p>{escaped(text)}</p>" if text else ""


def _scrolled(title: str, content: str) -> str:
    """Content that may be wider than the screen, in a box that the keyboard scrolls."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(title)}">{content}</div>'


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    kinds = [' class="word"' if column < left else "" for column in range(len(header))]
    head = "".join(f'<th scope="col"{kind}>{escaped(cell)}</th>' for kind, cell in zip(kinds, header, strict=True))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{escaped(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        lines.append(f'<tr><th scope="row">{escaped(first)}</th>{cells}</tr>')
    return _scrolled(
        title, f'<table class="data"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
