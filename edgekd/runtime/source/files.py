"""Samples of an audio file, or of raw PCM on a pipe, as float32 mono chunks at the model's rate.

Samples lie on the grid of int16, rounded as in a clip store, so that a recording has the same values here as in
training.
"""

import fcntl
import select
import termios
import time
import wave
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.header import open_repaired
from edgekd.data.audio.read import AudioFile, loud_note, named_errors, sound_library
from edgekd.data.audio.waveform import PCM_TYPE, to_pcm, to_waveform
from edgekd.errors import InputError
from edgekd.modelfile.engine import silent_stderr
from edgekd.runtime.source.pace import Pace
from edgekd.runtime.source.raw_format import RawFormat

CHUNK_S = 0.1
"""Seconds of audio read at a time."""

Array = NDArray[np.float32]


def read_file(path: Path, sample_rate: int, warn: Callable[[str], None] | None = None) -> Iterator[Array]:
    """Samples of an audio file: the mean of all channels, resampled where its rate differs.

    Args:
        path: any format of libsndfile; 16-bit PCM .wav at `sample_rate` needs neither soundfile nor soxr.
        sample_rate: Hz of the result.
        warn: takes a line for people where samples above full scale are scaled down.

    Yields:
        float32 (time,) in [-1, 1], on the grid of int16.

    Raises:
        InputError: missing, cut off, not readable as audio, NaN or infinite samples, an impossible sample rate.
        MissingExtraError: the file needs soundfile or soxr, which is not installed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(
            f"{path} is a folder or not a regular file; give one audio file, or - and raw samples on standard input"
        )
    with named_errors(path):
        stream = open_repaired(path) or path.open("rb")
    with stream:
        plain = _plain_wav(stream, sample_rate)
        if plain is not None:
            yield from _read_plain_wav(path, plain, sample_rate)
            return
    sound_library(
        "soundfile", "mic", f"soundfile (which {path} needs; 16-bit PCM .wav at {sample_rate} Hz does without)"
    )
    with silent_stderr():  # libsndfile's mp3 decoder prints warnings
        opened = AudioFile(path, "mic")
    with opened as file:
        loud = None if warn is None else lambda peak: warn(loud_note({str(path): peak}))
        for block in file.blocks(sample_rate, 1, frames=int(CHUNK_S * file.rate), loud=loud):
            yield to_waveform(block)


def read_raw(
    stream: BinaryIO, sample_rate: int, idle_s: float | None = None, lacking_s: Callable[[], float] = lambda: 0.0
) -> Iterator[Array]:
    """Samples of a pipe of raw signed 16-bit little-endian mono PCM at `sample_rate`, as they arrive: float32 (time,)
    in [-1, 1].

    Args:
        stream: of bytes; it must be unbuffered where there is an `idle_s`.
        sample_rate: Hz.
        idle_s: while nothing arrives, yield an empty chunk each so many seconds; None for no empty chunks.
        lacking_s: seconds of samples that are of no use before the last of them; where the stream is a live one, its
            reader sleeps so long.

    Raises:
        InputError: the stream is a terminal, or holds something else than such samples.
    """
    if stream.isatty():
        raise InputError(
            "standard input is a terminal; pipe raw signed 16-bit mono samples into it, for instance "
            f"arecord -f S16_LE -c 1 -r {sample_rate} -t raw | edgekd listen - --model MODEL"
        )
    rest, format_ = b"", RawFormat("standard input holds")
    pace, received, waited = Pace(), 0, False
    while True:
        lacking = lacking_s()
        if idle_s is not None:
            pause_s = pace.pause(time.monotonic(), received / (2 * sample_rate) + lacking)
            if pause_s:
                time.sleep(pause_s)
            waited = not select.select([stream], [], [], 0.0)[0]
            if waited and not select.select([stream], [], [], idle_s)[0]:
                yield np.empty(0, np.float32)
                continue
        new = stream.read(2 * round(max(CHUNK_S, lacking) * sample_rate))
        received += len(new)
        pace.arrived(time.monotonic(), (received + _waiting_bytes(stream)) / (2 * sample_rate), waited=waited)
        format_.check(new)
        rest += new
        even = len(rest) - len(rest) % 2
        if even:
            yield to_waveform(np.frombuffer(rest[:even], PCM_TYPE)[:, None])
        if not new:
            return
        rest = rest[even:]


def _waiting_bytes(stream: BinaryIO) -> int:
    """Bytes that a pipe or a socket holds; 0 where the system does not know."""
    count = array("i", [0])
    try:
        fcntl.ioctl(stream.fileno(), termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]


def _plain_wav(stream: BinaryIO, sample_rate: int) -> wave.Wave_read | None:
    """The file, where the standard library can read it unchanged: 16-bit PCM at the right rate."""
    try:
        file = wave.open(stream)  # noqa: SIM115, which has nothing to close
    except (wave.Error, EOFError):
        return None
    return file if file.getsampwidth() == 2 and file.getframerate() == sample_rate else None


def _read_plain_wav(path: Path, file: wave.Wave_read, sample_rate: int) -> Iterator[Array]:
    channels, size = file.getnchannels(), int(CHUNK_S * sample_rate)
    while True:
        with named_errors(path):
            raw = file.readframes(size)
        if not raw:
            return
        complete = len(raw) - len(raw) % (2 * channels)  # a truncated file may end inside a sample
        mono = to_waveform(np.frombuffer(raw[:complete], PCM_TYPE).reshape(-1, channels))
        yield to_waveform(to_pcm(mono[:, None]))
