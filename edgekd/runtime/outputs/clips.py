"""Clips of uncertain windows, for a person to sort: FOLDER/GUESS/HOUR/GUESS-pNN-TIME-NUMBER.wav.

`edgekd data prepare folder` reads that layout. HOUR (UTC) is a group, so clips of one hour stay on one side of a split.
A clip ends with its window and begins up to `seconds` before, as far as the waveform has no break. When there are too
many clips, the oldest that still lie under the guessed label are removed. Clips that a person has moved are never
removed.
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
from edgekd.files import PART, private_folder
from edgekd.runtime.clip_file import cannot_write, wav, write_clip
from edgekd.runtime.config_tables import ClipsTable
from edgekd.runtime.decision import UNKNOWN, Decision
from edgekd.runtime.outputs.base import Observation, Worker
from edgekd.runtime.record import MAX_NAME_BYTES
from edgekd.runtime.source.health import StatusLine

QUEUE = 16
"""Windows that wait for a slow disk; each holds its waveform in memory."""
CLOCK_S = 0.002
"""Largest rounding error of a decision's time, seconds."""
RETRY_S = 10.0
"""Time between attempts to write a clip that could not be written, seconds."""
HOUR_S = 3600.0
FREED_SHARE = 0.05
"""Share of the limit that is freed in addition when the limit is reached, so that the folder is not searched for every
clip."""
OLD_PART_S = 600.0
"""Age in seconds at which a hidden file is removed: the program that wrote it has ended."""
CLIP_NAME = re.compile(r"\.?(?P<guess>.+)-p\d\d\d?-(?P<time>\d{8}T\d{6}Z)-\d{4,}\.wav(?P<part>\.part)?")
FORBIDDEN = re.compile(r'[/\\:*?"<>|]')

Array = NDArray[np.float32]
Pcm = NDArray[np.int16]


class WaveformBuffer:
    """The newest samples without a break, joined from overlapping windows."""

    def __init__(self, rate: int, seconds: float) -> None:
        """rate: Hz. seconds: of samples to keep; at least the newest window is kept."""
        self.rate, self._wanted = rate, round(seconds * rate)
        self._t = 0.0
        self.samples: Pcm = np.empty(0, np.int16)

    def append(self, t: float, window: Array) -> None:
        """Add a window, float32 (time,), that ends at `t` seconds. If it does not continue the one before, it replaces
        all samples."""
        pcm = to_pcm(window)
        new = self._new_samples(t, pcm)
        self.samples = pcm if new is None else np.concatenate((self.samples, pcm[len(pcm) - new :]))
        self.samples = self.samples[max(0, len(self.samples) - max(self._wanted, len(pcm))) :]
        self._t = t

    def _new_samples(self, t: float, pcm: Pcm) -> int | None:
        """The number of new samples in a window; None where samples are missing before it.

        The time gives the number to within a few samples. Comparing the overlap of both windows gives it exactly.
        """
        about, slack = round((t - self._t) * self.rate), int(CLOCK_S * self.rate) + 1
        for new in sorted(
            range(max(1, about - slack), min(len(pcm), about + slack) + 1), key=lambda new: abs(new - about)
        ):
            shared = len(pcm) - new
            if shared <= len(self.samples) and np.array_equal(self.samples[len(self.samples) - shared :], pcm[:shared]):
                return new
        return None


class QueuedWindow(NamedTuple):
    """A window on its way to the writing thread. now: UTC at its end. breaks: places with missing samples before it.
    guess: the label to file it under. uncertain: whether it may be kept."""

    t: float
    now: datetime
    waveform: Array
    rate: int
    breaks: int
    guess: str
    probability: float
    uncertain: bool


class PendingClip(NamedTuple):
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
        self._buffer, self._breaks = WaveformBuffer(0, 0.0), 0
        self._written: deque[float] = deque()  # times of the clips of the last hour, seconds of audio
        self._last: float | None = None  # time of the newest clip
        self._total: int | None = None  # bytes of all clips, None before the folder has been searched
        self._pending: PendingClip | None = None
        self._retry_at = 0.0  # clock seconds
        self._failure: str | None = None
        self._worker: Worker[QueuedWindow] = Worker("clips", self._work, QUEUE)

    @property
    def error(self) -> str | None:
        """Why the last clip could not be written."""
        return self._failure or self._worker.error

    @property
    def dropped(self) -> int:
        """Windows that were skipped because the disk was too slow."""
        return self._worker.dropped

    def publish(self, event: Decision | StatusLine, observation: Observation | None) -> None:
        """Queue a decision with its window. Gated windows, and those of a source that is not healthy, fill the buffer
        but are never kept."""
        if isinstance(event, Decision) and observation is not None:
            scored = observation.features is not None and event.state == "HEALTHY"
            guess = event.label if event.label != UNKNOWN or not event.top else event.top[0][0]
            self._worker.put(
                QueuedWindow(
                    event.t,
                    datetime.now(UTC),
                    observation.waveform,
                    observation.manifest.frontend.sample_rate,
                    observation.breaks,
                    guess,
                    event.probability,
                    scored and event.probability < self._table.below,
                )
            )

    def close(self) -> None:
        """Write the clips that wait, for at most `CLOSE_S`."""
        self._worker.close()

    def _work(self, window: QueuedWindow) -> None:
        if (window.rate, window.breaks) != (self._buffer.rate, self._breaks):
            self._buffer, self._breaks = WaveformBuffer(window.rate, self._table.seconds), window.breaks
        self._buffer.append(window.t, window.waveform)
        if window.uncertain and self._is_due(window.t) and self._buffer.samples.any():
            samples = self._buffer.samples
            start = datetime.fromtimestamp(window.now.timestamp() - len(samples) / window.rate, UTC)
            self._pending = PendingClip(window.guess, window.probability, start, wav(samples, window.rate))
            self._last = window.t
            self._written.append(window.t)
        if self._pending is not None and (self._failure is None or time.monotonic() >= self._retry_at):
            self._save(self._pending)

    def _is_due(self, t: float) -> bool:
        """Whether the limits on clips allow another one at `t` seconds of audio."""
        while self._written and t - self._written[0] >= HOUR_S:
            self._written.popleft()
        return (self._last is None or t - self._last >= self._table.every) and (
            self._table.per_hour is None or len(self._written) < self._table.per_hour
        )

    def _save(self, clip: PendingClip) -> None:
        """Write a clip. If that fails, the clip is kept and tried again, unless a newer one replaces it."""
        name = folder_name(clip.guess)
        folder = self._folder / name / f"{clip.start:%Y%m%dT%H}"
        try:
            self._free_space(len(clip.content))
            private_folder(folder)
            write_clip(folder, f"{name}-p{int(100 * clip.probability):02d}", clip.start, clip.content)
        except (InputError, OSError) as error:
            # the first error stays: each attempt names another file, and every new text would be reported
            self._failure = self._failure or str(cannot_write(folder, error) if isinstance(error, OSError) else error)
            self._retry_at = time.monotonic() + RETRY_S
            return
        self._failure = self._pending = None
        self._total = (self._total or 0) + len(clip.content)

    def _free_space(self, size: int) -> None:
        """Remove the oldest clips until one of `size` bytes fits below the limit."""
        if size > self._limit:
            raise InputError(
                f"a clip of {size / 1e6:.2f} MB is larger than max_mb, {self._table.max_mb:g}; raise it or lower"
                " seconds"
            )
        if self._total is not None and self._total + size <= self._limit:
            return
        clips = sorted(own_clips(self._folder))
        self._total = sum(size for _, _, size in clips)
        allowed = self._limit - size
        if self._total <= allowed:
            return
        for _, path, clip_size in clips:
            path.unlink(missing_ok=True)
            self._total -= clip_size
            with suppress(OSError):  # the folder is not empty
                path.parent.rmdir()
            if self._total <= allowed - FREED_SHARE * self._limit:
                return


def open_clips(table: ClipsTable) -> Clips:
    """The output of `[clips]`. The folder need not exist or be writable yet.

    Raises:
        InputError: the folder is a file.
    """
    with suppress(OSError):  # such errors may end while the listener runs
        if Path(table.folder).exists() and not Path(table.folder).is_dir():
            raise InputError(f"clips: {table.folder} is not a folder; give a folder for the clips")
    return Clips(table)


def folder_name(label: str) -> str:
    """The label as the name of one visible folder on every system; usually the label itself."""
    visible = FORBIDDEN.sub("_", "".join(letter if letter.isprintable() else "_" for letter in label)).strip()
    name = visible.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    return f"_{name}" if not name or name.startswith((".", "__MACOSX")) else name


def own_clips(folder: Path) -> list[tuple[str, Path, int]]:
    """Clips that lie where they were written: time in the name, path, bytes. Hidden files that a killed program left
    are removed."""
    found = []
    for path in folder.glob("*/*/*"):
        match = CLIP_NAME.fullmatch(path.name)
        if match is None or match["guess"] != path.parent.parent.name:
            continue
        try:
            status = path.lstat()
            if match["part"] is None and not path.name.startswith("."):
                found.append((match["time"], path, status.st_size))
            elif path.name.endswith(PART) and time.time() - status.st_mtime > OLD_PART_S:
                path.unlink()
        except FileNotFoundError:  # another program removed it
            continue
    return found
