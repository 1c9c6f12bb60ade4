"""Predictions of the windows of a set of clips, and how they are kept in .npz files."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.metrics.scores import Floats, Integers, clip_means, softmax


@dataclass(frozen=True)
class Predictions:
    """Logits of the windows of clips of a store.

    Attributes:
        logits: float32 (windows, labels), any value where a window is silent.
        silent: bool (windows,) windows of digital silence.
        clip: int64 (windows,) index of each window's clip in the store.
        start: int64 (windows,) first sample of each window in its clip.
    """

    logits: NDArray[np.float32]
    silent: NDArray[np.bool_]
    clip: Integers
    start: Integers

    def to_npz(self) -> bytes:
        """A .npz file with these four arrays by name."""
        return npz_bytes(logits=self.logits, silent=self.silent, clip=self.clip, start=self.start)


@dataclass(frozen=True)
class LabelledPredictions:
    """Logits of the windows of clips, and what is known of these clips.

    Attributes:
        logits: (windows, labels), any value where a window is silent.
        silent: (windows,) windows of digital silence.
        clip_of: (windows,) each window's clip, 0..clips - 1; every clip has a window.
        truth: (clips,) index of each clip's label.
        recording: (clips,) 0..recordings - 1; clips of one recording are no independent evidence.
        labels: names, in the order of the logits.
        paths, recorders: (clips,) names; a recorder of "" is unknown.
        temperature: divides the logits before the softmax.
    """

    logits: NDArray[np.floating]
    silent: NDArray[np.bool_]
    clip_of: Integers
    truth: Integers
    recording: Integers
    labels: tuple[str, ...]
    paths: tuple[str, ...]
    recorders: tuple[str, ...]
    temperature: float = 1.0

    def window_probabilities(self) -> Floats:
        """(windows, labels)."""
        return softmax(self.logits, self.temperature)

    def clip_probabilities(self) -> tuple[Floats, NDArray[np.bool_]]:
        """(clips, labels), zeros for silent clips, and (clips,) which clips are silent."""
        return clip_means(self.window_probabilities(), self.silent, self.clip_of, len(self.truth))


def npz_bytes(**arrays: Any) -> bytes:
    """A .npz file of arrays by name."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_predictions(path: Path, clips: Integers) -> Predictions:
    """Predictions of a finished run.

    Args:
        path: a file of `Predictions.to_npz` in the run folder.
        clips: (clips,) indices that they must be of.

    Raises:
        InputError: the file is missing, damaged, or of other clips.
    """
    return Predictions(*read_arrays(path, ("logits", "silent", "clip", "start"), clips))


def read_arrays(path: Path, names: Sequence[str], clips: Integers) -> list[NDArray[Any]]:
    """Arrays of a .npz file in a run folder.

    Args:
        path: the file.
        names: of the arrays; the array "clip" among them holds indices of clips.
        clips: (clips,) indices that "clip" must consist of.

    Raises:
        InputError: the file is missing, damaged, or of other clips.
    """
    todo = f"remove {path.parent} and train that run again"
    try:
        # opened here, because numpy leaves a damaged file open
        with path.open("rb") as file, np.load(file) as kept:
            found = [kept[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); {todo}") from None
    if not np.array_equal(np.unique(found[names.index("clip")]), np.unique(clips)):
        raise InputError(f"{path}: holds predictions of other clips than the test side of its run; {todo}")
    return found
