"""A live source against a capture process with every kind of fault: each is detected and healed."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import InputError, MissingExtraError
from edgekd.runtime.source.capture import Capture, CaptureCounts
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Gap, StateChange, Watch
from edgekd.runtime.source.process import CaptureSession

FAKE = Path(__file__).with_name("fake_child.py")
OPEN = ["open", 16000, 1]
GOOD = [OPEN, ["sound", 20], ["stall"]]
QUICK = Watch(stall_s=1.0, open_s=20.0, zeros_s=0.05, heal_s=0.02, failed_s=60.0, first_wait_s=0.01, last_wait_s=0.05)
HURRIED = Watch(stall_s=0.2, open_s=20.0, zeros_s=0.05, heal_s=0.02, failed_s=60.0, first_wait_s=0.01, last_wait_s=0.05)


class Captured:
    """The items that a capture yielded."""

    def __init__(self, items: list[np.ndarray | Gap | StateChange], counts: CaptureCounts) -> None:
        self.sound = np.concatenate(
            [item for item in items if isinstance(item, np.ndarray)] or [np.empty(0, np.float32)]
        )
        self.changes = [(item.state, item.reason) for item in items if isinstance(item, StateChange)]
        self.gaps = [item for item in items if isinstance(item, Gap)]
        self.items, self.counts = items, counts

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.changes]


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Capture]:
    """A capture whose process plays the given attempts."""

    def make(
        *attempts: list, request: SourceRequest | None = None, watch: Watch = QUICK, sample_rate: int = 16000
    ) -> Capture:
        (tmp_path / "script.json").write_text(json.dumps(attempts))
        return Capture(request or SourceRequest(), sample_rate, watch, [sys.executable, str(FAKE), str(tmp_path)])

    return make


def until(capture: Capture, done: Callable[[Captured], bool]) -> Captured:
    """Iterate over a capture until a condition holds."""
    items: list = []
    with capture:
        for item in capture:
            items.append(item)
            counts = capture.counts
            assert counts.received == counts.given + counts.dropped + counts.waiting
            if done(found := Captured(items, counts)):
                return found
    raise AssertionError


def healthy(times: int) -> Callable[[Captured], bool]:
    return lambda found: found.states.count("HEALTHY") == times


def test_blocks_come_together_where_a_window_lacks_several(tmp_path):
    (tmp_path / "script.json").write_text(json.dumps([[OPEN, ["live", 100], ["stall"]]]))
    received, times = 0, []
    child = [sys.executable, str(FAKE), str(tmp_path)]
    with Capture(SourceRequest(), 16000, QUICK, child, 0.1, lambda: 0.25 - received / 16000 % 0.25) as capture:
        for item in capture:
            if isinstance(item, np.ndarray) and len(item):
                received += len(item)
                times.append(time.monotonic())
            if received == 16000:
                break
    assert sum(after - before > 0.005 for before, after in pairwise(times)) < 40  # of 99, with 4 windows
    assert times[-1] - times[0] < 1.5


def test_samples_are_passed_on_and_the_first_line_names_the_source(fake):
    found = until(fake(GOOD), lambda found: len(found.sound) == 3200)
    np.testing.assert_array_equal(found.sound, np.full(3200, 0.125, np.float32))
    assert found.changes == [("HEALTHY", "listening to fake at 16000 Hz, 1 channel")]
    assert found.counts == CaptureCounts(3200, 3200, 0, 0, 0, 0, 0, pytest.approx(0.0, abs=1e-6))


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        ([OPEN, ["sound", 5], ["exit", 3]], "the capture process has ended with status 3"),
        ([OPEN, ["sound", 5], ["zeros", 6], ["stall"]], "nothing but zeros for 0.05 s"),
        (
            [OPEN, ["sound", 5], ["raw", "00" * 64], ["stall"]],
            "the capture process writes something else than blocks of samples",
        ),
        (
            [OPEN, ["sound", 5], ["frame", "5a", "00"], ["stall"]],
            "the capture process sends a frame of an unknown kind b'Z'",
        ),
        ([OPEN, ["sound", 5], ["frame", "4f", "7b"], ["stall"]], "cannot be read"),
        (
            [OPEN, ["sound", 5], ["frame", "42", "0102030405"], ["stall"]],
            "sends 5 bytes, which are no samples of 1 channel",
        ),
        ([OPEN, ["sound", 5], ["back", 320], ["sound", 1], ["stall"]], "sends sample 480 after 800"),
        ([OPEN, ["sound", 5], ["fail", "PortAudio has finished", False]], "PortAudio has finished"),
    ],
)
def test_a_fault_is_found_reported_and_healed(fake, attempt, reason):
    found = until(fake(attempt, GOOD), healthy(2))
    assert found.states == ["HEALTHY", "RECOVERING", "HEALTHY"]
    assert reason in found.changes[1][1]
    assert found.counts.restarts == 1
    assert [gap.dropped for gap in found.gaps] == [0]


def test_a_stalled_device_is_found_by_the_time_since_the_last_block(fake):
    start = time.monotonic()
    found = until(fake([OPEN, ["sound", 5], ["stall"]], GOOD, watch=HURRIED), healthy(2))
    assert found.changes[1] == ("RECOVERING", "no samples arrive for 0.2 s")
    assert found.gaps[0].away_s > 0.2
    assert time.monotonic() - start < 60


def test_a_process_that_hangs_before_it_opens_is_replaced(fake):
    found = until(fake([["stall"]], GOOD, watch=Watch(open_s=1.5, heal_s=0.02, first_wait_s=0.01)), healthy(1))
    assert found.changes[0] == ("RECOVERING", "nothing could be opened in 1.5 s")


def test_a_device_that_opens_and_stays_silent_is_opened_again(fake):
    found = until(fake([OPEN, ["stall"]], GOOD, watch=HURRIED), healthy(1))
    assert found.changes[0] == ("RECOVERING", "no samples arrive for 0.2 s")


def test_samples_that_are_no_numbers_are_replaced_counted_and_reported(fake):
    found = until(fake([OPEN, ["sound", 5], ["bad"], ["sound", 5], ["stall"]]), healthy(2))
    assert found.changes[1] == ("RECOVERING", "3 samples that are NaN or infinite, replaced by zeros")
    assert found.counts.bad == 3
    assert found.counts.restarts == 0
    np.testing.assert_array_equal(found.sound[800:804], np.float32([0, 0, 0, 0.5]))


def test_an_overflow_is_counted_reported_and_a_gap(fake):
    found = until(
        fake([OPEN, ["sound", 5], ["overflow"], ["sound", 5], ["stall"]]),
        lambda found: len(found.sound) == 11 * 160,
    )
    assert found.counts.overflows == 1
    assert found.gaps == [Gap(0, 0.0)]
    assert found.states == ["HEALTHY", "RECOVERING", "HEALTHY"]
    assert "samples were lost" in found.changes[1][1]


def test_a_clock_that_runs_ahead_of_the_samples_means_lost_sound(fake):
    found = until(
        fake([OPEN, ["sound", 5], ["late", 3.0], ["sound", 5], ["stall"]]), lambda found: len(found.sound) == 1600
    )
    assert found.counts.overflows == 1
    assert found.counts.lag_s == pytest.approx(3.0)
    assert found.gaps == [Gap(0, pytest.approx(3.0, abs=1e-3))]


def test_a_sound_card_whose_clock_is_a_little_slow_loses_nothing(fake):
    slow = [["late", 5e-6], ["sound", 1]] * 400  # 500 ppm, in all twice the limit below
    watch = Watch(stall_s=1.0, open_s=20.0, heal_s=0.02, lag_s=0.001)
    found = until(fake([OPEN, *slow, ["stall"]], watch=watch), lambda found: len(found.sound) == 64000)
    assert found.counts.lag_s == pytest.approx(2e-3, rel=0.01)
    assert (found.counts.overflows, found.gaps, found.states) == (0, [], ["HEALTHY"])


@pytest.mark.parametrize(("step_s", "rate"), [(-0.005, 32000), (0.00125, 14222), (0.01, 8000)])
def test_a_rate_far_from_what_was_promised_is_a_warning_once(fake, step_s, rate):
    blocks = [["late", step_s], ["sound", 1]] * 1200  # each 10 ms of samples take so much more or less on the clock
    found = until(fake([OPEN, *blocks, ["stall"]]), lambda found: len(found.sound) == 1200 * 160)
    assert found.states == ["HEALTHY", "HEALTHY"]
    assert abs(int(re.search(r"about (\d+) samples a second and not 16000", found.changes[1][1])[1]) - rate) < 100
    assert found.gaps == []


@pytest.mark.parametrize("step_s", [0.0, 0.0003, -0.0003])
def test_a_rate_near_what_was_promised_is_none(fake, step_s):
    blocks = [["late", step_s], ["sound", 1]] * 700
    found = until(fake([OPEN, *blocks, ["stall"]]), lambda found: len(found.sound) == 700 * 160)
    assert found.states == ["HEALTHY"]


def test_zeros_after_a_pause_are_reported_as_zeros(fake):
    found = until(fake([OPEN, ["sound", 5], ["late", 3.0], ["zeros", 5], ["stall"]], GOOD), healthy(2))
    assert found.changes[1] == ("RECOVERING", "nothing but zeros for 0.05 s")
    assert found.counts.overflows == 0


def test_samples_lost_between_the_processes_are_dropped(fake):
    found = until(
        fake([OPEN, ["sound", 5], ["skip", 1000], ["sound", 5], ["stall"]]),
        lambda found: len(found.sound) == 1600,
    )
    assert (found.counts.received, found.counts.given, found.counts.dropped) == (2600, 1600, 1000)
    assert found.gaps == [Gap(1000, 0.0)]


def test_a_late_consumer_loses_the_oldest_sound_and_keeps_count(fake):
    watch = Watch(stall_s=30.0, heal_s=0.02, queue_s=0.1)
    capture = fake([OPEN, ["sound", 100], ["stall"]], watch=watch)
    with capture:
        while capture.counts.received < 16000:
            time.sleep(0.01)
        assert capture.counts[:4] == (16000, 0, 14400, 1600)
        items = iter(capture)
        assert next(items) == StateChange("HEALTHY", "listening to fake at 16000 Hz, 1 channel")
        assert next(items) == Gap(14400, 0.0)
        assert sum(len(next(items)) for _ in range(10)) == 1600
        assert capture.counts[:4] == (16000, 1600, 14400, 0)


@pytest.mark.slow
def test_failure_is_reported_once_while_it_goes_on_trying(fake):
    watch = Watch(open_s=4.0, heal_s=0.02, failed_s=3.0, first_wait_s=0.01, last_wait_s=0.05)
    absent = ["fail", "no microphone; there is none", False]
    found = until(fake([absent], [absent], [["stall"]], GOOD, watch=watch), healthy(1))
    assert found.changes[:2] == [
        ("RECOVERING", "no microphone; there is none"),
        ("FAILED", "no good sound for 3 s; still trying"),
    ]
    assert found.states == ["RECOVERING", "FAILED", "HEALTHY"]
    assert found.counts.restarts == 3
    assert [item.silent_s > 3.0 for item in found.items if isinstance(item, StateChange)] == [False, True, False]
    assert found.gaps[0].away_s > 4.0


def test_waits_between_attempts_double_up_to_the_longest(fake):
    started = []
    capture = fake([["exit", 1]], watch=Watch(first_wait_s=0.1, last_wait_s=0.4))
    with capture:
        while len(started) < 5:
            if capture.counts.restarts >= len(started):
                started.append(time.monotonic())
            time.sleep(0.005)
    waits = [later - earlier for earlier, later in pairwise(started)]
    assert waits[0] >= 0.09
    assert waits[1] >= 0.19
    assert min(waits[2:]) >= 0.39


def test_what_cannot_heal_is_an_error(fake):
    with pytest.raises(InputError, match="'usb' may mean two"):
        until(fake([["fail", "'usb' may mean two", True]]), lambda _: False)


@pytest.mark.parametrize(("channel", "level"), [(None, 0.1875), (0, 0.125), (1, 0.25)])
def test_one_channel_or_the_mean_of_all(fake, channel, level):
    capture = fake([["open", 16000, 2], ["sound", 5], ["stall"]], request=SourceRequest(channel=channel))
    found = until(capture, lambda found: len(found.sound) == 800)
    np.testing.assert_array_equal(found.sound, np.full(800, level, np.float32))


def test_a_channel_that_is_not_there_is_an_error(fake):
    with pytest.raises(InputError, match="channel is 2; the source has 2"):
        until(fake([["open", 16000, 2], ["sound", 5], ["stall"]], request=SourceRequest(channel=2)), lambda _: False)


def test_another_rate_is_resampled_as_a_stream_that_begins_anew_after_a_gap(fake):
    soxr = pytest.importorskip("soxr")
    step = [["open", 48000, 1], ["sound", 30]]
    found = until(fake([*step, ["skip", 4800], ["sound", 30], ["stall"]]), lambda found: found.counts.given == 9600)
    stream = soxr.ResampleStream(48000, 16000, 1, dtype="float32")
    once = np.concatenate([stream.resample_chunk(np.full(160, 0.125, np.float32)) for _ in range(30)])
    np.testing.assert_allclose(found.sound, np.concatenate((once, once)), atol=1 / 32768)
    assert found.gaps == [Gap(1600, 0.0)]


def test_another_rate_without_soxr_names_the_extra(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtraError, match=r"48000 Hz to 16000 Hz.*edgekd\[mic\]"):
        until(fake([["open", 48000, 1], ["sound", 5], ["stall"]]), lambda _: False)


def test_leaving_ends_the_process_at_once(fake, tmp_path):
    until(fake(GOOD), healthy(1))
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_bug_in_the_watch_does_not_die_unseen(fake, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(CaptureSession, "samples", broken)
    with pytest.raises(ZeroDivisionError):
        until(fake(GOOD), lambda _: False)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
