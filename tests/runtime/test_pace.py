"""Sleep until the samples of a live stream have come: never for a stream that comes faster, never too long."""

import os
import threading
import time

import pytest

from edgekd.runtime.source.files import read_raw
from edgekd.runtime.source.pace import MAX_PAUSE_S, Pace

PACKET = 320
"""Samples of 20 ms."""


def live_pace() -> Pace:
    """The pace of a stream that began at 100 s and has come in packets of 0.1 s until 100.3 s."""
    pace = Pace()
    for number in range(1, 4):
        pace.arrived(100.0 + 0.1 * number, 0.1 * number, waited=True)
    return pace


def test_the_pause_ends_when_a_live_stream_has_come_so_far():
    pace = live_pace()
    assert pace.pause(100.3, 0.5) == pytest.approx(0.2)
    pace.arrived(100.55, 0.5, waited=False)  # it was there 50 ms before
    assert pace.pause(100.55, 0.75) == pytest.approx(0.2)
    assert pace.pause(100.8, 0.75) == 0.0


def test_samples_that_are_ahead_of_real_time_end_the_pauses():
    pace = live_pace()
    pace.arrived(100.5, 2.5, waited=False)
    assert pace.pause(100.5, 3.0) == 0.0


def test_the_pause_has_a_limit():
    assert live_pace().pause(100.3, 20.0) == MAX_PAUSE_S


def test_there_is_no_pause_before_two_arrivals_that_were_waited_for():
    pace = Pace()
    assert pace.pause(100.0, 1.0) == 0.0
    pace.arrived(100.0, 1.0, waited=False)
    assert pace.pause(100.0, 2.0) == 0.0
    pace.arrived(100.1, 1.1, waited=True)
    assert pace.pause(100.1, 2.0) == 0.0


def test_there_is_no_pause_for_a_stream_that_is_faster_than_real_time():
    pace = Pace()
    for number in range(1, 20):
        pace.arrived(100.0 + 0.1 * number, 0.5 * number, waited=True)
        assert pace.pause(100.0 + 0.1 * number, 0.5 * number + 0.25) == 0.0


def test_a_live_stream_that_stalls_is_live_again_at_its_second_arrival():
    pace = live_pace()
    pace.arrived(110.0, 0.4, waited=True)
    pace.arrived(110.1, 0.5, waited=True)
    assert pace.pause(110.1, 0.7) == pytest.approx(0.2)


def arrivals(write, lacking: int) -> list[tuple[float, int]]:
    """Clock and samples of each chunk that `read_raw` yields from a pipe that `write` fills, a window each `lacking`
    samples."""
    reading, writing = os.pipe()
    done = threading.Thread(target=write, args=(writing,))
    found = [(time.monotonic(), 0)]
    done.start()
    with os.fdopen(reading, "rb", buffering=0) as stream:
        for chunk in read_raw(stream, 16000, 0.1, lambda: (lacking - found[-1][1] % lacking) / 16000):
            if len(chunk):
                found.append((time.monotonic(), found[-1][1] + len(chunk)))
    done.join()
    return found


def test_a_live_pipe_is_read_once_for_a_window_and_at_its_end():
    written = {}

    def write(descriptor: int) -> None:
        began = time.monotonic()
        for number in range(1, 61):
            time.sleep(max(0.0, began + 0.02 * number - time.monotonic()))
            written[number * PACKET] = time.monotonic()
            os.write(descriptor, bytes(2 * PACKET))
        os.close(descriptor)

    found = arrivals(write, 4000)
    assert found[-1][1] == 60 * PACKET
    assert len(found) < 30  # 60 packets, 5 windows
    ends = [
        next(now for now, received in found if received >= end) - written[-(-end // PACKET) * PACKET]
        for end in (8000, 12000, 16000)
    ]
    assert min(ends) < 0.05  # on a busy machine each may be late


def test_a_pipe_that_is_filled_at_once_is_read_without_pauses():
    def write(descriptor: int) -> None:
        for _ in range(1500):  # 30 s
            os.write(descriptor, bytes(2 * PACKET))
        os.close(descriptor)

    began = time.monotonic()
    assert arrivals(write, 4000)[-1][1] == 1500 * PACKET
    assert time.monotonic() - began < 2.0
