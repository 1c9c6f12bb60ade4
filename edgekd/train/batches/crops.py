"""How sounds are heard in training: which crop, which clips joined, rolled how far and how loud. No torch here."""

import numpy as np

from edgekd.data.store.recordings import Recordings
from edgekd.data.store.store import ClipStore
from edgekd.train.batches.random_streams import Draws, Purpose
from edgekd.train.batches.silence import sound_of
from edgekd.train.batches.windows import Floats, Index, Windows, joined_windows, window_samples
from edgekd.train.recipe.recipe import Recipe

CROP_TRIES = 8
"""Crops drawn in search of one that is not silent."""
MIN_SOUND = 0.1
"""Share of a crop's samples that are not digital silence, for a crop to be taken at once."""


class Listener:
    """How sounds are heard in training: drawn crops, clips to join, rolls and gains.

    Args:
        store: where the audio is.
        clips: (clips,) that may be joined to another.
        recipe: its view and augmentation.
        closed: whether recordings are put together from these clips alone.

    Attributes:
        samples: of the view.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, *, closed: bool) -> None:
        self.store, self.view, self.augment = store, recipe.view, recipe.augment
        self.samples = window_samples(self.view, store)
        self.parents: Recordings | None = None
        if self.view.span == "parent":
            self.parents = store.recordings.subset(clips, store.lengths) if closed else store.recordings
        if self.view.span == "pair":
            clips = np.sort(clips)  # draws choose by place
            self._alike = clips[np.argsort(store.label_index[clips], kind="stable")]  # label after label
            self._count = np.bincount(store.label_index[clips], minlength=len(store.labels))
            self._first = np.cumsum(self._count) - self._count
            # in the list of its label; beyond all lists for other clips
            self._place = np.full(len(store.clips), len(clips))
            self._place[self._alike] = np.arange(len(clips)) - self._first[store.label_index[self._alike]]

    def places(
        self, draws: Draws, clips: Index, span: Index, samples: int, shift: Index | None, *, skip_silence: bool
    ) -> Windows:
        """Where clips (n,) are heard, each for `span` (n,) of `samples` samples: in crops drawn, rows as in
        `Windows`."""
        channels = self.view.channels
        if self.parents is not None:
            numbers = self.parents.recording[clips]
            room = np.maximum(self.parents.length[numbers] - span, 0)
            begin = (draws.one(Purpose.CROP, clips) * (room + 1)).astype(np.int64)
            rows = Windows(clips, begin, samples, tile=True, span=span, shift=shift, channels=channels)
            return joined_windows(self.store, self.parents, numbers, begin, rows)
        if self.view.span == "pair":
            pieces = self.view.joined
            joined, length = self._joined(draws, clips).ravel(), np.repeat(-(-span // pieces), pieces)
            return Windows(
                joined,
                self._starts(draws, joined, length, skip_silence),
                samples,
                True,
                span,
                shift,
                pieces,
                length,
                channels,
            )
        return Windows(
            clips, self._starts(draws, clips, span, skip_silence), samples, self._whole, span, shift, channels=channels
        )

    def shift(self, draws: Draws, clips: Index, span: Index) -> Index:
        """(clips,) samples by which what is heard is rolled."""
        limit = np.minimum(round(self.augment.roll * self.store.sample_rate), span // 2)
        return (draws.one(Purpose.ROLL, clips) * (2 * limit + 1)).astype(np.int64) - limit

    def gain_db(self, draws: Draws, clips: Index) -> Floats:
        """float32 (clips,)."""
        return ((2 * draws.one(Purpose.GAIN, clips) - 1) * self.augment.gain_db).astype(np.float32)

    @property
    def _whole(self) -> bool:
        return self.view.span != "crop"

    def _joined(self, draws: Draws, clips: Index) -> Index:
        """(clips, pieces): each clip and others of its label, none twice while there are enough; one that is alone is
        joined to itself."""
        beyond = len(self._alike)
        label = self.store.label_index[clips]
        own = self._place[clips]
        others = self._count[label] - (own < beyond)
        drawn = draws.uniform(Purpose.JOINED, clips, self.view.joined - 1)
        taken = np.full((len(clips), self.view.joined), beyond)
        taken[:, 0] = own
        joined = np.repeat(clips[:, None], self.view.joined, axis=1)
        for piece in range(1, self.view.joined):
            fresh = others >= piece
            left = np.where(fresh, others - piece + 1, np.maximum(others, 1))
            place = (drawn[:, piece - 1] * left).astype(np.int64)
            skipped = np.where((np.arange(piece) == 0) | fresh[:, None], taken[:, :piece], beyond)
            for each in np.sort(skipped, axis=1).T:
                place += place >= each
            taken[:, piece] = place
            there = others > 0
            joined[there, piece] = self._alike[(self._first[label] + place)[there]]
        return joined

    def _starts(self, draws: Draws, clips: Index, span: Index, skip_silence: bool) -> Index:
        """First samples (clips,): of the first crop drawn that has sound in it, or of the one with most."""
        room = np.maximum(self.store.lengths[clips] - span, 0)
        silence_aware = skip_silence and not self._whole and bool(room.any())
        tries = draws.uniform(Purpose.CROP, clips, CROP_TRIES if silence_aware else 1)
        starts = (tries * (room[:, None] + 1)).astype(np.int64)  # (clips, tries)
        if not silence_aware:
            return starts[:, 0]
        span = np.minimum(span, self.store.lengths[clips])[:, None]
        sounding = sound_of(self.store).samples(clips[:, None], starts, span)
        enough = sounding >= MIN_SOUND * span
        taken = np.where(enough.any(axis=1), enough.argmax(axis=1), sounding.argmax(axis=1))
        return np.take_along_axis(starts, taken[:, None], axis=1)[:, 0]
