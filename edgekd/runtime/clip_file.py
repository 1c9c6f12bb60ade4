"""Clips on disk: 16-bit wav files that appear complete or not at all, however the program ends."""

import io
import os
import wave
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import to_pcm
from edgekd.errors import InputError
from edgekd.files import PART, PRIVATE

Array = NDArray[np.float32]


def wav(samples: Array | NDArray[np.int16], rate: int) -> bytes:
    """A file of 16-bit PCM. samples: float32 in [-1, 1] or int16, (time,), at `rate` Hz."""
    pcm = samples if samples.dtype == np.int16 else to_pcm(samples.astype(np.float32, copy=False))
    with io.BytesIO() as memory:
        with wave.open(memory, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(pcm.tobytes())
        return memory.getvalue()


def write_clip(folder: Path, name: str, start: datetime, content: bytes) -> Path:
    """Write a clip as NAME-TIME-NUMBER.wav under the first free number. Others than its owner cannot read it.

    The hidden file is created exclusively, so that several programs never use the same number.

    Raises:
        InputError: it cannot be written.
    """
    for number in count(1):
        file = folder / f"{name}-{start:%Y%m%dT%H%M%SZ}-{number:04d}.wav"
        part = file.with_name(f".{file.name}{PART}")
        try:
            with open(part, "xb", opener=_for_the_owner) as stream:
                try:
                    if file.exists():
                        part.unlink()
                        continue
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())  # otherwise the name may reach the disk before the content
                    part.rename(file)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(file, error) from None
        return file
    raise AssertionError("numbers do not end")


def _for_the_owner(name: str, flags: int) -> int:
    return os.open(name, flags, PRIVATE)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a clip or a folder of clips."""
    return InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder")
