"""Impulse responses of microphones and rooms, read from a folder for augmentation."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.decode import decode, is_audio
from edgekd.data.store import to_waveform
from edgekd.errors import InputError
from edgekd.wording import counted

ONSET = 0.1
"""Share of a response's peak at which its direct sound begins; what comes before is delay."""


def load_responses(folder: Path, sample_rate: int, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> NDArray[np.float32]:
    """The impulse responses of a folder, in the order of their file names.

    Args:
        folder: audio files; folders inside are not looked into.
        sample_rate: Hz of the result.
        include, exclude: patterns of file names, as a shell's; a file is taken where one of `include` fits, or there is none, and none
            of `exclude` does.

    Returns:
        float32 (responses, longest): each of unit energy, so that it keeps the level of noise, from its direct sound on, zeros at the end.

    Raises:
        InputError: no folder, no file that fits, one that is not readable or silent.
        MissingExtraError: soundfile or soxr is not installed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of impulse responses; set augment.ir_folder to one")
    files = sorted(path for path in folder.iterdir() if is_audio(path))
    taken = [path for path in files if _fits(path.name, include or ("*",)) and not _fits(path.name, exclude)]
    if not taken:
        raise InputError(f"{folder}: {counted(len(files), 'audio file')}, none of which fits augment.ir_include {list(include)} and not "
                         f"augment.ir_exclude {list(exclude)}")
    read = [_response(path, sample_rate) for path in taken]
    responses = np.zeros((len(read), max(map(len, read))), np.float32)
    for row, response in zip(responses, read, strict=True):
        row[:len(response)] = response
    return responses


def responses_hash(responses: NDArray[np.float32]) -> str:
    """64 hex digits of the responses and their order."""
    return hashlib.sha256(f"{responses.shape}".encode() + responses.astype("<f4").tobytes()).hexdigest()


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _response(path: Path, sample_rate: int) -> NDArray[np.float32]:
    waveform = to_waveform(decode(path, sample_rate, channels=1))
    loudness = np.abs(waveform)
    if not loudness.any():
        raise InputError(f"{path}: this impulse response is silent; leave it out with augment.ir_exclude")
    response = waveform[int(np.argmax(loudness >= ONSET * loudness.max())):]
    scaled: NDArray[np.float32] = response / np.float32(np.sqrt(np.square(response, dtype=np.float64).sum()))
    return scaled
