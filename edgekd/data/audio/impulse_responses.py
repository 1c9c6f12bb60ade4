"""Impulse responses of microphones and rooms, read from a folder: for augmentation, and for evaluation through other
microphones."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.decode import decode, is_audio
from edgekd.data.audio.microphone_makes import MicrophoneFile, MicSplit, files_of_split
from edgekd.data.audio.tree import convert_hint, is_not_read, suffix_counts
from edgekd.data.audio.waveform import to_waveform
from edgekd.errors import InputError
from edgekd.text import counted

ONSET = 0.1
"""Share of a response's peak at which its direct sound begins; samples before that are delay and are removed."""


def response_files(
    folder: Path, split: MicSplit = "all", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[MicrophoneFile]:
    """The chosen files of a folder, in the order of their names.

    Args:
        folder: of audio files; inner folders are ignored.
        split: of the makes, see `edgekd.data.audio.microphone_makes`.
        include, exclude: shell patterns of file names. A file is chosen if one of `include` matches, or there is none,
            and none of `exclude` does.

    Raises:
        InputError: no folder, no file that matches, one of a format that is not read; see `files_of_split`.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder of impulse responses; name one (augment.ir_folder in a recipe, --microphones)"
        )
    files = sorted(path for path in folder.iterdir() if is_audio(path) or is_not_read(path))
    chosen = [path for path in files if _matches(path.name, include or ("*",)) and not _matches(path.name, exclude)]
    not_read = [path for path in chosen if is_not_read(path)]
    if not_read:
        raise InputError(
            f"{folder}: {suffix_counts(not_read)}, not read; {convert_hint(not_read)}, or leave them out with"
            " augment.ir_exclude"
        )
    if not chosen:
        raise InputError(
            f"{folder}: {counted(len(files), 'audio file')}, none of which matches augment.ir_include {list(include)}"
            f" and not augment.ir_exclude {list(exclude)}"
        )
    of_split = files_of_split(chosen, folder, split)
    if not of_split:
        raise InputError(
            f"{folder}: {counted(len(chosen), 'audio file')}, none of a make in [{split}]; take another split"
        )
    return of_split


def load_responses(files: Sequence[MicrophoneFile], sample_rate: int) -> NDArray[np.float32]:
    """The impulse responses in files.

    Args:
        files: at least one.
        sample_rate: Hz of the result.

    Returns:
        float32 (responses, longest): each starts with its direct sound, is scaled to unit energy, so that it keeps the
        level of noise, and is padded with zeros.

    Raises:
        InputError: a file that cannot be read, or is silent.
        MissingExtraError: soundfile or soxr is not installed.
    """
    read = [_response(path, sample_rate) for path, _ in files]
    responses = np.zeros((len(read), max(map(len, read))), np.float32)
    for row, response in zip(responses, read, strict=True):
        row[: len(response)] = response
    return responses


def responses_hash(responses: NDArray[np.float32]) -> str:
    """SHA-256 of the responses in their order, 64 hex digits."""
    return hashlib.sha256(f"{responses.shape}".encode() + responses.astype("<f4").tobytes()).hexdigest()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _response(path: Path, sample_rate: int) -> NDArray[np.float32]:
    waveform = to_waveform(decode(path, sample_rate, channels=1))
    loudness = np.abs(waveform)
    if not loudness.any():
        raise InputError(f"{path}: this impulse response is silent; leave it out with augment.ir_exclude")
    response = waveform[int(np.argmax(loudness >= ONSET * loudness.max())) :]
    scaled: NDArray[np.float32] = response / np.float32(np.sqrt(np.square(response, dtype=np.float64).sum()))
    return scaled
