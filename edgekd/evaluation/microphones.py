"""`edgekd evaluate --microphones`: scores of the same clips through the impulse responses of other microphones.

Each window is a part of the whole clip's convolution with the impulse response: samples before the window ring on into
it. Nothing is clipped or rounded. The audio is read once, and transformed once for all microphones. With `--equalise`
each microphone is corrected by an equaliser, made from clips of other splits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.impulse_responses import load_responses, response_files
from edgekd.data.audio.microphone_makes import DEFAULT_SPLIT, MicrophoneFile, MicSplit, parse_mic_split
from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.evaluation.inference import BATCH
from edgekd.frontend import log_mel
from edgekd.metrics.microphones import DeviceShift, MakeShift, MicrophoneShift, PairedAccuracy, device_shift
from edgekd.metrics.predictions import LabelledPredictions
from edgekd.modelfile.engine import Model
from edgekd.modelfile.equaliser import BandMean, band_gains, with_gains
from edgekd.text import columns, counted

Floats = NDArray[np.float32]
FFT_BLOCK = 4096
"""The length of a transform is a multiple of this number of samples, which keeps its prime factors small."""
SPLIT_WORDS: dict[MicSplit, str] = {"all": "all of them", "train": "those for training", "test": "those for tests"}
HEADER = ("", "make", "clips", "difference", "lost", "gained", "windows", "difference")
EQUALISE_SEED = 0
"""Seed of the choice of clips from which equalisers are made."""
NOTE = (
    "Differences from the clips as they are in points, with the 95 % interval of a bootstrap over the recordings of"
    " both; lost and gained are clips. The worst of many is so in part by chance."
)


@dataclass(frozen=True)
class Microphones:
    """Impulse responses of microphones.

    Attributes:
        folder, split: where they come from.
        files: with their makes.
        responses: float32 (microphones, taps).
    """

    folder: Path
    split: MicSplit
    files: Sequence[MicrophoneFile]
    responses: NDArray[np.float32]

    @classmethod
    def read(cls, folder: Path, split: MicSplit, sample_rate: int) -> "Microphones":
        """The microphones of a folder of impulse responses.

        Args:
            folder: see `edgekd.data.audio.impulse_responses`.
            split: "test" is all makes that `augment.ir_split = "train"` leaves out; see
                `edgekd.data.audio.microphone_makes`.
            sample_rate: Hz of the model's front end.

        Raises:
            InputError: see `response_files` and `load_responses`.
        """
        files = response_files(folder, split)
        return cls(folder, split, files, load_responses(files, sample_rate))


@dataclass(frozen=True)
class ShiftReport:
    """Scores through microphones.

    Attributes:
        microphones: which.
        found: the scores.
        equalised: number of clips from which the equaliser of each microphone was made; None without equalisers.
    """

    microphones: Microphones
    found: DeviceShift
    equalised: int | None = None

    def where(self) -> str:
        """Number and source of the microphones, in words."""
        equalised = (
            "" if self.equalised is None else f", each equalised by {counted(self.equalised, 'clip')} of other splits"
        )
        return (
            f"{len(self.found.microphones)} microphones of {len(self.found.makes)} makes,"
            f" {SPLIT_WORDS[self.microphones.split]}, in {self.microphones.folder}{equalised}"
        )

    def to_builtins(self) -> dict[str, Any]:
        """`microphones` in the document of `evaluate --json`."""
        found = self.found
        return {
            "folder": str(self.microphones.folder),
            "split": self.microphones.split,
            "equalised": self.equalised,
            "clean": {"clip_accuracy": found.clips, "window_accuracy": found.windows},
            "each": [
                _named(each) | {"make": each.make, "lost": each.lost, "gained": each.gained}
                for each in found.microphones
            ],
            "makes": [_named(each) | {"count": each.count} for each in found.makes],
            "mean": _figures(found.mean),
            "worst": found.worst.name,
            "worst_make": found.worst_make.name,
        }

    def rows(self) -> list[list[str]]:
        """Rows under `HEADER`: the clips as they are, each microphone, the mean and the worst."""
        found, worst, make = self.found, self.found.worst, self.found.worst_make
        return [
            ["as they are", "", _share(found.clips), "", "", "", _share(found.windows), ""],
            *(_row(each.name, each.make, each) for each in found.microphones),
            _row("mean", "", found.mean),
            _row("worst", worst.name, worst),
            _row("worst make", make.name, make),
        ]

    def to_text(self) -> str:
        """A table for people."""
        return "\n".join([f"through {self.where()}", *columns(HEADER, self.rows(), left=2, indent="  "), NOTE])

    def require(self, max_drop: float | None) -> None:
        """Fail where the clip accuracy through the worst microphone is too low.

        Raises:
            GateError: it is more than `max_drop`, 0..1, below that of the clips as they are.
        """
        worst = self.found.worst
        drop = self.found.clips - worst.clips.accuracy
        if max_drop is not None and drop > max_drop:
            raise GateError(
                f"through {worst.name} the clip accuracy is {drop:.4f} lower, more than --max-drop {max_drop:g}"
            )


def microphone_options(
    folder: Path | None, split: str | None, max_drop: float | None, equalise: int | None
) -> tuple[Path, MicSplit] | None:
    """The folder and the split of the options of the command line; None without a folder.

    Raises:
        InputError: an unknown split, a `max_drop` that is no fraction, `equalise` below 1, or any of them without a
            folder.
    """
    if equalise is not None and equalise < 1:
        raise InputError(
            f"--equalise is {equalise}; give the number of clips that equalisers are made from, for instance 100"
        )
    if max_drop is not None and not 0.0 <= max_drop <= 1.0:
        raise InputError(f"--max-drop is {max_drop:g}; give a fraction from 0 to 1, for instance 0.03")
    if folder is None:
        for option, value in (("--mic-split", split), ("--max-drop", max_drop), ("--equalise", equalise)):
            if value is not None:
                raise InputError(
                    f"{option} {value} without --microphones FOLDER, which it is for; name the folder of impulse"
                    " responses"
                )
        return None
    return folder, parse_mic_split(DEFAULT_SPLIT if split is None else split)


def evaluate_microphones(
    model: Model,
    store: ClipStore,
    clips: NDArray[np.int64],
    starts: Sequence[Sequence[int]],
    predictions: LabelledPredictions,
    microphones: Microphones,
    equalise: int | None = None,
) -> ShiftReport:
    """Scores of a model on the windows of clips through every microphone.

    Args:
        model: an opened model file.
        store: where the audio is.
        clips: (clips,) indices that `predictions` are of.
        starts: first samples of the windows of each clip.
        predictions: of the clips as they are.
        microphones: through which.
        equalise: number of other clips from which an equaliser of each microphone is made; None uses none.

    Raises:
        InputError: too few other clips, or nothing but silence in them; a model without a mean spectrum.
    """
    positions = [(int(clip), start) for clip, of_clip in zip(clips, starts, strict=True) for start in of_clip]
    sounding = np.flatnonzero(~predictions.silent)
    window, labels, fe = model.manifest.window, len(model.manifest.labels), model.manifest.frontend
    models = (
        [model] * len(microphones.files) if equalise is None else _equalised(model, store, clips, microphones, equalise)
    )
    logits = np.zeros((len(microphones.files), len(positions), labels), np.float32)
    for first, _, through in _convolved(store, [positions[each] for each in sounding], window, microphones):
        for of_microphone, own, waveforms in zip(logits, models, through, strict=True):
            of_microphone[sounding[first : first + len(waveforms)]] = own.logits(log_mel(fe, waveforms))
    found = device_shift(predictions, logits, [(path.stem, make) for path, make in microphones.files])
    return ShiftReport(microphones, found, equalise)


def _equalised(
    model: Model, store: ClipStore, scored: NDArray[np.int64], microphones: Microphones, count: int
) -> list[Model]:
    """The model with an equaliser of each microphone, made from `count` clips that are not scored; no label is used."""
    window, fe = model.manifest.window, model.manifest.frontend
    others = np.setdiff1d(np.arange(len(store.clips)), scored)
    if len(others) < count:
        raise InputError(
            f"--equalise {count}: {counted(len(others), 'clip')} of {store.path} are not scored; choose fewer"
            " scored clips with --split, or give a smaller number"
        )
    chosen = np.sort(np.random.default_rng(EQUALISE_SEED).choice(others, count, replace=False))
    positions = [
        (int(clip), start) for clip in chosen for start in window_starts(int(store.lengths[clip]), window, window)
    ]
    means = [BandMean(fe) for _ in microphones.files]
    for _, plain, through in _convolved(store, positions, window, microphones):
        # of the clips as they are: a response rings on into digital silence
        sounding = means[0].not_silent(log_mel(fe, plain))
        for mean, waveforms in zip(means, through, strict=True):
            mean.add(log_mel(fe, waveforms), sounding)
    return [with_gains(model, band_gains(model.manifest, mean.value())) for mean in means]


def _convolved(
    store: ClipStore, positions: Sequence[tuple[int, int]], window: int, microphones: Microphones
) -> Iterator[tuple[int, Floats, Iterator[Floats]]]:
    """Windows at positions (clip, first sample), batch by batch: the index of the batch's first position, its windows
    float32 (batch, window) as they are, and the same through one microphone after the other."""
    memory = microphones.responses.shape[1] - 1  # samples before a window that ring on into it
    size = -(-(memory + window) // FFT_BLOCK) * FFT_BLOCK
    responses = np.fft.rfft(microphones.responses, size)  # (microphones, bins)
    for first in range(0, len(positions), BATCH):
        contexts = np.stack(
            [_with_past(store, *each, window=window, memory=memory) for each in positions[first : first + BATCH]]
        )
        spectrum = np.fft.rfft(contexts, size)  # (batch, bins)
        yield (
            first,
            contexts[:, memory:],
            (
                np.fft.irfft(spectrum * response, size)[:, memory : memory + window].astype(np.float32)
                for response in responses
            ),
        )


def _with_past(store: ClipStore, clip: int, start: int, *, window: int, memory: int) -> Floats:
    """(memory + window,) a window and the samples before it, with zeros before the clip's first sample."""
    past = min(start, memory)
    return np.pad(store.window(clip, start - past, past + window), (memory - past, 0))


def _named(each: MicrophoneShift | MakeShift) -> dict[str, Any]:
    return {"name": each.name} | _figures(each)


def _figures(each: MicrophoneShift | MakeShift) -> dict[str, Any]:
    def of(paired: PairedAccuracy) -> dict[str, Any]:
        return {"accuracy": paired.accuracy, "difference": paired.difference}

    return {"clips": of(each.clips), "windows": of(each.windows)}


def _row(name: str, make: str, each: MicrophoneShift | MakeShift) -> list[str]:
    counts = [str(each.lost), str(each.gained)] if isinstance(each, MicrophoneShift) else ["", ""]
    return [
        name,
        make,
        _share(each.clips.accuracy),
        _points(each.clips),
        *counts,
        _share(each.windows.accuracy),
        _points(each.windows),
    ]


def _share(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _points(each: PairedAccuracy) -> str:
    difference = each.difference
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
