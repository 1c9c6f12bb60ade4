"""The batches of an epoch: which clips, and all random choices of their augmentation. No audio and no torch here.

Every random number is keyed by (seed, stream, epoch, clip) (`edgekd.train.batches.random_streams`). How a clip is
augmented in an epoch therefore depends neither on its batch, nor on the process, nor on the epochs before.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from edgekd.data.audio.impulse_responses import load_responses, response_files, responses_hash
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError, nearest
from edgekd.text import counted
from edgekd.train.batches import pair_batches
from edgekd.train.batches.crops import Crops, Floats, Index, read_waveforms
from edgekd.train.batches.pair_batches import Mask
from edgekd.train.batches.random_crops import RandomCrops
from edgekd.train.batches.random_streams import Purpose, RandomNumbers
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Augment

READ_AHEAD = 2
"""Batches ahead whose audio the kernel is asked to read, where the store is larger than memory."""
PLAIN_BATCH = 64
"""Clips in one batch of `TrainingView.unaugmented`."""


class Batch(TypedDict):
    """One training batch. Its rows are b items, then the other clips that are mixed into items.

    crops: the audio of the rows. clip: int64 (rows,) indices into the store; the first clip where several are joined.
    gain_db: float32 (rows,). speed: float32 (rows,) playback speed. hop: int64 (rows,) samples from frame to frame.
    response_rows: int64 (k,) rows to convolve with an impulse response. response: int64 (k,) which one.
    partner: int64 (b,) row of mixup's other clip. share: float32 (b,) the item's own share, 1 where nothing is mixed.
    style_rows: int64 (s,) rows whose statistics Freq-MixStyle mixes in. style: int64 (b,), the item itself or b + the
    position in `style_rows`. style_share: float32 (b,). filter_db: float32 (b, mels), (b, 0) without FilterAugment.
    mel_start, mel_width, frame_start, frame_width: int64 (b, masks).
    """

    crops: Crops
    clip: Index
    gain_db: Floats
    speed: Floats
    hop: Index
    response_rows: Index
    response: Index
    partner: Index
    share: Floats
    style_rows: Index
    style: Index
    style_share: Floats
    filter_db: Floats
    mel_start: Index
    mel_width: Index
    frame_start: Index
    frame_width: Index


class TrainingView:
    """A training set with the view and augmentation of one recipe; `batches(epoch)` gives an epoch.

    Args:
        store: where the audio is.
        clips: (clips,) indices to train on.
        recipe: its view, augmentation and seed.
        batch_size: most items of a batch. Batches of an epoch differ by one item at most, of a specialist by two.
        mels, frames: shape of the log-mel, for masks and time stretching; 0 for a network that takes waveforms.
        stream: a `RandomStream`.
        shard: (rank, processes). Each process has its part of every batch; together they have the batches of one
            process.
        repeat: epochs after which crops and augmentation repeat, in another order; 0 for never.

    Attributes:
        clips: the items of an epoch: `clips`, or the first clip of each of their recordings in a "parent" view.
        samples: of the view.
        stretched_samples: samples that the frames of the view span at the longest hop of time stretching.
        sizes: items of each batch of an epoch, of all ranks together.
        steps: batches of an epoch, for every rank.
        responses: float32 (responses, taps), the impulse responses of the augmentation, or None.
        ir_hash: 64 hex digits of `responses`, "" without them.

    Raises:
        InputError: impulse responses are missing or not readable, a recorder is unknown, a label of the pair is
            missing, a recording has several labels, the augmentation changes a log-mel that the network does not take,
            or a rank would have no item of a batch.
    """

    def __init__(
        self,
        store: ClipStore,
        clips: Index,
        recipe: Recipe,
        batch_size: int,
        mels: int,
        frames: int,
        stream: int,
        shard: tuple[int, int] = (0, 1),
        repeat: int = 0,
    ) -> None:
        self.repeat = repeat
        self.store, self.clips, self.recipe = store, epoch_items(store, clips, recipe), recipe
        self.sizes = batch_sizes(store, clips, recipe, batch_size)
        self.steps = len(self.sizes)
        self._random_crops = RandomCrops(store, clips, recipe, closed=True)
        self.samples = self._random_crops.samples
        self._mels, self._frames, self._stream, self._shard, self._batch_size = mels, frames, stream, shard, batch_size
        fe = recipe.frontend
        longest_hop = round(fe.hop_length * recipe.augment.time_stretch)
        self.stretched_samples = self.samples + (frames - 1) * (longest_hop - fe.hop_length)
        smallest = min(self.sizes)
        if smallest < shard[1]:
            raise InputError(
                f"a batch of {counted(smallest, 'clip')} cannot be divided among {shard[1]} processes; raise"
                " train.batch_size and qat.batch_size, or use fewer processes"
            )
        if not mels or not frames:
            _refuse_log_mel_augmentation(recipe.augment)
        self._position = np.full(len(store.lengths), -1)  # of a clip of the store in `self.clips`
        self._position[self.clips] = np.arange(len(self.clips))
        self.responses: Floats | None = None
        self.ir_hash = ""
        augment = recipe.augment
        if augment.ir_p:
            files = response_files(Path(augment.ir_folder), augment.ir_split, augment.ir_include, augment.ir_exclude)
            self.responses = load_responses(files, store.sample_rate)
            self.ir_hash = responses_hash(self.responses)
            self._may_convolve = _of_recorders(store, augment.ir_recorders)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All training clips once, shuffled and augmented; of each batch this process's part."""
        order = RandomNumbers(self.recipe.seed, self._stream, epoch)
        rng = RandomNumbers(self.recipe.seed, self._stream, epoch % self.repeat) if self.repeat else order
        rank, processes = self._shard
        plan = [self._rows(rng, np.array_split(part, processes)[rank]) for part in self._epoch_parts(order)]
        ahead: deque[Batch] = deque()
        for rows in plan:
            batch = self._batch(rng, rows)
            crops = batch["crops"]
            self.store.prefetch(crops.clip, crops.start, crops.samples if crops.length is None else crops.length)
            ahead.append(batch)
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def unaugmented(self, count: int, stream: int) -> Iterator[Floats]:
        """Waveforms of up to `count` training clips in random crops of a `RandomStream`, for statistics and
        calibration.

        (up to 64, samples), or (up to 64, channels, samples) of a view of all channels.
        """
        rng = RandomNumbers(self.recipe.seed, stream, 0)
        chosen = rng.shuffled(self.clips)[:count]
        for part in np.array_split(chosen, -(-len(chosen) // PLAIN_BATCH)):
            span = np.full(len(part), self.samples)
            crops = self._random_crops.crops(rng, part, span, self.samples, None, skip_silence=True)
            yield read_waveforms(self.store, crops)

    def _epoch_parts(self, rng: RandomNumbers) -> list[Index]:
        """The items of each batch of an epoch."""
        if self.recipe.data.pair:
            in_pair = pair_batches.pair_mask(self.store, self.clips, self.recipe.data.pair)
            return pair_batches.half_pair_batches(rng, self.clips, in_pair, self._batch_size)
        return np.array_split(rng.shuffled(self.clips), self.steps)

    def _rows(self, rng: RandomNumbers, items: Index) -> "_Rows":
        """A batch's clips: its items, then the clips that are mixed into them and are not items of the batch."""
        augment = self.recipe.augment
        partner = self._others(rng, items, augment.mixup_p, Purpose.MIX_USED, Purpose.MIX_PARTNER)
        style = self._others(rng, items, augment.mixstyle_p, Purpose.STYLE_USED, Purpose.STYLE_PARTNER)
        extra = np.setdiff1d(np.concatenate([partner, style]), items)
        return _Rows(np.concatenate([items, extra]), partner, style)

    def _others(self, rng: RandomNumbers, items: Index, probability: float, used: Purpose, which: Purpose) -> Index:
        """(items,) another training clip for each item, or the item itself where it is not to be mixed."""
        others = len(self.clips) - 1
        if not probability or not others:
            return items
        position = (rng.per_clip(which, items) * others).astype(np.int64)
        position += position >= self._position[items]
        return np.where(rng.per_clip(used, items) < probability, self.clips[position], items)

    def _batch(self, rng: RandomNumbers, rows: "_Rows") -> Batch:
        augment, fe, clips = self.recipe.augment, self.recipe.frontend, rows.clips
        items = clips[: len(rows.partner)]
        pace = augment.time_stretch ** (2 * rng.per_clip(Purpose.STRETCH, clips) - 1)
        hop = np.maximum(np.rint(fe.hop_length * pace), 1).astype(np.int64)
        span = self.samples + (self._frames - 1) * (hop - fe.hop_length)
        speed = augment.speed ** (2 * rng.per_clip(Purpose.SPEED, clips) - 1)
        longest = self.stretched_samples
        if augment.speed > 1:  # up to the sample after the last position that is read
            span, longest = ((span - 1) * speed).astype(np.int64) + 2, int((longest - 1) * augment.speed) + 2
        shift = self._random_crops.shifts(rng, clips, span)
        crops = self._random_crops.crops(rng, clips, span, longest, shift, skip_silence=augment.skip_silence)
        response_rows, response = self._chosen_responses(rng, clips)
        style_rows, style = _style_rows(clips, items, rows.style)
        mel_start, mel_width = _masks(
            rng, items, Purpose.MEL_START, Purpose.MEL_WIDTH, augment.mel_masks, augment.mel_mask_bins, self._mels
        )
        frame_start, frame_width = _masks(
            rng,
            items,
            Purpose.FRAME_START,
            Purpose.FRAME_WIDTH,
            augment.time_masks,
            augment.time_mask_frames,
            self._frames,
        )
        return Batch(
            crops=crops,
            clip=clips,
            gain_db=self._random_crops.gain_db(rng, clips),
            speed=speed.astype(np.float32),
            hop=hop,
            response_rows=response_rows,
            response=response,
            partner=_positions(clips, rows.partner),
            share=_shares(rng, Purpose.MIX_SHARE, items, rows.partner, augment.mixup_alpha),
            style_rows=style_rows,
            style=style,
            style_share=_shares(rng, Purpose.STYLE_SHARE, items, rows.style, augment.mixstyle_alpha),
            filter_db=_filter_curves(rng, items, augment, self._mels),
            mel_start=mel_start,
            mel_width=mel_width,
            frame_start=frame_start,
            frame_width=frame_width,
        )

    def _chosen_responses(self, rng: RandomNumbers, clips: Index) -> tuple[Index, Index]:
        """Rows that are convolved with an impulse response, and the response of each."""
        if self.responses is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        used = (rng.per_clip(Purpose.RESPONSE_USED, clips) < self.recipe.augment.ir_p) & self._may_convolve[clips]
        rows = np.flatnonzero(used)
        return rows, (rng.per_clip(Purpose.RESPONSE, clips[rows]) * len(self.responses)).astype(np.int64)


def epoch_items(store: ClipStore, clips: Index, recipe: Recipe) -> Index:
    """The items of an epoch: the clips, or the first clip of each of their recordings in a "parent" view.

    Raises:
        InputError: the segments of a recording have several labels.
    """
    if recipe.view.span != "parent":
        return clips
    parents = store.recordings.subset(clips, store.lengths)
    first = parents.segments[parents.first[parents.count > 0]]
    label = np.zeros(len(parents.count), np.int64)
    label[parents.recording[first]] = store.label_index[first]
    other = np.flatnonzero(store.label_index[clips] != label[parents.recording[clips]])
    if len(other):
        name = store.clips[clips[other[0]]].parent
        labels = sorted({store.clips[clip].label for clip in clips if store.clips[clip].parent == name})
        raise InputError(
            f"{store.path}: the segments of parent '{name}' have the labels {', '.join(labels)}; give them one label,"
            " or set view.span to clip"
        )
    return first


def batch_sizes(store: ClipStore, clips: Index, recipe: Recipe, batch_size: int) -> list[int]:
    """Items of each batch of an epoch, of all processes together.

    Raises:
        InputError: see `epoch_items` and `edgekd.train.batches.pair_batches`.
    """
    items = epoch_items(store, clips, recipe)
    if recipe.data.pair:
        in_pair = pair_batches.pair_mask(store, items, recipe.data.pair)
        return [2 * size for size in _even_sizes(int(in_pair.sum()), pair_batches.steps(in_pair, batch_size))]
    return _even_sizes(len(items), -(-len(items) // batch_size))


def _even_sizes(items: int, parts: int) -> list[int]:
    """Sizes of the parts that `np.array_split` makes."""
    size, more = divmod(items, parts)
    return [size + (part < more) for part in range(parts)]


def _refuse_log_mel_augmentation(augment: Augment) -> None:
    """Raise InputError where the augmentation changes a log-mel, for a network that takes waveforms."""
    wanted = {
        "mel_masks": augment.mel_masks > 0,
        "time_masks": augment.time_masks > 0,
        "time_stretch": augment.time_stretch > 1,
        "mixstyle_p": augment.mixstyle_p > 0,
        "filter_p": augment.filter_p > 0,
        "mixup_domain": augment.mixup_p > 0 and augment.mixup_domain == "log_mel",
    }
    off = {"time_stretch": "1", "mixup_domain": '"waveform"'}
    for key in (key for key, set_ in wanted.items() if set_):
        raise InputError(
            f"augment.{key} = {getattr(augment, key)} changes a log-mel, but this network takes waveforms; set it to "
            f"{off.get(key, '0')}"
        )


@dataclass(frozen=True)
class _Rows:
    """The clips of a batch. clips: (rows,), its items first. partner, style: (items,) the clip mixed into each item, or
    the item itself."""

    clips: Index
    partner: Index
    style: Index


def _positions(clips: Index, wanted: Index) -> Index:
    """Positions of `wanted` in `clips`, which has each of them once."""
    order = np.argsort(clips)
    return order[np.searchsorted(clips, wanted, sorter=order)]


def _style_rows(clips: Index, items: Index, style: Index) -> tuple[Index, Index]:
    """`style_rows` and `style` of a batch."""
    styled = style != items
    rows, row_of = np.unique(_positions(clips, style[styled]), return_inverse=True)
    position = np.arange(len(items))
    position[styled] = len(items) + row_of
    return rows, position


def _shares(rng: RandomNumbers, purpose: Purpose, items: Index, other: Index, alpha: float) -> Floats:
    """(items,) an item's own share in a mix with the other clip; 1 where that is the item itself."""
    share = np.ones(len(items), np.float32)
    mixed = other != items
    share[mixed] = rng.beta(purpose, items[mixed], alpha)
    return share


def _filter_curves(rng: RandomNumbers, items: Index, augment: Augment, mels: int) -> Floats:
    """(items, mels) decibels that FilterAugment adds to mel bins; (items, 0) where it is off."""
    if not augment.filter_p:
        return np.zeros((len(items), 0), np.float32)
    least, most = augment.filter_bands
    bands = least + (rng.per_clip(Purpose.FILTER_BANDS, items) * (most - least + 1)).astype(np.int64)
    inner = rng.uniform(Purpose.FILTER_CORNER, items, most)
    height = (2 * rng.uniform(Purpose.FILTER_DB, items, most + 1) - 1) * augment.filter_db
    curves = np.zeros((len(items), mels), np.float32)
    for row in np.flatnonzero(rng.per_clip(Purpose.FILTER_USED, items) < augment.filter_p):
        lines = int(bands[row])
        corner = np.concatenate([[0.0], np.sort(inner[row, : lines - 1]), [1.0]]) * (mels - 1)
        curves[row] = np.interp(np.arange(mels), corner, height[row, : lines + 1])
    return curves


def _masks(
    rng: RandomNumbers, items: Index, start: Purpose, width: Purpose, masks: int, widest: int, size: int
) -> tuple[Index, Index]:
    """Starts and widths int64 (items, masks). Every width from 0 to `widest` and every start is equally likely."""
    widths = (rng.uniform(width, items, masks) * (min(widest, size) + 1)).astype(np.int64)
    starts = (rng.uniform(start, items, masks) * (size - widths + 1)).astype(np.int64)
    return starts, widths


def _of_recorders(store: ClipStore, recorders: tuple[str, ...]) -> Mask:
    """bool (clips of the store,): which clips are of one of the recorders; all where no recorder is named."""
    known = {clip.recorder for clip in store.clips} - {""}
    for recorder in recorders:
        if recorder not in known:
            hint = nearest(recorder, known) if known else "; its clips name no recorder"
            raise InputError(f"{store.path}: no clip is of recorder '{recorder}' of augment.ir_recorders{hint}")
    return np.array([not recorders or clip.recorder in recorders for clip in store.clips])
