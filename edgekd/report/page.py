"""A page for people: one HTML file with everything in it, readable without a script, a network or a wide screen.

What is on it comes as plain values, so that equal values give equal bytes. A policy in the page itself keeps browsers
from running or loading anything, whatever names a data set has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.metrics.analysis import Analysis
from edgekd.metrics.intervals import Interval
from edgekd.metrics.scores import Scores
from edgekd.report.charts import escaped, percent
from edgekd.report.sections import Bars, Calibration, Matrix, Pairs, Section
from edgekd.text import counted

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SCORE_HEADER = ("", "count", "silent", "accuracy", "macro", "log loss", "calibration error")
INTERVAL_NOTE = (
    "In brackets: between these lie 95 % of the resamples of a bootstrap over test recordings. It speaks of other"
    " recordings of the same kind, not of another training. Digital silence is left out of all scores."
)
SYNTHETIC_NOTE = "Synthetic clips, made by a program and not recorded: the figures say nothing about real scenes."


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. ok: False marks it as one that fails a limit."""

    name: str
    value: str
    note: str = ""
    ok: bool = True


@dataclass(frozen=True)
class Page:
    """kind: what it is a page of, over the title. lead: a sentence below it. notes: what readers must know before they
    believe it."""

    kind: str
    title: str
    lead: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    foot: str = ""


def render(page: Page) -> bytes:
    """The file, UTF-8."""
    named = [(f"s{number}", section) for number, section in enumerate(page.sections, 1)]
    links = "".join(f'<a href="#{name}">{escaped(section.title)}</a>' for name, section in named)
    sections = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}h">\n'
        f'<h2 id="{name}h">{escaped(section.title)}{section.badge()}</h2>\n{section.body()}\n</section>'
        for name, section in named
    )
    notes = "".join(f'<p class="warn">{escaped(note)}</p>' for note in page.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escaped(page.title)}: {escaped(page.kind)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<p class="kind">{escaped(page.kind)}</p>
<h1>{escaped(page.title)}</h1>
<p class="lead">{escaped(page.lead)}</p>
{notes}
<dl class="tiles">{"".join(map(_tile, page.tiles))}</dl>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{sections}
</main>
<footer>{escaped(page.foot)}</footer>
</body>
</html>
""".encode()


def score_tiles(found: Analysis, name: str = "") -> list[Tile]:
    """Clip and window accuracy, and what the confidence is worth; name: of the network, before each."""
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
    """Rows of a table with `SCORE_HEADER`: clips and windows of one network."""
    return [
        _scored(f"{name}{unit}", scores, found.intervals[unit])
        for unit, scores in (("clips", found.scores.clips), ("windows", found.scores.windows))
    ]


def finding_sections(found: Analysis, labels: Sequence[str], where: str, note: str = "") -> list[Section]:
    """Bars, matrix, pairs and reliability of what a network said.

    Args:
        found: of the network.
        labels: all that it knows.
        where: how the paths of clips are to be read.
        note: on the calibration.
    """
    sections: list[Section] = [Bars("Accuracy per label", found.labels)]
    if found.recorders:
        sections.append(Bars("Accuracy per recorder", found.recorders))
    return [
        *sections,
        Matrix("Confusion matrix", labels, found.scores.confusion),
        Pairs("Most confused pairs", found.pairs, where),
        Calibration("What the confidence is worth", found.reliability, note),
    ]


def between(each: Interval, *, share: bool = True) -> str:
    """`69.5 to 78.0`, the ends of an interval; share: in per cent."""
    return f"{100 * each.low:.1f} to {100 * each.high:.1f}" if share else f"{each.low:.3f} to {each.high:.3f}"


def sentence(text: str) -> str:
    """Text that begins with a capital and ends with a stop; "" stays."""
    return text and f"{text[0].upper()}{text[1:]}."


def _tile(each: Tile) -> str:
    return (
        f'<div class="{"tile" if each.ok else "tile bad"}"><dt>{escaped(each.name)}</dt>'
        f"<dd><strong>{escaped(each.value)}</strong><span>{escaped(each.note)}</span></dd></div>"
    )


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
