"""Random crops: where in a clip, which clips are joined, how far they are rolled and how loud they are. No torch
here."""

import numpy as np

from edgekd.data.store.recordings import Recordings
from edgekd.data.store.store import ClipStore
from edgekd.train.batches.crops import Crops, Floats, Index, recording_crops, window_samples
from edgekd.train.batches.random_streams import Purpose, RandomNumbers
from edgekd.train.batches.silence import nonzero_counts
from edgekd.train.recipe.recipe import Recipe

CROP_TRIES = 8
"""Crops drawn in search of one that is not silent."""
MIN_NONZERO = 0.1
"""Share of a crop's samples that are not digital silence. The first crop drawn that has it is taken."""


class RandomCrops:
    """Draws crops, clips to join, rolls and gains as a recipe's view and augmentation say.

    Args:
        store: where the audio is.
        clips: (clips,) that may be joined to another.
        recipe: its view and augmentation.
        closed: whether recordings are put together from these clips alone.

    Attributes:
        samples: of the view.
        parents: the recordings of a "parent" view.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, *, closed: bool) -> None:
        self.store, self.view, self.augment = store, recipe.view, recipe.augment
        self.samples = window_samples(self.view, store)
        self.parents: Recordings | None = None
        if self.view.span == "parent":
            self.parents = store.recordings.subset(clips, store.lengths) if closed else store.recordings
        if self.view.span == "pair":
            clips = np.sort(clips)  # the choice is by position
            self._by_label = clips[np.argsort(store.label_index[clips], kind="stable")]  # label after label
            self._count = np.bincount(store.label_index[clips], minlength=len(store.labels))
            self._first = np.cumsum(self._count) - self._count
            # of a clip among those of its label; a number beyond all lists for other clips
            self._position = np.full(len(store.clips), len(clips))
            self._position[self._by_label] = np.arange(len(clips)) - self._first[store.label_index[self._by_label]]

    def crops(
        self, rng: RandomNumbers, clips: Index, span: Index, samples: int, shift: Index | None, *, skip_silence: bool
    ) -> Crops:
        """Random crops of clips (n,), each with `span` (n,) samples of audio in rows of `samples`.

        Args:
            rng: of the epoch.
            clips: (n,) indices into the store.
            span, samples, shift: as in `Crops`.
            skip_silence: draw again where a crop is mostly digital silence.
        """
        channels = self.view.channels
        if self.parents is not None:
            numbers = self.parents.recording[clips]
            room = np.maximum(self.parents.length[numbers] - span, 0)
            begin = (rng.per_clip(Purpose.CROP, clips) * (room + 1)).astype(np.int64)
            rows = Crops(clips, begin, samples, tile=True, span=span, shift=shift, channels=channels)
            return recording_crops(self.store, self.parents, numbers, begin, rows)
        if self.view.span == "pair":
            pieces = self.view.joined
            joined, length = self._joined(rng, clips).ravel(), np.repeat(-(-span // pieces), pieces)
            starts = self._starts(rng, joined, length, skip_silence)
            return Crops(joined, starts, samples, True, span, shift, pieces, length, channels)
        starts = self._starts(rng, clips, span, skip_silence)
        return Crops(clips, starts, samples, self._whole_clips, span, shift, channels=channels)

    def shifts(self, rng: RandomNumbers, clips: Index, span: Index) -> Index:
        """(clips,) circular shifts in samples, at most augment.roll seconds and half of `span` either way."""
        limit = np.minimum(round(self.augment.roll * self.store.sample_rate), span // 2)
        shift: Index = (rng.per_clip(Purpose.ROLL, clips) * (2 * limit + 1)).astype(np.int64) - limit
        return shift

    def gain_db(self, rng: RandomNumbers, clips: Index) -> Floats:
        """float32 (clips,) decibels within augment.gain_db either way."""
        return ((2 * rng.per_clip(Purpose.GAIN, clips) - 1) * self.augment.gain_db).astype(np.float32)

    @property
    def _whole_clips(self) -> bool:
        return self.view.span != "crop"

    def _joined(self, rng: RandomNumbers, clips: Index) -> Index:
        """(clips, pieces): each clip and others of its label, none twice while there are enough.

        A clip that is alone with its label is joined to itself.
        """
        beyond = len(self._by_label)
        label = self.store.label_index[clips]
        own = self._position[clips]
        others = self._count[label] - (own < beyond)
        drawn = rng.uniform(Purpose.JOINED, clips, self.view.joined - 1)
        taken = np.full((len(clips), self.view.joined), beyond)
        taken[:, 0] = own
        joined = np.repeat(clips[:, None], self.view.joined, axis=1)
        for piece in range(1, self.view.joined):
            fresh = others >= piece
            left = np.where(fresh, others - piece + 1, np.maximum(others, 1))
            position = (drawn[:, piece - 1] * left).astype(np.int64)
            skipped = np.where((np.arange(piece) == 0) | fresh[:, None], taken[:, :piece], beyond)
            for each in np.sort(skipped, axis=1).T:
                position += position >= each
            taken[:, piece] = position
            has_others = others > 0
            joined[has_others, piece] = self._by_label[(self._first[label] + position)[has_others]]
        return joined

    def _starts(self, rng: RandomNumbers, clips: Index, span: Index, skip_silence: bool) -> Index:
        """First samples (clips,): of the first crop drawn with enough nonzero samples, or of the one with most."""
        room = np.maximum(self.store.lengths[clips] - span, 0)
        avoid_silence = skip_silence and not self._whole_clips and bool(room.any())
        tries = rng.uniform(Purpose.CROP, clips, CROP_TRIES if avoid_silence else 1)
        starts: Index = (tries * (room[:, None] + 1)).astype(np.int64)  # (clips, tries)
        if not avoid_silence:
            return starts[:, 0]
        span = np.minimum(span, self.store.lengths[clips])[:, None]
        nonzero = nonzero_counts(self.store).count(clips[:, None], starts, span)
        enough = nonzero >= MIN_NONZERO * span
        taken = np.where(enough.any(axis=1), enough.argmax(axis=1), nonzero.argmax(axis=1))
        chosen: Index = np.take_along_axis(starts, taken[:, None], axis=1)[:, 0]
        return chosen
