"""Soft labels: a teacher's raw logits for every clip of a store, computed once and kept beside the teacher's run.

The key is a hash of the weights, the front end, the view and the store's table and audio; whatever changes one of them makes a new file.

They are computed in parts of `PART_CLIPS` clips, shared among the processes of a job and kept until all are there: an interrupted
computation goes on where it was, and neither that nor the number of processes changes a byte of the file.
"""

import hashlib
import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store import ClipStore, listing
from edgekd.distill import processes
from edgekd.distill.faults import DISK_ERRORS, memory_told
from edgekd.distill.outoffold import assignment, combined, combined_key, opened_fits
from edgekd.distill.run import SOFT_LABELS_FOLDER, Run, write_atomic
from edgekd.distill.score import Score, judge, window_logits
from edgekd.distill.view import scored_windows
from edgekd.errors import InputError
from edgekd.models.logmel import LogMel

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


def soft_labels(run: Run, store: ClipStore) -> tuple[str, Logits]:
    """A teacher's logits for all clips, from the cache or computed.

    Returns:
        the key (64 hex digits) and float16 (clips, labels), in the order of the store's table.

    Raises:
        InputError: the teacher has other labels or another sample rate than the store, a cached file is damaged, or a cross-fitted
            teacher is of another store or has changed.
    """
    check_fits(run, store)
    if run.info.cross_fit:
        return _out_of_fold(run, store)
    key = processes.first(lambda: _key(run, store))
    path = run.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy"
    if not processes.first(path.is_file):
        log.info("computing the soft labels of %s for %d clips", run.path, len(store.clips))
        parts = [_Part(path, key, start, min(start + PART_CLIPS, len(store.clips))) for start in range(0, len(store.clips), PART_CLIPS)]
        missing = processes.first(lambda: [place for place, part in enumerate(parts) if part.read() is None])
        if len(missing) < len(parts):
            log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
        for place in missing[processes.rank()::processes.world()]:
            part = parts[place]
            with memory_told(f"the soft labels of {run.path}", "free memory, or start fewer processes on this machine"):
                part.write(_compute(run, store, np.arange(part.start, part.stop)))
        processes.wait()
        processes.first(lambda: _merge(path, key, store, parts))
    return key, processes.first(lambda: _read(path, key, store))


def teacher_score(logits: NDArray[np.floating[Any]], store: ClipStore, clips: NDArray[np.int64]) -> Score:
    """Accuracy of soft labels (clips of the store, labels) on some of its clips."""
    return judge(logits[clips].astype(np.float32), np.zeros(len(clips), bool), clips, store.label_index)


def check_fits(run: Run, store: ClipStore) -> None:
    """Refuse a teacher that can't teach from a store.

    Raises:
        InputError: other labels or another sample rate.
    """
    if run.labels != store.labels:
        only = sorted(set(run.labels) ^ set(store.labels))
        raise InputError(f"{run.path}: the teacher's {len(run.labels)} labels are not the {len(store.labels)} of {store.path} "
                         f"(not in both: {listing(only)}); train a teacher on this store's labels")
    if run.frontend.sample_rate != store.sample_rate:
        raise InputError(f"{run.path}: the teacher hears {run.frontend.sample_rate} Hz, {store.path} holds {store.sample_rate} Hz; "
                         "prepare the store at that rate")


def _out_of_fold(run: Run, store: ClipStore) -> tuple[str, Logits]:
    """Of a cross-fitted teacher: put together from those of its fits, which are cached with them."""
    judge = assignment(run.recipe, store, run.info.cross_fit)
    keys, logits = zip(*(soft_labels(fit, store) for fit in opened_fits(run, store)), strict=True)
    return combined_key(judge, keys), combined(judge, logits)


def _key(run: Run, store: ClipStore) -> str:
    parts = (run.weights_hash, run.recipe.model, run.frontend, run.recipe.view, store.hash)
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


class _Part:
    """Logits of clips start..stop on disk, with the key that they belong to."""

    def __init__(self, whole: Path, key: str, start: int, stop: int) -> None:
        self.path = whole.with_name(f"{whole.stem}-{start}-{stop}.npz")
        self.key, self.start, self.stop = key, start, stop

    def read(self) -> Logits | None:
        """float16 (clips of the part, labels); None where the part is missing, damaged or of another key."""
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


def _compute(run: Run, store: ClipStore, clips: NDArray[np.int64]) -> Logits:
    """One view of each of some clips in a row: the whole, or the mean over windows that are not silent (over all, where all are)."""
    places = scored_windows(store, clips, run.recipe.view)
    logits, silent = window_logits(run.float_model(), LogMel(run.frontend), store, places)
    owner = places.clip - clips[0]
    heard = (~silent.numpy()).astype(np.float64)
    sounding = np.bincount(owner, weights=heard) > 0
    weight = np.where(sounding[owner], heard, 1.0)
    summed = np.zeros((len(clips), logits.shape[1]))
    np.add.at(summed, owner, logits.numpy() * weight[:, None])
    return (summed / np.bincount(owner, weights=weight)[:, None]).astype(np.float16)


def _merge(path: Path, key: str, store: ClipStore, parts: list[_Part]) -> None:
    """Make the one file of all parts, and delete them."""
    if path.is_file():  # by another job, which has deleted them
        return
    found = [part.read() for part in parts]
    for part, logits in zip(parts, found, strict=True):
        if logits is None:
            raise InputError(f"{part.path} is not there, though it was written; put the teacher where all machines see it, and let one job "
                             "at a time compute its soft labels")
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(found))
    raw = buffer.getvalue()
    sidecar = _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest())
    _put(path.with_suffix(".json"), msgspec.json.encode(sidecar))
    _put(path, raw)
    for part in parts:
        part.path.unlink(missing_ok=True)


def _put(path: Path, raw: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, raw)
    except OSError as error:
        todo = "free space there and run this again" if error.errno in DISK_ERRORS else "make the teacher's folder writable or copy it"
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
