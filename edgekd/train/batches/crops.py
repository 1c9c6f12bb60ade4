"""Crops: which samples of a store make up each row of a batch, and the waveforms there. No torch here."""

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
"""Seconds. A view of whole clips or recordings without view.seconds refuses longer ones, which would not fit in
memory."""

Index = NDArray[np.int64]
Floats = NDArray[np.float32]
Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Crops:
    """Which samples of a store make up the rows of a batch. A row is one crop, or several pieces in sequence.

    clip: (rows * pieces,) indices into the store. start: (rows * pieces,) first samples, from the beginning of the
    clip.
    samples: length of each row.
    """

    clip: Index
    start: Index
    samples: int
    tile: bool
    """Whether a clip that is too short repeats (whole clips) or is followed by zeros (windows, as on the device)."""
    span: Index | None = None
    """(rows,) samples of audio, at most `samples`; zeros follow. None fills the row."""
    shift: Index | None = None
    """(rows,) circular shift of the audio in samples, less than `span` in either direction. None is no shift."""
    pieces: int = 1
    """Pieces of a row."""
    length: Index | None = None
    """(rows * pieces,) samples of each piece. A shorter clip repeats; 0 leaves the piece out. The joined pieces repeat
    where the row is longer, and shift as one. None where a row is one crop."""
    channels: Literal["mean", "all"] = "mean"
    """Whether waveforms have the mean of the channels or all of them."""

    def __len__(self) -> int:
        return len(self.clip) // self.pieces

    def __getitem__(self, part: slice) -> "Crops":
        span, shift = (None if each is None else each[part] for each in (self.span, self.shift))
        if self.length is None:
            return Crops(
                self.clip[part], self.start[part], self.samples, self.tile, span, shift, channels=self.channels
            )
        clip, start, length = (
            each.reshape(-1, self.pieces)[part].ravel() for each in (self.clip, self.start, self.length)
        )
        return Crops(clip, start, self.samples, self.tile, span, shift, self.pieces, length, self.channels)

    @property
    def owner(self) -> Index:
        """(rows,) the first clip of each row."""
        return self.clip[:: self.pieces]


def window_samples(view: View, store: ClipStore) -> int:
    """Samples of one input of the model.

    Raises:
        InputError: the view has no length, and the longest clip or recording exceeds `LONGEST_CLIP`.
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


def scored_windows(store: ClipStore, clips: Index, view: View) -> Crops:
    """The crops on which a model is scored: consecutive windows of each clip, or `centre_crops`.

    A "parent" view has one row for each recording of the clips, ordered by its number in `store.recordings`.
    """
    if view.span == "parent":
        parents = store.recordings
        clips = parents.segments[parents.first[np.unique(parents.recording[clips])]]
    if view.span != "crop":
        return centre_crops(store, clips, view)
    samples = window_samples(view, store)
    starts = [window_starts(int(store.lengths[clip]), samples, samples) for clip in clips]
    owner = np.repeat(clips, [len(each) for each in starts])
    return Crops(
        owner,
        np.concatenate([np.asarray(each, np.int64) for each in starts]),
        samples,
        tile=False,
        channels=view.channels,
    )


def centre_crops(store: ClipStore, clips: Index, view: View) -> Crops:
    """The middle of each clip, or of its recording; a "pair" view joins the clip to itself."""
    samples = window_samples(view, store)
    if view.span == "parent":
        numbers = store.recordings.recording[clips]
        begin = np.maximum(store.recordings.length[numbers] - samples, 0) // 2
        return recording_crops(
            store, store.recordings, numbers, begin, Crops(clips, begin, samples, tile=True, channels=view.channels)
        )
    pieces = view.joined if view.span == "pair" else 1
    start = np.maximum(store.lengths[clips] - samples // pieces, 0) // 2
    if pieces == 1:
        return Crops(clips, start, samples, tile=True, channels=view.channels)
    length = np.full(len(clips) * pieces, samples // pieces)
    return Crops(
        np.repeat(clips, pieces), np.repeat(start, pieces), samples, True, None, None, pieces, length, view.channels
    )


def recording_crops(store: ClipStore, parents: Recordings, numbers: Index, begin: Index, rows: Crops) -> Crops:
    """Crops of recordings, put together from their segments. Segments outside of a crop have length 0.

    Args:
        store: the audio.
        parents: the recordings.
        numbers: (rows,) recordings, as `parents` numbers them.
        begin: (rows,) first sample, from the beginning of the recording.
        rows: gives samples, span, shift and channels; its clips and starts are not read.
    """
    clip, present = parents.clips_of(numbers)  # (rows, pieces)
    length = np.where(present, store.lengths[clip], 0)
    end = begin + (rows.samples if rows.span is None else rows.span)
    first, after = (np.clip(each[:, None] - parents.offset[clip], 0, length) for each in (begin, end))
    return Crops(
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


def segment_crops(store: ClipStore, clips: Index, view: View) -> Crops:
    """The window around the middle of each segment of each clip, or as near as the clip allows.

    Segments are `view.segments` equal parts of a clip, for "crop" views. (clips * segments,) rows, clip after clip.
    """
    samples, segments = window_samples(view, store), view.segments
    owner = np.repeat(clips, segments)
    length = store.lengths[owner]
    middle = (2 * np.tile(np.arange(segments), len(clips)) + 1) * length // (2 * segments)
    start = np.clip(middle - samples // 2, 0, np.maximum(length - samples, 0))
    return Crops(owner, start, samples, tile=False, channels=view.channels)


def segment_of(crops: Crops, store: ClipStore, segments: int, teacher_samples: int | None = None) -> Index:
    """The segment of a teacher's input that the middle of each crop lies in.

    Args:
        crops: of one piece each.
        store: their clips.
        segments: equal parts of the teacher's input.
        teacher_samples: length of that input: the middle of a longer clip, or a shorter one repeated. None takes each
            clip as a whole.

    Returns:
        (rows,) 0 to segments - 1. A crop outside of the teacher's input has the nearest segment.
    """
    lengths = store.lengths[crops.clip]
    covered = lengths if teacher_samples is None else np.full(len(crops), teacher_samples)
    extent = np.minimum(crops.samples if crops.span is None else crops.span, lengths - crops.start)
    # twice the position of the middle in the teacher's input
    middle = 2 * crops.start + extent - np.maximum(lengths - covered, 0) // 2 * 2
    segment: Index = np.clip(middle * segments // (2 * covered), 0, segments - 1)
    return segment


def read_waveforms(store: ClipStore, crops: Crops) -> Floats:
    """Waveforms float32 in [-1, 1]: (rows, samples), the mean of channels, or (rows, channels, samples)."""
    pcm = read_pcm(store, crops)
    out: Floats
    if crops.channels == "all":
        out = pcm.transpose(0, 2, 1).astype(np.float32, order="C")
    else:
        out = pcm[..., 0].astype(np.float32) if store.channels == 1 else pcm.mean(axis=2, dtype=np.float32)
    out *= np.float32(1 / PCM_SCALE)  # a power of two: the same as dividing
    return out


def read_pcm(store: ClipStore, crops: Crops) -> Pcm:
    """Samples int16 (rows, samples, channels), copied from the memory map."""
    span = np.full(len(crops), crops.samples) if crops.span is None else crops.span
    shift = np.zeros(len(crops), np.int64) if crops.shift is None else crops.shift % span
    wanted = span if crops.length is None else crops.length
    available = np.minimum(store.lengths[crops.clip] - crops.start, wanted)  # samples that the clip has
    first = store.offsets[crops.clip] + crops.start
    plain = (available * crops.pieces == crops.samples).all() and not shift.any()
    if plain and (crops.length is None or ((available == wanted).all() and (span == crops.samples).all())):
        # all in one call
        size = crops.samples // crops.pieces
        step, channel = store.pcm.strides
        shape = (len(store.pcm) - size + 1, size, store.channels)
        view = np.lib.stride_tricks.as_strided(store.pcm, shape, (step, step, channel), writeable=False)
        pcm: Pcm = view[first].reshape(len(crops), crops.samples, store.channels)
        return pcm
    out = np.empty((len(crops), crops.samples, store.channels), np.int16)
    rows = (
        _single_rows(store, crops, first, available, span)
        if crops.length is None
        else _joined_rows(store, crops, first, available, wanted, span)
    )
    for row, audio, end, by in zip(out, rows, span.tolist(), shift.tolist(), strict=True):
        row[by:end] = audio[: end - by]
        row[:by] = audio[end - by :]
        row[end:] = 0
    return out


def _single_rows(store: ClipStore, crops: Crops, first: Index, available: Index, span: Index) -> Iterator[Pcm]:
    """(span, channels) of each row that is one crop."""
    for begin, length, wanted in zip(first.tolist(), available.tolist(), span.tolist(), strict=True):
        audio = store.pcm[begin : begin + length]
        if length < wanted:
            if crops.tile:
                audio = np.resize(audio, (wanted, store.channels))
            else:
                audio = np.concatenate([audio, np.zeros((wanted - length, store.channels), np.int16)])
        yield audio


def _joined_rows(
    store: ClipStore, crops: Crops, first: Index, available: Index, length: Index, span: Index
) -> Iterator[Pcm]:
    """(span, channels) of each row of several pieces."""
    entries = list(zip(first.tolist(), available.tolist(), length.tolist(), strict=True))
    for row, end in enumerate(span.tolist()):
        pieces = []
        for begin, has, wanted in entries[row * crops.pieces : (row + 1) * crops.pieces]:
            piece = store.pcm[begin : begin + has]
            pieces.append(piece if has == wanted else np.resize(piece, (wanted, store.channels)))
        audio = np.concatenate(pieces)
        yield audio[:end] if len(audio) >= end else np.resize(audio, (end, store.channels))
