"""The badge: an SVG image for a README. It needs no service and no font."""

from collections.abc import Sequence

from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formatting import brief
from edgekd.markup import SVG, element, fragment
from edgekd.text import counted, printable

NARROW, WIDE = frozenset("fijlrtI|.,:;!'()[] /-"), frozenset("mwMW%@")
NARROW_PX, NORMAL_PX, WIDE_PX = 4.2, 7.0, 10.5
"""Rough widths of letters at 11 px, since no font can be measured here. `textLength` fits the text to them."""
PADDING_PX, HEIGHT_PX = 6, 20
GREEN, RED, GREY = "#2e7d32", "#c62828", "#555"


def badge(checked: Sequence[CheckResult]) -> str:
    """The badge as SVG: on the left the target, on the right bytes and MACs of one model or how many of several
    pass."""
    failed = sum(not each.ok for each in checked)
    label = printable(checked[0].verdict.target) if checked else "edgekd"
    if len(checked) == 1:
        exact = checked[0].counts.conventions["exact"]
        costs = "" if exact is None else f"{brief(exact.param_bytes, 'B')}, {brief(exact.macs, 'MAC')}"
        over = any(budget.status == "over" for budget in checked[0].verdict.budgets)
        message = f"{'over' if over else 'fails'}: {costs}" if failed else costs
    else:
        message = f"{failed} of {len(checked)} fail" if failed else f"{counted(len(checked), 'model')} ok"
    left, right = _width(label), _width(message)
    title = f"{label}: {message}"
    shape = f"M{left} 0h{right - 3}a3 3 0 0 1 3 3v{HEIGHT_PX - 6}a3 3 0 0 1-3 3H{left}z"
    texts = [
        element("text", text, x=x + PADDING_PX, y=14, textLength=width - 2 * PADDING_PX)
        for x, width, text in ((0, left, label), (left, right, message))
    ]
    parts = [
        element("title", title),
        element("rect", width=left + right, height=HEIGHT_PX, rx=3, fill=GREY),
        element("path", d=shape, fill=RED if failed else GREEN),
        element("g", *texts, fill="#fff", font_family="Verdana,DejaVu Sans,sans-serif", font_size=11),
    ]
    content = fragment(*parts, between="\n")
    return element("svg", content, xmlns=SVG, width=left + right, height=HEIGHT_PX, role="img", aria_label=title) + "\n"


def _width(text: str) -> int:
    """Width of a text with its padding, in pixels."""
    return 2 * PADDING_PX + round(
        sum(NARROW_PX if letter in NARROW else WIDE_PX if letter in WIDE else NORMAL_PX for letter in text)
    )
