"""Soft labels: a teacher's logits for every clip of a store, computed once and saved in the teacher's run folder.

A file's key is a hash of the weights, the architecture, the front end, the view, and the store's table and audio: a
change of one of them makes a new file. The key of several augmented views also covers the augmentation, the seed and
the clips that may be joined to others.

The clips (or recordings, whose segments share their logits) are computed in parts of `PART_CLIPS`, which the processes
of a training divide among them. Finished parts are saved, so that an interrupted computation is resumed. Neither that
nor the number of processes changes a byte of the file.
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

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.metrics.scores import Scores, clip_means, item_scores, softmax
from edgekd.models import front
from edgekd.text import counted, listing
from edgekd.train.batches.crops import Crops, Floats, Index, scored_windows, segment_crops, window_samples
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.batches.silence import silent_clips
from edgekd.train.batches.teacher_view import TeacherView
from edgekd.train.loop.validation import window_logits
from edgekd.train.parallel import processes
from edgekd.train.recipe.schema import View
from edgekd.train.run.claim import DISK_ERRORS, report_out_of_memory
from edgekd.train.run.folder import SOFT_LABELS_FOLDER, Run
from edgekd.train.teachers.out_of_fold import assignment, combine, combined_key, open_fits

log = logging.getLogger(__name__)

PART_CLIPS = 4096
"""Clips of a part. No batch spans two parts, so another value may change the last bits of logits."""

Logits = NDArray[np.float16]


class _Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The .json file of each .npy file of logits: its key, labels and number of clips. sha256: of the .npy file."""

    key: str
    labels: tuple[str, ...]
    clips: int
    sha256: str


def soft_labels(
    run: Run, store: ClipStore, views: int = 0, clips: Index | None = None, stream: int = RandomStream.TEACHER
) -> tuple[str, Logits]:
    """A teacher's logits for all clips, read from its run folder or computed and saved there.

    All segments of a recording have the logits that a "parent" teacher gives the recording; where its view has
    segments, each clip has those of the part that its middle lies in.

    Args:
        run: the teacher.
        store: the clips.
        views: 0 for the logits of each clip without augmentation. Otherwise the number of augmented views of each clip,
            those of `TeacherView` in the epochs 0, 1, ...
        clips: (clips,) those that a "pair" teacher may join to others in its views; None is all.
        stream: random stream of the views.

    Returns:
        the key (64 hex digits) and float16 logits, clips in the order of the store's table: (clips, labels), or (clips,
        segments, labels) of a "crop" or "clip" teacher whose view has segments; with views always (views, clips,
        segments, labels).

    Raises:
        InputError: the teacher's labels or sample rate are not the store's, its view cannot have segments, a saved file
            is damaged, or a cross-fitted teacher is of another store or has changed.
    """
    check_matches_store(run, store)
    check_segments(run.recipe.view, str(run.path))
    if run.info.cross_fit:
        return _out_of_fold(run, store, views, clips, stream)
    teacher = (
        TeacherView(store, np.arange(len(store.clips)) if clips is None else clips, run.recipe, stream)
        if views
        else None
    )
    joined = clips if run.recipe.view.span == "pair" else None
    key = processes.first(lambda: soft_label_key(run, store, views, joined, stream))
    path = run.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy"
    if not processes.first(path.is_file):
        inputs = _inputs(run, store)
        log.info(
            "computing the soft labels of %s for %s%s",
            run.path,
            counted(len(store.clips), "clip"),
            f", {views} views each" if views else "",
        )
        parts = [
            _Part(path, key, view, len(inputs), start, min(start + PART_CLIPS, len(inputs)))
            for view in range(max(views, 1))
            for start in range(0, len(inputs), PART_CLIPS)
        ]
        missing = processes.first(lambda: [number for number, part in enumerate(parts) if part.read() is None])
        if len(missing) < len(parts):
            log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
        for number in missing[processes.rank() :: processes.world()]:
            part = parts[number]
            with report_out_of_memory(
                f"the soft labels of {run.path}", "free memory, or start fewer processes on this machine"
            ):
                clips_of_part = inputs[part.start : part.stop]
                part.write(
                    _compute(run, store, clips_of_part)
                    if teacher is None
                    else logits_of_view(run, store, *teacher.crops(part.view, clips_of_part))
                )
        processes.barrier()
        processes.first(lambda: _merge(path, key, run, store, views, parts))
    return key, processes.first(lambda: _read(path, key, store))


def clip_probabilities(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(clips, labels) probabilities of soft labels (clips, labels), or of (clips, segments, labels) the mean over
    segments."""
    segments = math.prod(logits.shape[1:-1])
    of_segments = softmax(logits).reshape(len(logits) * segments, -1)
    clip_of = np.repeat(np.arange(len(logits)), segments)
    return clip_means(of_segments, np.zeros(len(clip_of), bool), clip_of, len(logits))[0]


def teacher_scores(probabilities: NDArray[np.float64], store: ClipStore, clips: Index) -> Scores:
    """Scores of a teacher on some clips of a store; silent clips are left out.

    Args:
        probabilities: (clips of the store, labels), see `clip_probabilities`.
        store: the clips.
        clips: (clips to score,) indices.

    Raises:
        InputError: all of these clips are silent.
    """
    return item_scores(probabilities[clips], silent_clips(store)[clips], store.label_index[clips])


def check_matches_store(run: Run, store: ClipStore) -> None:
    """Refuse a teacher whose labels or sample rate are not those of a store.

    Raises:
        InputError: they differ.
    """
    if run.labels != store.labels:
        only = sorted(set(run.labels) ^ set(store.labels))
        raise InputError(
            f"{run.path}: the teacher's {len(run.labels)} labels are not the {len(store.labels)} of {store.path} "
            f"(not in both: {listing(only)}); train a teacher on this store's labels"
        )
    if run.frontend.sample_rate != store.sample_rate:
        raise InputError(
            f"{run.path}: the teacher takes {run.frontend.sample_rate} Hz, {store.path} holds {store.sample_rate} Hz; "
            "prepare the store at that rate"
        )


def check_segments(view: View, where: str) -> None:
    """Refuse segments of joined clips; the error names `where`.

    Raises:
        InputError: the view has several segments and joins clips.
    """
    if view.segments > 1 and view.span == "pair":
        raise InputError(
            f'{where}: view.segments = {view.segments} with view.span = "pair"; segments are of "crop", "clip" and'
            ' "parent"'
        )


def _out_of_fold(run: Run, store: ClipStore, views: int, clips: Index | None, stream: int) -> tuple[str, Logits]:
    """Soft labels of a cross-fitted teacher, combined from those in the run folders of its fits."""
    fit_of = assignment(run.recipe, store, run.info.cross_fit)
    keys, logits = zip(*(soft_labels(fit, store, views, clips, stream) for fit in open_fits(run, store)), strict=True)
    if views:
        combined = [combine(fit_of, of_view) for of_view in zip(*logits, strict=True)]
        return combined_key(fit_of, keys), np.stack(combined)
    return combined_key(fit_of, keys), combine(fit_of, logits)


def soft_label_key(
    run: Run, store: ClipStore, views: int = 0, joined: Index | None = None, stream: int = RandomStream.TEACHER
) -> str:
    parts: tuple[Any, ...] = (run.weights_hash, run.recipe.model, run.frontend, run.recipe.view, store.hash)
    if views:
        among = "" if joined is None else hashlib.sha256(np.sort(joined).tobytes()).hexdigest()
        parts += (views, run.recipe.augment, run.recipe.seed, stream, among)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _inputs(run: Run, store: ClipStore) -> Index:
    """One clip for each input of the teacher: every clip, or the first clip of each recording in the order of
    `store.recordings`."""
    if run.recipe.view.span == "parent":
        return store.recordings.segments[store.recordings.first]
    return np.arange(len(store.clips))


class _Part:
    """A file with the logits of inputs start..stop of `inputs` in one view, and the key that they belong to.

    Args:
        path: of the complete soft labels, beside which the part is written.
    """

    def __init__(self, path: Path, key: str, view: int, inputs: int, start: int, stop: int) -> None:
        self.path = path.with_name(f"{path.stem}-{view * inputs + start}-{view * inputs + stop}.npz")
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
        """Save the logits, float16 (clips of the part, ..., labels)."""
        buffer = io.BytesIO()
        np.savez(buffer, logits=logits, key=np.array(self.key))
        _save(self.path, buffer.getvalue())


def _compute(run: Run, store: ClipStore, clips: Index) -> Logits:
    """Logits of consecutive clips without augmentation, float16 (clips, labels) or (clips, segments, labels).

    A "crop" teacher's logits are the mean over the clip's windows that are not silent, or over all windows where all
    are silent. With segments, each segment has the logits of its window, a silent one that mean.
    """
    view = run.recipe.view
    crops = (
        scored_windows(store, clips, view)
        if view.span != "crop" or view.segments == 1
        else segment_crops(store, clips, view)
    )
    if view.span != "crop":
        return logits_of_view(run, store, crops, None)
    tensors = window_logits(run.float_model(), front(run.config, run.frontend), store, crops)
    logits, silent = (tensor.numpy() for tensor in tensors)
    owner = crops.clip - clips[0]
    mean, without_sound = clip_means(logits, silent, owner, len(clips))
    if without_sound.any():
        mean = clip_means(logits, silent & ~without_sound[owner], owner, len(clips))[0]
    if view.segments == 1:
        return mean.astype(np.float16)
    return np.where(silent[:, None], mean[owner], logits).reshape(len(clips), view.segments, -1).astype(np.float16)


def logits_of_view(run: Run, store: ClipStore, crops: Crops, gain_db: Floats | None) -> Logits:
    """Logits of windows: float16 (rows, labels), or (rows, segments, labels) of several segments."""
    model, log_mel = run.float_model(), front(run.config, run.frontend)
    return window_logits(model, log_mel, store, crops, gain_db, run.recipe.view.segments)[0].numpy().astype(np.float16)


def _merge(path: Path, key: str, run: Run, store: ClipStore, views: int, parts: list[_Part]) -> None:
    """Write the file of all parts, and delete the parts."""
    if path.is_file():  # another training has merged and deleted them
        return
    found = []
    for part in parts:
        logits = part.read()
        if logits is None:
            raise InputError(
                f"{part.path} was written but cannot be found; put the teacher where all machines see it, and compute"
                " its soft labels in one training at a time"
            )
        found.append(logits)
    buffer = io.BytesIO()
    np.save(buffer, _of_clips(run, store, np.concatenate(found), views))
    raw = buffer.getvalue()
    sidecar = _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest())
    _save(path.with_suffix(".json"), msgspec.json.encode(sidecar))
    _save(path, raw)
    for part in parts:
        part.path.unlink(missing_ok=True)


def _of_clips(run: Run, store: ClipStore, logits: Logits, views: int) -> Logits:
    """The logits that `soft_labels` returns, from those of all inputs, view after view."""
    view, parents = run.recipe.view, store.recordings
    logits = logits.reshape(max(views, 1), -1, *logits.shape[1:])  # (views, clips or recordings, ..., labels)
    if view.span == "parent":
        logits = logits[:, parents.recording]
        if view.segments > 1:
            logits = logits[
                :, np.arange(len(parents.recording)), _own_segment(store, window_samples(view, store), view.segments)
            ]
    if not views:
        unaugmented: Logits = logits[0]
        return unaugmented
    of_segments: Logits = logits if logits.ndim == 4 else logits[:, :, None]
    return of_segments


def _own_segment(store: ClipStore, samples: int, segments: int) -> Index:
    """(clips,) number of the segment that a clip's middle lies in. A teacher's input is the middle `samples` of the
    recording, in so many equal segments."""
    parents = store.recordings
    begin = np.maximum(parents.length[parents.recording] - samples, 0) // 2
    middle = 2 * (parents.offset - begin) + store.lengths  # twice its position
    segment: Index = np.clip(middle * segments // (2 * samples), 0, segments - 1)
    return segment


def _save(path: Path, raw: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, raw)
    except OSError as error:
        advice = (
            "free space there and run this again"
            if error.errno in DISK_ERRORS
            else "make the teacher's folder writable or copy it"
        )
        raise InputError(f"{path} cannot be written ({error.strerror}); {advice}; finished parts are kept") from None


def _read(path: Path, key: str, store: ClipStore) -> Logits:
    try:
        raw = path.read_bytes()
        sidecar = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=_Sidecar)
    except (OSError, msgspec.DecodeError) as error:
        raise _damaged(path, str(error)) from None
    if sidecar != _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest()):
        raise _damaged(path, "its content does not match its .json file")
    logits: Logits = np.load(io.BytesIO(raw), allow_pickle=False)
    return logits


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: the saved soft labels are damaged ({why}); delete the file to compute them again")
