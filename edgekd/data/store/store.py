"""Reads a clip store: audio that was decoded once into one flat int16 memory map, and a table of its clips.

Training reads audio from stores only. A store is a folder of three files: `audio.i16` (little-endian int16,
(time, channels), clips back to back in the order of the table), `clips.csv` (one row for each clip) and `store.json`
(`StoreInfo`). The hash of table and audio identifies it. `writer.py` writes stores.
"""

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_TYPE, to_waveform
from edgekd.data.store import page_cache
from edgekd.data.store.clips import UNLABELLED, Clip, decode_table, shared_origins
from edgekd.data.store.folds import connected_groups, grouped_folds
from edgekd.data.store.recordings import Recordings, find_recordings
from edgekd.errors import InputError, nearest
from edgekd.text import counted, listing

FORMAT = "edgekd-store"
FORMAT_VERSION = 2
READ_VERSIONS = (1, FORMAT_VERSION)
"""Version 1 has no `source_rates` and no `cancelled`."""
AUDIO_FILE, TABLE_FILE, INFO_FILE = "audio.i16", "clips.csv", "store.json"
HASH_BLOCK = 1 << 22
"""Bytes read at once when hashing audio."""


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of store.json.

    Attributes:
        name: of the data set.
        licence: of the audio; "unknown" where it was not stated.
        synthetic: whether a program made the audio.
        official_folds: whether the splits are the published ones. Training clips that leak into the test side of such
            splits are left out; in other stores a leak is refused.
        sample_rate: Hz.
        table_sha256, audio_sha256: of the two other files.
        source_rates: label -> sample rate of the file that a clip came from, Hz -> clips; empty where it is not known.
        cancelled: paths of clips whose channels cancel in their mean, as they are of opposite phase.
    """

    format: str = FORMAT
    version: int = FORMAT_VERSION
    name: str
    licence: str
    synthetic: bool = False
    official_folds: bool = False
    sample_rate: int
    channels: int
    table_sha256: str
    audio_sha256: str
    source_rates: dict[str, dict[int, int]] = {}
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """Clip indices, int64, of a training and a test side.

    Attributes:
        train: (clips,) indices to train on.
        test: (clips,) indices to test on.
        left_out: (clips,) training clips dropped because an official fold shares their group or parent with the test
            side.
        leaks: the shared groups and parents, whether left out or allowed.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: NDArray[np.int64]
    leaks: tuple[str, ...]


class ClipStore:
    """A store opened for reading. Build with `ClipStore.open`.

    Attributes:
        path: the store's folder.
        clips: the table, in order of the audio.
        labels: all labels, sorted; a model's classes in this order.
        label_index: (clips,) int64 position of each clip's label in `labels`.
        lengths: (clips,) int64 samples per clip.
        offsets: (clips,) int64 first sample of each clip in `pcm`.
        pcm: (total samples, channels) int16, read-only memory map.
        streamed: whether the audio is too large to stay in memory, so that `prefetch` advises the kernel.
    """

    def __init__(self, path: Path, info: StoreInfo, clips: list[Clip], streamed: bool | None = None) -> None:
        self.path = path
        self.info = info
        self.clips = clips
        self.labels: tuple[str, ...] = tuple(sorted({clip.label for clip in clips}))
        position = {label: index for index, label in enumerate(self.labels)}
        self.label_index: NDArray[np.int64] = np.array([position[clip.label] for clip in clips], dtype=np.int64)
        self.lengths: NDArray[np.int64] = np.rint([clip.seconds * info.sample_rate for clip in clips]).astype(np.int64)
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        total = int(self.lengths.sum())
        with (path / AUDIO_FILE).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), total * info.channels * PCM_TYPE.itemsize, access=mmap.ACCESS_READ)
        # an array over the map, not a np.memmap: slices of that are slow, and arrays computed from it are memmaps too
        self.pcm: NDArray[np.int16] = np.frombuffer(self._map, PCM_TYPE).reshape(total, info.channels)
        self.streamed = page_cache.exceeds_memory(len(self._map)) if streamed is None else streamed

    @classmethod
    def open(cls, path: Path | str, streamed: bool | None = None) -> "ClipStore":
        """Open a store and check its table's hash and its audio's size (`verify` also checks the audio's hash).

        Args:
            path: its folder.
            streamed: as in the attribute; None decides by the size of the audio and the memory available now.

        Raises:
            InputError: not a store, of an unknown version, or damaged.
        """
        path = Path(path)
        info = read_info(path)
        try:
            table = (path / TABLE_FILE).read_bytes()
            audio_bytes = (path / AUDIO_FILE).stat().st_size
        except OSError as error:
            raise _damaged(path, f"{Path(error.filename).name} cannot be read: {error.strerror}") from None
        if hashlib.sha256(table).hexdigest() != info.table_sha256:
            raise _damaged(path, f"{TABLE_FILE} does not match its recorded hash")
        clips = decode_table(table)
        expected = sum(round(clip.seconds * info.sample_rate) for clip in clips) * info.channels * PCM_TYPE.itemsize
        if not clips or audio_bytes != expected:
            raise _damaged(path, f"{AUDIO_FILE} holds {audio_bytes} bytes, {TABLE_FILE} needs {expected}")
        return cls(path, info, clips, streamed)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.info.name

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """Channels of `pcm`."""
        return self.info.channels

    @property
    def licence(self) -> str:
        """Licence of the audio; "unknown" where it was not stated."""
        return self.info.licence

    @property
    def synthetic(self) -> bool:
        """Whether the audio was made by a program instead of recorded."""
        return self.info.synthetic

    @property
    def hash(self) -> str:
        """64 hex digits that identify table and audio."""
        parts = (self.info.table_sha256, self.info.audio_sha256, str(self.sample_rate), str(self.channels))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, sorted."""
        return tuple(sorted({clip.split for clip in self.clips}))

    @cached_property
    def recordings(self) -> Recordings:
        """The longer recordings (`Clip.parent`) that clips are parts of."""
        return find_recordings([clip.parent for clip in self.clips], [clip.path for clip in self.clips], self.lengths)

    def verify(self) -> None:
        """Read all audio and compare its hash.

        Raises:
            InputError: the audio is not what was written.
        """
        digest = hashlib.sha256()
        with (self.path / AUDIO_FILE).open("rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
        if digest.hexdigest() != self.info.audio_sha256:
            raise _damaged(self.path, f"{AUDIO_FILE} does not match its recorded hash")

    def clip_pcm(self, index: int) -> NDArray[np.int16]:
        """(time, channels) int16 of one clip, a view of the memory map."""
        start = self.offsets[index]
        return self.pcm[start : start + self.lengths[index]]

    def waveform(self, index: int) -> NDArray[np.float32]:
        """(time,) float32 in [-1, 1]: one clip, the mean of its channels."""
        return to_waveform(self.clip_pcm(index))

    def window(self, index: int, start: int, window: int) -> NDArray[np.float32]:
        """(window,) float32 in [-1, 1]: samples from `start` of one clip, zeros after its end."""
        if self.streamed:
            self.prefetch([index], [start], window)
        part = to_waveform(self.clip_pcm(index)[start : start + window])
        return np.pad(part, (0, window - len(part)))

    def prefetch(
        self,
        clips: Sequence[int] | NDArray[np.int64],
        starts: Sequence[int] | NDArray[np.int64] | None = None,
        samples: int | NDArray[np.int64] | None = None,
    ) -> None:
        """Have the kernel read windows that are needed soon, while this process goes on; nothing unless `streamed`.

        Args:
            clips: indices.
            starts: first sample of each clip's window; 0 by default.
            samples: length of the windows, or of each; to the end of each clip by default.
        """
        if not self.streamed:
            return
        lengths = self.lengths[clips]
        first = np.minimum(0 if starts is None else starts, lengths)
        after = lengths if samples is None else np.minimum(first + samples, lengths)
        bounds = (self.offsets[clips] + np.stack([first, after])) * self.channels * PCM_TYPE.itemsize  # (2, clips)
        page_cache.prefetch(self._map, ((int(begin), int(end)) for begin, end in bounds.T if begin < end))

    def indices(self, splits: Iterable[str]) -> NDArray[np.int64]:
        """(clips,) int64 indices of the clips in the named splits, in table order.

        Raises:
            InputError: a split that the store does not have, or none named.
        """
        wanted = set(splits)
        for split in sorted(wanted):
            if split not in self.splits:
                raise InputError(f"{self.path}: no split '{split}'{nearest(split, self.splits)}")
        if not wanted:
            raise InputError(f"{self.path}: no split named; it has {', '.join(self.splits)}")
        return np.array([index for index, clip in enumerate(self.clips) if clip.split in wanted], dtype=np.int64)

    def partition(
        self,
        train_splits: Sequence[str],
        test_splits: Sequence[str],
        allow_leaks: bool = False,
        held_out: Sequence[int] = (),
        mixed_folds: bool = False,
    ) -> Partition:
        """Divide clips into a training and a test side that share no group and no parent and have the same labels.

        A group or parent on both sides is a leak. Where the splits are official folds, the leaking clips are left out
        of training; elsewhere a leak is refused. `allow_leaks` keeps all clips.

        Args:
            train_splits, test_splits: names.
            allow_leaks: see above.
            held_out: k, K: the training side is divided into K folds by recording, and fold k becomes the test side;
                further pairs divide what remains. Clips of the test splits, which may be none, are then on neither
                side, and a label may be missing in the test side.
            mixed_folds: allow `held_out` to mix all official folds and divide their clips anew.

        Raises:
            InputError: an unknown or repeated split, a leak, a label that is on one side only, no labels at all, too
                few recordings to hold out, or all official folds mixed without `mixed_folds`.
        """
        if UNLABELLED in self.labels:
            raise InputError(
                f"{self.path}: {self.name} has no labels: nothing can be trained on it; give its folder to edgekd"
                " predict"
            )
        if (
            held_out
            and not mixed_folds
            and self.info.official_folds
            and len(self.splits) > 1
            and set(self.splits) <= set(train_splits)
        ):
            raise InputError(
                f"{self.path}: data.held_out = {list(held_out)} would mix the official folds of {self.name} and divide"
                " their clips anew; such a score cannot be compared with any other. Keep one fold out as data.test,"
                " test each fold by edgekd crossval, or set data.mixed_folds = true for a final model, whose figures"
                " are those of a crossval"
            )
        both = sorted(set(train_splits) & set(test_splits))
        if both:
            raise InputError(
                f"{self.path}: split '{both[0]}' is named for training and for testing; take it from one of them"
            )
        train = self.indices(train_splits)
        test = self.indices(test_splits) if test_splits or not held_out else np.array([], np.int64)
        leaks = shared_origins(self.clips[i] for i in train) & shared_origins(self.clips[i] for i in test)
        left_out = np.array([], dtype=np.int64)
        if leaks and not allow_leaks:
            leaking = np.array([not leaks.isdisjoint(shared_origins([self.clips[i]])) for i in train], dtype=bool)
            if not self.info.official_folds:
                raise InputError(
                    f"{self.path}: {counted(len(leaks), 'group is', 'groups are')} in training and in test "
                    f"({listing(sorted(leaks))}); give each group one split, or allow leaks"
                )
            train, left_out = train[~leaking], train[leaking]
        if held_out:
            train, test = self._hold_out(train, held_out)
        else:
            self._check_labels_on_both_sides(train, test, len(left_out))
        return Partition(train, test, left_out, tuple(sorted(leaks)))

    def folds(self, clips: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """(clips,) int64: the fold of each clip, 0 to count - 1. No group is in two folds; labels are balanced.

        Raises:
            InputError: fewer groups than folds.
        """
        groups = self.group_ids(clips)
        found = len(np.unique(groups))
        if count > found:
            raise InputError(
                f"{self.path}: {counted(found, 'recording')} cannot be divided into {count} parts; ask for {found} at"
                " most"
            )
        return grouped_folds(groups, self.label_index[clips], [self.clips[i].path for i in clips], count)

    def group_ids(self, clips: NDArray[np.int64]) -> NDArray[np.int64]:
        """(clips,) int64: a number for each set of clips that share a group or parent, directly or through other clips
        of this list."""
        return connected_groups([shared_origins([self.clips[i]]) for i in clips])

    def _hold_out(
        self, train: NDArray[np.int64], held_out: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        labels = {self.clips[i].label for i in train}
        test = train
        for fold, count in zip(held_out[::2], held_out[1::2], strict=True):
            out = self.folds(train, count) == fold
            train, test = train[~out], train[out]
        missing = sorted(labels - {self.clips[i].label for i in train})
        if missing:
            raise InputError(
                f"{self.path}: label {listing(missing)} is left with no clip to train on when part {held_out[-2]} of "
                f"{held_out[-1]} is held out; it has too few recordings: add some, or hold out other parts"
            )
        return train, test

    def _check_labels_on_both_sides(self, train: NDArray[np.int64], test: NDArray[np.int64], left_out: int) -> None:
        hint = (
            f" ({left_out} training clips were left out, whose groups are in test too; data.allow_leaks = true keeps"
            " them)"
            if left_out
            else ""
        )
        trained, tested = ({self.clips[i].label for i in side} for side in (train, test))
        for labels, where, other in ((trained - tested, "training", "test"), (tested - trained, "test", "training")):
            if labels:
                raise InputError(
                    f"{self.path}: label {listing(sorted(labels))} is in {where} only{hint}; "
                    f"add {other} clips of it or choose other splits"
                )


def read_info(path: Path) -> StoreInfo:
    """Read store.json.

    Raises:
        InputError: no store, an unknown version, or damage.
    """
    try:
        raw = (path / INFO_FILE).read_bytes()
    except OSError:
        inside = sorted(path.glob("*/" + INFO_FILE)) if path.is_dir() else []
        hint = f"; did you mean {inside[0].parent}?" if inside else "; make one with: edgekd data prepare"
        what = "is not an edgekd store (it has no readable store.json)" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}{hint}") from None
    try:
        version = msgspec.json.decode(raw, type=dict[str, object]).get("version")
        if version not in READ_VERSIONS:
            raise InputError(
                f"{path}: store version {version!r} is unknown (this edgekd reads 1 to {FORMAT_VERSION}); prepare it"
                " again"
            )
        info = msgspec.json.decode(raw, type=StoreInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"{INFO_FILE}: {error}") from None
    if info.format != FORMAT or info.sample_rate < 1 or info.channels < 1:
        raise _damaged(path, f"{INFO_FILE} holds impossible values")
    return info


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: the store is damaged ({what}); prepare it again with --force")
