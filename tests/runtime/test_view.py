"""The terminal view, drawn to a string by a clock that stands still."""

import io
import sys

import pytest

pytest.importorskip("rich")
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from edgekd.runtime.decision import Decision
from edgekd.runtime.outputs.view import TerminalView, ViewState, render, terminal_view
from edgekd.runtime.source.health import StatusLine


def decision(t: float, label: str = "rain", rms: float = 0.1, probability: float = 0.75) -> Decision:
    return Decision(
        t,
        label,
        probability,
        ((label, probability), ("a very long label of a foreign model", 0.25)),
        "HEALTHY",
        rms,
        1600,
    )


def drawn(shown: ViewState, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(shown, width))
    return console.file.getvalue().splitlines()


def test_the_whole_state_is_drawn():
    lines = drawn(ViewState(decision(12.5), "HEALTHY", "listening to usb", ((12.0, "rain"), (3.0, "dog")), 0.02), 80)
    assert lines[:2] == ["HEALTHY  listening to usb", "rain  0.75"]
    assert lines[2].split()[0] == "level"
    assert lines[2].endswith("-20.0 dBFS")
    assert lines[2].count("█") / (lines[2].count("█") + lines[2].count("░")) == pytest.approx(0.75, abs=0.02)
    assert lines[3].count("█") == pytest.approx(3 * lines[4].count("█"), abs=2)
    assert lines[5:] == ["before  dog 3.0 s", "12.5 s  drops 1,600  real-time factor 0.020"]


@pytest.mark.parametrize("width", [8, 20, 40, 200])
def test_no_line_is_wider_than_the_terminal(width):
    shown = ViewState(
        decision(1.0, "雨" * 30, 0.0),
        "RECOVERING",
        "no sound arrives for 2 s " * 9,
        ((2.0, "a" * 90), (1.0, "b" * 90)),
        0.1,
    )
    lines = drawn(shown, width)
    assert len(lines) == 7
    assert max(cell_len(line) for line in lines) <= width


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_drawn_on_change_at_most_once_a_second_and_states_at_once(monkeypatch):
    clock, drawings = Clock(), []
    monkeypatch.setattr(Live, "update", lambda _, text, refresh: drawings.append((clock.now, text.plain)))  # noqa: ARG005
    view = TerminalView(Console(file=io.StringIO(), width=60), clock, lambda: clock.now / 10)
    with view:
        for clock.now in (0.0, 0.5, 1.0, 1.5):
            view.show(decision(1.0 + clock.now, "rain" if clock.now < 1.0 else "dog"))
        assert [when for when, _ in drawings] == [0.0, 1.0]
        view.show(StatusLine(2.6, "FAILED", "gone"))
        assert drawings[-1][1].startswith("FAILED  gone\ndog")
        assert "before  rain 1.0 s" in drawings[-1][1]
        assert "real-time factor 0.100" in drawings[-1][1]
        clock.now = 9.0
        view.show(StatusLine(2.6, "FAILED", "gone"))
        view.show(decision(9.0))
        assert [when for when, _ in drawings] == [0.0, 1.0, 1.5, 9.0]
        clock.now = 9.1
        view.show(decision(9.1, "end"))
    assert drawings[-1][0] == 9.1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_there_is_a_view_only_on_a_terminal_and_with_rich(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal_view() is None
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert isinstance(terminal_view(), TerminalView)
    monkeypatch.setenv("TERM", "dumb")
    assert terminal_view() is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert terminal_view() is None
