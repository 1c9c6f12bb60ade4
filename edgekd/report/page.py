"""One HTML page with everything in it: readable without a script, a network or a wide screen.

Equal values give equal bytes. The page's Content-Security-Policy keeps browsers from running or loading anything,
whatever names a data set has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.markup import Markup, element, fragment
from edgekd.metrics.analysis import Analysis
from edgekd.metrics.intervals import Interval
from edgekd.metrics.scores import Scores
from edgekd.report.charts import percent
from edgekd.report.sections import BarsSection, CalibrationSection, MatrixSection, PairsSection, Section
from edgekd.text import counted

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SCORE_HEADER = ("", "count", "silent", "accuracy", "macro", "log loss", "calibration error")
INTERVAL_NOTE = (
    "In brackets: the 95 % interval of a bootstrap over test recordings. It covers other recordings of the same kind,"
    " not another training. Digital silence is left out of all scores."
)
SYNTHETIC_NOTE = "Synthetic clips, made by a program and not recorded: the figures say nothing about real scenes."


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. ok: False marks a figure that exceeds a limit."""

    name: str
    value: str
    note: str = ""
    ok: bool = True


@dataclass(frozen=True)
class Page:
    """Content of a page.

    Attributes:
        kind: of the page, above the title.
        title: the heading.
        lead: a sentence below the title.
        tiles: figures at the head.
        sections: in their order.
        notes: warnings at the head.
        foot: last line.
    """

    kind: str
    title: str
    lead: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    foot: str = ""


def render(page: Page) -> bytes:
    """The HTML file, UTF-8."""
    named = [(f"s{number}", section) for number, section in enumerate(page.sections, 1)]
    links = [element("a", section.title, href=f"#{name}") for name, section in named]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{page.title}: {page.kind}"),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    ]
    header = [
        element("p", page.kind, class_="kind"),
        element("h1", page.title),
        element("p", page.lead, class_="lead"),
        *(element("p", note, class_="warn") for note in page.notes),
        element("dl", *map(_tile, page.tiles), class_="tiles"),
        element("nav", *links, aria_label="Sections"),
    ]
    sections = [_section(name, section) for name, section in named]
    body = [
        element("header", *header),
        element("main", fragment(*sections, between="\n")),
        element("footer", page.foot),
    ]
    whole = element("html", element("head", *head), element("body", fragment(*body, between="\n")), lang="en")
    return f"<!doctype html>\n{whole}\n".encode()


def _section(name: str, section: Section) -> Markup:
    title = element("h2", section.title, " ", section.badge(), id=f"{name}h")
    return element("section", title, section.body(), id=name, aria_labelledby=f"{name}h")


def score_tiles(found: Analysis, name: str = "") -> list[Tile]:
    """Tiles of clip accuracy, window accuracy and calibration error; name: prefix of each, of the network."""
    of_windows, of_clips = found.scores.windows, found.scores.clips
    tiles = [
        (
            "clip accuracy",
            percent(of_clips.accuracy),
            f"{between(found.intervals['clips']['accuracy'])}; {counted(of_clips.count, 'clip')}",
        ),
        (
            "window accuracy",
            percent(of_windows.accuracy),
            f"{between(found.intervals['windows']['accuracy'])}; {counted(of_windows.count, 'window')}",
        ),
        (
            "calibration error",
            f"{of_windows.calibration_error:.3f}",
            f"{between(found.intervals['windows']['calibration_error'], share=False)}; windows",
        ),
    ]
    return [Tile(f"{name}{title}", value, note) for title, value, note in tiles]


def score_rows(found: Analysis, name: str = "") -> list[list[str]]:
    """Rows under `SCORE_HEADER`: clips and windows of one network; name: prefix of each."""
    return [
        _scored(f"{name}{unit}", scores, found.intervals[unit])
        for unit, scores in (("clips", found.scores.clips), ("windows", found.scores.windows))
    ]


def finding_sections(found: Analysis, labels: Sequence[str], where: str, note: str = "") -> list[Section]:
    """Sections of an analysis: bars, matrix, pairs and reliability.

    Args:
        found: the analysis.
        labels: all labels of the network.
        where: what the paths of clips are relative to.
        note: on the calibration.
    """
    sections: list[Section] = [BarsSection("Accuracy per label", found.labels)]
    if found.recorders:
        sections.append(BarsSection("Accuracy per recorder", found.recorders))
    return [
        *sections,
        MatrixSection("Confusion matrix", labels, found.scores.confusion),
        PairsSection("Most confused pairs", found.pairs, where),
        CalibrationSection("What the confidence is worth", found.reliability, note),
    ]


def between(each: Interval, *, share: bool = True) -> str:
    """The ends of an interval, as in `69.5 to 78.0`; share: in per cent."""
    return f"{100 * each.low:.1f} to {100 * each.high:.1f}" if share else f"{each.low:.3f} to {each.high:.3f}"


def sentence(text: str) -> str:
    """The text with a capital at its beginning and a full stop at its end; "" stays."""
    return text and f"{text[0].upper()}{text[1:]}."


def _tile(each: Tile) -> Markup:
    value = element("dd", element("strong", each.value), element("span", each.note))
    return element("div", element("dt", each.name), value, class_="tile" if each.ok else "tile bad")


def _scored(name: str, scores: Scores, intervals: dict[str, Interval]) -> list[str]:
    return [
        name,
        f"{scores.count:,}",
        f"{scores.silent:,}",
        f"{percent(scores.accuracy)} ({between(intervals['accuracy'])})",
        percent(scores.macro_accuracy),
        f"{scores.log_loss:.3f} ({between(intervals['log_loss'], share=False)})",
        f"{scores.calibration_error:.4f} ({between(intervals['calibration_error'], share=False)})",
    ]
