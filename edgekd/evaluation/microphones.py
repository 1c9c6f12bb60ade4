"""`edgekd evaluate --microphones`: the clips of an evaluation once more, through the impulse responses of other
microphones.

Each window is heard as it would be if the microphone had heard the whole clip: what sounded before it rings on into it.
Nothing is clipped or rounded. The audio is read once, and transformed once for all microphones. With `--equalise` each
is put behind an equaliser first, made from clips of other splits.
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
from edgekd.metrics.findings import Answers
from edgekd.metrics.microphones import DeviceShift, Group, Microphone, Paired, device_shift
from edgekd.modelfile.engine import Model
from edgekd.modelfile.equaliser import BandMean, colour, equalised
from edgekd.text import counted

Floats = NDArray[np.float32]
FFT_BLOCK = 4096
"""Samples of a transform are a multiple of this, which keeps their number's factors small."""
WHICH: dict[MicSplit, str] = {"all": "all of them", "train": "those for training", "test": "those for tests"}
HEADER = ("", "make", "clips", "difference", "lost", "gained", "windows", "difference")

EQUALISE_SEED = 0
"""Chooses the clips that equalisers are made from."""

NOTE = (
    "Differences from the clips as they are in points, with the 95 % interval of a bootstrap over the recordings of"
    " both; lost and gained are clips. The worst of many is in part chance."
)


@dataclass(frozen=True)
class Microphones:
    """Those to hear through, read. folder, split: where they come from. files: with their makes. responses: float32
    (microphones, taps)."""

    folder: Path
    split: MicSplit
    files: Sequence[MicrophoneFile]
    responses: NDArray[np.float32]

    @classmethod
    def read(cls, folder: Path, split: MicSplit, sample_rate: int) -> "Microphones":
        """Of a folder of impulse responses.

        Args:
            folder: see `edgekd.data.audio.impulse_responses`.
            split: "test" takes those that `augment.ir_split = "train"` leaves; see
                `edgekd.data.audio.microphone_makes`.
            sample_rate: Hz of the model's front end.

        Raises:
            InputError: see `response_files` and `load_responses`.
        """
        files = response_files(folder, split)
        return cls(folder, split, files, load_responses(files, sample_rate))


@dataclass(frozen=True)
class ShiftReport:
    """What came of `microphones`, which `found` is of. equalised: clips that the equaliser of each was made from, None
    without."""

    microphones: Microphones
    found: DeviceShift
    equalised: int | None = None

    def where(self) -> str:
        """What the clips were heard through, in words."""
        behind = (
            "" if self.equalised is None else f", each equalised by {counted(self.equalised, 'clip')} of other splits"
        )
        return (
            f"{len(self.found.microphones)} microphones of {len(self.found.makes)} makes,"
            f" {WHICH[self.microphones.split]}, in {self.microphones.folder}{behind}"
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
        """Of `HEADER`: as the clips are, each microphone, the mean and the worst."""
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
        table = [list(HEADER), *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
        lines = [f"through {self.where()}"]
        lines += [
            "  "
            + "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([*lines, NOTE])

    def require(self, max_drop: float | None) -> None:
        """Judge the worst microphone.

        Raises:
            GateError: its clip accuracy is more than `max_drop`, 0..1, below that of the clips as they are.
        """
        worst = self.found.worst
        drop = self.found.clips - worst.clips.accuracy
        if max_drop is not None and drop > max_drop:
            raise GateError(
                f"through {worst.name} the clip accuracy is {drop:.4f} lower, more than --max-drop {max_drop:g}"
            )


def asked(
    folder: Path | None, split: str | None, max_drop: float | None, equalise: int | None
) -> tuple[Path, MicSplit] | None:
    """What the options of the command line ask for: a folder, and which of its makes; None where nothing.

    Raises:
        InputError: an unknown split, a `max_drop` that is no fraction, `equalise` by no clip, or any of them without a
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


def hear(
    model: Model,
    store: ClipStore,
    clips: NDArray[np.int64],
    starts: Sequence[Sequence[int]],
    answers: Answers,
    microphones: Microphones,
    equalise: int | None = None,
) -> ShiftReport:
    """Run a model over the windows of clips through every microphone.

    Args:
        model: an opened model file.
        store: where the audio is.
        clips: (clips,) indices that `answers` are of.
        starts: first samples of the windows of each.
        answers: what the model says of the clips as they are.
        microphones: to hear through.
        equalise: other clips that an equaliser of each microphone is made from; None uses none.

    Raises:
        InputError: too few other clips, or nothing but silence; a model that does not tell its mean spectrum.
    """
    places = [(int(clip), start) for clip, of_clip in zip(clips, starts, strict=True) for start in of_clip]
    sounding = np.flatnonzero(~answers.silent)
    window, labels, fe = model.manifest.window, len(model.manifest.labels), model.manifest.frontend
    models = (
        [model] * len(microphones.files) if equalise is None else _equalised(model, store, clips, microphones, equalise)
    )
    logits = np.zeros((len(microphones.files), len(places), labels), np.float32)
    for first, _, through in _heard(store, [places[each] for each in sounding], window, microphones):
        for said, behind, waveforms in zip(logits, models, through, strict=True):
            said[sounding[first : first + len(waveforms)]] = behind.logits(log_mel(fe, waveforms))
    found = device_shift(answers, logits, [(path.stem, make) for path, make in microphones.files])
    return ShiftReport(microphones, found, equalise)


def _equalised(
    model: Model, store: ClipStore, judged: NDArray[np.int64], microphones: Microphones, count: int
) -> list[Model]:
    """The model behind an equaliser of each microphone, which heard `count` clips beside the judged ones, without their
    labels."""
    window, fe = model.manifest.window, model.manifest.frontend
    others = np.setdiff1d(np.arange(len(store.clips)), judged)
    if len(others) < count:
        raise InputError(
            f"--equalise {count}: {counted(len(others), 'clip')} of {store.path} beside those that are judged; name"
            " what is judged with --split, or give a smaller number"
        )
    heard = np.sort(np.random.default_rng(EQUALISE_SEED).choice(others, count, replace=False))
    places = [(int(clip), start) for clip in heard for start in window_starts(int(store.lengths[clip]), window, window)]
    means = [BandMean(fe) for _ in microphones.files]
    for _, plain, through in _heard(store, places, window, microphones):
        sounding = means[0].sounding(log_mel(fe, plain))  # a response rings on into digital silence
        for mean, waveforms in zip(means, through, strict=True):
            mean.add(log_mel(fe, waveforms), sounding)
    return [equalised(model, colour(model.manifest, mean.value())) for mean in means]


def _heard(
    store: ClipStore, places: Sequence[tuple[int, int]], window: int, microphones: Microphones
) -> Iterator[tuple[int, Floats, Iterator[Floats]]]:
    """Windows of a store batch by batch, float32 (batch, window), as they are and through one microphone after the
    other; and the place of the batch's first among `places`, (clip, first sample) each."""
    memory = microphones.responses.shape[1] - 1  # samples before a window that ring on into it
    size = -(-(memory + window) // FFT_BLOCK) * FFT_BLOCK
    responses = np.fft.rfft(microphones.responses, size)  # (microphones, bins)
    for first in range(0, len(places), BATCH):
        contexts = np.stack(
            [_with_past(store, *place, window=window, memory=memory) for place in places[first : first + BATCH]]
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
    """(memory + window,) a window with the samples before it, zeros before the clip's first."""
    past = min(start, memory)
    return np.pad(store.window(clip, start - past, past + window), (memory - past, 0))


def _named(each: Microphone | Group) -> dict[str, Any]:
    return {"name": each.name} | _figures(each)


def _figures(each: Microphone | Group) -> dict[str, Any]:
    def of(paired: Paired) -> dict[str, Any]:
        return {"accuracy": paired.accuracy, "difference": paired.difference}

    return {"clips": of(each.clips), "windows": of(each.windows)}


def _row(name: str, make: str, each: Microphone | Group) -> list[str]:
    counts = [str(each.lost), str(each.gained)] if isinstance(each, Microphone) else ["", ""]
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


def _points(each: Paired) -> str:
    difference = each.difference
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
