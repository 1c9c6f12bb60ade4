"""Parity of an export on held-out windows: fits the temperature, and compares all executions of the student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.export.compare import Comparison, HeldOut, WindowLogits, compare, fit, held_out, run_all
from edgekd.export.executions import Executions
from edgekd.modelfile.manifest import Calibration, Manifest
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Export

DECIMALS = 4
"""Of the temperature and the figures of its fit in a manifest."""


@dataclass(frozen=True)
class ParityOptions:
    """The windows that files are compared on.

    Attributes:
        data: a clip store.
        splits: to compare on; empty takes the recipe's test splits.
        calibrate: splits that fit the temperature; empty takes those of the recipe's export table.
        hop: seconds between the starts of two windows.
    """

    data: Path
    splits: tuple[str, ...] = ()
    calibrate: tuple[str, ...] = ()
    hop: float = 1.0


@dataclass(frozen=True)
class ParityWindows:
    """compared: windows to compare on. calibrating: windows to fit the temperature on; None leaves it at 1."""

    compared: HeldOut
    calibrating: HeldOut | None


@dataclass(frozen=True)
class ParityReport:
    """comparison: over held-out windows. calibration: how the temperature was fitted, None where it was not. failures:
    thresholds that the files miss, one phrase each."""

    comparison: Comparison
    calibration: Calibration | None
    failures: tuple[str, ...]

    def to_text(self) -> str:
        """Tables for a terminal."""
        fitted = "temperature 1: no split was named to fit it on (--calibrate-split)"
        if self.calibration is not None:
            each = self.calibration
            fitted = (
                f"temperature {self.comparison.temperature:g} from {each.windows:,} windows of {each.data}"
                f" {', '.join(each.splits)}\n  expected calibration error {each.error_before:.4f} ->"
                f" {each.error_after:.4f}, log loss {each.loss_before:.3f} -> {each.loss_after:.3f} (on other"
                " recordings than those fitted on)"
            )
        return f"{fitted}\n\n{self.comparison.to_text()}"

    def to_builtins(self) -> dict[str, Any]:
        """For JSON."""
        each = self.comparison
        scores = {
            name: {
                "windows": row.windows,
                "clips": row.clips,
                "per_label": row.per_label,
                "per_recorder": row.per_recorder,
            }
            for name, row in each.scores.items()
        }
        return {
            "data": each.data,
            "splits": each.splits,
            "windows": each.windows,
            "left_out": each.left_out,
            "temperature": each.temperature,
            "calibration": self.calibration,
            "scores": scores,
            "anchor": each.anchor,
            "agreement": each.agreement,
            "failures": self.failures,
        }


def parity_options(
    data: Path | None, splits: Sequence[str], calibrate: Sequence[str], hop: float
) -> ParityOptions | None:
    """The parity check that the options of `edgekd export` ask for; None without a store.

    Raises:
        InputError: splits without a store.
    """
    if data is None and (splits or calibrate):
        raise InputError(
            f"--{'split' if splits else 'calibrate-split'} without --data; name the clip store that holds it"
        )
    return None if data is None else ParityOptions(data, tuple(splits), tuple(calibrate), hop)


def parity_windows(options: ParityOptions, recipe: Recipe, manifest: Manifest) -> ParityWindows:
    """The held-out windows of a parity check.

    Raises:
        InputError: see `compare.held_out`.
    """
    store = ClipStore.open(options.data)
    calibrating = options.calibrate or recipe.export.calibrate
    return ParityWindows(
        held_out(store, recipe, manifest, options.splits or recipe.data.test, options.hop),
        held_out(store, recipe, manifest, calibrating, options.hop) if calibrating else None,
    )


def check_parity(windows: ParityWindows, executions: Executions, thresholds: Export) -> ParityReport:
    """Run every execution, fit the temperature, and compare.

    Raises:
        InputError: all windows are silent, there are too few to fit a temperature on, or logits are not finite.
    """
    compared, calibrating, anchor = windows.compared, windows.calibrating, executions.anchor
    outputs = run_all(compared, executions.logits)
    temperature, calibration = 1.0, None
    if calibrating is not None:
        same = calibrating.splits == compared.splits
        temperature, calibration = _calibrated(
            calibrating, outputs if same else run_all(calibrating, {anchor: executions.logits[anchor]}), anchor
        )
    comparison = compare(compared, outputs, anchor, executions.step, temperature, integers=executions.integers)
    return ParityReport(comparison, calibration, tuple(comparison.failures(thresholds)))


def _calibrated(windows: HeldOut, outputs: WindowLogits, anchor: str) -> tuple[float, Calibration]:
    """The temperature of the anchor's logits, and the record of its fit."""
    found = fit(windows, outputs.logits[anchor], outputs.silent)
    figures = (
        round(each, DECIMALS) for each in (found.error_before, found.error_after, found.loss_before, found.loss_after)
    )
    record = Calibration(windows.store.name, windows.store.hash, windows.splits, int((~outputs.silent).sum()), *figures)
    return round(found.temperature, DECIMALS), record
