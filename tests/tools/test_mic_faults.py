"""The limits and the table of the microphone's faults; causing the faults needs PulseAudio."""

from types import SimpleNamespace

import overflowing_child
import pytest
from mic_faults import Case, expected_level, in_time, is_balanced, is_near, table

from edgekd.runtime.source.capture import CaptureCounts


@pytest.mark.parametrize(
    ("detect_s", "heal_s", "ok"),
    [
        (3.0, 5.0, True),
        (3.1, 1.0, False),
        (1.0, 5.1, False),
        (None, 1.0, False),
        (1.0, None, False),
        (1.0, -0.1, False),
    ],
)
def test_a_fault_must_be_detected_and_repaired_in_time(detect_s, heal_s, ok):
    assert in_time(detect_s, heal_s) is ok


def test_every_sample_must_be_accounted_for():
    assert is_balanced(CaptureCounts(10, 6, 3, 1, 0, 0, 0, 0.0))
    assert not is_balanced(CaptureCounts(10, 6, 3, 0, 0, 0, 0, 0.0))


@pytest.mark.parametrize(
    ("rate", "channels", "level"),
    [(16000, 1, 0.1), (48000, 1, 0.1 / 3**0.5), (16000, 2, (0.1**2 + 0.02**2) ** 0.5 / 2)],
)
def test_the_level_of_another_microphone_is_known(rate, channels, level):
    assert expected_level(rate, channels) == pytest.approx(level)
    assert is_near(1.1 * level, level)
    assert not is_near(0.5 * level, level)


def test_the_overflowing_capture_process_loses_every_other_block_and_flags_the_next(monkeypatch, tmp_path):
    switch, opened, blocks = tmp_path / "overflow", [], []
    monkeypatch.setenv(overflowing_child.OVERFLOW, str(switch))
    monkeypatch.setattr(
        overflowing_child,
        "portaudio",
        lambda: SimpleNamespace(RawInputStream=lambda *_, callback: opened.append(callback), PortAudioError=OSError),
    )
    overflowing_child.overflowing().RawInputStream(
        16000, 1600, callback=lambda samples, _frames, _times, status: blocks.append((samples, status.input_overflow))
    )

    def play(*samples: int) -> None:
        for sample in samples:
            opened[0](sample, 1, None, SimpleNamespace(input_overflow=False))

    play(1, 2)
    switch.touch()
    play(3, 4, 5, 6)
    switch.unlink()
    play(7, 8)
    assert blocks == [(1, False), (2, False), (4, True), (6, True), (7, False), (8, False)]


def test_the_table_has_median_and_longest_times_of_each_fault():
    cases = [Case("stall", 1.0, 2.0, True), Case("stall", 2.0, 4.0, True), Case("stall", None, 3.0, False, "why")]
    cases.append(Case("form", None, None, True))
    rows = [line.split() for line in table(cases).splitlines()]
    assert rows[1] == ["stall", "2/3", "1.50", "s", "2.00", "s", "3.00", "s", "4.00", "s", "why"]
    assert rows[2] == ["form", "1/1", "-", "-", "-", "-"]
