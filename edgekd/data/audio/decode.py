"""Decodes audio files as a whole into int16 PCM, one or many of them on threads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.read import AudioFile, Loud
from edgekd.data.dataset import ClipSource
from edgekd.data.store.journal import digest
from edgekd.errors import InputError, MissingExtraError

WAV_SUFFIXES = (".wav", ".wave", ".bwf", ".rf64", ".w64")
AUDIO_SUFFIXES = (
    *WAV_SUFFIXES,
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".aifc",
    ".caf",
    ".au",
    ".snd",
)
READER = 2
"""Version of the reader, raised when it gives other samples of a file. 2 scales loud float samples, 1 clipped them."""
NO_KEY = ""
"""Key of a source whose file does not exist."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded clip.

    Attributes:
        source: its file and row.
        key: see `source_key`.
        pcm: (time, channels) int16, or the reason why the file cannot be used.
        peak: of float samples above full scale, which were scaled down to it; None for others.
    """

    source: ClipSource
    key: str
    pcm: NDArray[np.int16] | InputError
    peak: float | None = None


def is_audio(path: Path) -> bool:
    """Whether a file has the suffix of an audio file and is not hidden, as the `._x.wav` files of macOS are."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def decode(
    path: Path,
    sample_rate: int,
    channels: int,
    cut: tuple[float, float] | None = None,
    loud: Loud | None = None,
) -> NDArray[np.int16]:
    """Read one file and convert it to a sample rate and a number of channels.

    Args:
        path, sample_rate, channels, cut, loud: see `AudioFile.blocks`.

    Returns:
        (time, channels) int16.

    Raises:
        AudioFileError: see `AudioFile`.
        MissingExtraError: soundfile or soxr is not installed.
    """
    with AudioFile(path) as file:
        blocks = list(file.blocks(sample_rate, channels, cut=cut, loud=loud))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def file_seconds(path: Path) -> float:
    """Length of an audio file, from its header.

    Raises:
        AudioFileError: see `AudioFile`.
        MissingExtraError: soundfile is not installed.
    """
    with AudioFile(path) as file:
        return file.seconds


def decode_all(sources: Sequence[ClipSource], sample_rate: int, channels: int) -> Iterator[Decoded]:
    """Decode many clips on threads (libsndfile and soxr release the interpreter lock), in the order given."""
    return map_in_order(lambda source: decode_one(source, sample_rate, channels), sources)


def decode_one(source: ClipSource, sample_rate: int, channels: int) -> Decoded:
    """Decode one clip. The key is computed before the file is read, so that a later change of the file is noticed."""
    key = source_key(source)
    peaks: list[float] = []
    try:
        pcm = decode(source.file, sample_rate, channels, source.cut, peaks.append)
        return Decoded(source, key, pcm, max(peaks, default=None))
    except InputError as error:
        return Decoded(source, key, error)


def source_key(source: ClipSource) -> str:
    """32 hex digits that identify the audio of a clip: by its file's path, size and modification time, and by the cut.
    The row has no influence."""
    try:
        stat = source.file.stat()
    except (OSError, ValueError):
        return NO_KEY
    cut = "" if source.cut is None else f"{source.cut} "
    return digest(
        f"{stat.st_size} {stat.st_mtime_ns} {cut}{source.file.absolute()}".encode(errors="surrogateescape")
    ).hex()


def decoders() -> str:
    """Versions of this reader, and of the libraries that decode and resample; others may give other samples.

    Raises:
        MissingExtraError: see `decode`.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise MissingExtraError(error.name or "soundfile", "train") from None
    return (
        f"reader {READER}, soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__},"
        f" soxr {soxr.__version__}, {soxr.__libsoxr_version__}"
    )
