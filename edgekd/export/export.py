"""`edgekd export`: a finished student's integer graph, written as model files that carry their manifest and were run
before they are kept.

Files are judged on noise, on golden waveforms, and where a clip store is given on held-out windows; what fails is not
kept.
"""

import datetime
import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import nn

from edgekd import quant
from edgekd.errors import GateError, InputError, nearest
from edgekd.export.card import card_path, write_card
from edgekd.export.compare import FLOAT, Runner
from edgekd.export.float_counts import float_counts
from edgekd.export.parity import Candidates, Trial, TrialReport, judge, trial_windows
from edgekd.metrics.agreement import Agreement, agreement
from edgekd.modelfile import container, golden
from edgekd.modelfile.engine import Model, open_model
from edgekd.modelfile.manifest import Counts, CrossValidation, Manifest, Provenance, TensorQuant
from edgekd.modelfile.verify import verify_model
from edgekd.qgraph import onnx, reference, tflite
from edgekd.qgraph.graph import Constant, Conv, Edge, QGraph
from edgekd.text import counted, listing
from edgekd.train.run.folder import Run, load_run

Precision = Literal["int8", "float"]

EMITTERS = {"tflite": tflite.emit, "onnx": onnx.emit}
"""Format, which is also the file's suffix -> (graph, float twin or not) -> bytes of the model."""
FORMATS = ",".join(EMITTERS)
EXPORT_FOLDER = "export"
"""Where files go inside the run folder when no other place is named."""
MAX_STEPS = 2
"""Largest difference, in steps of the output's scale, between a file in its engine and the integer reference."""
CHECK_WINDOWS = 64
"""Windows of seeded noise that every file is run on before it is kept."""
CHECK_SEED = 0
INT8_BYTES, INT32_BYTES, FLOAT32_BYTES = 1, 4, 4
UINT8_SHIFT = 128
"""ONNX files hold int8 activations relabelled as uint8."""
QAT, REFERENCE = "qat", "reference"
"""Rows of the comparison, beside the float network and the engines."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        files: in the order of the formats asked for; none when a threshold is missed.
        counts: of the graph; equal for all files of one precision.
        agreement: file name -> how it agrees with the integer reference (float: with the first file) on noise.
        trial: over held-out windows, where a store was given.
        card: the model card, where one was asked for.
    """

    files: tuple[Path, ...]
    counts: Counts
    agreement: dict[str, Agreement]
    trial: TrialReport | None = None
    card: Path | None = None

    def to_text(self) -> str:
        """A summary for people."""
        lines = [
            f"{path}  {path.stat().st_size:,} bytes" for path in (*self.files, *([self.card] if self.card else []))
        ]
        lines.append(
            f"{self.counts.params:,} parameters in {self.counts.param_bytes:,} bytes, {self.counts.macs:,} MACs a"
            " window"
        )
        for name, each in self.agreement.items():
            lines.append(
                f"{name}: at most {counted(each.max_steps, 'step', form='.2g')} from the reference on {CHECK_WINDOWS}"
                f" windows of noise, same label in {100 * each.label_agreement:.1f} %"
            )
        return "\n".join(lines if self.trial is None else [*lines, self.trial.to_text()])

    def to_json(self) -> bytes:
        """The document of `export --json`."""
        document = {
            "ok": self.trial is None or not self.trial.failures,
            "files": [str(path) for path in self.files],
            "card": self.card and str(self.card),
            "counts": self.counts,
            "noise": self.agreement,
            "trial": self.trial and self.trial.to_builtins(),
        }
        return msgspec.json.encode(document)

    def require(self) -> None:
        """Judge.

        Raises:
            GateError: a threshold of the recipe was missed over held-out windows.
        """
        if self.trial is not None and self.trial.failures:
            raise GateError(
                f"{'; '.join(self.trial.failures)}; nothing was written (the recipe's [export] table holds the"
                " thresholds)"
            )


def export_run(
    run_path: Path,
    precision: Precision,
    formats: str = FORMATS,
    out: Path | None = None,
    *,
    force: bool = False,
    trial: Trial | None = None,
    card: bool = False,
    crossval: CrossValidation | None = None,
) -> ExportReport:
    """Lower a student to its integer graph, write it in each format, and keep the files when their engines agree with
    the graph.

    Args:
        run_path: a finished run of `edgekd distill`.
        precision: "int8", or "float" for the float32 twin of the same graph.
        formats: keys of `EMITTERS`, separated by commas.
        out: folder of the files; None is `export` inside the run.
        force: replace files of the same names.
        trial: what to judge on beside noise and golden waveforms.
        card: also write a model card beside the files.
        crossval: accuracies of a cross-validation of the run's recipe, which the manifests then carry.

    Returns:
        The report. Where the trial missed a threshold it names no files, and its `require` fails.

    Raises:
        InputError: an unknown format, a run that can't be exported, a store that doesn't fit it, or files in the way.
        GateError: an engine gives other logits than the graph; nothing is written then.
    """
    chosen = parse_formats(formats)
    run = load_run(run_path)
    folder = run_path / EXPORT_FOLDER if out is None else out
    targets = [folder / f"{run.recipe.name}.{precision}.{kind}" for kind in chosen]
    described = card_path(folder, run.recipe.name, precision) if card else None
    check_targets(folder, [*targets, *([described] if described else [])], force=force)
    graph = lower_run(run)
    counted = float_counts(run.float_model(), (1, *graph.edges[graph.input].shape))
    manifests = [
        msgspec.structs.replace(manifest_of(run, graph, precision, kind), float_counts=counted, crossval=crossval)
        for kind in chosen
    ]
    windows = None if trial is None else trial_windows(trial, run.recipe, manifests[0])
    contents = [EMITTERS[kind](graph, float_twin=precision == "float") for kind in chosen]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
            fresh = [Path(partial) / target.name for target in targets]
            _write(fresh, contents, manifests)
            agreed = check_agreement(graph, fresh, precision)
            opened = [open_model(path) for path in fresh]
            tried = (
                None
                if windows is None
                else judge(windows, _candidates(run, graph, opened, precision), run.recipe.export)
            )
            changes = {
                "golden": golden.make(
                    manifests[0].frontend,
                    manifests[0].window,
                    int8_quant(graph.edges[graph.input]),
                    graph.edges[graph.output].scale,
                    reference_runner(graph) if precision == "int8" else opened[0].logits,
                )
            }
            if tried is not None:
                changes |= {"temperature": tried.comparison.temperature, "calibration": tried.calibration}
            _write(fresh, contents, [msgspec.structs.replace(manifest, **changes) for manifest in manifests])
            _verify(fresh)
            if tried is not None and tried.failures:
                return ExportReport((), manifests[0].counts, agreed, tried)
            for path, target in zip(fresh, targets, strict=True):
                path.replace(target)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --out") from None
    if described is not None:
        write_card(described, targets)
    return ExportReport(tuple(targets), manifests[0].counts, agreed, tried, described)


def _write(paths: Sequence[Path], contents: Sequence[bytes], manifests: Sequence[Manifest]) -> None:
    for path, content, manifest in zip(paths, contents, manifests, strict=True):
        container.write(path, content, manifest)


def _verify(paths: Sequence[Path]) -> None:
    """What `edgekd verify` will do elsewhere.

    Raises:
        GateError: an engine gives other logits than were kept.
    """
    for path in paths:
        failures = verify_model(open_model(path), path.name).failures
        if failures:
            raise GateError(f"{path.name}: on golden waveforms {'; '.join(failures)}; nothing was written")


def _candidates(run: Run, graph: QGraph, opened: Sequence[Model], precision: Precision) -> Candidates:
    """Every execution of the student, from the float network to the files."""
    models: dict[str, Runner] = {FLOAT: network_runner(run.float_model()), QAT: network_runner(run.qat_model())}
    if precision == "int8":
        models[REFERENCE] = reference_runner(graph)
    models |= {model.engine: model.logits for model in opened}
    return Candidates(
        models,
        REFERENCE if precision == "int8" else opened[0].engine,
        graph.edges[graph.output].scale,
        integers=precision == "int8",
    )


def reference_runner(graph: QGraph) -> Runner:
    """The integer reference from features to logits."""
    source, output = graph.edges[graph.input], graph.edges[graph.output]

    def run(features: np.ndarray) -> np.ndarray:
        return reference.dequantize(reference.run(graph, reference.quantize(features[:, None], source)), output)

    return run


def network_runner(network: nn.Module) -> Runner:
    """A network of torch in eval mode, from features to logits."""

    def run(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(features)[:, None]).float().numpy()

    return run


def chosen_precision(*, int8: bool, as_float: bool) -> Precision:
    """The one of the two flags that was given.

    Raises:
        InputError: neither or both.
    """
    if int8 == as_float:
        raise InputError(f"{'both' if int8 else 'neither'} of --int8 and --float given; give one of them")
    return "int8" if int8 else "float"


def parse_formats(formats: str) -> list[str]:
    """ "tflite,onnx" -> ["tflite", "onnx"], repetitions dropped.

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
    """Refuse to replace files that nobody allowed to replace.

    Raises:
        InputError: a name with a slash, a file where the folder should be, or files that exist.
    """
    if any(target.parent != folder for target in targets):
        raise InputError(f"the recipe's name gives no file name ({targets[0]}); rename the recipe")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another --out")
    there = [str(target) for target in targets if target.exists()]
    if there and not force:
        raise InputError(f"already there: {listing(there)}; replace with --force or choose another --out")


def lower_run(run: Run) -> QGraph:
    """The integer graph of a finished student, validated.

    Raises:
        InputError: a teacher's run, a run without a quantization-aware phase, or a dead channel.
    """
    if run.recipe.role != "student":
        raise InputError(f"{run.path} is a teacher; export the student that 'edgekd distill' trains from it")
    return quant.lower(run.qat_model(), run.frontend, run.frontend.frames(run.info.window))


def count(graph: QGraph, precision: Precision) -> Counts:
    """Complexity of the graph's convolutions and dense layers: weights, biases and other trained constants, and exact
    MACs of one window.

    Pools, which an emitter may spell as convolutions with constant weights, have no parameters here; `edgekd check`
    counts what a file spells.
    """
    weight_bytes, bias_bytes = (INT8_BYTES, INT32_BYTES) if precision == "int8" else (FLOAT32_BYTES, FLOAT32_BYTES)
    macs = params = param_bytes = 0
    for op in graph.ops:
        if isinstance(op, Conv):
            _, mel, frame = graph.edges[op.output].shape
            macs += op.weight.size * mel * frame
            params += op.weight.size + op.bias.size
            param_bytes += op.weight.size * weight_bytes + op.bias.size * bias_bytes
        elif isinstance(op, Constant):
            params += op.value.size
            param_bytes += op.value.size * weight_bytes
    return Counts(macs, params, param_bytes)


def manifest_of(run: Run, graph: QGraph, precision: Precision, kind: str) -> Manifest:
    """What travels in a file of a run. kind: a key of `EMITTERS`."""
    info, recipe = run.info, run.recipe
    return Manifest(
        name=recipe.name,
        student=str(recipe.model["kind"]),
        precision=precision,
        labels=info.labels,
        frontend=info.frontend,
        window=info.window,
        input=_quant_of(graph.edges[graph.input], precision, kind),
        output=_quant_of(graph.edges[graph.output], precision, kind),
        counts=count(graph, precision),
        spectrum=info.spectrum,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_hash=recipe.hash,
            data=info.data.name,
            data_hash=info.data.hash,
            data_licence=info.data.licence,
            synthetic=info.data.synthetic,
            edgekd_version=importlib.metadata.version("edgekd"),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            teachers=info.teachers,
            scores=info.metrics,
        ),
    )


def _quant_of(edge: Edge, precision: Precision, kind: str) -> TensorQuant:
    """How a file of one kind holds an edge."""
    if precision == "float":
        return TensorQuant("float32", 1.0, 0)
    if kind == "onnx":
        return TensorQuant("uint8", edge.scale, edge.zero_point + UINT8_SHIFT)
    return int8_quant(edge)


def int8_quant(edge: Edge) -> TensorQuant:
    """How the graph holds an edge."""
    return TensorQuant("int8", edge.scale, edge.zero_point)


def check_agreement(graph: QGraph, paths: Sequence[Path], precision: Precision) -> dict[str, Agreement]:
    """Run files in their engines on seeded noise.

    Args:
        graph: what they shall compute.
        paths: files with manifests.
        precision: int8 files are compared with the reference; float files with the first of them.

    Returns:
        File name -> agreement, in steps of the graph's output scale.

    Raises:
        GateError: more than `MAX_STEPS` apart.
    """
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    # (windows, mel, frame)
    features = np.random.default_rng(CHECK_SEED).standard_normal((CHECK_WINDOWS, *source.shape[1:]), np.float32)
    logits = {path.name: open_model(path).logits(features) for path in paths}
    if precision == "int8":
        expected = reference_runner(graph)(features)
    else:
        name, expected = next(iter(logits.items()))
        del logits[name]
    rounded = np.rint if precision == "int8" else np.asarray
    agreed = {
        name: agreement(rounded(expected / output.scale), rounded(each / output.scale)) for name, each in logits.items()
    }
    for name, each in agreed.items():
        if round(each.max_steps, 2) > MAX_STEPS:
            raise GateError(
                f"{name}: its engine is {each.max_steps:.2f} steps away from the graph on noise, more than {MAX_STEPS};"
                " nothing was written"
            )
    return agreed
