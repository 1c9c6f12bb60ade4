"""Decodes audio files of any rate, channel count and format that libsndfile reads (wav, flac, ogg, mp3, aiff) into
int16 PCM."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.waveform import PCM_SCALE, to_pcm
from edgekd.data.dataset import ClipSource
from edgekd.data.store.journal import digest
from edgekd.errors import InputError, MissingExtraError
from edgekd.text import counted

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".caf", ".au")
PCM_16 = "PCM_16"
"""libsndfile's name for samples of 16 bits."""
BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
"""First bytes of a wav and an aiff file -> byte order of the size that follows."""
HEAD_BYTES = 8
UNKNOWN_SIZE = 0x7FFFFFFF
"""Sizes from this one on stand for "unknown": the writer streamed the file."""
SLACK_BYTES, SLACK = 64, 0.01
"""Bytes, and share, by which a size in a header may be too large: some writers are not exact."""
NO_KEY = ""
"""Key of a source whose file does not exist."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded clip.

    Attributes:
        source: its file and row.
        key: see `source_key`.
        pcm: (time, channels) int16, or the reason why the file cannot be used.
    """

    source: ClipSource
    key: str
    pcm: NDArray[np.int16] | InputError


def is_audio(path: Path) -> bool:
    """Whether a file has the suffix of an audio file and is not hidden, as the `._x.wav` files of macOS are."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def decode(path: Path, sample_rate: int, channels: int, cut: tuple[float, float] | None = None) -> NDArray[np.int16]:
    """Read one file and convert it to a sample rate and a number of channels.

    Args:
        path: the audio file.
        sample_rate: Hz of the result (soxr, high quality).
        channels: 1 takes the mean of all channels; for more, the file must have as many, or one, which is repeated.
        cut: (start, length) in seconds of the part to read; None reads all. A part that ends after the file is
            shorter.

    Returns:
        (time, channels) int16.

    Raises:
        InputError: the file is missing, unreadable, empty or cut off, holds NaN or infinity, or has another number of
            channels.
        MissingExtraError: soundfile or soxr is not installed.
    """
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError("soundfile", "train") from None
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        _refuse_cut_off(path, size)
        with soundfile.SoundFile(os.fsencode(path)) as file:
            rate = file.samplerate
            start, frames = (0, -1) if cut is None else (round(seconds * rate) for seconds in cut)
            if start:
                file.seek(min(start, file.frames))
            waveform = file.read(frames, dtype="int16" if file.subtype == PCM_16 else "float32", always_2d=True)
    except (OSError, ValueError) as error:  # ValueError: not a possible file name
        raise InputError(
            f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else error})"
        ) from None
    except RuntimeError:  # also soundfile's own error, whose text misleads (a damaged mp3 "does not exist")
        raise InputError(
            f"{path}: is not readable audio; it is damaged or not one of {', '.join(AUDIO_SUFFIXES)}"
        ) from None
    if waveform.dtype == np.int16:  # libsndfile's float32 has the same values and takes twice as long
        waveform = waveform.astype(np.float32) / np.float32(PCM_SCALE)
    if len(waveform) == 0:
        raise InputError(f"{path}: holds no samples")
    if not np.isfinite(waveform).all():
        raise InputError(f"{path}: holds NaN or infinite samples")
    waveform = _to_channels(path, waveform, channels)  # (time, channels)
    if rate != sample_rate:
        waveform = _resample(waveform, rate, sample_rate)
        if len(waveform) == 0:
            raise InputError(f"{path}: holds no samples at {sample_rate} Hz")
    return to_pcm(waveform)


def _refuse_cut_off(path: Path, size: int) -> None:
    """Refuse a wav or aiff file that is shorter than the size in its header; libsndfile reads it without an error.

    Raises:
        InputError: it is.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES or head[:4] not in BYTE_ORDERS:
        return
    expected = int.from_bytes(head[4:], BYTE_ORDERS[head[:4]]) + HEAD_BYTES
    if expected < UNKNOWN_SIZE and expected - size > max(SLACK_BYTES, expected * SLACK):
        raise InputError(f"{path}: is cut off, {size:,} of {expected:,} bytes are here; download or copy it again")


def file_seconds(path: Path) -> float:
    """Length of an audio file, from its header.

    Raises:
        InputError: unreadable.
        MissingExtraError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError("soundfile", "train") from None
    try:
        found = soundfile.info(os.fsencode(path))
    except (OSError, ValueError, RuntimeError):
        raise InputError(
            f"{path}: is not readable audio; it is damaged or not one of {', '.join(AUDIO_SUFFIXES)}"
        ) from None
    return float(found.frames / found.samplerate)


def decode_all(sources: Sequence[ClipSource], sample_rate: int, channels: int) -> Iterator[Decoded]:
    """Decode many clips on threads (libsndfile and soxr release the interpreter lock), in the order given."""
    return map_in_order(lambda source: decode_one(source, sample_rate, channels), sources)


def decode_one(source: ClipSource, sample_rate: int, channels: int) -> Decoded:
    """Decode one clip. The key is computed before the file is read, so that a later change of the file is noticed."""
    key = source_key(source)
    try:
        return Decoded(source, key, decode(source.file, sample_rate, channels, source.cut))
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
    """Names and versions of the libraries that decode and resample; other versions may give other samples.

    Raises:
        MissingExtraError: see `decode`.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise MissingExtraError(error.name or "soundfile", "train") from None
    return (
        f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}, soxr {soxr.__version__},"
        f" {soxr.__libsoxr_version__}"
    )


def _to_channels(path: Path, waveform: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(time, any) -> (time, channels)."""
    if waveform.shape[1] == channels:
        return waveform
    if channels == 1:
        mono: NDArray[np.float32] = waveform.mean(axis=1, keepdims=True, dtype=np.float32)
        return mono
    if waveform.shape[1] == 1:
        return np.repeat(waveform, channels, axis=1)
    raise InputError(
        f"{path}: has {counted(waveform.shape[1], 'channel')}, wanted {channels} (or 1); prepare with --channels 1"
    )


def _resample(waveform: NDArray[np.float32], rate: int, sample_rate: int) -> NDArray[np.float32]:
    """(time, channels) at `rate` -> (time', channels) at `sample_rate`, both Hz."""
    try:
        import soxr
    except ImportError:
        raise MissingExtraError("soxr", "train") from None
    resampled: NDArray[np.float32] = soxr.resample(waveform, rate, sample_rate)
    return resampled
