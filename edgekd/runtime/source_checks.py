"""Checks whether a recorded source is good enough for a model. No microphone is needed to test the rules.

The limits suit ordinary rooms and microphones. A warning means that something is worth a look, a failure that decisions
cannot be trusted.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.runtime.level import SILENCE_DBFS, level_dbfs, longest_zeros, to_dbfs
from edgekd.runtime.recording import Recording
from edgekd.runtime.source.child import BLOCK_S
from edgekd.runtime.source.rate import LARGE_RATE_ERROR, RATE_ADVICE, RATE_ERROR, rate_error
from edgekd.text import columns, counted

Status = Literal["ok", "warn", "fail"]

LOW_PEAK_DBFS, NO_PEAK_DBFS = -60.0, -80.0
LOW_RMS_DBFS, NO_RMS_DBFS = -75.0, -90.0
"""A good microphone in a quiet room gives -70; the last bit of 16 is at -90."""
LOUD_RMS_DBFS = -6.0
FULL_SCALE = 0.999
CLIPPED_SHARE, MANY_CLIPPED_SHARE = 1e-5, 1e-2
OFFSET, LARGE_OFFSET = 0.01, 0.1
"""Of full scale."""
ZEROS_S, LONG_ZEROS_S = 0.02, 0.2
FRAME_S, FLOOR_PERCENTILE = 0.05, 10.0
NOISE_DBFS = -40.0
MIN_CLOCK_S = 1.0
"""Seconds of samples that a measurement of the rate needs."""
DEAD_DB = 40.0
"""A channel is dead if it is quieter than the loudest one by this much."""
OPPOSITE = -0.9
"""Two channels with a lower correlation cancel in their mean."""

Array = NDArray[np.float32]


class Check(msgspec.Struct, frozen=True):
    """The result of one check. value: found, in `unit`; None where there is no number. limit: what is ok. advice: what
    to do, "" where it is ok."""

    name: str
    status: Status
    value: float | None
    unit: str
    limit: str
    advice: str = ""


def check_recording(found: Recording, seconds: float, channel: int | None = None) -> list[Check]:
    """All checks of a recording.

    Args:
        found: the recording.
        seconds: wanted length.
        channel: the one that will be used, from 0; None for the mean of all.

    Raises:
        InputError: the channel does not exist.
    """
    channels = found.samples.shape[1]
    if channel is not None and channel >= channels:
        raise InputError(f"channel is {channel}; {found.name} has {channels}, counted from 0")
    used = found.samples if channel is None else found.samples[:, [channel]]
    mono: Array = used.mean(axis=1, dtype=np.float32)
    return [
        check_length(found.seconds, seconds, found.breaks),
        check_peak(mono),
        check_rms(mono),
        check_clipping(used),
        check_offset(used),
        check_zeros(mono, found.rate),
        check_noise(mono, found.rate),
        check_rate(found.clock, found.rate),
        check_channels(found.samples, channel),
    ]


def check_length(found_s: float, wanted_s: float, breaks: int) -> Check:
    """Whether all samples came, without a break."""
    limit = f"{wanted_s:g} s without a break"
    if found_s < wanted_s - BLOCK_S:
        return Check(
            "sound",
            "fail",
            round(found_s, 2),
            "s",
            limit,
            "the source stops: check the cable, the hub and the power",
        )
    if breaks:
        return Check(
            "sound",
            "warn",
            round(found_s, 2),
            "s",
            limit,
            f"samples are missing in {counted(breaks, 'place')}: the machine is too busy, or the USB plug is loose",
        )
    return Check("sound", "ok", round(found_s, 2), "s", limit)


def check_peak(samples: Array) -> Check:
    """The largest sample of float32 (time,)."""
    peak = to_dbfs(float(np.abs(samples).max(initial=0.0)))
    status = _grade(-peak, -LOW_PEAK_DBFS, -NO_PEAK_DBFS)
    return _check(
        "peak",
        status,
        round(peak, 1),
        "dBFS",
        f"at least {LOW_PEAK_DBFS:g}",
        "hardly any signal: unmute the microphone, raise its gain (alsamixer, F4), make a noise while this runs",
    )


def check_rms(samples: Array) -> Check:
    """The level of float32 (time,) around its mean: a constant carries no signal."""
    level = level_dbfs(samples - samples.mean(dtype=np.float64)) if len(samples) else SILENCE_DBFS
    limit = f"{LOW_RMS_DBFS:g} to {LOUD_RMS_DBFS:g}"
    if level > LOUD_RMS_DBFS:
        return Check(
            "rms", "warn", round(level, 1), "dBFS", limit, "very loud: lower the gain, or move away from the source"
        )
    status = _grade(-level, -LOW_RMS_DBFS, -NO_RMS_DBFS)
    return _check(
        "rms",
        status,
        round(level, 1),
        "dBFS",
        limit,
        "very quiet: unmute the microphone, raise its gain (alsamixer, F4)",
    )


def check_clipping(samples: Array) -> Check:
    """Share of samples at full scale, over the channels of float32 (time, channel)."""
    share = float((np.abs(samples) >= FULL_SCALE).mean()) if samples.size else 0.0
    status = _grade(share, CLIPPED_SHARE, MANY_CLIPPED_SHARE)
    return _check(
        "clipping",
        status,
        round(100.0 * share, 4),
        "%",
        f"at most {100.0 * CLIPPED_SHARE:g}",
        "samples at full scale: lower the gain, switch automatic gain and boost off",
    )


def check_offset(samples: Array) -> Check:
    """The largest mean of a channel of float32 (time, channel)."""
    offset = float(np.abs(samples.mean(axis=0, dtype=np.float64)).max()) if samples.size else 0.0
    status = _grade(offset, OFFSET, LARGE_OFFSET)
    return _check(
        "DC offset",
        status,
        round(100.0 * offset, 3),
        "% of full scale",
        f"at most {100.0 * OFFSET:g}",
        "a constant takes part of the range: the sound card is faulty, or microphone and card do not fit; try another"
        " input",
    )


def check_zeros(samples: Array, rate: int) -> Check:
    """The longest run of exact zeros in float32 (time,)."""
    longest_s = longest_zeros(samples) / rate
    status = _grade(longest_s, ZEROS_S, LONG_ZEROS_S)
    return _check(
        "zeros",
        status,
        round(1000.0 * longest_s, 1),
        "ms",
        f"at most {1000.0 * ZEROS_S:g} in a row",
        "a microphone gives no exact zeros: unmute it, switch noise suppression off, choose the device itself with"
        " --mic",
    )


def check_noise(samples: Array, rate: int) -> Check:
    """The level of the quietest frames of float32 (time,), that is of constant noise."""
    size = max(1, int(FRAME_S * rate))
    frames = samples[: len(samples) - len(samples) % size].reshape(-1, size)  # (frame, time)
    if not len(frames):
        return Check(
            "noise floor",
            "warn",
            None,
            "dBFS",
            f"at most {NOISE_DBFS:g}",
            "too short for this check; record longer with --seconds",
        )
    centred = frames - samples.mean(dtype=np.float64)
    floor = to_dbfs(float(np.percentile(np.sqrt(np.square(centred).mean(axis=1)), FLOOR_PERCENTILE)))
    return _check(
        "noise floor",
        "warn" if floor > NOISE_DBFS else "ok",
        round(floor, 1),
        "dBFS",
        f"at most {NOISE_DBFS:g}",
        "never quiet: run this in a quiet moment; if it stays, lower the gain, look for hum, a fan, a bad USB supply",
    )


def check_rate(clock: Sequence[tuple[int, float]], rate: int) -> Check:
    """Samples against the clock. Both as `rate_error` takes them."""
    limit = f"within {RATE_ERROR:g} of {rate} Hz"
    if not clock or clock[-1][0] - clock[0][0] < MIN_CLOCK_S * rate:
        return Check(
            "sample rate",
            "warn",
            None,
            "%",
            limit,
            "too few samples without a break for this check; record longer with --seconds",
        )
    error = rate_error(clock, rate)
    status = _grade(abs(error), RATE_ERROR, LARGE_RATE_ERROR)
    return _check(
        "sample rate",
        status,
        round(error, 2),
        "%",
        limit,
        f"the source does not deliver its nominal rate: {RATE_ADVICE}",
    )


def check_channels(samples: Array, channel: int | None = None) -> Check:
    """Channels of float32 (time, channel) that are dead, identical, or cancel in the mean. channel: the one in use;
    None for the mean."""
    count = samples.shape[1]
    limit = "all alive, none twice" if count > 1 else "one"
    centred = samples - samples.mean(axis=0, dtype=np.float64)
    power = np.square(centred).mean(axis=0)  # (channel,)
    alive = power > max(power.max(initial=0.0) * 10.0 ** (-DEAD_DB / 10.0), 10.0 ** (NO_RMS_DBFS / 10.0))
    dead = [index for index in range(count) if not alive[index]]
    value = float(count)
    if len(dead) == count:
        return Check(
            "channels",
            "fail",
            value,
            "",
            limit,
            "no channel has a signal: unmute the microphone, choose another with --mic",
        )
    best = int(power.argmax())
    if dead:
        is_used = channel is None or channel in dead
        return Check(
            "channels",
            "fail" if is_used else "warn",
            value,
            "",
            limit,
            f"channel {_list(dead)} has no signal" + (f": use --channel {best}" if is_used else ""),
        )
    pairs = list(combinations(range(count), 2))
    opposite = [pair for pair in pairs if _correlation(centred, power, pair) < OPPOSITE]
    if opposite:
        return Check(
            "channels",
            "warn" if channel is not None else "fail",
            value,
            "",
            limit,
            f"channels {_list(opposite[0])} are opposite, and their mean cancels: use --channel {best}",
        )
    same = [pair for pair in pairs if np.array_equal(samples[:, pair[0]], samples[:, pair[1]])]
    if same:
        return Check(
            "channels",
            "warn",
            value,
            "",
            limit,
            f"channels {_list(same[0])} are the same: one microphone, which does no harm",
        )
    return Check("channels", "ok", value, "", limit)


def worst(checks: Sequence[Check]) -> Status:
    """The worst status; "ok" for no checks."""
    grades: tuple[Status, ...] = ("fail", "warn")
    return next((grade for grade in grades if any(check.status == grade for check in checks)), "ok")


def to_text(checks: Sequence[Check]) -> str:
    """A table for people, with advice under each line that needs it."""
    rows = [
        (
            check.status.upper() if check.status != "ok" else "ok",
            check.name,
            "-" if check.value is None else f"{check.value:g} {check.unit}".strip(),
            check.limit,
        )
        for check in checks
    ]
    lines = []
    for line, check in zip(columns((), rows, left=4), checks, strict=True):
        lines.append(line)
        lines += [f"      {check.advice}"] if check.advice else []
    return "\n".join(lines)


def _grade(value: float, warn: float, fail: float) -> Status:
    """Status of a value: "warn" above `warn`, "fail" above `fail`."""
    return "fail" if value > fail else "warn" if value > warn else "ok"


def _check(name: str, status: Status, value: float, unit: str, limit: str, advice: str) -> Check:
    return Check(name, status, value + 0.0, unit, limit, "" if status == "ok" else advice)  # -0.0 becomes 0.0


def _correlation(centred: NDArray[np.floating], power: NDArray[np.floating], pair: tuple[int, int]) -> float:
    one, other = pair
    return float((centred[:, one] * centred[:, other]).mean() / math.sqrt(float(power[one]) * float(power[other])))


def _list(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
