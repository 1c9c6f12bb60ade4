"""A day of a history as a picture of when each label was shown: as text of at most 80 columns, or as an SVG."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekd.files import check_output, output_file
from edgekd.markup import SVG, Markup, element, fragment
from edgekd.runtime.outputs.history.database import HistoryEvent, LabelRun
from edgekd.runtime.outputs.history.query import duration, local
from edgekd.text import counted, cut, printable

MINUTES = 5
SLOTS = 24 * 60 // MINUTES
"""Slots of a day by the local clock. A slot in which clocks go back is longer; slots that clocks skip are empty."""
CELLS = 48
"""Columns of the text, half an hour each."""
NAME_WIDTH, MOST_ROWS = 21, 25
"""Columns of a label; most labels drawn, those that were shown longest."""
SHADES = {"utf": " ·░▒▓█", "ascii": " .:-+#"}
STEPS = (0.0, 0.125, 0.375, 0.625, 0.875)
"""Shares of a cell above which each shade but the first begins."""
ANY_LABEL = "(any label)"
MOST_MARKS = 200
SVG_LEFT, SVG_SLOT, SVG_ROW, SVG_TOP, SVG_RIGHT = 190.0, 2.5, 22.0, 64.0, 80.0
STYLE = (
    "text{font:13px"
    " system-ui,sans-serif;fill:#222}.t{font-size:16px;font-weight:600}.g{stroke:#ddd}.b{fill:#1664c0}.h{fill:#777}"
    ".m{stroke:#c0341d;stroke-width:1.5}.p{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#333}.b{fill:#6db3ff}"
    ".h{fill:#888}.m{stroke:#ff8066}.p{fill:#16181b}}"
)


class DayHistory(NamedTuple):
    """Seconds of each label over a day. lengths: of each slot. total: seconds of each slot with any label. labels: the
    same for each label, the longest first. events: changes of state and other events."""

    day: date
    lengths: list[float]
    total: list[float]
    labels: dict[str, list[float]]
    events: list[HistoryEvent]

    @property
    def hours(self) -> dict[str, list[float]]:
        """Seconds of each label in each hour of the local clock."""
        return {label: _joined(slots, 24) for label, slots in self.labels.items()}


def read_day(day: date, rows: Iterable[LabelRun | HistoryEvent]) -> DayHistory:
    """Sum up the seconds of each label over a day. rows: all that touch the day."""
    edges = [datetime.combine(day, clock_time()) + timedelta(minutes=MINUTES * slot) for slot in range(SLOTS + 1)]
    times = [edge.timestamp() for edge in edges]
    for slot in range(SLOTS - 1, -1, -1):  # times that clocks skip lie at the end of the skip
        times[slot] = min(times[slot], times[slot + 1])
    labels: dict[str, list[float]] = defaultdict(lambda: [0.0] * SLOTS)
    events = []
    for row in rows:
        if isinstance(row, HistoryEvent):
            events.append(row)
            continue
        shown, end = labels[row.label], min(row.ended, times[-1])
        at = max(row.began, times[0])
        slot = bisect_right(times, at) - 1
        while at < end:
            slot_end = min(end, times[slot + 1])
            shown[slot] += slot_end - at
            at, slot = slot_end, slot + 1
    longest = dict(sorted(labels.items(), key=lambda item: -sum(item[1])))
    total = [sum(slots) for slots in zip(*longest.values(), strict=True)] if longest else [0.0] * SLOTS
    return DayHistory(day, [after - before for before, after in pairwise(times)], total, longest, events)


def to_text(day: DayHistory, encoding: str | None = "utf-8") -> str:
    """A row for each label; a column is half an hour. encoding: of the terminal, which may lack block characters."""
    shades = SHADES["utf"]
    try:
        shades.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        shades = SHADES["ascii"]
    if not day.labels:
        return f"{day.day}: no decisions{_events(day)}"
    lengths = _joined(day.lengths, CELLS)

    def drawn(name: str, slots: list[float]) -> str:
        shares = [
            min(seconds / length, 1.0) if length else 0.0
            for seconds, length in zip(_joined(slots, CELLS), lengths, strict=True)
        ]
        cells = "".join(shades[sum(share > step for step in STEPS)] for share in shares)
        short = cut(printable(name), NAME_WIDTH)
        return f"{short:<{NAME_WIDTH}} {cells} {duration(sum(slots)):>8}"

    names = list(day.labels)
    hours = "".join(f"{hour:<4}" for hour in range(0, 24, 2))
    lines = [
        f"{day.day}, local time; a column is half an hour: {shades[1]} little, {shades[-1]} all of it",
        f"{'':{NAME_WIDTH}} {hours}",
        drawn(ANY_LABEL, day.total),
        *(drawn(name, day.labels[name]) for name in names[:MOST_ROWS]),
    ]
    if len(names) > MOST_ROWS:
        others = zip(*(day.labels[name] for name in names[MOST_ROWS:]), strict=True)
        lines.append(drawn(f"({len(names) - MOST_ROWS} more)", [sum(slots) for slots in others]))
    return "\n".join(lines) + _events(day)


def to_json(day: DayHistory) -> str:
    """One JSON document: seconds in each hour of the local clock."""
    return msgspec.json.encode(
        {
            "day": str(day.day),
            "heard": _rounded(_joined(day.total, 24)),
            "labels": {label: _rounded(hours) for label, hours in day.hours.items()},
            "events": len(day.events),
        }
    ).decode()


def write_svg(day: DayHistory, path: Path, *, force: bool = False) -> str:
    """Write the picture. Returns a line for people.

    Raises:
        InputError: the file exists, or it cannot be written.
    """
    check_output(path, "--svg", force=force)
    with output_file(path, "--svg") as part:
        part.write_text(to_svg(day), encoding="utf-8")
    return f"{path}: {day.day}, {counted(len(day.labels), 'label')}"


def to_svg(day: DayHistory) -> str:
    """An SVG without external resources, dark where the reader's screen is dark."""
    names = list(day.labels)[:MOST_ROWS]
    bottom, right = SVG_TOP + SVG_ROW * (1 + len(names)), SVG_LEFT + SVG_SLOT * SLOTS
    width, height = right + SVG_RIGHT, bottom + 16.0
    title = f"Scenes of {day.day}, local time"
    parts = [
        element("title", title),
        element("style", Markup(STYLE)),
        element("rect", class_="p", width=width, height=height),
        element("text", title, class_="t", x=12, y=26),
    ]
    for hour in range(25):
        x = SVG_LEFT + SVG_SLOT * SLOTS / 24 * hour
        parts.append(element("line", class_="g", x1=x, y1=SVG_TOP, x2=x, y2=bottom))
        if hour % 3 == 0:
            parts.append(element("text", f"{hour:02d}:00", x=x, y=SVG_TOP - 8, text_anchor="middle"))
    parts += [
        _svg_row(ANY_LABEL, day.total, day.lengths, 0, "h"),
        *(_svg_row(name, day.labels[name], day.lengths, row, "b") for row, name in enumerate(names, start=1)),
    ]
    begin = datetime.combine(day.day, clock_time())
    for event in [event for event in day.events if event.state not in (None, "HEALTHY")][:MOST_MARKS]:
        minutes = (datetime.fromtimestamp(event.at) - begin).total_seconds() / 60.0
        x = SVG_LEFT + SVG_SLOT * minutes / MINUTES
        what = element("title", f"{local(event.at)} {event.state}: {event.reason}")
        parts.append(element("line", what, class_="m", x1=x, y1=SVG_TOP, x2=x, y2=bottom))
    content = fragment(*parts, between="\n")
    return element("svg", content, xmlns=SVG, viewBox=f"0 0 {width:g} {height:g}", width=width, role="img") + "\n"


def _svg_row(name: str, slots: list[float], lengths: list[float], row: int, style: str) -> Markup:
    y, total = SVG_TOP + SVG_ROW * row, duration(sum(slots))
    shares = [
        round(min(seconds / length, 1.0), 1) if length else 0.0 for seconds, length in zip(slots, lengths, strict=True)
    ]
    bars, begin = [], 0
    for share, group in groupby(shares):
        count = len(list(group))
        if share:
            x, wide = SVG_LEFT + SVG_SLOT * begin, SVG_SLOT * count
            bars.append(element("rect", class_=style, x=x, y=y + 3, width=wide, height=SVG_ROW - 6, opacity=share))
        begin += count
    short = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"
    baseline = y + SVG_ROW - 6.0
    return element(
        "g",
        element("title", f"{name}: {total}"),
        element("text", short, x=12, y=baseline),
        *bars,
        element("text", total, x=SVG_LEFT + SVG_SLOT * SLOTS + 8, y=baseline),
    )


def _events(day: DayHistory) -> str:
    """A line on the number of changes of state, or ""."""
    count = sum(event.state is not None for event in day.events)
    return (
        f"\n{count} line{'s' * (count > 1)} on the source and the outputs: --since {day.day} --until {day.day}"
        if count
        else ""
    )


def _joined(slots: list[float], count: int) -> list[float]:
    """Sums over groups of slots, `count` groups of equal size."""
    each = len(slots) // count
    return [sum(slots[first : first + each]) for first in range(0, len(slots), each)]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]
