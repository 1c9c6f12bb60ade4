"""A few seconds of a live source as they come: all channels, and the time of each block."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.runtime.source.capture import CHILD, Capture
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import StateChange, Watch
from edgekd.runtime.source.resample import CapturedBlock

MIN_SECONDS, MAX_SECONDS = 0.5, 30.0
SETTLE_S = 0.5
"""Seconds that are left out at the start: a source begins with a click, or with samples that a server had kept, all at
once."""
PATIENT = Watch(zeros_s=math.inf)
"""The checks are to see zeros; the capture must not start again because of them."""
Array = NDArray[np.float32]


class Recording(NamedTuple):
    """A recorded source. samples: float32 (time, channel). rate: nominal, Hz. name: of the source. breaks: places with
    missing samples. clock: for each block since the last break, the number of its last sample and the time of its
    arrival, seconds."""

    samples: Array
    rate: int
    name: str
    breaks: int
    clock: tuple[tuple[int, float], ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate


def record_source(request: SourceRequest, seconds: float, wait_s: float, child: Sequence[str] = CHILD) -> Recording:
    """Record from a live source.

    Args:
        request: the source.
        seconds: to record, after `SETTLE_S`; less where no samples arrive for `wait_s`.
        wait_s: longest wait for samples.
        child: the capture program, for tests.

    Raises:
        InputError: no samples arrive; the message says why.
        MissingExtraError: sounddevice is needed and not installed.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InputError(f"a recording of {seconds:g} s; give {MIN_SECONDS:g} to {MAX_SECONDS:g}")
    if not 0.0 < wait_s < math.inf:
        raise InputError(f"a wait of {wait_s:g} s; give more than 0")
    watch = msgspec.structs.replace(PATIENT, failed_s=wait_s, open_s=max(PATIENT.open_s, wait_s))
    blocks: list[CapturedBlock] = []
    settled_s = 0.0
    reason = "no answer"
    with Capture(request, watch=watch, child=child) as capture:
        for item in capture.blocks():
            if item is None:  # only with idle_s
                continue
            if isinstance(item, StateChange):
                if item.state == "FAILED":
                    break
                reason = item.reason
                continue
            if settled_s < SETTLE_S:
                settled_s += len(item.samples) / item.rate
                continue
            if blocks and (item.rate, item.samples.shape[1]) != (blocks[0].rate, blocks[0].samples.shape[1]):
                blocks = []  # it came back with another rate or number of channels
            blocks.append(item)
            if sum(len(block.samples) for block in blocks) >= seconds * item.rate:
                break
    if not blocks:
        remedy = (
            "see what 'edgekd mics' lists" if request.command is None else "give a --command that writes raw samples"
        )
        raise InputError(f"no samples arrive for {wait_s:g} s: {reason}; {remedy}, or wait longer (--wait)")
    return join_blocks(blocks)


def join_blocks(blocks: Sequence[CapturedBlock]) -> Recording:
    """Blocks of one rate and number of channels, joined."""
    clock: list[tuple[int, float]] = []
    for block in blocks:
        if block.gap is not None:
            clock = []
        clock.append((clock[-1][0] + len(block.samples) if clock else 0, block.when))
    breaks = sum(block.gap is not None for block in blocks[1:])
    return Recording(
        np.concatenate([block.samples for block in blocks]), blocks[0].rate, blocks[0].name, breaks, tuple(clock)
    )
