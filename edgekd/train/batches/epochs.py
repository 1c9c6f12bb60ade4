"""What a model hears in training: one augmented epoch, and a teacher's view of it. Where to listen, not the audio
itself. No torch here.

Every draw is keyed by (seed, stream, epoch, clip) (`edgekd.train.batches.random_streams`): how a clip is heard in an
epoch depends neither on the batch it is in, nor on the process that hears it, nor on the epochs before.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.impulse_responses import load_responses, response_files, responses_hash
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError, nearest
from edgekd.text import counted
from edgekd.train.batches import pair_batches
from edgekd.train.batches.crops import Listener
from edgekd.train.batches.random_streams import Draws, Purpose
from edgekd.train.batches.windows import Floats, Index, Windows, gather, whole_windows
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Augment

READ_AHEAD = 2
"""Batches to come whose audio the kernel is told to read, where the store is larger than memory."""
PLAIN_BATCH = 64
"""Clips in one batch of `TrainingView.plain`."""
TEACHER_STREAM = 4
"""Stream of a teacher's draws by default, after those of the phases of a training."""


class Batch(TypedDict):
    """One training batch: b items, and after them the other clips that are mixed into items: together rows. m masks.

    places: where to hear the rows. clip: int64 (rows,) indices into the store, of joined sounds the first clip.
    gain_db: float32 (rows,).
    speed: float32 (rows,) factor at which what is heard is played. hop: int64 (rows,) samples from frame to frame.
    response_rows: int64 (k,) rows heard through an impulse response; response: int64 (k,) which. partner: int64 (b,)
    row of mixup's other clip. share: float32 (b,), 1 where nothing is mixed. style_rows: int64 (s,) rows whose
    statistics Freq-MixStyle mixes in. style: int64 (b,), the item itself or b + the position in `style_rows`.
    style_share: float32 (b,). filter_db: float32 (b, mels), (b, 0) without. mel_start, mel_width,
    frame_start, frame_width: int64 (b, m).
    """

    places: Windows
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
    """A training set as one model hears it; `batches(epoch)` gives an epoch.

    Args:
        store: where the audio is.
        clips: (clips,) indices to train on.
        recipe: its view, augmentation and seed.
        batch_size: items of a batch at most; batches of an epoch differ by one item at most, of a specialist by two.
        mels, frames: shape of the log-mel, for masks and time stretching; 0 for a network that hears waveforms.
        stream: tells the phases of a run apart.
        shard: (rank, processes): each process has its part of every batch; together they have the batches of one
            process.
        repeat: epochs after which what is heard is heard again, in another order; 0 for never.

    Attributes:
        clips: the items of training: `clips`, or the first clip of each of their recordings in a "parent" view.
        samples: of the view.
        played: samples at most that the frames of the view take, more where sound is stretched in time.
        sizes: items of each batch of an epoch, of all ranks together.
        steps: batches of an epoch, for every rank.
        responses: float32 (responses, taps) of the augmentation, or None.
        ir_hash: 64 hex digits of `responses`, "" without them.

    Raises:
        InputError: impulse responses that are not there or not readable, an unknown recorder, labels of a pair that are
            not there, recordings of several labels, augmentation of a log-mel that there is none of, or a rank without
            a part of each batch.
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
        self.store, self.clips, self.recipe = store, heard_once(store, clips, recipe), recipe
        self.sizes = batch_sizes(store, clips, recipe, batch_size)
        self.steps = len(self.sizes)
        self._listener = Listener(store, clips, recipe, closed=True)
        self.samples = self._listener.samples
        self._mels, self._frames, self._stream, self._shard, self._batch_size = mels, frames, stream, shard, batch_size
        fe = recipe.frontend
        self.played = self.samples + (frames - 1) * (round(fe.hop_length * recipe.augment.time_stretch) - fe.hop_length)
        smallest = min(self.sizes)
        if smallest < shard[1]:
            raise InputError(
                f"a batch of {counted(smallest, 'clip')} cannot be divided among {shard[1]} processes; raise"
                " train.batch_size and qat.batch_size, or use fewer processes"
            )
        if not mels or not frames:
            _refuse_log_mel(recipe.augment)
        self._place = np.full(len(store.lengths), -1)  # of a clip of the store in `self.clips`
        self._place[self.clips] = np.arange(len(self.clips))
        self.responses: Floats | None = None
        self.ir_hash = ""
        augment = recipe.augment
        if augment.ir_p:
            files = response_files(Path(augment.ir_folder), augment.ir_split, augment.ir_include, augment.ir_exclude)
            self.responses = load_responses(files, store.sample_rate)
            self.ir_hash = responses_hash(self.responses)
            self._through = _recorded_by(store, augment.ir_recorders)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All training clips once, shuffled and augmented; of each batch this process's part."""
        order = Draws(self.recipe.seed, self._stream, epoch)
        draws = Draws(self.recipe.seed, self._stream, epoch % self.repeat) if self.repeat else order
        rank, processes = self._shard
        plan = [self._rows(draws, np.array_split(part, processes)[rank]) for part in self._epoch_parts(order)]
        ahead: deque[Batch] = deque()
        for rows in plan:
            batch = self._batch(draws, rows)
            places = batch["places"]
            self.store.prefetch(places.clip, places.start, places.samples if places.length is None else places.length)
            ahead.append(batch)
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def plain(self, count: int) -> Iterator[Floats]:
        """Waveforms (up to 64, samples) of up to `count` training clips, without augmentation: for statistics and
        calibration.

        Those of a view of all channels are (up to 64, channels, samples).
        """
        draws = Draws(self.recipe.seed, self._stream, 0)
        chosen = draws.shuffled(self.clips)[:count]
        for part in np.array_split(chosen, -(-len(chosen) // PLAIN_BATCH)):
            span = np.full(len(part), self.samples)
            yield gather(self.store, self._listener.places(draws, part, span, self.samples, None, skip_silence=True))

    def _epoch_parts(self, draws: Draws) -> list[Index]:
        """The items of each batch of an epoch."""
        if self.recipe.data.pair:
            in_pair = pair_batches.pair_mask(self.store, self.clips, self.recipe.data.pair)
            return pair_batches.half_pair_batches(draws, self.clips, in_pair, self._batch_size)
        return np.array_split(draws.shuffled(self.clips), self.steps)

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
        items = clips[: len(rows.partner)]
        pace = augment.time_stretch ** (2 * draws.one(Purpose.STRETCH, clips) - 1)
        hop = np.maximum(np.rint(fe.hop_length * pace), 1).astype(np.int64)
        span = self.samples + (self._frames - 1) * (hop - fe.hop_length)
        speed = augment.speed ** (2 * draws.one(Purpose.SPEED, clips) - 1)
        longest = self.played
        if augment.speed > 1:  # to the sample after the last place that is played
            span, longest = ((span - 1) * speed).astype(np.int64) + 2, int((longest - 1) * augment.speed) + 2
        shift = self._listener.shift(draws, clips, span)
        places = self._listener.places(draws, clips, span, longest, shift, skip_silence=augment.skip_silence)
        response_rows, response = self._heard_through(draws, clips)
        style_rows, style = _kept(clips, items, rows.style)
        mel_start, mel_width = _masks(
            draws, items, Purpose.MEL_START, Purpose.MEL_WIDTH, augment.mel_masks, augment.mel_mask_bins, self._mels
        )
        frame_start, frame_width = _masks(
            draws,
            items,
            Purpose.FRAME_START,
            Purpose.FRAME_WIDTH,
            augment.time_masks,
            augment.time_mask_frames,
            self._frames,
        )
        return Batch(
            places=places,
            clip=clips,
            gain_db=self._listener.gain_db(draws, clips),
            speed=speed.astype(np.float32),
            hop=hop,
            response_rows=response_rows,
            response=response,
            partner=_positions(clips, rows.partner),
            share=_shares(draws, Purpose.MIX_SHARE, items, rows.partner, augment.mixup_alpha),
            style_rows=style_rows,
            style=style,
            style_share=_shares(draws, Purpose.STYLE_SHARE, items, rows.style, augment.mixstyle_alpha),
            filter_db=_curves(draws, items, augment, self._mels),
            mel_start=mel_start,
            mel_width=mel_width,
            frame_start=frame_start,
            frame_width=frame_width,
        )

    def _heard_through(self, draws: Draws, clips: Index) -> tuple[Index, Index]:
        """Rows that are heard through impulse responses, and the response of each."""
        if self.responses is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        used = (draws.one(Purpose.RESPONSE_USED, clips) < self.recipe.augment.ir_p) & self._through[clips]
        rows = np.flatnonzero(used)
        return rows, (draws.one(Purpose.RESPONSE, clips[rows]) * len(self.responses)).astype(np.int64)


class TeacherView:
    """How a teacher hears clips while it teaches: cropped, joined, rolled and louder or softer as its own recipe has
    it, and not mixed, masked, stretched or heard through other microphones.

    Where the view has segments, sounds are neither rolled nor cropped at random, so that each segment stays in its
    place.

    Args:
        store: where the audio is.
        clips: (clips,) the training clips of the student, of which "pair" joins some to each clip.
        recipe: the teacher's.
        stream: tells it apart from other draws with the recipe's seed.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, stream: int = TEACHER_STREAM) -> None:
        self.store, self.recipe, self._stream = store, recipe, stream
        self._listener = Listener(store, clips, recipe, closed=False)

    @property
    def samples(self) -> int:
        """That the teacher hears at a time."""
        return self._listener.samples

    @property
    def channels(self) -> int:
        """That the teacher hears."""
        return self.store.channels if self.recipe.view.channels == "all" else 1

    def places(self, epoch: int, clips: Index) -> tuple[Windows, Floats]:
        """Where any clips (n,) of the store are heard, and the gain of each, float32 (n,) decibels.

        Segments of one recording are heard alike in a "parent" view.
        """
        draws, listener, augment = Draws(self.recipe.seed, self._stream, epoch), self._listener, self.recipe.augment
        if listener.parents is not None:
            clips = listener.parents.segments[listener.parents.first[listener.parents.recording[clips]]]
        gain_db = listener.gain_db(draws, clips)
        if self.recipe.view.segments > 1:
            return whole_windows(self.store, clips, self.recipe.view), gain_db
        span = np.full(len(clips), listener.samples)
        shift = listener.shift(draws, clips, span) if augment.roll else None
        return listener.places(draws, clips, span, listener.samples, shift, skip_silence=augment.skip_silence), gain_db


def heard_once(store: ClipStore, clips: Index, recipe: Recipe) -> Index:
    """What an epoch goes through: the clips, or the first clip of each of their recordings in a "parent" view.

    Raises:
        InputError: a recording whose segments have several labels.
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
        InputError: see `heard_once` and `edgekd.train.batches.pair_batches`.
    """
    items = heard_once(store, clips, recipe)
    if recipe.data.pair:
        in_pair = pair_batches.pair_mask(store, items, recipe.data.pair)
        return [2 * size for size in _divided(int(in_pair.sum()), pair_batches.steps(in_pair, batch_size))]
    return _divided(len(items), -(-len(items) // batch_size))


def _divided(items: int, parts: int) -> list[int]:
    """Sizes of the parts that `np.array_split` makes."""
    size, more = divmod(items, parts)
    return [size + (part < more) for part in range(parts)]


def _refuse_log_mel(augment: Augment) -> None:
    """Refuse what changes a log-mel, for a network that hears waveforms."""
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
            f"augment.{key} = {getattr(augment, key)} changes a log-mel, and this network hears waveforms; set it to "
            f"{off.get(key, '0')}"
        )


@dataclass(frozen=True)
class _Rows:
    """clips: (rows,) of a batch, its items first. partner, style: (items,) the clips mixed into items, or the items
    themselves."""

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


def _curves(draws: Draws, items: Index, augment: Augment, mels: int) -> Floats:
    """(items, mels) decibels by which mel bins rise; (items, 0) where none ever do."""
    if not augment.filter_p:
        return np.zeros((len(items), 0), np.float32)
    least, most = augment.filter_bands
    bands = least + (draws.one(Purpose.FILTER_BANDS, items) * (most - least + 1)).astype(np.int64)
    inner = draws.uniform(Purpose.FILTER_CORNER, items, most)
    height = (2 * draws.uniform(Purpose.FILTER_DB, items, most + 1) - 1) * augment.filter_db
    curves = np.zeros((len(items), mels), np.float32)
    for row in np.flatnonzero(draws.one(Purpose.FILTER_USED, items) < augment.filter_p):
        lines = int(bands[row])
        corner = np.concatenate([[0.0], np.sort(inner[row, : lines - 1]), [1.0]]) * (mels - 1)
        curves[row] = np.interp(np.arange(mels), corner, height[row, : lines + 1])
    return curves


def _masks(
    draws: Draws, items: Index, start: Purpose, width: Purpose, masks: int, widest: int, size: int
) -> tuple[Index, Index]:
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
