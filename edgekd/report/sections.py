"""Sections of a page: the values of each kind and their HTML."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.markup import Markup, element, fragment
from edgekd.metrics.analysis import ConfusedPair, Reliability, Share
from edgekd.metrics.scores import Integers
from edgekd.report import charts
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
    def body(self) -> Markup:
        """HTML of the content."""

    def badge(self) -> Markup:
        """HTML beside the title."""
        return Markup()


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

    def body(self) -> Markup:
        if self.header:
            return fragment(_note(self.note), _table(self.title, self.header, self.rows, self.left))
        facts = [element(tag, text) for row in self.rows for tag, text in zip(("dt", "dd"), row, strict=True)]
        return fragment(_note(self.note), element("dl", *facts, class_="facts") if facts else "")

    def badge(self) -> Markup:
        return element("em", self.verdict, class_="good" if self.ok else "bad") if self.verdict else Markup()


@dataclass(frozen=True)
class BarsSection(Section):
    """Accuracies by name."""

    shares: Sequence[Share]

    def body(self) -> Markup:
        return charts.bars(self.shares)


@dataclass(frozen=True)
class MatrixSection(Section):
    """(labels, labels) clip counts; rows are the truth."""

    labels: Sequence[str]
    confusion: Integers

    def body(self) -> Markup:
        if len(self.labels) > MATRIX_LABELS:
            return _note(
                f"{len(self.labels)} labels are too many for a matrix (at most {MATRIX_LABELS}); the pairs below list"
                " what is confused."
            )
        note = _note(
            "Clips: a row for each true label, a column for each prediction. The stronger the colour, the larger the"
            " share of a row."
        )
        return fragment(note, _scrolled(self.title, charts.matrix(self.labels, self.confusion)))


@dataclass(frozen=True)
class PairsSection(Section):
    """The most confused pairs of labels with their clips. where: what the paths are relative to."""

    pairs: Sequence[ConfusedPair]
    where: str

    def body(self) -> Markup:
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
        return fragment(*parts)


@dataclass(frozen=True)
class CalibrationSection(Section):
    """Accuracy by confidence. The first curve is drawn in the style "before", the second in "after"."""

    curves: Sequence[Reliability]
    note: str = ""

    def body(self) -> Markup:
        rows = [[each.name, f"{each.error:.4f}", f"{each.loss:.3f}"] for each in self.curves]
        drawn = dict(zip(CURVES, self.curves, strict=False))
        keys = [element("li", element("i"), each.name, class_=style) for style, each in drawn.items()]
        figure = element("figure", charts.reliability(drawn), element("ul", *keys, class_="keys"))
        scores = _table(self.title, ("", "calibration error", "log loss"), rows)
        bins = element("details", element("summary", "the bins"), _table("bins", *charts.bins([*drawn.values()])))
        return fragment(
            _note(
                "Of windows. On the diagonal a confidence of 0.8 is correct in 80 % of the cases; below it the network"
                " is overconfident."
            ),
            _note(self.note),
            element("div", figure, element("div", scores, bins), class_="beside"),
        )


@dataclass(frozen=True)
class CurvesSection(Section):
    """Quantities over the epochs of a phase. series: name -> (epoch, value)."""

    series: dict[str, list[tuple[int, float]]]
    note: str = ""

    def body(self) -> Markup:
        drawn = [charts.lines(name, values) for name, values in self.series.items()]
        return fragment(_note(self.note), element("div", *drawn, class_="curves"))


@dataclass(frozen=True)
class ListingSection(Section):
    """The text of a file, folded."""

    text: str

    def body(self) -> Markup:
        text = fragment(*self.text.splitlines(), between="\n")
        return element("details", element("summary", "show"), _scrolled(self.title, element("pre", text)))


def _pair(pair: ConfusedPair, *, opened: bool) -> Markup:
    title, count = " and ".join(pair.labels), len(pair.mistakes)
    rows = [
        [each.path, each.truth, each.predicted, f"{each.probability:.2f}", f"{each.of_truth:.2f}"]
        for each in pair.mistakes[:PATHS]
    ]
    return element(
        "details",
        element("summary", element("b", title), f" {count} of {counted(pair.clips, 'clip')}"),
        _table(title, PAIR_HEADER, rows, left=3),
        _note(f"and {count - PATHS} more" if count > PATHS else ""),
        open="" if opened else None,
    )


def _note(text: str) -> Markup:
    return element("p", text) if text else Markup()


def _scrolled(title: str, content: Markup) -> Markup:
    """Content that may be wider than the screen, in a box that the keyboard scrolls."""
    return element("div", content, class_="scroll", role="region", tabindex=0, aria_label=title)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Markup:
    kinds = ["word" if column < left else None for column in range(len(header))]
    head = [element("th", cell, scope="col", class_=kind) for kind, cell in zip(kinds, header, strict=True)]
    body = []
    for first, *others in rows:
        cells = [element("td", cell, class_=kind) for kind, cell in zip(kinds[1:], others, strict=True)]
        body.append([element("th", first, scope="row"), *cells])
    return _scrolled(title, charts.table(head, body, "data"))
