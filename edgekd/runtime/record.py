"""Labelled clips from a live source, in the layout FOLDER/LABEL[/PLACE]/NAME.wav that `edgekd data prepare folder`
reads.

A clip holds sound without a break: it begins anew where sound is missing, and only while the source is healthy. It is
written under a hidden name and renamed, so that whatever ends the program leaves no broken clip.
"""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.sets.folder import FOLD, SPLIT_NAMES
from edgekd.errors import InputError
from edgekd.runtime.clip_file import PART_SUFFIX, cannot_write, wav, write_clip
from edgekd.runtime.doctor import SILENCE_DBFS, level_dbfs, longest_zeros
from edgekd.runtime.source.capture import CHILD, Capture
from edgekd.runtime.source.child import Request
from edgekd.runtime.source.health import Turn, Watch
from edgekd.runtime.source.resample import Ear

MIN_CLIP_S, MAX_CLIP_S = 0.1, 600.0
MIN_RATE, MAX_RATE = 1000, 384000
"""Hz of a file."""
ZEROS_S = 1.0
"""Longest run of exact zeros in a clip: no microphone in use gives them, an unplugged one may."""
MAX_NAME_BYTES = 200
"""Of a label: file names of 255 bytes hold it, a time and a number."""

Array = NDArray[np.float32]


class Clip(msgspec.Struct, frozen=True):
    """A clip that was written. file: its path. start: UTC, ISO 8601. seconds, sample_rate: of it. level: rms in dBFS,
    rms of 1 is 0."""

    file: str
    start: str
    seconds: float
    sample_rate: int
    level: float


class Order(msgspec.Struct, frozen=True):
    """What to record.

    label: name of the folder of the clips. out: the folder above. place: of a folder below, whose clips stay together
    when data are split; None is none. seconds: of each clip. clips: how many; None is without end. sample_rate: Hz of
    the files; None is the source's.
    min_level: dBFS; quieter clips are not kept; None keeps all.
    """

    label: str
    out: Path
    place: str | None = None
    seconds: float = 5.0
    clips: int | None = None
    sample_rate: int | None = None
    min_level: float | None = None


def record(
    order: Order, request: Request, watch: Watch | None = None, child: Sequence[str] = CHILD
) -> Iterator[Clip | str]:
    """Record clips.

    Args:
        order: what to record.
        request: what to hear; a command's rate is that of the files unless it says so.
        watch: limits of the source. child: the program that hears, for tests.

    Yields:
        each clip after it is there; a line for people where the source's state changes or a clip is not kept.

    Raises:
        InputError: an order that makes no sense, a folder that cannot be written, a full disk, what `Capture` cannot
            heal.
        MissingExtraError: sounddevice, or soxr for another rate, is not installed.
    """
    _require_sense(order)
    if request.command is not None and request.rate is None:
        request = request._replace(rate=order.sample_rate)
    capture = Capture(request, watch=watch, child=child)
    folder = _prepare(order)
    written = 0
    with capture:
        for made in _clips(capture, order, request.channel):
            if isinstance(made, str):
                yield made
                continue
            samples, rate = made
            level = level_dbfs(samples)
            why = _unwanted(samples, rate, level, order.min_level)
            if why:
                yield f"a clip is not kept: {why}"
                continue
            start = datetime.fromtimestamp(time.time() - len(samples) / rate, UTC)
            file = write_clip(folder, order.label, start, wav(samples, rate))
            written += 1
            yield Clip(
                str(file), start.isoformat(timespec="seconds"), round(len(samples) / rate, 3), rate, round(level, 2)
            )
            if written == order.clips:
                return


def to_text(clip: Clip) -> str:
    """A line for people."""
    return f"{clip.file}  {clip.seconds:g} s  {clip.sample_rate} Hz  {clip.level:.1f} dBFS"


def to_json(clip: Clip) -> str:
    """A line for programs."""
    return msgspec.json.encode(clip).decode()


def _clips(capture: Capture, order: Order, channel: int | None) -> Iterator[tuple[Array, int] | str]:
    """Clips without a break, float32 (time,) and Hz, for ever; lines for people between them."""
    ear, healthy, parts, held = Ear(channel, order.sample_rate), False, [np.empty(0, np.float32)], 0
    for item in capture.blocks():
        if item is None:  # only where empty chunks are asked for
            continue
        if isinstance(item, Turn):
            yield f"{item.state}: {item.reason}"
            healthy = item.state == "HEALTHY"
            parts, held = [], 0
            continue
        if item.gap is not None and held:
            yield "sound is missing; the clip begins anew"
        if item.gap is not None:
            parts, held = [], 0
        chunk = ear.hear(item)
        if not healthy:
            continue
        rate = order.sample_rate or item.rate
        wanted = max(1, round(order.seconds * rate))
        parts.append(chunk)
        held += len(chunk)
        while held >= wanted:
            joined = np.concatenate(parts)
            yield joined[:wanted], rate
            parts, held = [joined[wanted:]], held - wanted


def _unwanted(samples: Array, rate: int, level: float, min_level: float | None) -> str:
    """Why a clip is not worth keeping; "" where it is."""
    zeros_s = longest_zeros(samples) / rate
    if level <= SILENCE_DBFS:
        return "nothing but zeros"
    if zeros_s > ZEROS_S:
        return f"{zeros_s:.1f} s of it are exact zeros"
    return f"{level:.1f} dBFS is below {min_level:g}" if min_level is not None and level < min_level else ""


def _require_sense(order: Order) -> None:
    _require_name("label", order.label)
    if order.place is not None:
        _require_name("place", order.place)
    if order.label.lower() in SPLIT_NAMES or FOLD.fullmatch(order.label.lower()):
        raise InputError(
            f"label {order.label!r} is the name of a split, as which 'edgekd data prepare folder' may read it; "
            "choose another"
        )
    if not MIN_CLIP_S <= order.seconds <= MAX_CLIP_S:
        raise InputError(f"a clip of {order.seconds:g} s; give {MIN_CLIP_S:g} to {MAX_CLIP_S:g}")
    if order.clips is not None and order.clips < 1:
        raise InputError(f"count is {order.clips}; it must be at least 1")
    if order.sample_rate is not None and not MIN_RATE <= order.sample_rate <= MAX_RATE:
        raise InputError(f"a sample rate of {order.sample_rate} Hz; give {MIN_RATE} to {MAX_RATE}")
    if order.min_level is not None and not SILENCE_DBFS <= order.min_level < 0.0:
        raise InputError(
            f"a least level of {order.min_level:g} dBFS; full scale is 0 and less is negative, for instance -60"
        )


def _require_name(what: str, name: str) -> None:
    """Whether a name is that of one visible folder on every system."""
    # a surrogate, for bytes that are not UTF-8, does not print
    printable = name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if not printable or name != name.strip() or not name or name.startswith((".", "__MACOSX")) or name.endswith("."):
        raise InputError(f"{what} {name!r} is no name for a folder; use letters, digits, spaces, - and _")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InputError(f"{what} {name[:20]!r}... has {len(name.encode())} bytes; give {MAX_NAME_BYTES} at most")


def _prepare(order: Order) -> Path:
    """The folder of the clips, made and tried."""
    folder = order.out / order.label / (order.place or "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{os.getpid()}{PART_SUFFIX}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder
