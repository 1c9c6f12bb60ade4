"""Compares a ledger with an earlier one: what grew, layer by layer, and whether by more than is tolerated."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, Literal

import msgspec

from edgekd.complexity import counts as ledgers
from edgekd.complexity.counts import Layer, Ledger
from edgekd.complexity.reports.names import encodable
from edgekd.complexity.reports.stored import read_json
from edgekd.errors import InputError
from edgekd.modelfile.container import SUFFIXES

FORMAT_VERSION = 1
"""Of the document of `check --format json`; documents of before carry none and are the same."""
TOLERANCE = 0.02
"""By default: quantities may grow by two percent."""

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class StoredCount(msgspec.Struct, frozen=True):
    """Of a convention."""

    macs: Whole
    params: Whole
    param_bytes: Whole


class StoredLayer(msgspec.Struct, frozen=True):
    """What is compared of a layer."""

    name: str
    op: str
    output: tuple[int, ...] | None
    macs: Whole
    params: Whole
    param_bytes: Whole


class Stored(msgspec.Struct, frozen=True):
    """What is read of a document of `check --format json`."""

    model: str
    conventions: dict[str, StoredCount | None]
    peak_activation_bytes: Whole
    file_bytes: Whole
    layers: tuple[StoredLayer, ...]
    format_version: int = FORMAT_VERSION


class Change(msgspec.Struct, frozen=True):
    """One total. growth: as a fraction of `before`; null where that was 0."""

    name: str
    before: int
    after: int
    growth: float | None
    ok: bool


class LayerChange(msgspec.Struct, frozen=True):
    """A layer that is not what it was; the figures of a layer that is not there are 0."""

    name: str
    op: str
    change: Literal["added", "removed", "changed"]
    macs_before: int
    macs: int
    param_bytes_before: int
    param_bytes: int


class Comparison(msgspec.Struct, frozen=True):
    """baseline: where the earlier counts come from. ok: nothing grew by more than the tolerance. layers: those that
    changed."""

    baseline: str
    tolerance: float
    ok: bool
    changes: tuple[Change, ...]
    layers: tuple[LayerChange, ...]

    def failures(self) -> list[str]:
        """What grew too much, one short text each."""
        return [
            f"{change.name} {change.before:,} -> {change.after:,} ({percent(change)}; {100 * self.tolerance:g} %"
            " tolerated)"
            for change in self.changes
            if not change.ok
        ]


def parse_tolerance(text: str | None, baseline: Path | None) -> float:
    """A fraction from `0.02` or `2%`; `TOLERANCE` from None.

    Raises:
        InputError: no number, not within 0 and 1 (0 % and 100 %), or nothing to compare with.
    """
    if text is None:
        return TOLERANCE
    if baseline is None:
        raise InputError(
            f"--tolerance is '{text}' without --baseline; give the earlier model or report to compare with"
        )
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise InputError(f"--tolerance is '{text}'; give a fraction like 0.02, or a percentage like 2%") from None
    if not 0 <= value <= 1:
        raise InputError(f"--tolerance is {text}; it must be within 0 and 1, or 0% and 100%")
    return value


class Baseline:
    """Earlier counts, found by model: of one model file, of a stored document, or of a folder of model files."""

    def __init__(self, path: Path, models: Sequence[str]) -> None:
        """Read what can be read before anything is counted.

        Args:
            path: a .tflite or .onnx file, a .json that `check --format json` printed, or a folder of earlier versions,
                each at the path that the model has on the command line, or under its name.
            models: those on the command line.

        Raises:
            InputError: another kind of file, damaged, of a newer edgekd, or one file for several models.
        """
        self._path, self._alone = path, len(models) == 1
        self._stored: tuple[Stored, ...] = ()
        if path.is_dir():
            return
        if path.suffix == ".json":
            self._stored = read_json(path, Stored, "--baseline", "what 'edgekd check --format json' printed")
            for stored in self._stored:
                _check_document(stored, path)
        elif path.suffix not in SUFFIXES:
            raise InputError(
                f"--baseline {path}: neither a model file nor a stored report; give a {', '.join(SUFFIXES)} or .json"
                " file"
            )
        elif not self._alone:
            raise InputError(
                f"--baseline {path}: one model file for {len(models)} models; give a .json of them, or a folder"
            )

    def compare(self, now: Ledger, tolerance: float) -> Comparison | None:
        """Judge a ledger; None where the baseline has nothing of that model, which is then a new one.

        Raises:
            InputError: the earlier file cannot be counted, or is of another format.
        """
        before = self._before(now)
        if before is None:
            return None
        suffix = PurePath(before.model).suffix
        if suffix in SUFFIXES and suffix != PurePath(now.model).suffix:
            raise InputError(
                f"--baseline {self._path}: a {suffix} model, but {now.model} is none, and their layers cannot be"
                " compared; give an earlier version of the same file"
            )
        return compare(before, now, encodable(str(self._path)), tolerance)

    def _before(self, now: Ledger) -> Stored | None:
        if self._stored:
            name = encodable(PurePath(now.model).name)
            found = [stored for stored in self._stored if stored.model == encodable(now.model)] or [
                stored for stored in self._stored if PurePath(stored.model).name == name
            ]
            return found[0] if found else self._stored[0] if self._alone and len(self._stored) == 1 else None
        path = self._path
        if path.is_dir():
            model = PurePath(now.model)
            places = (
                [path / model.name] if model.is_absolute() or ".." in model.parts else [path / model, path / model.name]
            )
            inside = [place for place in places if place.is_file()]
            if not inside:
                return None
            path = inside[0]
        return msgspec.convert(ledgers.count(path), Stored, from_attributes=True)


def compare(before: Stored, now: Ledger, baseline: str, tolerance: float) -> Comparison:
    """What changed from a stored report to a ledger, by the `exact` convention."""
    after = msgspec.convert(now, Stored, from_attributes=True)
    changes = tuple(_change(name, _totals(before)[name], value, tolerance) for name, value in _totals(after).items())
    layers = tuple(_layer_changes(before.layers, after.layers))
    return Comparison(baseline, tolerance, all(change.ok for change in changes), changes, layers)


def percent(change: Change) -> str:
    """Growth in words: `+3.10 %`."""
    return "new" if change.growth is None else f"{100 * change.growth:+.2f} %"


def _check_document(stored: Stored, path: Path) -> None:
    if stored.format_version > FORMAT_VERSION:
        raise InputError(
            f"--baseline {path}: version {stored.format_version} of the document, and this edgekd reads"
            f" {FORMAT_VERSION}; update edgekd or make the baseline again"
        )
    if stored.conventions.get("exact") is None:
        raise InputError(
            f"--baseline {path}: holds no count by 'exact'; give what 'edgekd check --format json' printed"
        )


def _totals(stored: Stored) -> dict[str, int]:
    exact = stored.conventions["exact"]
    assert exact is not None
    return {
        "macs": exact.macs,
        "params": exact.params,
        "param_bytes": exact.param_bytes,
        "peak_activation_bytes": stored.peak_activation_bytes,
        "file_bytes": stored.file_bytes,
    }


def _change(name: str, before: int, after: int, tolerance: float) -> Change:
    growth = None if before == 0 and after else 0.0 if before == 0 else (after - before) / before
    return Change(name, before, after, growth, growth is not None and growth <= tolerance)


def _layer_changes(before: Sequence[StoredLayer], after: Sequence[StoredLayer]) -> list[LayerChange]:
    """Layers of one name and op are the same layer; what is left of an op is paired in order, since exporters rename
    freely."""
    pairs: list[tuple[StoredLayer | None, StoredLayer | None]] = []
    by_name: defaultdict[tuple[str, str], list[StoredLayer]] = defaultdict(list)
    for layer in reversed(before):
        by_name[layer.name, layer.op].append(layer)
    matched = [by_name[layer.name, layer.op].pop() if by_name[layer.name, layer.op] else None for layer in after]
    left: defaultdict[str, list[StoredLayer]] = defaultdict(list)
    for (_, op), layers in by_name.items():  # the last first, as `pop` wants them
        left[op] += layers
    for layer, old in zip(after, matched, strict=True):
        pairs.append((old if old is not None else left[layer.op].pop() if left[layer.op] else None, layer))
    pairs += [(layer, None) for layers in left.values() for layer in reversed(layers)]
    return [
        _layer_change(old, new) for old, new in pairs if old is None or new is None or _figures(old) != _figures(new)
    ]


def _figures(layer: StoredLayer | Layer) -> tuple[object, ...]:
    return layer.macs, layer.params, layer.param_bytes, layer.output


def _layer_change(old: StoredLayer | None, new: StoredLayer | None) -> LayerChange:
    shown = new or old
    assert shown is not None
    return LayerChange(
        shown.name,
        shown.op,
        "added" if old is None else "removed" if new is None else "changed",
        old.macs if old else 0,
        new.macs if new else 0,
        old.param_bytes if old else 0,
        new.param_bytes if new else 0,
    )
