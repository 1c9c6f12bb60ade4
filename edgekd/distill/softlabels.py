"""Soft labels: a teacher's raw logits for every clip of a store, computed once and kept beside the teacher's run.

The key is a hash of the weights, the front end, the view and the store's table and audio; whatever changes one of them makes a new file.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.data.store import ClipStore, listing
from edgekd.distill.outoffold import assignment, combined, combined_key, opened_fits
from edgekd.distill.run import SOFT_LABELS_FOLDER, Run, write_atomic
from edgekd.distill.score import Score, judge, window_logits
from edgekd.distill.view import scored_windows
from edgekd.errors import InputError
from edgekd.models.logmel import LogMel

log = logging.getLogger(__name__)

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
    key = _key(run, store)
    path = run.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy"
    if path.is_file():
        return key, _read(path, key, store)
    log.info("computing the soft labels of %s for %d clips", run.path, len(store.clips))
    logits = _compute(run, store)
    _write(path, key, store, logits)
    return key, logits


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


def _compute(run: Run, store: ClipStore) -> Logits:
    """One view of each clip: the whole, or the mean over windows that are not silent (over all, where all are)."""
    places = scored_windows(store, np.arange(len(store.clips)), run.recipe.view)
    logits, silent = window_logits(run.float_model(), LogMel(run.frontend), store, places)
    heard = (~silent.numpy()).astype(np.float64)
    sounding = np.bincount(places.clip, weights=heard) > 0
    weight = np.where(sounding[places.clip], heard, 1.0)
    summed = np.zeros((len(store.clips), logits.shape[1]))
    np.add.at(summed, places.clip, logits.numpy() * weight[:, None])
    return (summed / np.bincount(places.clip, weights=weight)[:, None]).astype(np.float16)


def _write(path: Path, key: str, store: ClipStore, logits: Logits) -> None:
    buffer = io.BytesIO()
    np.save(buffer, logits)
    raw = buffer.getvalue()
    sidecar = _Sidecar(key, store.labels, len(store.clips), hashlib.sha256(raw).hexdigest())
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path.with_suffix(".json"), msgspec.json.encode(sidecar))
        write_atomic(path, raw)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); make the teacher's folder writable or copy it") from None


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
