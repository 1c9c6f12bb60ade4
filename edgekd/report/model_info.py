"""`edgekd info`: the manifest of a model file in words."""

from pathlib import Path

import msgspec

from edgekd.modelfile.container import read_manifest
from edgekd.modelfile.manifest import Calibration, Manifest, TensorQuant
from edgekd.report.model_card import crossval_text
from edgekd.text import columns, cut

LABELS_SHOWN = 12
"""Largest number of labels that are listed in full; of more, only the first ones and their number are shown."""

MAX_VALUE = 1000
"""Most characters of a value that are shown."""


class ModelInfo(msgspec.Struct, frozen=True):
    """The document of `info --json`: fields may be added, never renamed."""

    model: str
    file_bytes: int
    manifest: Manifest


def info(model: str | Path, as_json: bool) -> str:
    """The description of a model file by its manifest.

    Raises:
        InputError: unreadable, without a manifest, or with a damaged one.
    """
    path = Path(model)
    manifest = read_manifest(path)
    size = path.stat().st_size
    if as_json:
        return msgspec.json.format(msgspec.json.encode(ModelInfo(str(path), size, manifest))).decode()
    shown = [(field, cut(value, MAX_VALUE)) for field, value in rows(path, size, manifest).items()]
    return "\n".join([manifest.name, *columns([], shown, left=2, indent="  ")])


def rows(path: Path, size: int, manifest: Manifest) -> dict[str, str]:
    """Field -> value of a manifest, in words; size: bytes of the file."""
    fe, source = manifest.frontend, manifest.provenance
    return {
        "file": f"{path} ({size:,} bytes)",
        "student": (
            f"{manifest.student}, {manifest.precision}" + (", trained on synthetic data" if source.synthetic else "")
        ),
        "labels": _labels(manifest.labels),
        "window": f"{manifest.window} samples at {fe.sample_rate} Hz ({manifest.window / fe.sample_rate:g} s)",
        "front end": (
            f"{fe.n_mels} x {fe.frames(manifest.window)} log-mel ({fe.mel_scale}), FFT {fe.n_fft}, window"
            f" {fe.win_length}, hop {fe.hop_length}, padding {fe.padding}, {fe.f_min:g}..{fe.top_hz:g} Hz, mean"
            f" {fe.mean:.4g}, std {fe.std:.4g}"
        ),
        "input": _quant(manifest.input),
        "output": f"{_quant(manifest.output)}, temperature {manifest.temperature:g}",
        "calibration": _calibration(manifest.calibration),
        "golden": f"{len(manifest.golden.vectors)} waveforms for 'edgekd verify'" if manifest.golden else "no vectors",
        "spectrum": "mean of the training clips, for 'edgekd equalise'" if manifest.spectrum else "unknown",
        "counts": (
            f"{manifest.counts.macs:,} macs, {manifest.counts.params:,} parameters, {manifest.counts.param_bytes:,}"
            " bytes"
        ),
        "data": f"{source.data} ({source.data_hash}), licence {source.data_licence}",
        "recipe": f"{source.recipe} ({source.recipe_hash})",
        "teachers": ", ".join(source.teachers) or "none",
        "scores": ", ".join(f"{name} {value:.4f}" for name, value in source.scores.items()) or "none",
        "cross-validation": crossval_text(manifest.crossval) if manifest.crossval else "none",
        "made by": f"edgekd {source.edgekd_version} at {source.created}, manifest format {manifest.format_version}",
    }


def _labels(labels: tuple[str, ...]) -> str:
    more = f", ... ({len(labels)} in all)" if len(labels) > LABELS_SHOWN else ""
    return ", ".join(labels[:LABELS_SHOWN]) + more


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none"
    return (
        f"on {calibration.windows:,} windows of {calibration.data} {', '.join(calibration.splits)}: expected "
        f"calibration error {calibration.error_before:.4f} -> {calibration.error_after:.4f}"
    )


def _quant(quant: TensorQuant) -> str:
    return (
        quant.dtype
        if quant.dtype == "float32"
        else f"{quant.dtype}, scale {quant.scale:.6g}, zero point {quant.zero_point}"
    )
