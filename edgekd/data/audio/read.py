"""The one reader of audio files, of any rate, channel count and format that libsndfile reads: blocks of int16 PCM at
the rate and with the channels that are wanted, in bounded memory.

A file gives the same samples in blocks of any size, and as a whole.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.header import open_repaired
from edgekd.data.audio.waveform import PCM_SCALE, to_pcm
from edgekd.errors import InputError, MissingExtraError
from edgekd.rates import require_rate
from edgekd.text import counted, listing

PCM_16 = "PCM_16"
"""libsndfile's name for samples of 16 bits."""
FLOATS = ("FLOAT", "DOUBLE")
"""Its names for samples that may be beyond full scale. What a lossy format decodes to may be so too, a little, and is
clipped, as every player does."""
MOST_PEAK = 100.0
"""Float samples up to this peak are audio that is too loud (+40 dB). Others are on another scale, for instance that of
integers."""
UNKNOWN_FRAMES = 1 << 62
"""libsndfile's lengths from this one on stand for "unknown"."""
BLOCK_SAMPLES = 1 << 15
"""Samples, over all channels, that are read at a time by default: few enough for the caches of a processor."""

Array = NDArray[np.float32]
Loud = Callable[[float], None]
"""Receives the peak of float samples above full scale, which are scaled down to it."""


class AudioFileError(InputError):
    """An audio file that cannot be used; the message names it."""


class AudioFile:
    """An open audio file; a context manager. Its blocks are read once.

    Raises:
        AudioFileError: the file is missing, empty, cut off or not audio, or its sample rate is outside
            `LEAST_RATE` to `MOST_RATE`.
        MissingExtraError: soundfile is not installed.
    """

    def __init__(self, path: Path, extra: str = "train") -> None:
        """path: the file. extra: of edgekd, which installs what is missing."""
        reader = _sequential_reader(sound_library("soundfile", extra))
        self.path, self._extra = path, extra
        with ExitStack() as opened:
            with named_errors(path):
                repaired = open_repaired(path)
                if repaired is not None:
                    opened.callback(repaired.close)
                # bytes, because a name need not be UTF-8
                self._file = opened.enter_context(reader(os.fsencode(path) if repaired is None else repaired))
                self._seekable = self._file.is_seekable and self._file.frames < UNKNOWN_FRAMES
                self.rate: int = self._file.samplerate
                self.channels: int = self._file.channels
                require_rate(self.rate, f"{path}: its sample rate is", "write it again with the true one")
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def seconds(self) -> float:
        """Its length, from its header.

        Raises:
            AudioFileError: it does not say.
        """
        frames: int = self._file.frames
        if frames >= UNKNOWN_FRAMES:
            raise AudioFileError(f"{self.path}: its header does not say its length; convert it to wav")
        return frames / self.rate

    def blocks(
        self,
        sample_rate: int,
        channels: int,
        *,
        cut: tuple[float, float] | None = None,
        frames: int | None = None,
        loud: Loud | None = None,
    ) -> Iterator[NDArray[np.int16]]:
        """The samples at a rate, with a number of channels.

        Float samples above full scale are scaled so that their peak is at full scale; the part is read twice then.

        Args:
            sample_rate: Hz of the result (soxr, high quality).
            channels: 1 takes the mean of all channels; for more, the file must have as many, or one, which is repeated.
            cut: (start, length) in seconds of the part to read; None reads all. A part that ends after the file is
                shorter.
            frames: samples of each channel that are read at a time.
            loud: see `Loud`.

        Yields:
            (time, channels) int16.

        Raises:
            AudioFileError: no samples, NaN or infinite samples, a peak above `MOST_PEAK`, another number of channels,
                or damaged data.
            MissingExtraError: soxr is needed and not installed.
        """
        start, count = (0, None) if cut is None else (round(seconds * self.rate) for seconds in cut)
        step = frames or max(1, BLOCK_SAMPLES // self._file.channels)
        gain = np.float32(self._gain(start, count, step, loud))
        resampler = None if self.rate == sample_rate else self._resampler(sample_rate, channels)
        received = given = 0
        for waveform in self._waveform(start, count, step):
            received += len(waveform)
            block = self._to_channels(waveform, channels)  # (time, channels)
            if gain != 1.0:
                block = block * gain
            if resampler is not None:
                block = resampler.resample_chunk(block)
            given += len(block)
            yield to_pcm(block)
        if received == 0:
            raise AudioFileError(f"{self.path}: holds no samples")
        if resampler is not None:
            block = resampler.resample_chunk(np.empty((0, channels), np.float32), last=True)
            given += len(block)
            yield to_pcm(block)
        if given == 0:
            raise AudioFileError(f"{self.path}: holds no samples at {sample_rate} Hz")

    def _gain(self, start: int, count: int | None, step: int, loud: Loud | None) -> float:
        """The factor that brings samples above full scale down to it; 1 for others. Reads a part with float samples."""
        if self._file.subtype not in FLOATS:
            return 1.0
        peak = max((float(np.abs(block).max()) for block in self._waveform(start, count, step)), default=0.0)
        if peak > MOST_PEAK:
            raise AudioFileError(
                f"{self.path}: its float samples reach {peak:g}, and full scale is 1; write it again with samples in "
                "-1 to 1"
            )
        if peak <= 1.0:
            return 1.0
        if loud is not None:
            loud(peak)
        return 1.0 / peak

    def _waveform(self, start: int, count: int | None, step: int) -> Iterator[Array]:
        """Blocks of `count` samples from `start` on, float32 (time, channels of the file), none of them empty."""
        file = self._file
        dtype = "int16" if file.subtype == PCM_16 else "float32"
        position, end = self._seek(start), None if count is None else start + count
        while end is None or position < end:
            wanted = step if end is None else min(step, (start if position < start else end) - position)
            with named_errors(self.path):
                block = file.read(wanted, dtype=dtype, always_2d=True)
            if len(block) == 0:
                self._require_whole(position)
                return
            position += len(block)
            if position <= start:
                continue
            if dtype == "int16":  # libsndfile's float32 has the same values and takes twice as long
                block = block.astype(np.float32) / np.float32(PCM_SCALE)
            elif not np.isfinite(block).all():
                first = position - len(block) + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise AudioFileError(
                    f"{self.path}: holds NaN or infinite samples at {first / self.rate:.1f} s; write it again without"
                    " them"
                )
            yield block

    def _seek(self, start: int) -> int:
        """Go to a sample, counted from 0, where the format can. Returns the sample that is read next."""
        file = self._file
        if not self._seekable:
            return 0
        with named_errors(self.path):
            if file.tell() != start:
                file.seek(min(start, file.frames))
        return start

    def _require_whole(self, position: int) -> None:
        """Refuse a flac file that ends before the samples that its header counts. position: of the end."""
        file = self._file
        if file.format == "FLAC" and position < file.frames < UNKNOWN_FRAMES:
            raise AudioFileError(
                f"{self.path}: is cut off, {position:,} of {file.frames:,} samples are here; download or copy it again"
            )

    def _to_channels(self, waveform: Array, channels: int) -> Array:
        """(time, any) -> (time, channels)."""
        if waveform.shape[1] == channels:
            return waveform
        if channels == 1:
            mono: Array = waveform.mean(axis=1, keepdims=True, dtype=np.float32)
            return mono
        if waveform.shape[1] == 1:
            return np.repeat(waveform, channels, axis=1)
        raise AudioFileError(
            f"{self.path}: has {counted(waveform.shape[1], 'channel')}, wanted {channels} (or 1); prepare with "
            "--channels 1"
        )

    def _resampler(self, sample_rate: int, channels: int) -> Any:
        """A stream of soxr, which has no type information."""
        what = f"soxr (to bring {self.rate} Hz to {sample_rate} Hz)"
        return sound_library("soxr", self._extra, what).ResampleStream(
            self.rate, sample_rate, channels, dtype="float32"
        )


def loud_note(peaks: Mapping[str, float]) -> str:
    """A line about files with float samples above full scale. peaks: name of the file -> peak."""
    names = [f"{name} (peak {peak:.3g})" for name, peak in peaks.items()]
    return (
        f"{counted(len(names), 'file has', 'files have')} float samples above full scale, scaled down to it:"
        f" {listing(names)}"
    )


def sound_library(name: str, extra: str, what: str | None = None) -> Any:
    """A library for audio files, which has no type information.

    Args:
        name: "soundfile" or "soxr".
        extra: of edgekd, which installs it.
        what: its name and use in the error; None is the name alone.

    Raises:
        MissingExtraError: it is not installed.
        InputError: it finds no library of the system.
    """
    try:
        if name == "soxr":
            import soxr

            return soxr
        import soundfile

        return soundfile
    except ImportError:
        raise MissingExtraError(what or name, extra) from None
    except OSError as error:  # soundfile's wheel for 32-bit ARM contains no library
        raise InputError(
            f"soundfile finds no libsndfile ({error}); install it with: sudo apt install libsndfile1"
        ) from None


@cache
def _sequential_reader(soundfile: Any) -> Any:
    """A class like `SoundFile` that reads on and on: with it no file needs to know its length, nor to be seekable."""

    class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
        @property
        def is_seekable(self) -> bool:
            return bool(super().seekable())

        def seekable(self) -> bool:
            """False: soundfile then neither asks for the position nor sets it at each read."""
            return False

    return SequentialFile


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name the file in errors of opening and reading it."""
    try:
        yield
    except InputError as error:
        raise AudioFileError(str(error)) from None
    except (OSError, ValueError) as error:  # ValueError: not a possible file name
        raise AudioFileError(
            f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else error}); give a readable file"
        ) from None
    except RuntimeError:  # also soundfile's own error, whose text misleads (a damaged mp3 "does not exist")
        raise AudioFileError(
            f"{path}: is not readable audio; it is damaged, or of a format that libsndfile does not know (it knows wav,"
            " flac, ogg, mp3, aiff, au, caf and w64)"
        ) from None
