"""Labelled clips from a live source, in the layout FOLDER/LABEL[/PLACE]/NAME.wav that `edgekd data prepare folder`
reads.

A clip has no break: it begins anew where samples are missing, and only while the source is healthy. It is written under
a hidden name and renamed, so that no incomplete clip remains, however the program ends.
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
from edgekd.files import PART
from edgekd.rates import require_rate
from edgekd.runtime.clip_file import cannot_write, wav, write_clip
from edgekd.runtime.level import SILENCE_DBFS, level_dbfs, longest_zeros
from edgekd.runtime.source.capture import CHILD, Capture
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import StateChange, Watch
from edgekd.runtime.source.resample import Resampler

MIN_CLIP_S, MAX_CLIP_S = 0.1, 600.0
ZEROS_S = 1.0
"""Longest run of exact zeros in a clip, seconds. A working microphone never gives one, an unplugged one may."""
MAX_NAME_BYTES = 200
"""Of a label. File names may have 255 bytes, which include a time and a number."""

Array = NDArray[np.float32]


class RecordedClip(msgspec.Struct, frozen=True):
    """A clip that was written. file: its path. start: UTC, ISO 8601. seconds, sample_rate: of it. level: rms in dBFS,
    rms of 1 is 0."""

    file: str
    start: str
    seconds: float
    sample_rate: int
    level: float


class RecordSettings(msgspec.Struct, frozen=True):
    """Which clips to record.

    label: name of the folder of the clips. out: the folder above. place: name of a folder below, whose clips stay on
    one side of a split; None for none. seconds: of each clip. clips: how many; None for no end. sample_rate: Hz of the
    files; None for the source's. min_level: dBFS; clips of a lower level are not kept; None keeps all.
    """

    label: str
    out: Path
    place: str | None = None
    seconds: float = 5.0
    clips: int | None = None
    sample_rate: int | None = None
    min_level: float | None = None


def record(
    settings: RecordSettings, request: SourceRequest, watch: Watch | None = None, child: Sequence[str] = CHILD
) -> Iterator[RecordedClip | str]:
    """Record clips.

    Args:
        settings: which clips to record.
        request: the source; a command's rate is that of the files unless given.
        watch: limits of the source.
        child: the capture program, for tests.

    Yields:
        Each clip after it is written; a line for people where the source's state changes or a clip is not kept.

    Raises:
        InputError: invalid settings, a folder that cannot be written, a full disk, errors of `Capture`.
        MissingExtraError: sounddevice, or soxr for another rate, is not installed.
    """
    _require_valid(settings)
    if request.command is not None and request.rate is None:
        request = request._replace(rate=settings.sample_rate)
    capture = Capture(request, watch=watch, child=child)
    folder = _prepare(settings)
    written = 0
    with capture:
        for made in _clips(capture, settings, request.channel):
            if isinstance(made, str):
                yield made
                continue
            samples, rate = made
            level = level_dbfs(samples)
            why = _reason_to_skip(samples, rate, level, settings.min_level)
            if why:
                yield f"a clip is not kept: {why}"
                continue
            start = datetime.fromtimestamp(time.time() - len(samples) / rate, UTC)
            file = write_clip(folder, settings.label, start, wav(samples, rate))
            written += 1
            yield RecordedClip(
                str(file), start.isoformat(timespec="seconds"), round(len(samples) / rate, 3), rate, round(level, 2)
            )
            if written == settings.clips:
                return


def to_text(clip: RecordedClip) -> str:
    """A line for people."""
    return f"{clip.file}  {clip.seconds:g} s  {clip.sample_rate} Hz  {clip.level:.1f} dBFS"


def to_json(clip: RecordedClip) -> str:
    """A line of JSON."""
    return msgspec.json.encode(clip).decode()


def _clips(capture: Capture, settings: RecordSettings, channel: int | None) -> Iterator[tuple[Array, int] | str]:
    """Clips without a break, float32 (time,) and Hz, without end; lines for people between them."""
    resampler, healthy, parts, held = Resampler(channel, settings.sample_rate), False, [np.empty(0, np.float32)], 0
    for item in capture.blocks():
        if item is None:  # only with idle_s
            continue
        if isinstance(item, StateChange):
            yield f"{item.state}: {item.reason}"
            healthy = item.state == "HEALTHY"
            parts, held = [], 0
            continue
        if item.gap is not None and held:
            yield "samples are missing; the clip begins anew"
        if item.gap is not None:
            parts, held = [], 0
        chunk = resampler.resample(item)
        if not healthy:
            continue
        rate = settings.sample_rate or item.rate
        wanted = max(1, round(settings.seconds * rate))
        parts.append(chunk)
        held += len(chunk)
        while held >= wanted:
            joined = np.concatenate(parts)
            yield joined[:wanted], rate
            parts, held = [joined[wanted:]], held - wanted


def _reason_to_skip(samples: Array, rate: int, level: float, min_level: float | None) -> str:
    """Why a clip is not worth keeping; "" where it is."""
    zeros_s = longest_zeros(samples) / rate
    if level <= SILENCE_DBFS:
        return "nothing but zeros"
    if zeros_s > ZEROS_S:
        return f"{zeros_s:.1f} s of it are exact zeros"
    return f"{level:.1f} dBFS is below {min_level:g}" if min_level is not None and level < min_level else ""


def _require_valid(settings: RecordSettings) -> None:
    _require_name("label", settings.label)
    if settings.place is not None:
        _require_name("place", settings.place)
    if settings.label.lower() in SPLIT_NAMES or FOLD.fullmatch(settings.label.lower()):
        raise InputError(
            f"label {settings.label!r} is the name of a split, and 'edgekd data prepare folder' may read it as one; "
            "choose another"
        )
    if not MIN_CLIP_S <= settings.seconds <= MAX_CLIP_S:
        raise InputError(f"a clip of {settings.seconds:g} s; give {MIN_CLIP_S:g} to {MAX_CLIP_S:g}")
    if settings.clips is not None and settings.clips < 1:
        raise InputError(f"count is {settings.clips}; it must be at least 1")
    if settings.sample_rate is not None:
        require_rate(settings.sample_rate, "a sample rate of")
    if settings.min_level is not None and not SILENCE_DBFS <= settings.min_level < 0.0:
        raise InputError(
            f"a least level of {settings.min_level:g} dBFS; full scale is 0 and less is negative, for instance -60"
        )


def _require_name(what: str, name: str) -> None:
    """Refuse a name that is not the name of one visible folder on every system."""
    # surrogates, which stand for bytes that are not UTF-8, are not printable
    printable = name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if not printable or name != name.strip() or not name or name.startswith((".", "__MACOSX")) or name.endswith("."):
        raise InputError(f"{what} {name!r} cannot be the name of a folder; use letters, digits, spaces, - and _")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InputError(f"{what} {name[:20]!r}... has {len(name.encode())} bytes; give {MAX_NAME_BYTES} at most")


def _prepare(settings: RecordSettings) -> Path:
    """Create the folder of the clips and check that it can be written."""
    folder = settings.out / settings.label / (settings.place or "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}{PART}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder
