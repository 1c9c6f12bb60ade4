"""`edgekd data info`: counts, lengths, leaks, silent clips, licence and hash of a store."""

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import msgspec

from edgekd.data.bands import DIFFERENT_BAND, DIFFERENT_RATE, differ, label_bands, mean_rates
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.names import alike
from edgekd.data.sets.tau import UNUSED
from edgekd.data.store.clips import UNLABELLED, Clip, shared_origins
from edgekd.data.store.store import ClipStore
from edgekd.text import columns, counted, listing, natural_order

NO_RECORDER = "unknown"
SHORT_SECONDS = 1.0
"""Shorter clips are shorter than a window and are padded with zeros."""


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON document of `data info --json`.

    Attributes:
        seconds: of all clips together.
        labels: label -> split -> clips.
        splits: split -> clips.
        recorders: recorder, "unknown" where the data set names none -> split -> clips.
        cities: city -> split -> clips; empty where the data set has none.
        leaks: group or parent that is in several splits -> those splits; the split "unused" of official folds does not
            count.
        one_split_labels: label -> its only split, where the store has several splits.
        silent: clips of digital silence (every sample zero).
        short: clips shorter than one second.
        source_rates, cancelled: as in `StoreInfo`.
        bands: label -> up to which frequency its clips hold sound, Hz, see `label_bands`.
    """

    path: str
    name: str
    licence: str
    synthetic: bool
    official_folds: bool
    hash: str
    sample_rate: int
    channels: int
    clips: int
    seconds: float
    labels: dict[str, dict[str, int]]
    splits: dict[str, int]
    recorders: dict[str, dict[str, int]]
    cities: dict[str, dict[str, int]]
    leaks: dict[str, list[str]]
    one_split_labels: dict[str, str]
    silent: list[str]
    short: list[str]
    source_rates: dict[str, dict[int, int]]
    cancelled: tuple[str, ...]
    bands: dict[str, float]


def info(path: Path) -> StoreReport:
    """Open a store, check the hash of its audio and describe it.

    Raises:
        InputError: not a store, or damaged.
    """
    store = ClipStore.open(path)
    store.verify()
    return describe(store)


def describe(store: ClipStore) -> StoreReport:
    """The report on an open store; reads all audio once."""
    counts = Counter(clip.split for clip in store.clips)
    by_label = _by_split(store.clips, lambda clip: clip.label)
    by_recorder = _by_split(store.clips, lambda clip: clip.recorder or NO_RECORDER)
    one_split = (
        {label: next(iter(splits)) for label, splits in by_label.items() if len(splits) == 1}
        if len(store.splits) > 1
        else {}
    )
    return StoreReport(
        path=str(store.path),
        name=store.name,
        licence=store.licence,
        synthetic=store.synthetic,
        official_folds=store.info.official_folds,
        hash=store.hash,
        sample_rate=store.sample_rate,
        channels=store.channels,
        clips=len(store.clips),
        seconds=float(store.lengths.sum()) / store.sample_rate,
        labels=by_label,
        splits={split: counts[split] for split in sorted(counts, key=natural_order)},
        recorders=by_recorder,
        cities=_cities(store),
        leaks=_leaks(store),
        one_split_labels=one_split,
        silent=[clip.path for index, clip in enumerate(store.clips) if not store.clip_pcm(index).any()],
        short=[clip.path for clip in store.clips if clip.seconds < SHORT_SECONDS],
        source_rates=store.info.source_rates,
        cancelled=store.info.cancelled,
        bands=label_bands(store),
    )


def report_text(report: StoreReport) -> str:
    """The report as text: facts, tables of clips per label and split, and per recorder and city where known, and
    warnings."""
    length = f"{report.seconds:.1f} s" if report.seconds < 3600 else f"{report.seconds / 3600:.2f} h"
    kind = " of SYNTHETIC audio (made by a program, not recorded)" if report.synthetic else ""
    lines = [
        (
            f"{report.path}: {report.name}, {counted(report.clips, 'clip')}{kind},"
            f" {counted(len(report.labels), 'label')}, {length}, {report.sample_rate} Hz,"
            f" {counted(report.channels, 'channel')}"
        ),
        f"licence {report.licence}; hash {report.hash}",
        "",
        *_table("label", report.labels, list(report.splits)),
    ]
    if set(report.recorders) != {NO_RECORDER}:
        lines += ["", *_table("recorder", report.recorders, list(report.splits))]
    if report.cities:
        lines += ["", *_table("city", report.cities, list(report.splits))]
    if _bands_differ(report):
        lines += ["", *_band_table(report)]
    found = warnings(report)
    return "\n".join(lines + (["", *found] if found else []))


def warnings(report: StoreReport) -> list[str]:
    """One line for each problem that a training with this store would have."""
    found = []
    if UNLABELLED in report.labels:
        found.append("no labels: these clips can be predicted, not trained on")
    if report.leaks:
        remedy = (
            "their clips are left out of training"
            if report.official_folds
            else "training against such a split will be refused"
        )
        shared = Counter(pair for splits in report.leaks.values() for pair in combinations(splits, 2))
        pairs = "; ".join(f"{count} in {a} and {b}" for (a, b), count in sorted(shared.items()))
        found.append(
            f"leaks: {len(report.leaks)} in more than one split ({listing(list(report.leaks))}): {pairs}; {remedy}"
        )
    found += [f"labels that look alike and may be one: {', '.join(names)}" for names in alike(report.labels)]
    if report.one_split_labels:
        names = [f"{label} in {split}" for label, split in report.one_split_labels.items()]
        found.append(f"labels in one split only: {listing(names)}; training against another split will be refused")
    if _bands_differ(report):
        found.append(
            "labels differ in the sample rate or band of their recordings (table above), and a network learns that "
            "instead of the sound; record them alike, or prepare them again with a --sample-rate of the lowest"
        )
    if report.cancelled:
        found.append(
            f"channels of opposite phase, whose mean is next to silent: {len(report.cancelled)} "
            f"({listing(report.cancelled)}); invert one of them, or keep one only, and prepare them again"
        )
    if report.silent:
        found.append(f"silent clips: {len(report.silent)} ({listing(report.silent)})")
    if report.short:
        found.append(
            f"clips shorter than {SHORT_SECONDS:g} s: {len(report.short)} ({listing(report.short)}); padded with zeros"
        )
    return found


def _bands_differ(report: StoreReport) -> bool:
    """Whether the labels' recordings differ in sample rate or band."""
    rates = mean_rates(report.source_rates, report.sample_rate)
    return differ(rates, DIFFERENT_RATE) or differ(report.bands, DIFFERENT_BAND)


def _band_table(report: StoreReport) -> list[str]:
    """Sample rates of the files and band of the clips, for each label."""
    rows = []
    for label in report.labels:
        rates = sorted(report.source_rates.get(label, {}).items())
        band = report.bands.get(label)
        rows.append(
            [
                label,
                ", ".join(f"{rate} Hz ({counted(clips, 'clip')})" for rate, clips in rates) or "unknown",
                f"to {band / 1000:.1f} kHz" if band else "silent",
            ]
        )
    return columns(["label", "sample rates of its files", "sound"], rows, left=2)


def _cities(store: ClipStore) -> dict[str, dict[str, int]]:
    known = DATA_SETS.get(store.name)
    return _by_split(store.clips, lambda clip: clip.group.partition("-")[0]) if known and known.cities else {}


def _leaks(store: ClipStore) -> dict[str, list[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in store.clips:
        for origin in shared_origins([clip] if clip.split != UNUSED or not store.info.official_folds else []):
            splits[origin].add(clip.split)
    return {origin: sorted(found) for origin, found in sorted(splits.items()) if len(found) > 1}


def _by_split(clips: list[Clip], key: Callable[[Clip], str]) -> dict[str, dict[str, int]]:
    counts = Counter((key(clip), clip.split) for clip in clips)
    nested: dict[str, dict[str, int]] = {}
    for (name, split), count in sorted(counts.items()):
        nested.setdefault(name, {})[split] = count
    return nested


def _table(title: str, counts: dict[str, dict[str, int]], splits: list[str]) -> list[str]:
    return columns(
        [title, *splits], ([name, *(str(row.get(split, 0)) for split in splits)] for name, row in counts.items())
    )
