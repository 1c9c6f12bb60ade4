"""What a model hears, gathered straight from the store's memory map: windows for tests, one augmented epoch for training. No torch here.

All draws of an epoch come from a counter-based generator keyed by (seed, stream, epoch), so that epoch n is the same whether or not
the epochs before it ran in this process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgekd.data.store import ClipStore, windows
from edgekd.distill.recipe import DEFAULT_WINDOW, Recipe, View
from edgekd.errors import InputError

LONGEST_CLIP = 60.0
"""Seconds: a "clip" view without a length refuses stores with longer clips, which would not fit in memory."""
CROP_TRIES = 8
"""Crops drawn in search of one that is not silent."""
MIN_SOUND = 0.1
"""Share of a crop's samples that are not digital silence, for a crop to be taken at once."""
PLAIN_BATCH = 64
"""Clips in one batch of `TrainingView.plain`."""

Index = NDArray[np.int64]
Floats = NDArray[np.float32]


class Batch(TypedDict):
    """One training batch as it is moved to the device; b items, m masks.

    waveform: float32 (b, time). clip: int64 (b,) indices into the store. gain_db: float32 (b,). partner: int64 (b,) position of
    mixup's other clip in the batch. share: float32 (b,), 1 where nothing is mixed. mel_start, mel_width, frame_start, frame_width:
    int64 (b, m).
    """

    waveform: Floats
    clip: Index
    gain_db: Floats
    partner: Index
    share: Floats
    mel_start: Index
    mel_width: Index
    frame_start: Index
    frame_width: Index


@dataclass(frozen=True)
class Windows:
    """Places to listen at. clip: (windows,) indices into the store; start: (windows,) first samples; samples: length of each."""

    clip: Index
    start: Index
    samples: int
    tile: bool
    """Whether what is too short is repeated (a whole clip) or followed by zeros (a window, as on the device)."""

    def __len__(self) -> int:
        return len(self.clip)


def window_samples(view: View, store: ClipStore) -> int:
    """Samples that a model hears at a time.

    Raises:
        InputError: a whole-clip view of very long clips without a length.
    """
    if view.span == "crop" or view.seconds is not None:
        return round((view.seconds or DEFAULT_WINDOW) * store.sample_rate)
    longest = int(store.lengths.max())
    if longest > LONGEST_CLIP * store.sample_rate:
        raise InputError(f"{store.path}: the longest clip has {longest / store.sample_rate:.0f} s; set view.seconds, "
                         "e.g. --set view.seconds=10")
    return longest


def scored_windows(store: ClipStore, clips: Index, view: View) -> Windows:
    """Where a model listens in a test: consecutive windows of each clip, or its middle for a whole-clip view."""
    samples = window_samples(view, store)
    if view.span == "clip":
        return Windows(clips, np.maximum(store.lengths[clips] - samples, 0) // 2, samples, tile=True)
    starts = [windows(int(store.lengths[clip]), samples, samples) for clip in clips]
    owner = np.repeat(clips, [len(each) for each in starts])
    return Windows(owner, np.concatenate([np.asarray(each, np.int64) for each in starts]), samples, tile=False)


def gather(store: ClipStore, places: Windows) -> Floats:
    """Waveforms float32 (windows, samples) in [-1, 1], the mean of channels."""
    out = np.zeros((len(places), places.samples), np.float32)
    for row, clip, start in zip(out, places.clip, places.start, strict=True):
        heard = store.window(int(clip), int(start), places.samples)
        length = int(min(store.lengths[clip] - start, places.samples))
        row[:] = np.resize(heard[:length], places.samples) if places.tile and length < places.samples else heard
    return out


class TrainingView:
    """A training set as one model hears it; `batches(epoch)` gives an epoch.

    Args:
        store: where the audio is.
        clips: (clips,) indices to train on.
        recipe: its view, augmentation and seed.
        batch_size: items of a batch at most; batches of an epoch differ by one item at most.
        mels, frames: shape of the log-mel, for masks.
        stream: tells the phases of a run apart.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, batch_size: int, mels: int, frames: int, stream: int) -> None:
        self.store, self.clips, self.recipe = store, clips, recipe
        self.samples = window_samples(recipe.view, store)
        self.steps = -(-len(clips) // batch_size)
        self._mels, self._frames, self._stream = mels, frames, stream

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All training clips once, shuffled and augmented."""
        augment = self.recipe.augment
        rng = generator(self.recipe.seed, self._stream, epoch)
        order = rng.permutation(self.clips)
        count = len(order)
        crops = rng.random((count, CROP_TRIES if augment.skip_silence else 1))
        limit = min(round(augment.roll * self.store.sample_rate), self.samples // 2)
        shift = rng.integers(-limit, limit + 1, count)
        gain_db = rng.uniform(-augment.gain_db, augment.gain_db, count).astype(np.float32)
        mixed = rng.random(count) < augment.mixup_p
        share = np.where(mixed, rng.beta(augment.mixup_alpha, augment.mixup_alpha, count), 1.0).astype(np.float32)
        mel_start, mel_width = _masks(rng, count, augment.mel_masks, augment.mel_mask_bins, self._mels)
        frame_start, frame_width = _masks(rng, count, augment.time_masks, augment.time_mask_frames, self._frames)
        for part in np.array_split(np.arange(count), self.steps):
            yield Batch(
                waveform=self._waveforms(order[part], crops[part], shift[part]), clip=order[part], gain_db=gain_db[part],
                partner=rng.permutation(len(part)), share=share[part], mel_start=mel_start[part], mel_width=mel_width[part],
                frame_start=frame_start[part], frame_width=frame_width[part])

    def plain(self, count: int) -> Iterator[Floats]:
        """Waveforms (up to 64, samples) of up to `count` training clips, without augmentation: for statistics and calibration."""
        rng = generator(self.recipe.seed, self._stream, 0)
        chosen = rng.permutation(self.clips)[:count]
        crops = rng.random((len(chosen), CROP_TRIES))
        for part in np.array_split(np.arange(len(chosen)), -(-len(chosen) // PLAIN_BATCH)):
            yield self._waveforms(chosen[part], crops[part], np.zeros(len(part), np.int64))

    def _waveforms(self, clips: Index, crops: NDArray[np.float64], shift: Index) -> Floats:
        whole = self.recipe.view.span == "clip"
        starts = np.array([self._start(int(clip), tries, whole) for clip, tries in zip(clips, crops, strict=True)], np.int64)
        waveform = gather(self.store, Windows(clips, starts, self.samples, tile=whole))
        for row, by in zip(waveform, shift, strict=True):
            if by:
                row[:] = np.roll(row, by)
        return waveform

    def _start(self, clip: int, tries: NDArray[np.float64], whole: bool) -> int:
        """The first crop with sound in it, or the one with most; the drawn numbers are positions from 0 to 1."""
        room = int(self.store.lengths[clip]) - self.samples
        if room <= 0:
            return 0
        starts = (tries * (room + 1)).astype(np.int64)
        if whole or len(starts) == 1:
            return int(starts[0])
        pcm = self.store.clip_pcm(clip)
        best, most = 0, -1.0
        for start in starts:
            sound = np.count_nonzero(pcm[start:start + self.samples]) / self.store.channels
            if sound >= MIN_SOUND * self.samples:
                return int(start)
            if sound > most:
                best, most = int(start), sound
        return best


def generator(seed: int, stream: int, epoch: int) -> np.random.Generator:
    """Counter-based generator of one epoch: Philox keyed by (seed, stream, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, epoch]))


def _masks(rng: np.random.Generator, count: int, masks: int, widest: int, size: int) -> tuple[Index, Index]:
    """Starts and widths int64 (count, masks), every width from 0 to `widest` and every place equally likely."""
    width = rng.integers(0, min(widest, size) + 1, (count, masks))
    start = (rng.random((count, masks)) * (size - width + 1)).astype(np.int64)
    return start, width
