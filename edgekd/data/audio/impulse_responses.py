"""Impulse responses of microphones and rooms, read from a folder: for augmentation, and for tests of other
microphones."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.decode import decode, is_audio
from edgekd.data.audio.microphone_makes import Made, MicSplit, of_split
from edgekd.data.store.store import to_waveform
from edgekd.errors import InputError
from edgekd.text import counted

ONSET = 0.1
"""Share of a response's peak at which its direct sound begins; what comes before is delay."""


def response_files(
    folder: Path, split: MicSplit = "all", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Made]:
    """The files of a folder that are taken, in the order of their names.

    Args:
        folder: audio files; folders inside are not looked into.
        split: of the makes, see `edgekd.data.audio.microphone_makes`.
        include, exclude: patterns of file names, as a shell's; a file is taken where one of `include` fits, or there is
            none, and none of `exclude` does.

    Raises:
        InputError: no folder, no file that fits; see `of_split`.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder of impulse responses; name one (augment.ir_folder in a recipe, --microphones)"
        )
    files = sorted(path for path in folder.iterdir() if is_audio(path))
    fit = [path for path in files if _fits(path.name, include or ("*",)) and not _fits(path.name, exclude)]
    if not fit:
        raise InputError(
            f"{folder}: {counted(len(files), 'audio file')}, none of which fits augment.ir_include {list(include)} and"
            f" not augment.ir_exclude {list(exclude)}"
        )
    taken = of_split(fit, folder, split)
    if not taken:
        raise InputError(
            f"{folder}: {counted(len(fit), 'audio file')}, none of a make in [{split}]; take another split"
        )
    return taken


def load_responses(files: Sequence[Made], sample_rate: int) -> NDArray[np.float32]:
    """The impulse responses in files.

    Args:
        files: at least one.
        sample_rate: Hz of the result.

    Returns:
        float32 (responses, longest): each of unit energy, so that it keeps the level of noise, from its direct sound
        on, zeros at the end.

    Raises:
        InputError: a file that is not readable or silent.
        MissingExtraError: soundfile or soxr is not installed.
    """
    read = [_response(path, sample_rate) for path, _ in files]
    responses = np.zeros((len(read), max(map(len, read))), np.float32)
    for row, response in zip(responses, read, strict=True):
        row[: len(response)] = response
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
    response = waveform[int(np.argmax(loudness >= ONSET * loudness.max())) :]
    scaled: NDArray[np.float32] = response / np.float32(np.sqrt(np.square(response, dtype=np.float64).sum()))
    return scaled
