"""Charts of a page as HTML and inline SVG: bars, a confusion matrix, lines over epochs, a reliability curve.

Colours come from the classes of report.css, for light and dark pages. No chart needs a script. All values are there as
text too: in cells, or in titles, which browsers show under the pointer and screen readers read out.
"""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgekd.metrics.analysis import Reliability, Share
from edgekd.metrics.scores import CALIBRATION_BINS, Integers
from edgekd.text import printable

LEVELS = 5
"""Number of shades of a matrix cell."""
FEW_LABELS = 16
"""Largest number of labels with large matrix cells."""
RIGHT, WRONG = "r", "w"
"""Prefixes of the CSS classes of shades."""
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 300, 140, 44, 20, 8
"""A chart of lines in units of its view box: its size, and the margins around the plot."""
SIDE, AXIS = 340, 44
"""The reliability curve: its size, and the space of its axes."""
SMALLEST_DOT, LARGEST_DOT = 1.5, 8.0
"""Radius of a bin with few windows and of the fullest bin."""


def escaped(text: object) -> str:
    """Text escaped for HTML elements and quoted attributes. Characters that do not print (control characters, lone
    surrogates, changes of direction) appear as Python escapes: names come from data sets of unknown authors."""
    return html.escape(printable(str(text)))


def percent(fraction: float) -> str:
    """`73.8 %`."""
    return f"{100 * fraction:.1f} %"


def bars(shares: Sequence[Share]) -> str:
    """A bar for each share, the lowest first: name, bar, per cent, and counts."""
    ranked = sorted(shares, key=lambda each: each.correct / each.count)
    rows = [
        f'<li><span title="{escaped(each.name)}">{escaped(each.name)}</span><i><b'
        f' style="width:{100 * each.correct / each.count:.1f}%"></b></i>'
        f"<span>{percent(each.correct / each.count)}</span>"
        f"<span>{each.correct:,} of {each.count:,}</span></li>"
        for each in ranked
    ]
    return f'<ol class="bars">{"".join(rows)}</ol>'


def matrix(labels: Sequence[str], confusion: Integers) -> str:
    """A table of (labels, labels) clip counts that is a heat map too; rows are the truth, columns the predictions.
    Zeros are blank."""
    heads = "".join(f'<th scope="col" title="{escaped(name)}"><span>{escaped(name)}</span></th>' for name in labels)
    rows = []
    for index, name in enumerate(labels):
        total = int(confusion[index].sum())
        cells = [
            _cell(int(count), total, name, labels[column], right=index == column)
            for column, count in enumerate(confusion[index])
        ]
        rows.append(f'<tr><th scope="row" title="{escaped(name)}">{escaped(name)}</th>{"".join(cells)}</tr>')
    size = " few" if len(labels) <= FEW_LABELS else ""
    return (
        f'<table class="matrix{size}"><thead><tr><td class="corner">truth \\ predicted</td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(count: int, total: int, truth: str, predicted: str, *, right: bool) -> str:
    if not count:
        return "<td class=d></td>" if right else "<td></td>"
    shade = math.ceil(LEVELS * count / total)
    what = f"{truth}: {count} of {total} correct" if right else f"{truth} taken for {predicted}: {count} of {total}"
    return f'<td class="{RIGHT if right else WRONG}{shade}" title="{escaped(what)}">{count}</td>'


def lines(name: str, values: Sequence[tuple[int, float]]) -> str:
    """A line chart of one quantity over epochs.

    Args:
        name: of the quantity.
        values: (epoch, value), at least one, all finite.
    """
    first, last = values[0][0], values[-1][0]
    lowest, highest = (bound(value for _, value in values) for bound in (min, max))
    ticks = _ticks(lowest, highest)
    low, high = min(lowest, ticks[0]), max(highest, ticks[-1])
    right, floor, top = WIDTH - EDGE, HEIGHT - BOTTOM, EDGE

    def x(epoch: float) -> float:
        return LEFT + (right - LEFT) * (epoch - first) / max(last - first, 1)

    def y(value: float) -> float:
        return floor - (floor - top) * (value - low) / ((high - low) or 1.0)

    parts = [
        f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{right}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" class="end">{tick:.4g}</text>'
        for tick in ticks
    ]
    parts += [
        f'<text x="{x(epoch):.1f}" y="{HEIGHT - 5}" class="{anchor}">{epoch}</text>'
        for epoch, anchor in ((first, "start"), (last, "end"))[: 1 + (last > first)]
    ]
    if len(values) > 1:
        parts.append(
            f'<polyline class="line" points="{" ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in values)}"/>'
        )
    parts.append(f'<circle class="dot" r="3" cx="{x(last):.1f}" cy="{y(values[-1][1]):.1f}"/>')
    summary = f"{name} from {values[0][1]:.4g} in epoch {first} to {values[-1][1]:.4g} in epoch {last}"
    return (
        f"<figure><figcaption>{escaped(name)} <b>{values[-1][1]:.4g}</b></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(summary)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers from `low` to `high`; one number where both are equal."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10(high - low))
    step *= next(factor for factor in (5, 2, 1, 0.5, 0.2, 0.1) if (high - low) / (step * factor) >= 2)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def reliability(curves: Mapping[str, Reliability]) -> str:
    """Accuracy over confidence in bins; keys are classes of report.css. A dot's size grows with the windows in its
    bin."""
    size = SIDE - AXIS - EDGE
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [
        f'<path class="grid" d="M{AXIS} {EDGE + size * (1 - tick):.1f}h{size}M{AXIS + size * tick:.1f} {EDGE}v{size}"/>'
        f'<text class="end" x="{AXIS - 6}" y="{EDGE + size * (1 - tick) + 4:.1f}">{tick:g}</text>'
        f'<text class="{_anchor(tick)}" x="{AXIS + size * tick:.1f}" y="{EDGE + size + 16}">{tick:g}</text>'
        for tick in ticks
    ]
    parts += [
        f'<path class="ideal" d="M{AXIS} {EDGE + size}l{size} -{size}"/>',
        f'<text class="middle" x="{AXIS + size / 2:g}" y="{SIDE - 8}">confidence</text>',
        f'<text class="middle" transform="translate(12 {EDGE + size / 2:g}) rotate(-90)">accuracy</text>',
    ]
    parts += [_curve(each, style, size) for style, each in curves.items()]
    return (
        f'<svg class="square" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="accuracy over'
        f' confidence">{"".join(parts)}</svg>'
    )


def _curve(each: Reliability, style: str, size: int) -> str:
    filled = np.flatnonzero(each.count)
    points = [(AXIS + size * each.confidence[i], EDGE + size * (1 - each.accuracy[i])) for i in filled]
    dots = []
    for i, (x, y) in zip(filled, points, strict=True):
        radius = max(SMALLEST_DOT, LARGEST_DOT * math.sqrt(each.count[i] / each.count.max()))
        title = f"confidence {each.confidence[i]:.3f}, accuracy {each.accuracy[i]:.3f}, windows {each.count[i]:,}"
        dots.append(f'<circle r="{radius:.1f}" cx="{x:.1f}" cy="{y:.1f}"><title>{title}</title></circle>')
    return (
        f'<g class="{style}"><polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>{"".join(dots)}</g>'
    )


def bins(curves: Sequence[Reliability]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of the curves."""
    header = [
        "confidence",
        *(title for each in curves for title in (f"windows at {each.name}", "confidence", "accuracy")),
    ]
    rows = [
        [
            f"{i / CALIBRATION_BINS:.2f} to {(i + 1) / CALIBRATION_BINS:.2f}",
            *(cell for each in curves for cell in _bin(each, i)),
        ]
        for i in range(CALIBRATION_BINS)
        if any(each.count[i] for each in curves)
    ]
    return header, rows


def _bin(each: Reliability, i: int) -> tuple[str, str, str]:
    return (
        (f"{each.count[i]:,}", f"{each.confidence[i]:.3f}", f"{each.accuracy[i]:.3f}")
        if each.count[i]
        else ("0", "", "")
    )


def _anchor(tick: float) -> str:
    return "start" if tick == 0 else "end" if tick == 1 else "middle"
