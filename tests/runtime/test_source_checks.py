"""Checks of a source: each rule on signals that break it, and a recording from a capture process that plays a
script."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.runtime import source_checks
from edgekd.runtime.level import longest_zeros
from edgekd.runtime.recording import Recording, join_blocks, record_source
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Gap
from edgekd.runtime.source.resample import CapturedBlock
from edgekd.runtime.source_checks import Check, check_recording, to_text, worst

RATE = 16000
FAKE = Path(__file__).with_name("fake_child.py")
NOISE = (np.random.default_rng(0).standard_normal(2 * RATE) * 0.001).astype(np.float32)  # -60 dBFS
TONE = (0.1 * np.sqrt(2) * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)  # rms -20 dBFS
EXACT = tuple((1600 * i, 5.0 + 0.1 * i) for i in range(20))


def recorded(*channels: np.ndarray, breaks: int = 0, clock: tuple = EXACT) -> Recording:
    return Recording(np.stack(channels, axis=1), RATE, "m", breaks, clock)


def named(name: str, found: Recording, channel: int | None = None) -> Check:
    """The check of this name."""
    return next(check for check in check_recording(found, 2.0, channel) if check.name == name)


def test_an_ordinary_room_passes_every_check_without_advice():
    checks = check_recording(recorded(NOISE + 0.1 * TONE * (np.arange(2 * RATE) > RATE)), 2.0)
    assert {check.name: check.status for check in checks} == dict.fromkeys(
        ("sound", "peak", "rms", "clipping", "DC offset", "zeros", "noise floor", "sample rate", "channels"), "ok"
    )
    assert not any(check.advice for check in checks)


def test_levels_of_a_sine_at_minus_20_dbfs():
    found = recorded(TONE)
    assert named("rms", found).value == pytest.approx(-20.0, abs=0.05)
    assert named("peak", found).value == pytest.approx(-17.0, abs=0.05)
    assert (named("noise floor", found).status, named("noise floor", found).value) == (
        "warn",
        pytest.approx(-20.0, abs=0.1),
    )
    assert named("rms", recorded(9 * TONE.clip(-0.1, 0.1))).status == "warn"


def test_the_noise_floor_is_that_of_the_quiet_moments():
    loud = np.tile(np.repeat(np.float32([1, 1, 1, 0]), 2000), 4)
    check = named("noise floor", recorded(NOISE + loud * TONE))
    assert (check.status, check.value) == ("ok", pytest.approx(-60.0, abs=1.0))


@pytest.mark.parametrize(("level", "status"), [(1e-2, "ok"), (1e-4, "warn"), (1e-5, "fail")])
def test_quiet_is_a_warning_and_hardly_anything_a_failure(level, status):
    found = recorded(NOISE / 0.001 * np.float32(level))
    assert (named("rms", found).status, named("peak", found).status) == (status, status)


@pytest.mark.parametrize(("count", "status"), [(0, "ok"), (4, "warn"), (1000, "fail")])
def test_clipping_is_the_share_at_full_scale(count, status):
    samples = TONE.copy()
    samples[:count:2], samples[1:count:2] = -1.0, 32767 / 32768
    check = named("clipping", recorded(samples))
    assert (check.status, check.value) == (status, pytest.approx(100 * count / (2 * RATE), abs=1e-4))


@pytest.mark.parametrize(("offset", "status"), [(0.005, "ok"), (-0.05, "warn"), (0.2, "fail")])
def test_a_constant_is_a_dc_offset_and_no_sound(offset, status):
    found = recorded(NOISE + np.float32(offset))
    assert named("DC offset", found).status == status
    assert named("rms", found).value == pytest.approx(-60.0, abs=0.1)


@pytest.mark.parametrize(("run", "status"), [(0, "ok"), (160, "ok"), (800, "warn"), (8000, "fail"), (2 * RATE, "fail")])
def test_runs_of_exact_zeros(run, status):
    samples = NOISE.copy()
    samples[:run] = 0.0
    check = named("zeros", recorded(samples))
    assert (check.status, check.value) == (status, pytest.approx(1000 * run / RATE))


def test_the_longest_run_of_zeros_is_found_wherever_it_is():
    assert longest_zeros(np.float32([0, 1, 0, 0, 0, 1, 0, 0])) == 3
    assert longest_zeros(np.float32([1, 0, 0])) == 2
    assert longest_zeros(np.float32([1, 2])) == longest_zeros(np.empty(0, np.float32)) == 0


def test_silence_fails_and_has_finite_values():
    checks = check_recording(recorded(np.zeros(2 * RATE, np.float32)), 2.0)
    assert {check.name for check in checks if check.status == "fail"} == {"peak", "rms", "zeros", "channels"}
    assert all(check.value is None or np.isfinite(check.value) for check in checks)


@pytest.mark.parametrize(
    ("speed", "status"), [(1.0, "ok"), (1.02, "warn"), (0.98, "warn"), (48000 / 44100, "fail"), (0.5, "fail")]
)
def test_the_rate_is_measured_against_the_clock(speed, status):
    check = source_checks.check_rate([(number, second / speed) for number, second in EXACT], RATE)
    assert (check.status, check.value) == (status, pytest.approx(100 * (speed - 1), abs=0.01))


def test_jitter_of_the_clock_is_no_wrong_rate_and_too_few_samples_give_no_result():
    jitter = np.random.default_rng(0).uniform(0.0, 0.02, 20)
    assert (
        source_checks.check_rate(
            [(number, second + late) for (number, second), late in zip(EXACT, jitter, strict=True)], RATE
        ).status
        == "ok"
    )
    kept = [(number, max(second, 5.4)) for number, second in EXACT]  # half a second had been kept and came at once
    assert source_checks.check_rate(kept, RATE).status == "ok"
    for clock in ((), EXACT[:1], EXACT[:5]):
        assert (source_checks.check_rate(clock, RATE).status, source_checks.check_rate(clock, RATE).value) == (
            "warn",
            None,
        )


@pytest.mark.parametrize(
    ("second", "channel", "status", "advice"),
    [
        (np.zeros(2 * RATE, np.float32), None, "fail", "channel 1 has no signal: use --channel 0"),
        (np.zeros(2 * RATE, np.float32), 0, "warn", "channel 1 has no signal"),
        (np.zeros(2 * RATE, np.float32), 1, "fail", "channel 1 has no signal: use --channel 0"),
        (TONE, None, "warn", "channels 0 and 1 are the same"),
        (-0.5 * TONE, None, "fail", "channels 0 and 1 are opposite, and their mean cancels: use --channel 0"),
        (-0.5 * TONE, 0, "warn", "channels 0 and 1 are opposite"),
        (10 * NOISE, None, "ok", ""),
    ],
)
def test_dead_identical_and_opposite_channels(second, channel, status, advice):
    check = named("channels", recorded(TONE, second), channel)
    assert check.status == status
    assert check.advice.startswith(advice)
    assert bool(check.advice) == bool(advice)


def test_the_channel_that_will_be_used_is_the_one_checked():
    found = recorded(TONE, NOISE)
    assert named("rms", found, 1).value == pytest.approx(-60.0, abs=0.1)
    assert named("rms", found).value == pytest.approx(-26.0, abs=0.1)  # the mean halves a channel
    with pytest.raises(InputError, match="channel is 2; m has 2, counted from 0"):
        check_recording(found, 2.0, 2)


def test_missing_sound_is_a_warning_and_too_little_a_failure():
    assert named("sound", recorded(NOISE, breaks=1)).status == "warn"
    assert named("sound", recorded(NOISE[:RATE])).status == "fail"


def test_a_recording_counts_breaks_and_its_clock_begins_anew_there():
    block = np.full((160, 1), 0.5, np.float32)
    gaps = [Gap(0, 0.0), None, Gap(10, 0.0), None]
    found = join_blocks([CapturedBlock(block, RATE, float(i), gap, "m") for i, gap in enumerate(gaps)])
    assert (len(found.samples), found.breaks, found.clock) == (640, 1, ((0, 2.0), (160, 3.0)))


def test_the_table_has_advice_below_each_problem():
    checks = [Check("peak", "ok", -20.0, "dBFS", "at least -60"), Check("rms", "fail", None, "dBFS", "more", "do this")]
    assert to_text(checks).splitlines() == [
        "ok    peak  -20 dBFS  at least -60",
        "FAIL  rms   -         more",
        "      do this",
    ]
    assert [worst(checks), worst(checks[:1]), worst([])] == ["fail", "ok", "ok"]


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., list[str]]:
    """The command of a capture process that plays the given attempts."""

    def make(*attempts: list) -> list[str]:
        (tmp_path / "script.json").write_text(json.dumps(attempts))
        return [sys.executable, str(FAKE), str(tmp_path)]

    return make


def test_a_recording_has_all_channels_as_they_come(fake):
    found = record_source(
        SourceRequest(channel=1), 0.5, 30.0, fake([["open", 16000, 2], ["zeros", 50], ["sound", 60], ["stall"]])
    )
    assert (found.samples.shape, found.rate, found.name, found.breaks) == ((8000, 2), 16000, "fake", 0)
    np.testing.assert_array_equal(found.samples[0], np.float32([0.125, 0.25]))
    assert source_checks.check_rate(found.clock, found.rate).value is None  # half a second


def test_a_source_of_zeros_is_recorded_to_be_checked(fake):
    found = record_source(SourceRequest(), 6.0, 30.0, fake([["open", 16000, 1], ["zeros", 650], ["stall"]]))
    assert (found.seconds, found.breaks, found.samples.any()) == (6.0, 0, False)


@pytest.mark.slow
def test_a_source_that_stalls_gives_what_came(fake):
    found = record_source(SourceRequest(), 2.0, 3.0, fake([["open", 16000, 1], ["sound", 100], ["stall"]], [["stall"]]))
    assert found.seconds == 0.5
    assert named("sound", found).status == "fail"


def test_no_microphone_is_an_error_with_the_reason(fake):
    with pytest.raises(InputError, match=r"for 3 s: no microphone .*mics.*--wait"):
        record_source(SourceRequest(), 2.0, 3.0, fake([["fail", "no microphone is there; plug one in", False]]))
    with pytest.raises(InputError, match=r"for 3 s: it ended; .*--command"):
        record_source(SourceRequest(command="x", rate=16000), 2.0, 3.0, fake([["fail", "it ended", False]]))


@pytest.mark.parametrize(
    ("seconds", "wait", "message"),
    [(0.1, 5.0, "a recording of 0.1 s"), (2.0, 0.0, "a wait of 0 s"), (float("nan"), 5.0, "a recording of nan s")],
)
def test_senseless_lengths_are_refused(seconds, wait, message):
    with pytest.raises(InputError, match=message):
        record_source(SourceRequest(), seconds, wait)
