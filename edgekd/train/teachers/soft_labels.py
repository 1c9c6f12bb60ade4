"""Soft labels: a teacher's raw logits for every clip of a store, computed once and kept beside the teacher's run.

The key is a hash of the weights, the front end, the view and the store's table and audio; whatever changes one of them
makes a new file. Of several augmented views of each clip it is also one of the augmentation, the seed and the clips
that may be joined to others.

They are computed in parts of `PART_CLIPS` clips (or recordings, whose segments share what is said of them), shared
among the processes of a job and kept until all are there: an interrupted computation goes on where it was, and neither
that nor the number of processes changes a byte of the file.
"""

import hashlib
import io
import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store.store import ClipStore, listing
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.models import front
from edgekd.text import counted
from edgekd.train.batches.crops import Crops, Floats, Index, scored_windows, segment_crops, window_samples
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.batches.teacher_view import TeacherView
from edgekd.train.loop.validation import Score, judge, window_logits
from edgekd.train.parallel import processes
from edgekd.train.recipe.schema import View
from edgekd.train.run.faults import DISK_ERRORS, memory_told
from edgekd.train.run.folder import SOFT_LABELS_FOLDER, Run
from edgekd.train.teachers.out_of_fold import assignment, combined, combined_key, opened_fits

log = logging.getLogger(__name__)

PART_CLIPS = 4096
"""Clips of a part. Batches end with their part, so another length may change last bits."""

Logits = NDArray[np.float16]


class _Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beside each file of logits: what it belongs to. sha256: of the .npy file."""

    key: str
    labels: tuple[str, ...]
    clips: int
    sha256: str


def soft_labels(
    run: Run, store: ClipStore, views: int = 0, clips: Index | None = None, stream: int = RandomStream.TEACHER
) -> tuple[str, Logits]:
    """A teacher's logits for all clips, from the cache or computed.

    Segments of a recording share what a "parent" teacher says of it; of one whose view has segments each clip has the
    part that its middle lies in.

    Args:
        run: the teacher.
        store: the clips.
        views: 0 for what it says of each clip as it is. Else how often it judges each clip, heard as `TeacherView` has
            it in the epochs 0, 1, ...
        clips: (clips,) those that a "pair" teacher may join to others in its views; None is all.
        stream: of the views' draws.

    Returns:
        the key (64 hex digits) and float16 logits, clips in the order of the store's table: (clips, labels), or (clips,
        segments, labels) of a "crop" or "clip" teacher whose view has segments; with views always (views, clips,
        segments, labels).

    Raises:
        InputError: the teacher has other labels or another sample rate than the store, a view that cannot have
            segments, a cached file is damaged, or a cross-fitted teacher is of another store or has changed.
    """
    check_fits(run, store)
    check_segments(run.recipe.view, str(run.path))
    if run.info.cross_fit:
        return _out_of_fold(run, store, views, clips, stream)
    teacher = (
        TeacherView(store, np.arange(len(store.clips)) if clips is None else clips, run.recipe, stream)
        if views
        else None
    )
    joined = clips if run.recipe.view.span == "pair" else None
    key = processes.first(lambda: _key(run, store, views, joined, stream))
    path = run.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy"
    if not processes.first(path.is_file):
        heard = _heard(run, store)
        log.info(
            "computing the soft labels of %s for %s%s",
            run.path,
            counted(len(store.clips), "clip"),
            f", {views} views each" if views else "",
        )
        parts = [
            _Part(path, key, view, len(heard), start, min(start + PART_CLIPS, len(heard)))
            for view in range(max(views, 1))
            for start in range(0, len(heard), PART_CLIPS)
        ]
        missing = processes.first(lambda: [place for place, part in enumerate(parts) if part.read() is None])
        if len(missing) < len(parts):
            log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
        for place in missing[processes.rank() :: processes.world()]:
            part = parts[place]
            with memory_told(f"the soft labels of {run.path}", "free memory, or start fewer processes on this machine"):
                wanted = heard[part.start : part.stop]
                part.write(
                    _compute(run, store, wanted)
                    if teacher is None
                    else _of_view(run, store, *teacher.crops(part.view, wanted))
                )
        processes.wait()
        processes.first(lambda: _merge(path, key, run, store, views, parts))
    return key, processes.first(lambda: _read(path, key, store))


def teacher_score(logits: NDArray[np.floating[Any]], store: ClipStore, clips: Index) -> Score:
    """Accuracy of soft labels (clips of the store, labels) or (clips, segments, labels) on some of its clips."""
    said = logits[clips].astype(np.float32)
    owner = np.repeat(clips, math.prod(said.shape[1:-1]))
    return judge(said.reshape(len(owner), -1), np.zeros(len(owner), bool), owner, store.label_index)


def check_fits(run: Run, store: ClipStore) -> None:
    """Refuse a teacher that can't teach from a store.

    Raises:
        InputError: other labels or another sample rate.
    """
    if run.labels != store.labels:
        only = sorted(set(run.labels) ^ set(store.labels))
        raise InputError(
            f"{run.path}: the teacher's {len(run.labels)} labels are not the {len(store.labels)} of {store.path} "
            f"(not in both: {listing(only)}); train a teacher on this store's labels"
        )
    if run.frontend.sample_rate != store.sample_rate:
        raise InputError(
            f"{run.path}: the teacher hears {run.frontend.sample_rate} Hz, {store.path} holds {store.sample_rate} Hz; "
            "prepare the store at that rate"
        )


def check_segments(view: View, where: str) -> None:
    """Refuse segments of what has none.

    Raises:
        InputError: segments of joined clips; `where` is named.
    """
    if view.segments > 1 and view.span == "pair":
        raise InputError(
            f'{where}: view.segments = {view.segments} with view.span = "pair"; segments are of "crop", "clip" and'
            ' "parent"'
        )


def _out_of_fold(run: Run, store: ClipStore, views: int, clips: Index | None, stream: int) -> tuple[str, Logits]:
    """Of a cross-fitted teacher: put together from those of its fits, which are cached with them."""
    judge = assignment(run.recipe, store, run.info.cross_fit)
    keys, logits = zip(*(soft_labels(fit, store, views, clips, stream) for fit in opened_fits(run, store)), strict=True)
    if views:
        return combined_key(judge, keys), np.stack([combined(judge, of_view) for of_view in zip(*logits, strict=True)])
    return combined_key(judge, keys), combined(judge, logits)


def _key(
    run: Run, store: ClipStore, views: int = 0, joined: Index | None = None, stream: int = RandomStream.TEACHER
) -> str:
    parts: tuple[Any, ...] = (run.weights_hash, run.recipe.model, run.frontend, run.recipe.view, store.hash)
    if views:
        among = "" if joined is None else hashlib.sha256(np.sort(joined).tobytes()).hexdigest()
        parts += (views, run.recipe.augment, run.recipe.seed, stream, among)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _heard(run: Run, store: ClipStore) -> Index:
    """One clip for each thing that is judged: all clips, or the first of each recording, by its number in
    `store.parents`."""
    if run.recipe.view.span == "parent":
        return store.parents.segments[store.parents.first]
    return np.arange(len(store.clips))


class _Part:
    """Logits of one view of start..stop of `heard` clips or recordings on disk, with the key that they belong to."""

    def __init__(self, whole: Path, key: str, view: int, heard: int, start: int, stop: int) -> None:
        self.path = whole.with_name(f"{whole.stem}-{view * heard + start}-{view * heard + stop}.npz")
        self.key, self.view, self.start, self.stop = key, view, start, stop

    def read(self) -> Logits | None:
        """float16 (clips of the part, ..., labels); None where the part is missing, damaged or of another key."""
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                logits: Logits = saved["logits"]
                fits = str(saved["key"]) == self.key and len(logits) == self.stop - self.start
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return logits if fits else None

    def write(self, logits: Logits) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, logits=logits, key=np.array(self.key))
        _put(self.path, buffer.getvalue())


def _compute(run: Run, store: ClipStore, clips: Index) -> Logits:
    """Each of some clips in a row as it is: the whole, or the mean over windows that are not silent (over all, where
    all are). Of a "crop" view with segments each of its windows, a silent one as that mean."""
    view = run.recipe.view
    places = (
        scored_windows(store, clips, view)
        if view.span != "crop" or view.segments == 1
        else segment_crops(store, clips, view)
    )
    if view.span != "crop":
        return _of_view(run, store, places, None)
    said, quiet = window_logits(run.float_model(), front(run.config, run.frontend), store, places)
    logits, silent = said.numpy(), quiet.numpy()
    owner = places.clip - clips[0]
    heard = (~silent).astype(np.float64)
    sounding = np.bincount(owner, weights=heard) > 0
    weight = np.where(sounding[owner], heard, 1.0)
    summed = np.zeros((len(clips), logits.shape[1]))
    np.add.at(summed, owner, logits * weight[:, None])
    mean = summed / np.bincount(owner, weights=weight)[:, None]
    if view.segments == 1:
        return mean.astype(np.float16)
    return np.where(silent[:, None], mean[owner], logits).reshape(len(clips), view.segments, -1).astype(np.float16)


def _of_view(run: Run, store: ClipStore, places: Crops, gain_db: Floats | None) -> Logits:
    """(rows, labels), or (rows, segments, labels) of several segments."""
    model, log_mel = run.float_model(), front(run.config, run.frontend)
    return window_logits(model, log_mel, store, places, gain_db, run.recipe.view.segments)[0].numpy().astype(np.float16)


def _merge(path: Path, key: str, run: Run, store: ClipStore, views: int, parts: list[_Part]) -> None:
    """Make the one file of all parts, and delete them."""
    if path.is_file():  # by another job, which has deleted them
        return
    found = [part.read() for part in parts]
    for part, logits in zip(parts, found, strict=True):
        if logits is None:
            raise InputError(
                f"{part.path} is not there, though it was written; put the teacher where all machines see it, and let"
                " one job at a time compute its soft labels"
            )
    buffer = io.BytesIO()
    np.save(buffer, _of_clips(run, store, np.concatenate(found), views))
    raw = buffer.getvalue()
    sidecar = _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest())
    _put(path.with_suffix(".json"), msgspec.json.encode(sidecar))
    _put(path, raw)
    for part in parts:
        part.path.unlink(missing_ok=True)


def _of_clips(run: Run, store: ClipStore, logits: Logits, views: int) -> Logits:
    """What `soft_labels` returns, from what was said of all that is judged, view after view."""
    view, parents = run.recipe.view, store.parents
    logits = logits.reshape(max(views, 1), -1, *logits.shape[1:])  # (views, clips or recordings, ..., labels)
    if view.span == "parent":
        logits = logits[:, parents.parent]
        if view.segments > 1:
            logits = logits[
                :, np.arange(len(parents.parent)), _own_segment(store, window_samples(view, store), view.segments)
            ]
    if not views:
        return logits[0]
    return logits if logits.ndim == 4 else logits[:, :, None]


def _own_segment(store: ClipStore, samples: int, segments: int) -> Index:
    """(clips,) the part of its recording that a clip's middle lies in, of which a teacher hears the middle
    `samples`."""
    parents = store.parents
    begin = np.maximum(parents.length[parents.parent] - samples, 0) // 2
    middle = 2 * (parents.before - begin) + store.lengths  # twice its place
    return np.clip(middle * segments // (2 * samples), 0, segments - 1)


def _put(path: Path, raw: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, raw)
    except OSError as error:
        todo = (
            "free space there and run this again"
            if error.errno in DISK_ERRORS
            else "make the teacher's folder writable or copy it"
        )
        raise InputError(f"{path} cannot be written ({error.strerror}); {todo}; what is done is kept") from None


def _read(path: Path, key: str, store: ClipStore) -> Logits:
    try:
        raw = path.read_bytes()
        sidecar = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Sidecar)
    except (OSError, msgspec.DecodeError) as error:
        raise _mismatch(path, str(error)) from None
    if sidecar != _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest()):
        raise _mismatch(path, "it is not what its key says")
    logits: Logits = np.load(io.BytesIO(raw), allow_pickle=False)
    return logits


def _mismatch(path: Path, why: str) -> InputError:
    return InputError(f"{path}: the cached soft labels are damaged ({why}); delete the file to compute them again")
