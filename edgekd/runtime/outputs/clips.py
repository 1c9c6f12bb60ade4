"""The sound of uncertain windows, for a person to sort: FOLDER/GUESS/HOUR/GUESS-pNN-TIME-NUMBER.wav.

`edgekd data prepare folder` reads that layout; HOUR (UTC) is a group, so that clips of one hour stay together when data
are split. A clip ends with its window and begins some seconds before it, as far as sound goes without a break. Only
clips that still lie under the label that was guessed are removed where there are too many: what a person has moved is
the person's.
"""

import re
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import InputError
from edgekd.runtime.clip_file import PART_SUFFIX, cannot_write, wav, write_clip
from edgekd.runtime.config_tables import ClipsTable
from edgekd.runtime.decision import UNKNOWN, Decision
from edgekd.runtime.outputs.base import Moment, Worker
from edgekd.runtime.record import MAX_NAME_BYTES
from edgekd.runtime.source.health import Change

QUEUE = 16
"""Windows that wait for a slow disk; each holds its sound in memory."""
CLOCK_S = 0.002
"""By how much the time of a decision, which is rounded, may be wrong."""
RETRY_S = 10.0
"""Clock seconds between attempts to write a clip that could not be written."""
HOUR_S = 3600.0
ROOM = 0.05
"""Share of the limit that is freed beyond need where it is reached, so that the folder is not searched for each
clip."""
OLD_PART_S = 600.0
"""Age at which a hidden file is nobody's: the program that wrote it has ended."""
OURS = re.compile(r"\.?(?P<guess>.+)-p\d\d\d?-(?P<time>\d{8}T\d{6}Z)-\d{4,}\.wav(?P<part>\.part)?")
UNFIT = re.compile(r'[/\\:*?"<>|]')

Array = NDArray[np.float32]
Pcm = NDArray[np.int16]


class Ring:
    """The newest samples without a break, put together from overlapping windows."""

    def __init__(self, rate: int, seconds: float) -> None:
        """rate: Hz. seconds: to keep, beside the window."""
        self.rate, self._wanted = rate, round(seconds * rate)
        self._t = 0.0
        self.samples: Pcm = np.empty(0, np.int16)

    def hear(self, t: float, window: Array) -> None:
        """Take a window, float32 (time,), that ends at `t` seconds. Where it does not go on with the one before, all
        begins anew."""
        pcm = to_pcm(window)
        new = self._new(t, pcm)
        self.samples = pcm if new is None else np.concatenate((self.samples, pcm[len(pcm) - new :]))
        self.samples = self.samples[max(0, len(self.samples) - max(self._wanted, len(pcm))) :]
        self._t = t

    def _new(self, t: float, pcm: Pcm) -> int | None:
        """How many samples of a window are new; None where sound is missing before it.

        The time tells it within a few samples; what both windows hold tells it exactly.
        """
        about, slack = round((t - self._t) * self.rate), int(CLOCK_S * self.rate) + 1
        for new in sorted(
            range(max(1, about - slack), min(len(pcm), about + slack) + 1), key=lambda new: abs(new - about)
        ):
            shared = len(pcm) - new
            if shared <= len(self.samples) and np.array_equal(self.samples[len(self.samples) - shared :], pcm[:shared]):
                return new
        return None


class Heard(NamedTuple):
    """A window on its way to the thread that writes. now: UTC, at its end. breaks: of the sound before it. guess: its
    most probable label."""

    t: float
    now: datetime
    waveform: Array
    rate: int
    breaks: int
    guess: str
    probability: float
    uncertain: bool


class Unsaved(NamedTuple):
    """A clip to write. start: UTC."""

    guess: str
    probability: float
    start: datetime
    content: bytes


class Clips:
    """Keeps clips of uncertain windows."""

    name = "clips"

    def __init__(self, table: ClipsTable) -> None:
        self._table, self._folder, self._limit = table, Path(table.folder), int(table.max_mb * 1e6)
        self._ring, self._breaks = Ring(0, 0.0), 0
        self._written: deque[float] = deque()  # times of the clips of the last hour, seconds of audio
        self._last: float | None = None  # the newest of them
        self._total: int | None = None  # bytes of clips, None before the folder was searched
        self._unsaved: Unsaved | None = None
        self._retry_at = 0.0  # clock seconds
        self._failure: str | None = None
        self._worker: Worker[Heard] = Worker("clips", self._work, QUEUE)

    @property
    def trouble(self) -> str | None:
        """Why the last clip could not be written."""
        return self._failure or self._worker.trouble

    @property
    def dropped(self) -> int:
        """Windows that were not looked at because the disk was too slow."""
        return self._worker.dropped

    def tell(self, event: Decision | Change, moment: Moment | None) -> None:
        """Take a line; windows that were not judged, and those of a source that is not healthy, are heard but never
        kept."""
        if isinstance(event, Decision) and moment is not None:
            judged = moment.features is not None and event.state == "HEALTHY"
            guess = event.label if event.label != UNKNOWN or not event.top else event.top[0][0]
            self._worker.put(
                Heard(
                    event.t,
                    datetime.now(UTC),
                    moment.waveform,
                    moment.manifest.frontend.sample_rate,
                    moment.breaks,
                    guess,
                    event.probability,
                    judged and event.probability < self._table.below,
                )
            )

    def close(self) -> None:
        """Write what waits, for a moment."""
        self._worker.close()

    def _work(self, heard: Heard) -> None:
        if (heard.rate, heard.breaks) != (self._ring.rate, self._breaks):
            self._ring, self._breaks = Ring(heard.rate, self._table.seconds), heard.breaks
        self._ring.hear(heard.t, heard.waveform)
        if heard.uncertain and self._is_due(heard.t) and self._ring.samples.any():
            samples = self._ring.samples
            start = datetime.fromtimestamp(heard.now.timestamp() - len(samples) / heard.rate, UTC)
            self._unsaved = Unsaved(heard.guess, heard.probability, start, wav(samples, heard.rate))
            self._last = heard.t
            self._written.append(heard.t)
        if self._unsaved is not None and (self._failure is None or time.monotonic() >= self._retry_at):
            self._save(self._unsaved)

    def _is_due(self, t: float) -> bool:
        """Whether another clip may be kept at `t` seconds of audio."""
        while self._written and t - self._written[0] >= HOUR_S:
            self._written.popleft()
        return (self._last is None or t - self._last >= self._table.every) and (
            self._table.per_hour is None or len(self._written) < self._table.per_hour
        )

    def _save(self, clip: Unsaved) -> None:
        """Write a clip; where that fails it is kept and tried again, unless a newer one takes its place."""
        name = folder_name(clip.guess)
        folder = self._folder / name / f"{clip.start:%Y%m%dT%H}"
        try:
            self._make_room(len(clip.content))
            folder.mkdir(parents=True, exist_ok=True)
            write_clip(folder, f"{name}-p{int(100 * clip.probability):02d}", clip.start, clip.content)
        except (InputError, OSError) as error:
            # the first one stays: each would name another file and be news
            self._failure = self._failure or str(cannot_write(folder, error) if isinstance(error, OSError) else error)
            self._retry_at = time.monotonic() + RETRY_S
            return
        self._failure = self._unsaved = None
        self._total = (self._total or 0) + len(clip.content)

    def _make_room(self, size: int) -> None:
        """Remove the oldest clips until one of `size` bytes fits below the limit."""
        if size > self._limit:
            raise InputError(
                f"a clip of {size / 1e6:.2f} MB is larger than max_mb, {self._table.max_mb:g}; raise it or lower"
                " seconds"
            )
        if self._total is not None and self._total + size <= self._limit:
            return
        clips = sorted(_ours(self._folder))
        self._total = sum(size for _, _, size in clips)
        room = self._limit - size
        if self._total <= room:
            return
        for _, path, clip_size in clips:
            path.unlink(missing_ok=True)
            self._total -= clip_size
            with suppress(OSError):  # it holds more
                path.parent.rmdir()
            if self._total <= room - ROOM * self._limit:
                return


def open_clips(table: ClipsTable) -> Clips:
    """The clips of a configuration; the folder need not exist nor be writable yet.

    Raises:
        InputError: the folder is a file.
    """
    with suppress(OSError):  # what a listener's life may heal
        if Path(table.folder).exists() and not Path(table.folder).is_dir():
            raise InputError(f"clips: {table.folder} is no folder; give one for the clips")
    return Clips(table)


def folder_name(label: str) -> str:
    """The label as the name of one visible folder on every system; mostly the label itself."""
    visible = UNFIT.sub("_", "".join(letter if letter.isprintable() else "_" for letter in label)).strip()
    name = visible.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    return f"_{name}" if not name or name.startswith((".", "__MACOSX")) else name


def _ours(folder: Path) -> list[tuple[str, Path, int]]:
    """Clips that lie where they were put: time in the name, path, bytes. Hidden files that a killed program left are
    removed."""
    found = []
    for path in folder.glob("*/*/*"):
        match = OURS.fullmatch(path.name)
        if match is None or match["guess"] != path.parent.parent.name:
            continue
        try:
            status = path.lstat()
            if match["part"] is None and not path.name.startswith("."):
                found.append((match["time"], path, status.st_size))
            elif path.name.endswith(PART_SUFFIX) and time.time() - status.st_mtime > OLD_PART_S:
                path.unlink()
        except FileNotFoundError:  # another program removed it
            continue
    return found
