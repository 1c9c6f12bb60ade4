"""What a model hears: windows for tests, one augmented epoch for training. Where to listen, not the audio itself. No torch here.

Every draw is keyed by (seed, stream, epoch, clip) (`edgekd.distill.draws`): how a clip is heard in an epoch depends neither on the batch
it is in, nor on the process that hears it, nor on the epochs before.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgekd.data.responses import load_responses, responses_hash
from edgekd.data.store import PCM_SCALE, ClipStore, windows
from edgekd.distill.draws import Draws, Purpose
from edgekd.distill.recipe import Recipe
from edgekd.distill.sound import sound_of
from edgekd.distill.tables import DEFAULT_WINDOW, View
from edgekd.errors import InputError, nearest

LONGEST_CLIP = 60.0
"""Seconds: a "clip" view without a length refuses stores with longer clips, which would not fit in memory."""
CROP_TRIES = 8
"""Crops drawn in search of one that is not silent."""
MIN_SOUND = 0.1
"""Share of a crop's samples that are not digital silence, for a crop to be taken at once."""
READ_AHEAD = 2
"""Batches to come whose audio the kernel is told to read, where the store is larger than memory."""
PLAIN_BATCH = 64
"""Clips in one batch of `TrainingView.plain`."""

Index = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Places to listen at. clip: (windows,) indices into the store; start: (windows,) first samples; samples: length of each."""

    clip: Index
    start: Index
    samples: int
    tile: bool
    """Whether what is too short is repeated (a whole clip) or followed by zeros (a window, as on the device)."""
    span: Index | None = None
    """(windows,) samples heard, at most `samples`; zeros follow. None hears all."""
    shift: Index | None = None
    """(windows,) circular shift of the samples heard, less than `span` in either direction; None is none."""

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, part: slice) -> "Windows":
        span, shift = (None if each is None else each[part] for each in (self.span, self.shift))
        return Windows(self.clip[part], self.start[part], self.samples, self.tile, span, shift)


class Batch(TypedDict):
    """One training batch: b items, and after them the other clips that are mixed into items: together rows. m masks.

    places: where to hear the rows. clip: int64 (rows,) indices into the store. gain_db: float32 (rows,). hop: int64 (rows,) samples
    from frame to frame. response_rows: int64 (k,) rows heard through an impulse response; response: int64 (k,) which.
    partner: int64 (b,) row of mixup's other clip. share: float32 (b,), 1 where nothing is mixed. style_rows: int64 (s,) rows whose
    statistics Freq-MixStyle mixes in. style: int64 (b,), the item itself or b + the position in `style_rows`. style_share: float32 (b,).
    mel_start, mel_width, frame_start, frame_width: int64 (b, m).
    """

    places: Windows
    clip: Index
    gain_db: Floats
    hop: Index
    response_rows: Index
    response: Index
    partner: Index
    share: Floats
    style_rows: Index
    style: Index
    style_share: Floats
    mel_start: Index
    mel_width: Index
    frame_start: Index
    frame_width: Index


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
    pcm = fetch(store, places)
    mono: Floats = pcm[..., 0].astype(np.float32) if store.channels == 1 else pcm.mean(axis=2, dtype=np.float32)
    mono *= np.float32(1 / PCM_SCALE)  # a power of two: the same as dividing
    return mono


def fetch(store: ClipStore, places: Windows) -> NDArray[np.int16]:
    """Samples int16 (windows, samples, channels), copied from the memory map."""
    span = np.full(len(places), places.samples) if places.span is None else places.span
    shift = np.zeros(len(places), np.int64) if places.shift is None else places.shift % span
    there = np.minimum(store.lengths[places.clip] - places.start, span)  # samples that the clip has
    first = store.offsets[places.clip] + places.start
    if (there == places.samples).all() and not shift.any():  # plain windows, in one call
        step, channel = store.pcm.strides
        shape = (len(store.pcm) - places.samples + 1, places.samples, store.channels)
        return np.lib.stride_tricks.as_strided(store.pcm, shape, (step, step, channel), writeable=False)[first]
    out = np.empty((len(places), places.samples, store.channels), np.int16)
    for row, begin, length, whole, by in zip(out, first.tolist(), there.tolist(), span.tolist(), shift.tolist(), strict=True):
        heard = store.pcm[begin:begin + length]
        if length < whole:
            if places.tile:
                heard = np.resize(heard, (whole, store.channels))
            else:
                heard = np.concatenate([heard, np.zeros((whole - length, store.channels), np.int16)])
        row[by:whole] = heard[:whole - by]
        row[:by] = heard[whole - by:]
        row[whole:] = 0
    return out


class TrainingView:
    """A training set as one model hears it; `batches(epoch)` gives an epoch.

    Args:
        store: where the audio is.
        clips: (clips,) indices to train on.
        recipe: its view, augmentation and seed.
        batch_size: items of a batch at most; batches of an epoch differ by one item at most.
        mels, frames: shape of the log-mel, for masks and time stretching.
        stream: tells the phases of a run apart.
        shard: (rank, processes): each process has its part of every batch; together they have the batches of one process.

    Attributes:
        samples: of the view; more are gathered where sound is made faster.
        steps: batches of an epoch, for every rank.
        responses: float32 (responses, taps) of the augmentation, or None.
        ir_hash: 64 hex digits of `responses`, "" without them.

    Raises:
        InputError: impulse responses that are not there or not readable, an unknown recorder, or a rank without a part of each batch.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, batch_size: int, mels: int, frames: int, stream: int,
                 shard: tuple[int, int] = (0, 1)) -> None:
        self.store, self.clips, self.recipe = store, clips, recipe
        self.samples = window_samples(recipe.view, store)
        self.steps = -(-len(clips) // batch_size)
        self._mels, self._frames, self._stream, self._shard = mels, frames, stream, shard
        smallest = len(clips) // self.steps
        if smallest < shard[1]:
            raise InputError(f"a batch of {smallest} clips cannot be divided among {shard[1]} processes; raise train.batch_size and "
                             "qat.batch_size, or use fewer processes")
        self._place = np.full(len(store.lengths), -1)  # of a clip of the store in `clips`
        self._place[clips] = np.arange(len(clips))
        self.responses: Floats | None = None
        self.ir_hash = ""
        augment = recipe.augment
        if augment.ir_p:
            self.responses = load_responses(Path(augment.ir_folder), store.sample_rate, augment.ir_include, augment.ir_exclude)
            self.ir_hash = responses_hash(self.responses)
            self._through = _recorded_by(store, augment.ir_recorders)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All training clips once, shuffled and augmented; of each batch this process's part."""
        draws = Draws(self.recipe.seed, self._stream, epoch)
        rank, processes = self._shard
        parts = np.array_split(draws.shuffled(self.clips), self.steps)
        plan = [self._rows(draws, np.array_split(part, processes)[rank]) for part in parts]
        ahead: deque[Batch] = deque()
        for rows in plan:
            batch = self._batch(draws, rows)
            places = batch["places"]
            self.store.will_need(places.clip, places.start, places.samples)
            ahead.append(batch)
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def plain(self, count: int) -> Iterator[Floats]:
        """Waveforms (up to 64, samples) of up to `count` training clips, without augmentation: for statistics and calibration."""
        draws = Draws(self.recipe.seed, self._stream, 0)
        chosen = draws.shuffled(self.clips)[:count]
        for part in np.array_split(chosen, -(-len(chosen) // PLAIN_BATCH)):
            starts = self._starts(draws, part, np.full(len(part), self.samples), skip_silence=True)
            yield gather(self.store, Windows(part, starts, self.samples, tile=self._whole))

    @property
    def _whole(self) -> bool:
        return self.recipe.view.span == "clip"

    def _rows(self, draws: Draws, items: Index) -> "_Rows":
        """A batch's clips: its items, then those that are mixed into them and are not among them."""
        augment = self.recipe.augment
        partner = self._others(draws, items, augment.mixup_p, Purpose.MIX_USED, Purpose.MIX_PARTNER)
        style = self._others(draws, items, augment.mixstyle_p, Purpose.STYLE_USED, Purpose.STYLE_PARTNER)
        extra = np.setdiff1d(np.concatenate([partner, style]), items)
        return _Rows(np.concatenate([items, extra]), partner, style)

    def _others(self, draws: Draws, items: Index, probability: float, used: Purpose, which: Purpose) -> Index:
        """(items,) for each item another training clip, or itself where none is wanted."""
        others = len(self.clips) - 1
        if not probability or not others:
            return items
        place = (draws.one(which, items) * others).astype(np.int64)
        place += place >= self._place[items]
        return np.where(draws.one(used, items) < probability, self.clips[place], items)

    def _batch(self, draws: Draws, rows: "_Rows") -> Batch:
        augment, fe, clips = self.recipe.augment, self.recipe.frontend, rows.clips
        items = clips[:len(rows.partner)]
        pace = augment.time_stretch ** (2 * draws.one(Purpose.STRETCH, clips) - 1)
        hop = np.maximum(np.rint(fe.hop_length * pace), 1).astype(np.int64)
        span = self.samples + (self._frames - 1) * (hop - fe.hop_length)
        longest = self.samples + (self._frames - 1) * (round(fe.hop_length * augment.time_stretch) - fe.hop_length)
        limit = np.minimum(round(augment.roll * self.store.sample_rate), span // 2)
        shift = (draws.one(Purpose.ROLL, clips) * (2 * limit + 1)).astype(np.int64) - limit
        places = Windows(clips, self._starts(draws, clips, span, augment.skip_silence), longest, self._whole, span, shift)
        response_rows, response = self._heard_through(draws, clips)
        style_rows, style = _kept(clips, items, rows.style)
        mel_start, mel_width = _masks(draws, items, Purpose.MEL_START, Purpose.MEL_WIDTH, augment.mel_masks, augment.mel_mask_bins,
                                      self._mels)
        frame_start, frame_width = _masks(draws, items, Purpose.FRAME_START, Purpose.FRAME_WIDTH, augment.time_masks,
                                          augment.time_mask_frames, self._frames)
        return Batch(
            places=places, clip=clips, gain_db=((2 * draws.one(Purpose.GAIN, clips) - 1) * augment.gain_db).astype(np.float32), hop=hop,
            response_rows=response_rows, response=response, partner=_positions(clips, rows.partner),
            share=_shares(draws, Purpose.MIX_SHARE, items, rows.partner, augment.mixup_alpha), style_rows=style_rows, style=style,
            style_share=_shares(draws, Purpose.STYLE_SHARE, items, rows.style, augment.mixstyle_alpha),
            mel_start=mel_start, mel_width=mel_width, frame_start=frame_start, frame_width=frame_width)

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

    def _heard_through(self, draws: Draws, clips: Index) -> tuple[Index, Index]:
        """Rows that are heard through impulse responses, and the response of each."""
        if self.responses is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        used = (draws.one(Purpose.RESPONSE_USED, clips) < self.recipe.augment.ir_p) & self._through[clips]
        rows = np.flatnonzero(used)
        return rows, (draws.one(Purpose.RESPONSE, clips[rows]) * len(self.responses)).astype(np.int64)


@dataclass(frozen=True)
class _Rows:
    """clips: (rows,) of a batch, its items first. partner, style: (items,) the clips mixed into items, or the items themselves."""

    clips: Index
    partner: Index
    style: Index


def _positions(clips: Index, wanted: Index) -> Index:
    """Where each of `wanted` is in `clips`, which have each once."""
    order = np.argsort(clips)
    return order[np.searchsorted(clips, wanted, sorter=order)]


def _kept(clips: Index, items: Index, style: Index) -> tuple[Index, Index]:
    """`style_rows` and `style` of a batch."""
    styled = style != items
    rows, place = np.unique(_positions(clips, style[styled]), return_inverse=True)
    position = np.arange(len(items))
    position[styled] = len(items) + place
    return rows, position


def _shares(draws: Draws, purpose: Purpose, items: Index, other: Index, alpha: float) -> Floats:
    """(items,) an item's own share in a mix with the other clip; 1 where that is the item itself."""
    share = np.ones(len(items), np.float32)
    mixed = other != items
    share[mixed] = draws.beta(purpose, items[mixed], alpha)
    return share


def _masks(draws: Draws, items: Index, start: Purpose, width: Purpose, masks: int, widest: int, size: int) -> tuple[Index, Index]:
    """Starts and widths int64 (items, masks), every width from 0 to `widest` and every place equally likely."""
    widths = (draws.uniform(width, items, masks) * (min(widest, size) + 1)).astype(np.int64)
    starts = (draws.uniform(start, items, masks) * (size - widths + 1)).astype(np.int64)
    return starts, widths


def _recorded_by(store: ClipStore, recorders: tuple[str, ...]) -> NDArray[np.bool_]:
    """(clips of the store,) whether a clip is of one of the recorders; all are where none is named."""
    known = {clip.recorder for clip in store.clips} - {""}
    for recorder in recorders:
        if recorder not in known:
            hint = nearest(recorder, known) if known else "; its clips name no recorder"
            raise InputError(f"{store.path}: no clip is of recorder '{recorder}' of augment.ir_recorders{hint}")
    return np.array([not recorders or clip.recorder in recorders for clip in store.clips])
