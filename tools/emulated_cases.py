"""Saves test cases for model files: the int8 input of many windows, and the logits of the integer reference for them.

    python tools/emulated_cases.py MODEL... --out FOLDER [--windows 500] [--data STORE --split fold4 --hop 0.5]
        [--run RUN]...

The run of a model is found by the golden vectors in the model file: the reference of that run gives exactly the same
logits. Without any --run, the logits are those of this machine's engine. `emulated_parity.py` replays FOLDER/MODEL.npz
on another machine.
"""

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from toolbox import run_tool

from edgekd import frontend, rounding
from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.evaluation.inference import hop_samples
from edgekd.modelfile import golden
from edgekd.modelfile.engine import FLOAT, Model, open_model
from edgekd.modelfile.manifest import TensorQuant
from edgekd.qgraph import reference
from edgekd.qgraph.graph import QGraph

FIRST_SEED = 1000
"""Of golden waveforms; those in model files have smaller seeds."""
BATCH = 64
UINT8_SHIFT = 128
"""uint8 activations of ONNX files are int8 ones plus this."""
CODE = (frontend.__file__, golden.__file__, rounding.__file__, reference.__file__, __file__)
"""Files that saved cases depend on, beside the model and the audio."""


def main(
    models: Annotated[list[Path], typer.Argument(help="int8 model files; their names must differ.")],
    out: Annotated[Path, typer.Option(help="Folder of the cases.")],
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps cases for later calls; by default none.")
    ] = None,
    count: Annotated[
        int, typer.Option("--windows", min=1, help="Windows per model, or as many as the store has.")
    ] = 500,
    data: Annotated[Path | None, typer.Option(help="A clip store; golden waveforms by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Of the store; all clips by default.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds between windows of a clip.")] = 0.5,
    run: Annotated[list[Path] | None, typer.Option(help="A run folder of 'edgekd distill'; repeatable.")] = None,
) -> None:
    """Save inputs and logits."""
    graphs = {str(path): lowered(path) for path in run or []}
    store = None if data is None else ClipStore.open(data)
    out.mkdir(parents=True, exist_ok=True)
    for path in models:
        model = open_model(path)
        quant, against = _case_quant(path, model), matching_run(model, graphs)
        if graphs and not against:
            raise InputError(
                f"{path}: its golden logits match none of the runs {', '.join(graphs)}; name the run that it was"
                " exported from with --run, or export it again"
            )
        about = {
            "anchor": fingerprint(graphs[against]) if against else _engine_identity(path, model),
            "windows": count,
            "input": quant,
            "frontend": model.manifest.frontend,
            "window": model.manifest.window,
            "data": None if store is None else [store.info, split, hop],
            "code": [Path(file).read_text() for file in CODE],
        }
        key = hashlib.sha256(msgspec.json.encode(about)).hexdigest()
        case_file = (cache or out) / f"{key}.npz"
        if not case_file.exists():
            case_file.parent.mkdir(parents=True, exist_ok=True)
            q = quantised(model, waveforms(model, store, split, hop, count), quant)  # (windows, mel, frame)
            if not len(q):
                raise InputError(f"{data}: split {split} holds no window of {path}'s length that is not silent")
            partial = case_file.with_suffix(f".{os.getpid()}.npz")
            origin = f"reference of {against}" if against else f"{model.engine}, {platform.machine()}"
            np.savez(partial, input=q, steps=steps(model, q, graphs.get(against)), against=origin)
            partial.replace(case_file)
        _link(case_file, out / f"{path.name}.npz")
        with np.load(case_file) as case:
            print(f"{path.name}: {len(case['steps'])} windows against {case['against']}", flush=True)


def matching_run(model: Model, graphs: Mapping[str, QGraph]) -> str:
    """The name of the graph that gives the golden logits of a model file; "" where none does."""
    for name, graph in graphs.items():
        source, output = graph.edges[graph.input], graph.edges[graph.output]
        shape = (model.manifest.frontend.n_mels, model.manifest.frontend.frames(model.manifest.window))
        if source.shape[1:] != shape or output.shape[0] != len(model.manifest.labels):
            continue

        def run(features: np.ndarray, graph=graph, source=source, output=output) -> np.ndarray:
            return reference.dequantize(reference.run(graph, reference.quantize(features[:, None], source)), output)

        replayed = golden.replay(model.manifest, run, model.manifest.name)
        if np.array_equal(replayed.logits, replayed.expected):
            return name
    return ""


def waveforms(model: Model, store: ClipStore | None, split: str | None, hop: float, count: int) -> Iterator[np.ndarray]:
    """Waveforms float32 (window,): golden ones, or evenly chosen windows of a store's clips without digital silence.

    Raises:
        InputError: a store at another rate, an unknown split, or a hop that is not positive.
    """
    window, rate = model.manifest.window, model.manifest.frontend.sample_rate
    if store is None:
        yield from (golden.waveform(FIRST_SEED + index, window) for index in range(count))
        return
    if store.info.sample_rate != rate:
        raise InputError(
            f"{store.path}: {store.info.sample_rate} Hz, but the model needs {rate} Hz; prepare the store at that rate"
        )
    step = hop_samples(model.manifest, hop)
    clips = store.indices([split]) if split else range(len(store.clips))
    positions: list[tuple[int, int]] = [  # clip and first sample
        (int(clip), start)
        for clip in clips
        for start in window_starts(int(store.lengths[clip]), window, step)
        if store.window(int(clip), start, window).any()
    ]
    if not positions:
        return
    chosen = np.unique(np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(int))
    yield from (store.window(*positions[index], window) for index in chosen)


def quantised(model: Model, waves: Iterator[np.ndarray], quant: TensorQuant) -> np.ndarray:
    """The int8 input of windows, (windows, mel, frame)."""
    parts = []
    while batch := list(islice(waves, BATCH)):
        features = frontend.log_mel(model.manifest.frontend, np.stack(batch))
        parts.append(rounding.quantize(features, quant.scale, quant.zero_point, quant.dtype))
    return np.concatenate(parts) if parts else np.empty(0, np.int8)


def steps(model: Model, q: np.ndarray, graph: QGraph | None) -> np.ndarray:
    """Logits in quantisation steps above zero, int16 (windows, labels), by a graph's integer reference or, without a
    graph, by the model's engine on this machine."""
    if graph is not None:
        return reference.run(graph, q[:, None]).astype(np.int16) - np.int16(graph.edges[graph.output].zero_point)
    shifted = q if model.input_quant.dtype == "int8" else (q.astype(np.int16) + UINT8_SHIFT).astype(np.uint8)
    parts = [model.run_quantized(shifted[start : start + BATCH]) for start in range(0, len(q), BATCH)]
    return np.concatenate(parts).astype(np.int16) - np.int16(model.manifest.output.zero_point)


def fingerprint(graph: QGraph) -> str:
    """SHA-256 of everything in a graph, 64 hex digits."""
    digest = hashlib.sha256(repr((graph.input, graph.output, sorted(graph.edges.items()))).encode())
    for op in graph.ops:
        digest.update(type(op).__name__.encode())
        for field in fields(op):
            value = getattr(op, field.name)
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def _case_quant(path: Path, model: Model) -> TensorQuant:
    """The int8 quantisation of the features in a case."""
    source = model.input_quant
    if source.dtype == FLOAT:
        raise InputError(f"{path}: a float model; give int8 ones")
    return TensorQuant("int8", source.scale, source.zero_point - (UINT8_SHIFT if source.dtype == "uint8" else 0))


def _engine_identity(path: Path, model: Model) -> list[str]:
    return [model.engine, platform.machine(), hashlib.sha256(path.read_bytes()).hexdigest()]


def lowered(path: Path) -> QGraph:
    """The integer graph of a run; needs the extra `train`."""
    from edgekd.export.export import lower_run
    from edgekd.train.run.folder import load_run

    return lower_run(load_run(path))


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


if __name__ == "__main__":
    run_tool(main)
