"""The terminal view of `edgekd listen`: level, labels, history, state. Needs rich, which is imported late."""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from edgekd.runtime.decision import Decision
from edgekd.runtime.source.health import Change

REDRAW_S = 1.0
"""Least seconds between two drawings, but a change of state is drawn at once: nothing may follow it."""
HISTORY = 5
FLOOR_DBFS = -80.0
"""The level at which the meter is empty."""
LABEL_WIDTH, NUMBER_WIDTH, MIN_BAR = 24, 5, 4
COLOURS = {"HEALTHY": "green", "RECOVERING": "yellow", "FAILED": "red"}


class Shown(NamedTuple):
    """What is drawn. decision: the newest. state, reason: of the source. history: when a label began to be shown,
    seconds, and the label, the newest first. factor: processor seconds for a second of sound, None before it is
    known."""

    decision: Decision | None = None
    state: str = "HEALTHY"
    reason: str = ""
    history: tuple[tuple[float, str], ...] = ()
    factor: float | None = None


class View:
    """Draws what is heard in place; use it as a context manager."""

    def __init__(
        self, console: Any, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.process_time
    ) -> None:
        """console: of rich. clock, cpu: seconds of the clock and of this process's processor time."""
        from rich.live import Live

        self._console, self._clock, self._cpu = console, clock, cpu
        self._live = Live(console=console, auto_refresh=False)
        self._history: deque[tuple[float, str]] = deque(maxlen=HISTORY)
        self._shown = self._drawn = Shown()
        self._drawn_at = -REDRAW_S
        self._began: tuple[float, float] | None = None  # time of the sound and of the processor at the first decision

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._shown != self._drawn:
            self._draw()
        self._live.stop()

    def show(self, line: Decision | Change) -> None:
        """Take a line; draw it where it changes what is seen and the last drawing is long enough ago."""
        if isinstance(line, Change):
            self._shown = self._shown._replace(state=line.state, reason=line.reason)
        else:
            if not self._history or self._history[0][1] != line.label:
                self._history.appendleft((line.t, line.label))
            began = self._began = self._began or (line.t, self._cpu())
            factor = (self._cpu() - began[1]) / (line.t - began[0]) if line.t > began[0] else None
            self._shown = self._shown._replace(
                decision=line, state=line.state, history=tuple(self._history), factor=factor
            )
        if self._shown != self._drawn and (isinstance(line, Change) or self._clock() - self._drawn_at >= REDRAW_S):
            self._draw()

    def _draw(self) -> None:
        self._drawn, self._drawn_at = self._shown, self._clock()
        self._live.update(render(self._shown, self._console.width), refresh=True)


def terminal_view() -> View | None:
    """A view on standard output; None where that is no terminal that can draw, or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console()
    return None if console.is_dumb_terminal else View(console)


def render(shown: Shown, width: int) -> Any:
    """What is shown as a text of rich, no line of which is wider than `width` cells."""
    from rich.text import Text

    lines = [Text.assemble((shown.state, f"bold {COLOURS[shown.state]}"), f"  {shown.reason}")]
    decision = shown.decision
    if decision is not None:
        decibels = 20.0 * float(np.log10(decision.rms)) if decision.rms > 0.0 else FLOOR_DBFS
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
    """A name, a bar of 0..1 where there is room for one, and a number."""
    from rich.text import Text

    name_width = max(1, min(LABEL_WIDTH, width // 2 - number_width))
    room = width - name_width - number_width - 2
    left = Text(name)
    left.truncate(name_width, overflow="ellipsis", pad=True)
    full = round(min(max(share, 0.0), 1.0) * room)
    bar = Text.assemble(("█" * full, colour), ("░" * (room - full), "dim"), " ") if room >= MIN_BAR else Text()
    return Text.assemble(left, " ", bar, f"{number:>{number_width}}")
