"""Charts of a page as HTML and inline SVG: bars, a confusion matrix, lines over epochs, a reliability curve.

Colours come from the classes of report.css, for light and dark pages. No chart needs a script. All values are there as
text too: in cells, or in titles, which browsers show under the pointer and screen readers read out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgekd.markup import Markup, element
from edgekd.metrics.analysis import Reliability, Share
from edgekd.metrics.scores import CALIBRATION_BINS, Integers

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


def percent(fraction: float) -> str:
    """`73.8 %`."""
    return f"{100 * fraction:.1f} %"


def bars(shares: Sequence[Share]) -> Markup:
    """A bar for each share, the lowest first: name, bar, per cent, and counts."""
    rows = [
        element(
            "li",
            element("span", each.name, title=each.name),
            element("i", element("b", style=f"width:{100 * each.correct / each.count:.1f}%")),
            element("span", percent(each.correct / each.count)),
            element("span", f"{each.correct:,} of {each.count:,}"),
        )
        for each in sorted(shares, key=lambda each: each.correct / each.count)
    ]
    return element("ol", *rows, class_="bars")


def matrix(labels: Sequence[str], confusion: Integers) -> Markup:
    """A table of (labels, labels) clip counts that is a heat map too; rows are the truth, columns the predictions.
    Zeros are blank."""
    heads = [element("th", element("span", name), scope="col", title=name) for name in labels]
    rows = []
    for name, counts in zip(labels, confusion.tolist(), strict=True):
        total = sum(counts)
        cells = [_cell(count, total, name, other) for other, count in zip(labels, counts, strict=True)]
        rows.append([element("th", name, scope="row", title=name), *cells])
    corner = element("td", "truth \\ predicted", class_="corner")
    return table([corner, *heads], rows, "matrix few" if len(labels) <= FEW_LABELS else "matrix")


def table(header: Iterable[Markup], rows: Iterable[Iterable[Markup]], style: str) -> Markup:
    """A table of cells. style: its CSS class."""
    body = element("tbody", *(element("tr", *row) for row in rows))
    return element("table", element("thead", element("tr", *header)), body, class_=style)


def _cell(count: int, total: int, truth: str, predicted: str) -> Markup:
    right = truth == predicted
    if not count:
        return element("td", class_="d" if right else None)
    what = f"{truth}: {count} of {total} correct" if right else f"{truth} taken for {predicted}: {count} of {total}"
    shade = f"{RIGHT if right else WRONG}{math.ceil(LEVELS * count / total)}"
    return element("td", count, class_=shade, title=what)


def lines(name: str, values: Sequence[tuple[int, float]]) -> Markup:
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

    parts = []
    for tick in ticks:
        parts.append(element("path", class_="grid", d=f"M{LEFT} {y(tick):.1f}H{right}"))
        parts.append(element("text", f"{tick:.4g}", x=LEFT - 6, y=y(tick) + 4, class_="end"))
    for epoch, anchor in ((first, "start"), (last, "end"))[: 1 + (last > first)]:
        parts.append(element("text", epoch, x=x(epoch), y=HEIGHT - 5, class_=anchor))
    if len(values) > 1:
        points = _points((x(epoch), y(value)) for epoch, value in values)
        parts.append(element("polyline", class_="line", points=points))
    parts.append(element("circle", class_="dot", r=3, cx=x(last), cy=y(values[-1][1])))
    summary = f"{name} from {values[0][1]:.4g} in epoch {first} to {values[-1][1]:.4g} in epoch {last}"
    return element(
        "figure",
        element("figcaption", name, " ", element("b", f"{values[-1][1]:.4g}")),
        element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=summary),
    )


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers from `low` to `high`; one number where both are equal."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10(high - low))
    step *= next(factor for factor in (5, 2, 1, 0.5, 0.2, 0.1) if (high - low) / (step * factor) >= 2)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def reliability(curves: Mapping[str, Reliability]) -> Markup:
    """Accuracy over confidence in bins; keys are classes of report.css. A dot's size grows with the windows in its
    bin."""
    size, floor = SIDE - AXIS - EDGE, SIDE - AXIS
    parts = []
    for tick, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        x, y = AXIS + size * tick, floor - size * tick
        parts += [
            element("path", class_="grid", d=f"M{AXIS} {y:.1f}h{size}M{x:.1f} {EDGE}v{size}"),
            element("text", f"{tick:g}", class_="end", x=AXIS - 6, y=y + 4),
            element("text", f"{tick:g}", class_=anchor, x=x, y=floor + 16),
        ]
    parts += [
        element("path", class_="ideal", d=f"M{AXIS} {floor}l{size} -{size}"),
        element("text", "confidence", class_="middle", x=AXIS + size / 2, y=SIDE - 8),
        element("text", "accuracy", class_="middle", transform=f"translate(12 {EDGE + size / 2:g}) rotate(-90)"),
        *(_curve(each, style, size) for style, each in curves.items()),
    ]
    label = "accuracy over confidence"
    return element("svg", *parts, class_="square", viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=label)


def _curve(each: Reliability, style: str, size: int) -> Markup:
    filled = np.flatnonzero(each.count)
    points = [(AXIS + size * each.confidence[i], EDGE + size * (1 - each.accuracy[i])) for i in filled]
    dots = []
    for i, (x, y) in zip(filled, points, strict=True):
        radius = max(SMALLEST_DOT, LARGEST_DOT * math.sqrt(each.count[i] / each.count.max()))
        title = f"confidence {each.confidence[i]:.3f}, accuracy {each.accuracy[i]:.3f}, windows {each.count[i]:,}"
        dots.append(element("circle", element("title", title), r=radius, cx=x, cy=y))
    return element("g", element("polyline", points=_points(points)), *dots, class_=style)


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
