"""`edgekd export`: writes a finished student's integer graph as model files that carry their manifest.

Files run in their engines before they are kept: on noise, on golden waveforms, and where a clip store is given on
held-out windows. A file that fails is not kept.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekd import quant
from edgekd.errors import GateError, InputError, nearest
from edgekd.export.card import card_path, write_card
from edgekd.export.executions import NOISE_WINDOWS, check_agreement, executions, reference_logits
from edgekd.export.float_counts import float_counts
from edgekd.export.graph_manifest import Precision, int8_quant, manifest_of
from edgekd.export.parity import ParityOptions, ParityReport, check_parity, parity_windows
from edgekd.metrics.agreement import Agreement
from edgekd.modelfile import container, golden
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.manifest import CrossValidation, GraphCounts, Manifest
from edgekd.modelfile.verify import verify_model
from edgekd.qgraph import onnx, tflite
from edgekd.qgraph.graph import QGraph
from edgekd.text import counted, listing
from edgekd.train.run.folder import EXPORT_FOLDER, Run, load_run

EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}
"""Format, which is also the file's suffix -> (graph, float twin or not) -> bytes of the model."""
FORMATS = ",".join(EMITTERS)


@dataclass(frozen=True)
class ExportReport:
    """The files of an export.

    Attributes:
        files: in the order of the formats asked for; empty where a threshold was missed.
        counts: of the graph; equal for all files of one precision.
        agreement: file name -> agreement with the integer reference (float: with the first file) on noise.
        parity: over held-out windows, where a store was given.
        card: the model card, where one was asked for.
    """

    files: tuple[Path, ...]
    counts: GraphCounts
    agreement: dict[str, Agreement]
    parity: ParityReport | None = None
    card: Path | None = None

    def to_text(self) -> str:
        """A summary for a terminal."""
        lines = [
            f"{path}  {path.stat().st_size:,} bytes" for path in (*self.files, *([self.card] if self.card else []))
        ]
        lines.append(
            f"{self.counts.params:,} parameters in {self.counts.param_bytes:,} bytes, {self.counts.macs:,} MACs a"
            " window"
        )
        for name, each in self.agreement.items():
            lines.append(
                f"{name}: at most {counted(each.max_steps, 'step', form='.2g')} from the reference on {NOISE_WINDOWS}"
                f" windows of noise, same label in {100 * each.label_agreement:.1f} %"
            )
        return "\n".join(lines if self.parity is None else [*lines, self.parity.to_text()])

    def to_json(self) -> bytes:
        """The document of `export --json`."""
        document = {
            "ok": self.parity is None or not self.parity.failures,
            "files": [str(path) for path in self.files],
            "card": self.card and str(self.card),
            "counts": self.counts,
            "noise": self.agreement,
            "trial": self.parity and self.parity.to_builtins(),
        }
        return msgspec.json.encode(document)

    def require(self) -> None:
        """Raise where the files miss a threshold.

        Raises:
            GateError: a threshold of the recipe was missed on held-out windows.
        """
        if self.parity is not None and self.parity.failures:
            raise GateError(
                f"{'; '.join(self.parity.failures)}; nothing was written (the recipe's [export] table holds the"
                " thresholds)"
            )


def export_run(
    run_path: Path,
    precision: Precision,
    formats: str = FORMATS,
    out: Path | None = None,
    *,
    force: bool = False,
    parity: ParityOptions | None = None,
    card: bool = False,
    crossval: CrossValidation | None = None,
) -> ExportReport:
    """Lower a student to its integer graph, write it in each format, and keep the files where their engines agree with
    the graph.

    Args:
        run_path: a finished run of `edgekd distill`.
        precision: "int8", or "float" for the float32 twin of the same graph.
        formats: keys of `EMITTERS`, separated by commas.
        out: folder of the files; None is `export` inside the run.
        force: replace files of the same names.
        parity: held-out windows to compare on, besides noise and golden waveforms.
        card: also write a model card beside the files.
        crossval: accuracies of a cross-validation of the run's recipe, which the manifests then carry.

    Returns:
        The report. Where a threshold was missed it names no files, and its `require` raises.

    Raises:
        InputError: an unknown format, a run that can't be exported, a store that doesn't fit it, or existing files.
        GateError: an engine gives other logits than the graph; nothing is written then.
    """
    chosen = parse_formats(formats)
    run = load_run(run_path)
    folder = run_path / EXPORT_FOLDER if out is None else out
    targets = [folder / f"{run.recipe.name}.{precision}.{kind}" for kind in chosen]
    card_file = card_path(folder, run.recipe.name, precision) if card else None
    check_targets(folder, [*targets, *([card_file] if card_file else [])], force=force)
    graph = lower_run(run)
    counts = float_counts(run.float_model(), (1, *graph.edges[graph.input].shape))
    manifests = [
        msgspec.structs.replace(manifest_of(run, graph, precision, kind), float_counts=counts, crossval=crossval)
        for kind in chosen
    ]
    windows = None if parity is None else parity_windows(parity, run.recipe, manifests[0])
    contents = [EMITTERS[kind](graph, float_twin=precision == "float") for kind in chosen]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
            fresh = [Path(partial) / target.name for target in targets]
            _write(fresh, contents, manifests)
            agreed = check_agreement(graph, fresh, precision)
            models = [open_model(path) for path in fresh]
            checked = None
            if windows is not None:
                checked = check_parity(windows, executions(run, graph, models, precision), run.recipe.export)
            vectors = golden.make(
                manifests[0].frontend,
                manifests[0].window,
                int8_quant(graph.edges[graph.input]),
                graph.edges[graph.output].scale,
                reference_logits(graph) if precision == "int8" else models[0].logits,
            )
            manifests = [msgspec.structs.replace(manifest, golden=vectors) for manifest in manifests]
            if checked is not None:
                temperature, calibration = checked.comparison.temperature, checked.calibration
                manifests = [
                    msgspec.structs.replace(manifest, temperature=temperature, calibration=calibration)
                    for manifest in manifests
                ]
            _write(fresh, contents, manifests)
            _verify(fresh)
            if checked is not None and checked.failures:
                return ExportReport((), manifests[0].counts, agreed, checked)
            for path, target in zip(fresh, targets, strict=True):
                path.replace(target)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --out") from None
    if card_file is not None:
        write_card(card_file, targets)
    return ExportReport(tuple(targets), manifests[0].counts, agreed, checked, card_file)


def _write(paths: Sequence[Path], contents: Sequence[bytes], manifests: Sequence[Manifest]) -> None:
    for path, content, manifest in zip(paths, contents, manifests, strict=True):
        container.write(path, content, manifest)


def _verify(paths: Sequence[Path]) -> None:
    """Check what `edgekd verify` checks on the device.

    Raises:
        GateError: an engine gives other logits than the file holds.
    """
    for path in paths:
        failures = verify_model(open_model(path), path.name).failures
        if failures:
            raise GateError(f"{path.name}: on golden waveforms {'; '.join(failures)}; nothing was written")


def chosen_precision(*, int8: bool, as_float: bool) -> Precision:
    """The precision of the flag that was given.

    Raises:
        InputError: neither flag or both.
    """
    if int8 == as_float:
        raise InputError(f"{'both' if int8 else 'neither'} of --int8 and --float given; give one of them")
    return "int8" if int8 else "float"


def parse_formats(formats: str) -> list[str]:
    """ "tflite,onnx" -> ["tflite", "onnx"], each format once.

    Raises:
        InputError: an unknown format, or none.
    """
    chosen = list(dict.fromkeys(part.strip() for part in formats.split(",") if part.strip()))
    for kind in chosen:
        if kind not in EMITTERS:
            raise InputError(f"--format: '{kind}' is unknown{nearest(kind, EMITTERS)}")
    if not chosen:
        raise InputError(f"--format is empty; give one or more of: {FORMATS}")
    return chosen


def check_targets(folder: Path, targets: Sequence[Path], *, force: bool) -> None:
    """Raise where files cannot be written, or exist and `force` is not set.

    Raises:
        InputError: a name with a slash, a file where the folder should be, or files that exist.
    """
    if any(target.parent != folder for target in targets):
        raise InputError(f"the recipe's name gives no file name ({targets[0]}); rename the recipe")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another --out")
    existing = [str(target) for target in targets if target.exists()]
    if existing and not force:
        raise InputError(f"{listing(existing)} exist already; replace with --force or choose another --out")


def lower_run(run: Run) -> QGraph:
    """The integer graph of a finished student, validated.

    Raises:
        InputError: a teacher's run, a run without a quantization-aware phase, or a dead channel.
    """
    if run.recipe.role != "student":
        raise InputError(f"{run.path} is a teacher; export the student that 'edgekd distill' trains from it")
    return quant.lower(run.qat_model(), run.frontend, run.frontend.frames(run.info.window))
