"""Compares the counts of a file with earlier ones: totals that grew by more than the tolerance, and layers that
changed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Literal

import msgspec

from edgekd.complexity.counts import NO_SHAPES, Layer, ModelCounts, count_model
from edgekd.complexity.reports.formatting import encodable
from edgekd.complexity.reports.stored import read_json
from edgekd.errors import InputError
from edgekd.modelfile.container import SUFFIXES

FORMAT_VERSION = 1
"""Version of the document of `check --format json`. Older documents have no version and the same fields."""
TOLERANCE = 0.02
"""By default totals may grow by this fraction."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class StoredTotals(msgspec.Struct, frozen=True):
    """Totals of a convention in a stored document."""

    macs: Natural
    params: Natural
    param_bytes: Natural


class StoredLayer(msgspec.Struct, frozen=True):
    """The fields of a stored layer that are compared."""

    name: str
    op: str
    output: tuple[int, ...] | None
    macs: Natural
    params: Natural
    param_bytes: Natural


class StoredCounts(msgspec.Struct, frozen=True):
    """The fields of a document of `check --format json` that are compared."""

    model: str
    conventions: dict[str, StoredTotals | None]
    peak_activation_bytes: Natural
    file_bytes: Natural
    layers: tuple[StoredLayer, ...]
    format_version: int = FORMAT_VERSION


class TotalChange(msgspec.Struct, frozen=True):
    """One total before and after. growth: as a fraction of `before`; null if that was 0 and `after` is not."""

    name: str
    before: int
    after: int
    growth: float | None
    ok: bool


class LayerChange(msgspec.Struct, frozen=True):
    """A layer that was added, removed or changed. The counts of a missing layer are 0."""

    name: str
    op: str
    change: Literal["added", "removed", "changed"]
    macs_before: int
    macs: int
    param_bytes_before: int
    param_bytes: int


class BaselineComparison(msgspec.Struct, frozen=True):
    """Result of a comparison. baseline: where the earlier counts come from. ok: no total grew by more than `tolerance`.
    layers: those that changed."""

    baseline: str
    tolerance: float
    ok: bool
    changes: tuple[TotalChange, ...]
    layers: tuple[LayerChange, ...]

    def failures(self) -> list[str]:
        """A short text for each total that grew by more than the tolerance."""
        return [
            f"{change.name} {change.before:,} -> {change.after:,} ({percent(change)}; {100 * self.tolerance:g} %"
            " tolerated)"
            for change in self.changes
            if not change.ok
        ]


def parse_tolerance(text: str | None, baseline: Path | None) -> float:
    """The tolerance as a fraction, from a text like `0.02` or `2%`; `TOLERANCE` from None.

    Raises:
        InputError: not a number, not from 0 to 1 (0 % to 100 %), or no baseline to compare with.
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
        raise InputError(f"--tolerance is {text}; it must be from 0 to 1, or from 0% to 100%")
    return value


class Baseline:
    """Earlier counts: of a model file, of a stored document, or of the model files in a folder."""

    def __init__(self, path: Path, models: Sequence[str], shapes: Mapping[str, Sequence[int]] = NO_SHAPES) -> None:
        """Read a stored document, and refuse a path that cannot serve before any model is counted.

        Args:
            path: a .tflite or .onnx file, a .json file that `check --format json` printed, or a folder with an earlier
                version of each model: at the path that the model has on the command line, or under its file name.
            models: those on the command line.
            shapes: of inputs, for an earlier .onnx file with free dimensions.

        Raises:
            InputError: another kind of file, damaged, of a newer edgekd, or one file for several models.
        """
        self._path, self._single, self._shapes = path, len(models) == 1, shapes
        self._stored: tuple[StoredCounts, ...] = ()
        if path.is_dir():
            return
        if path.suffix == ".json":
            self._stored = read_json(path, StoredCounts, "--baseline", "what 'edgekd check --format json' printed")
            for stored in self._stored:
                _check_document(stored, path)
        elif path.suffix not in SUFFIXES:
            raise InputError(
                f"--baseline {path}: neither a model file nor a stored report; give a {', '.join(SUFFIXES)} or .json"
                " file"
            )
        elif not self._single:
            raise InputError(
                f"--baseline {path}: one model file for {len(models)} models; give a .json of them, or a folder"
            )

    def compare(self, now: ModelCounts, tolerance: float) -> BaselineComparison | None:
        """Compare counts with the earlier ones of the same model; None for a model that the baseline does not have.

        Raises:
            InputError: the earlier file cannot be counted, or is of another format.
        """
        before = self._before(now)
        if before is None:
            return None
        suffix = PurePath(before.model).suffix
        if suffix in SUFFIXES and suffix != PurePath(now.model).suffix:
            raise InputError(
                f"--baseline {self._path}: a {suffix} model, but {now.model} is not, and their layers cannot be"
                " compared; give an earlier version of the same file"
            )
        return compare(before, now, encodable(str(self._path)), tolerance)

    def _before(self, now: ModelCounts) -> StoredCounts | None:
        if self._stored:
            name = encodable(PurePath(now.model).name)
            found = [stored for stored in self._stored if stored.model == encodable(now.model)] or [
                stored for stored in self._stored if PurePath(stored.model).name == name
            ]
            return found[0] if found else self._stored[0] if self._single and len(self._stored) == 1 else None
        path = self._path
        if path.is_dir():
            model = PurePath(now.model)
            paths = (
                [path / model.name] if model.is_absolute() or ".." in model.parts else [path / model, path / model.name]
            )
            existing = [each for each in paths if each.is_file()]
            if not existing:
                return None
            path = existing[0]
        return msgspec.convert(count_model(path, self._shapes), StoredCounts, from_attributes=True)


def compare(before: StoredCounts, now: ModelCounts, baseline: str, tolerance: float) -> BaselineComparison:
    """Changes of the counts by the `exact` convention since a stored document."""
    after = msgspec.convert(now, StoredCounts, from_attributes=True)
    changes = tuple(_change(name, _totals(before)[name], value, tolerance) for name, value in _totals(after).items())
    layers = tuple(_layer_changes(before.layers, after.layers))
    return BaselineComparison(baseline, tolerance, all(change.ok for change in changes), changes, layers)


def percent(change: TotalChange) -> str:
    """The growth as text: `+3.10 %`."""
    return "new" if change.growth is None else f"{100 * change.growth:+.2f} %"


def _check_document(stored: StoredCounts, path: Path) -> None:
    if stored.format_version > FORMAT_VERSION:
        raise InputError(
            f"--baseline {path}: version {stored.format_version} of the document, but this edgekd reads"
            f" {FORMAT_VERSION}; update edgekd or make the baseline again"
        )
    if stored.conventions.get("exact") is None:
        raise InputError(
            f"--baseline {path}: holds no count by 'exact'; give what 'edgekd check --format json' printed"
        )


def _totals(stored: StoredCounts) -> dict[str, int]:
    exact = stored.conventions["exact"]
    assert exact is not None
    return {
        "macs": exact.macs,
        "params": exact.params,
        "param_bytes": exact.param_bytes,
        "peak_activation_bytes": stored.peak_activation_bytes,
        "file_bytes": stored.file_bytes,
    }


def _change(name: str, before: int, after: int, tolerance: float) -> TotalChange:
    growth = None if before == 0 and after else 0.0 if before == 0 else (after - before) / before
    return TotalChange(name, before, after, growth, growth is not None and growth <= tolerance)


def _layer_changes(before: Sequence[StoredLayer], after: Sequence[StoredLayer]) -> list[LayerChange]:
    """Layers that changed. Layers with the same name and op are the same layer. The remaining layers of an op are
    paired in order, because exporters rename layers."""
    pairs: list[tuple[StoredLayer | None, StoredLayer | None]] = []
    by_name: defaultdict[tuple[str, str], list[StoredLayer]] = defaultdict(list)
    for layer in reversed(before):
        by_name[layer.name, layer.op].append(layer)
    matched = [by_name[layer.name, layer.op].pop() if by_name[layer.name, layer.op] else None for layer in after]
    unmatched: defaultdict[str, list[StoredLayer]] = defaultdict(list)
    for (_, op), layers in by_name.items():  # in reverse order, since `pop` takes the last
        unmatched[op] += layers
    for layer, old in zip(after, matched, strict=True):
        pairs.append((old if old is not None else unmatched[layer.op].pop() if unmatched[layer.op] else None, layer))
    pairs += [(layer, None) for layers in unmatched.values() for layer in reversed(layers)]
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
