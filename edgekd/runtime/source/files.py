"""Samples of an audio file, or of raw PCM on a pipe, as float32 mono chunks at the model's rate.

Samples lie on the grid of int16, rounded as in a clip store, so that a recording has the same values here as in
training.
"""

import os
import select
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_TYPE, to_pcm, to_waveform
from edgekd.errors import InputError, MissingExtraError
from edgekd.modelfile.engine import silent_stderr
from edgekd.runtime.source.raw_format import RawFormat

CHUNK_S = 0.1
"""Seconds of audio read at a time."""

Array = NDArray[np.float32]


def read_file(path: Path, sample_rate: int) -> Iterator[Array]:
    """Samples of an audio file: the mean of all channels, resampled where its rate differs.

    Args:
        path: any format of libsndfile; 16-bit PCM .wav at `sample_rate` needs neither soundfile nor soxr.
        sample_rate: Hz of the result.

    Yields:
        float32 (time,) in [-1, 1], on the grid of int16.

    Raises:
        InputError: missing, not readable as audio, NaN or infinite samples.
        MissingExtraError: the file needs soundfile or soxr, which is not installed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(
            f"{path} is a folder or not a regular file; give one audio file, or - and raw samples on standard input"
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    chunks = _read_plain_wav(path, sample_rate) if _is_plain_wav(path, sample_rate) else _read_any(path, sample_rate)
    position = 0
    for chunk in chunks:
        if not np.isfinite(chunk).all():
            raise InputError(
                f"{path}: NaN or infinite samples at {position / sample_rate:.1f} s; write the file again without them"
            )
        position += len(chunk)
        yield to_waveform(to_pcm(chunk[:, None]))


def read_raw(stream: BinaryIO, sample_rate: int, idle_s: float | None = None) -> Iterator[Array]:
    """Samples of a pipe of raw signed 16-bit little-endian mono PCM at `sample_rate`, as they arrive: float32 (time,)
    in [-1, 1].

    Args:
        stream: of bytes; it must be unbuffered where there is an `idle_s`.
        sample_rate: Hz.
        idle_s: while nothing arrives, yield an empty chunk each so many seconds; None for no empty chunks.

    Raises:
        InputError: the stream is a terminal, or holds something else than such samples.
    """
    if stream.isatty():
        raise InputError(
            "standard input is a terminal; pipe raw signed 16-bit mono samples into it, for instance "
            f"arecord -f S16_LE -c 1 -r {sample_rate} -t raw | edgekd listen - --model MODEL"
        )
    size, rest, format_ = 2 * int(CHUNK_S * sample_rate), b"", RawFormat("standard input holds")
    while True:
        if idle_s is not None and not select.select([stream], [], [], idle_s)[0]:
            yield np.empty(0, np.float32)
            continue
        new = stream.read(size)
        format_.check(new)
        rest += new
        even = len(rest) - len(rest) % 2
        if even:
            yield to_waveform(np.frombuffer(rest[:even], PCM_TYPE)[:, None])
        if not new:
            return
        rest = rest[even:]


def _is_plain_wav(path: Path, sample_rate: int) -> bool:
    """Whether the standard library can read the file unchanged: 16-bit PCM at the right rate."""
    try:
        with wave.open(str(path), "rb") as file:
            return file.getsampwidth() == 2 and file.getframerate() == sample_rate
    except (wave.Error, EOFError):
        return False


def _read_plain_wav(path: Path, sample_rate: int) -> Iterator[Array]:
    with wave.open(str(path), "rb") as file:
        channels, size = file.getnchannels(), int(CHUNK_S * sample_rate)
        while raw := file.readframes(size):
            complete = len(raw) - len(raw) % (2 * channels)  # a truncated file may end inside a sample
            yield to_waveform(np.frombuffer(raw[:complete], PCM_TYPE).reshape(-1, channels))


def _read_any(path: Path, sample_rate: int) -> Iterator[Array]:
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError(
            f"soundfile (which {path} needs; 16-bit PCM .wav at {sample_rate} Hz does without)", "mic"
        ) from None
    except OSError as error:  # soundfile's wheel for 32-bit ARM contains no library
        raise InputError(
            f"soundfile finds no libsndfile ({error}); install it with: sudo apt install libsndfile1"
        ) from None
    try:
        with silent_stderr():  # libsndfile's mp3 decoder prints warnings
            opened = soundfile.SoundFile(os.fsencode(path))  # bytes, because a name need not be UTF-8
        with opened as file:
            mono = (
                block.mean(axis=1, dtype=np.float32)
                for block in file.blocks(int(CHUNK_S * file.samplerate), dtype="float32", always_2d=True)
            )
            yield from mono if file.samplerate == sample_rate else _resample(mono, file.samplerate, sample_rate)
    except RuntimeError:  # includes soundfile's own error, whose text misleads (a damaged mp3 "does not exist")
        raise InputError(
            f"{path}: is not readable audio; it is damaged or of a format that libsndfile does not know"
        ) from None


def _resample(chunks: Iterator[Array], rate: int, sample_rate: int) -> Iterator[Array]:
    """Chunks at `rate` Hz, float32 (time,), resampled to `sample_rate` Hz."""
    try:
        import soxr
    except ImportError:
        raise MissingExtraError(f"soxr (to bring {rate} Hz to the model's {sample_rate} Hz)", "mic") from None
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
