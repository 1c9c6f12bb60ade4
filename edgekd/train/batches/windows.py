"""Places to listen at in a store, and the audio that is heard there. No torch here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_SCALE, window_starts
from edgekd.data.store.recordings import Recordings
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.train.recipe.schema import DEFAULT_WINDOW, View

LONGEST_CLIP = 60.0
"""Seconds: a view of whole clips or recordings without a length refuses stores with longer ones, which would not fit in
memory."""

Index = NDArray[np.int64]
Floats = NDArray[np.float32]
Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Windows:
    """Places to listen at, in rows of `pieces` entries. clip: (rows * pieces,) indices into the store; start: (rows *
    pieces,) first samples; samples: length of each row."""

    clip: Index
    start: Index
    samples: int
    tile: bool
    """Whether what is too short is repeated (a whole clip) or followed by zeros (a window, as on the device)."""
    span: Index | None = None
    """(rows,) samples heard, at most `samples`; zeros follow. None hears all."""
    shift: Index | None = None
    """(rows,) circular shift of the samples heard, less than `span` in either direction; None is none."""
    pieces: int = 1
    """Clips that are heard one after the other."""
    length: Index | None = None
    """(rows * pieces,) samples of each piece, a clip with fewer being repeated; 0 leaves the piece out. None where a
    row is one clip. What is joined is repeated where a row is longer, and shifted as one."""
    channels: Literal["mean", "all"] = "mean"
    """Whether channels are averaged or heard each for itself."""

    def __len__(self) -> int:
        return len(self.clip) // self.pieces

    def __getitem__(self, part: slice) -> "Windows":
        span, shift = (None if each is None else each[part] for each in (self.span, self.shift))
        if self.length is None:
            return Windows(
                self.clip[part], self.start[part], self.samples, self.tile, span, shift, channels=self.channels
            )
        clip, start, length = (
            each.reshape(-1, self.pieces)[part].ravel() for each in (self.clip, self.start, self.length)
        )
        return Windows(clip, start, self.samples, self.tile, span, shift, self.pieces, length, self.channels)

    @property
    def owner(self) -> Index:
        """(rows,) the first clip of each row."""
        return self.clip[:: self.pieces]


def window_samples(view: View, store: ClipStore) -> int:
    """Samples that a model hears at a time.

    Raises:
        InputError: a view of very long clips or recordings without a length.
    """
    joined = view.joined if view.span == "pair" else 1
    if view.span == "crop" or view.seconds is not None:
        return joined * round((view.seconds or DEFAULT_WINDOW) * store.sample_rate)
    longest = int((store.recordings.length if view.span == "parent" else store.lengths).max())
    if longest > LONGEST_CLIP * store.sample_rate:
        what = "recording" if view.span == "parent" else "clip"
        raise InputError(
            f"{store.path}: the longest {what} has {longest / store.sample_rate:.0f} s; set view.seconds, "
            "e.g. --set view.seconds=10"
        )
    return joined * longest


def scored_windows(store: ClipStore, clips: Index, view: View) -> Windows:
    """Where a model listens in a test: consecutive windows of each clip, or `whole_windows`.

    Of a "parent" view there is one row for each recording that the clips are of, by its number in `store.recordings`.
    """
    if view.span == "parent":
        parents = store.recordings
        clips = parents.segments[parents.first[np.unique(parents.recording[clips])]]
    if view.span != "crop":
        return whole_windows(store, clips, view)
    samples = window_samples(view, store)
    starts = [window_starts(int(store.lengths[clip]), samples, samples) for clip in clips]
    owner = np.repeat(clips, [len(each) for each in starts])
    return Windows(
        owner,
        np.concatenate([np.asarray(each, np.int64) for each in starts]),
        samples,
        tile=False,
        channels=view.channels,
    )


def whole_windows(store: ClipStore, clips: Index, view: View) -> Windows:
    """The middle of each clip, or of the recording that it is of; of a "pair" view the clip again and again."""
    samples = window_samples(view, store)
    if view.span == "parent":
        numbers = store.recordings.recording[clips]
        begin = np.maximum(store.recordings.length[numbers] - samples, 0) // 2
        return joined_windows(
            store, store.recordings, numbers, begin, Windows(clips, begin, samples, tile=True, channels=view.channels)
        )
    pieces = view.joined if view.span == "pair" else 1
    start = np.maximum(store.lengths[clips] - samples // pieces, 0) // 2
    if pieces == 1:
        return Windows(clips, start, samples, tile=True, channels=view.channels)
    length = np.full(len(clips) * pieces, samples // pieces)
    return Windows(
        np.repeat(clips, pieces), np.repeat(start, pieces), samples, True, None, None, pieces, length, view.channels
    )


def joined_windows(store: ClipStore, parents: Recordings, numbers: Index, begin: Index, rows: Windows) -> Windows:
    """Recordings put together: rows as `rows` has them, heard from sample `begin` (rows,) of each; what is not heard is
    left out."""
    clip, there = parents.clips_of(numbers)  # (rows, pieces)
    length = np.where(there, store.lengths[clip], 0)
    end = begin + (rows.samples if rows.span is None else rows.span)
    first, after = (np.clip(each[:, None] - parents.offset[clip], 0, length) for each in (begin, end))
    return Windows(
        clip.ravel(),
        first.ravel(),
        rows.samples,
        True,
        rows.span,
        rows.shift,
        clip.shape[1],
        (after - first).ravel(),
        rows.channels,
    )


def segment_windows(store: ClipStore, clips: Index, view: View) -> Windows:
    """Windows of a "crop" view around the middles of the equal parts of each clip that are its segments, or as near as
    the clip allows: (clips * segments,) rows, clip after clip."""
    samples, segments = window_samples(view, store), view.segments
    owner = np.repeat(clips, segments)
    length = store.lengths[owner]
    middle = (2 * np.tile(np.arange(segments), len(clips)) + 1) * length // (2 * segments)
    start = np.clip(middle - samples // 2, 0, np.maximum(length - samples, 0))
    return Windows(owner, start, samples, tile=False, channels=view.channels)


def segment_of(places: Windows, store: ClipStore, segments: int, heard: int | None = None) -> Index:
    """The segment that the middle of each crop lies in.

    Args:
        places: crops, of one piece each.
        store: their clips.
        segments: equal parts of what a teacher hears of a clip.
        heard: samples that it hears, the middle of a longer clip and a shorter one repeated; None is each whole clip.

    Returns:
        (rows,) 0 to segments - 1. A crop from outside of what the teacher hears has the part next to it.
    """
    lengths = store.lengths[places.clip]
    whole = lengths if heard is None else np.full(len(places), heard)
    extent = np.minimum(places.samples if places.span is None else places.span, lengths - places.start)
    # twice the place of the middle in what is heard
    middle = 2 * places.start + extent - np.maximum(lengths - whole, 0) // 2 * 2
    return np.clip(middle * segments // (2 * whole), 0, segments - 1)


def gather(store: ClipStore, places: Windows) -> Floats:
    """Waveforms float32 in [-1, 1]: (rows, samples), the mean of channels, or (rows, channels, samples)."""
    pcm = fetch(store, places)
    out: Floats
    if places.channels == "all":
        out = pcm.transpose(0, 2, 1).astype(np.float32, order="C")
    else:
        out = pcm[..., 0].astype(np.float32) if store.channels == 1 else pcm.mean(axis=2, dtype=np.float32)
    out *= np.float32(1 / PCM_SCALE)  # a power of two: the same as dividing
    return out


def fetch(store: ClipStore, places: Windows) -> Pcm:
    """Samples int16 (rows, samples, channels), copied from the memory map."""
    span = np.full(len(places), places.samples) if places.span is None else places.span
    shift = np.zeros(len(places), np.int64) if places.shift is None else places.shift % span
    wanted = span if places.length is None else places.length
    there = np.minimum(store.lengths[places.clip] - places.start, wanted)  # samples that the clip has
    first = store.offsets[places.clip] + places.start
    plain = (there * places.pieces == places.samples).all() and not shift.any()
    if plain and (places.length is None or ((there == wanted).all() and (span == places.samples).all())):  # in one call
        size = places.samples // places.pieces
        step, channel = store.pcm.strides
        shape = (len(store.pcm) - size + 1, size, store.channels)
        heard = np.lib.stride_tricks.as_strided(store.pcm, shape, (step, step, channel), writeable=False)[first]
        return heard.reshape(len(places), places.samples, store.channels)
    out = np.empty((len(places), places.samples, store.channels), np.int16)
    single = places.length is None
    rows = _single(store, places, first, there, span) if single else _joined(store, places, first, there, wanted, span)
    for row, heard, whole, by in zip(out, rows, span.tolist(), shift.tolist(), strict=True):
        row[by:whole] = heard[: whole - by]
        row[:by] = heard[whole - by :]
        row[whole:] = 0
    return out


def _single(store: ClipStore, places: Windows, first: Index, there: Index, span: Index) -> Iterator[Pcm]:
    """(span, channels) of each row of one clip."""
    for begin, length, whole in zip(first.tolist(), there.tolist(), span.tolist(), strict=True):
        heard = store.pcm[begin : begin + length]
        if length < whole:
            if places.tile:
                heard = np.resize(heard, (whole, store.channels))
            else:
                heard = np.concatenate([heard, np.zeros((whole - length, store.channels), np.int16)])
        yield heard


def _joined(store: ClipStore, places: Windows, first: Index, there: Index, length: Index, span: Index) -> Iterator[Pcm]:
    """(span, channels) of each row of several clips."""
    entries = list(zip(first.tolist(), there.tolist(), length.tolist(), strict=True))
    for row, whole in enumerate(span.tolist()):
        pieces = []
        for begin, has, wanted in entries[row * places.pieces : (row + 1) * places.pieces]:
            piece = store.pcm[begin : begin + has]
            pieces.append(piece if has == wanted else np.resize(piece, (wanted, store.channels)))
        heard = np.concatenate(pieces)
        yield heard[:whole] if len(heard) >= whole else np.resize(heard, (whole, store.channels))
