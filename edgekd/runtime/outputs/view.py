"""The terminal view of `edgekd listen`: level, labels, history, state. Needs rich, which is imported late."""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from edgekd.runtime.decision import Decision
from edgekd.runtime.level import to_dbfs
from edgekd.runtime.source.health import StatusLine

REDRAW_S = 1.0
"""Least time between two drawings, seconds. A change of state is drawn at once, because no other line may follow it."""
HISTORY = 5
FLOOR_DBFS = -80.0
"""The level at which the meter is empty."""
LABEL_WIDTH, NUMBER_WIDTH, MIN_BAR = 24, 5, 4
COLOURS = {"HEALTHY": "green", "RECOVERING": "yellow", "FAILED": "red"}


class ViewState(NamedTuple):
    """The content of a drawing.

    decision: the newest. state, reason: of the source. history: time in seconds and label of each change of the label
    shown, the newest first. factor: processor seconds per second of audio, None before it is known.
    """

    decision: Decision | None = None
    state: str = "HEALTHY"
    reason: str = ""
    history: tuple[tuple[float, str], ...] = ()
    factor: float | None = None


class TerminalView:
    """Draws the newest decision in place; a context manager."""

    def __init__(
        self, console: Any, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        """console: of rich. clock, cpu: clock time and processor time of this process, seconds."""
        from rich.live import Live

        self._console, self._clock, self._cpu = console, clock, cpu
        self._live = Live(console=console, auto_refresh=False)
        self._history: deque[tuple[float, str]] = deque(maxlen=HISTORY)
        self._state = self._drawn_state = ViewState()
        self._drawn_at = -REDRAW_S
        self._began: tuple[float, float] | None = None  # audio time and processor time at the first decision

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._state != self._drawn_state:
            self._draw()
        self._live.stop()

    def show(self, line: Decision | StatusLine) -> None:
        """Take a line. Draw it if it changes the view and the last drawing is at least `REDRAW_S` ago."""
        if isinstance(line, StatusLine):
            self._state = self._state._replace(state=line.state, reason=line.reason)
        else:
            if not self._history or self._history[0][1] != line.label:
                self._history.appendleft((line.t, line.label))
            began = self._began = self._began or (line.t, self._cpu())
            factor = (self._cpu() - began[1]) / (line.t - began[0]) if line.t > began[0] else None
            self._state = self._state._replace(
                decision=line, state=line.state, history=tuple(self._history), factor=factor
            )
        if self._state != self._drawn_state and (
            isinstance(line, StatusLine) or self._clock() - self._drawn_at >= REDRAW_S
        ):
            self._draw()

    def _draw(self) -> None:
        self._drawn_state, self._drawn_at = self._state, self._clock()
        self._live.update(render(self._state, self._console.width), refresh=True)


def terminal_view() -> TerminalView | None:
    """A view on standard output; None where that is no terminal that can draw, or where rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console()
    return None if console.is_dumb_terminal else TerminalView(console)


def render(shown: ViewState, width: int) -> Any:
    """The view as a text of rich, with no line wider than `width` cells."""
    from rich.text import Text

    lines = [Text.assemble((shown.state, f"bold {COLOURS[shown.state]}"), f"  {shown.reason}")]
    decision = shown.decision
    if decision is not None:
        decibels = to_dbfs(decision.rms) if decision.rms > 0.0 else FLOOR_DBFS
        level = f"{decibels:.1f} dBFS" if decision.rms > 0.0 else "silence"
        gated = "  gated" if decision.gated is True else ""
        lines += [
            Text.assemble((decision.label, "bold"), f"  {decision.probability:.2f}{gated}"),
            _bar("level", 1.0 - decibels / FLOOR_DBFS, level, len("-100.0 dBFS"), width, "cyan"),
        ]
        lines += [
            _bar(label, probability, f"{probability:.2f}", NUMBER_WIDTH, width, "blue")
            for label, probability in decision.top
        ]
        lines += (
            [Text("before  " + ", ".join(f"{label} {t:.1f} s" for t, label in shown.history[1:]))]
            if shown.history[1:]
            else []
        )
        factor = "" if shown.factor is None else f"  real-time factor {shown.factor:.3f}"
        lines.append(Text(f"{decision.t:.1f} s  drops {decision.drops:,}{factor}", "dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _bar(name: str, share: float, number: str, number_width: int, width: int, colour: str) -> Any:
    """A name, a bar of 0..1 where there is space for one, and a number."""
    from rich.text import Text

    name_width = max(1, min(LABEL_WIDTH, width // 2 - number_width))
    bar_width = width - name_width - number_width - 2
    left = Text(name)
    left.truncate(name_width, overflow="ellipsis", pad=True)
    full = round(min(max(share, 0.0), 1.0) * bar_width)
    bar = (
        Text.assemble(("█" * full, colour), ("░" * (bar_width - full), "dim"), " ") if bar_width >= MIN_BAR else Text()
    )
    return Text.assemble(left, " ", bar, f"{number:>{number_width}}")
