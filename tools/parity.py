"""Compares the logits of exported int8 files with those of the integer reference, over all windows of a store's splits.

    python tools/parity.py RUN MODEL_DIR STORE --split fold4 [--hop 0.5]

RUN is the run folder that the files in MODEL_DIR were exported from; its graph is lowered again. Prints a table, then
one JSON line.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from toolbox import run_tool

from edgekd.data.audio.waveform import window_starts
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.evaluation.evaluate import match_labels, window_waveforms
from edgekd.evaluation.inference import BATCH, hop_samples
from edgekd.export.export import lower_run
from edgekd.frontend import log_mel
from edgekd.metrics.agreement import agreement
from edgekd.modelfile.engine import open_model
from edgekd.qgraph import reference
from edgekd.text import columns
from edgekd.train.run.folder import load_run

PATTERNS = ("*.int8.tflite", "*.int8.onnx")


def main(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    model_dir: Annotated[Path, typer.Argument(help="Folder of its exported int8 files.")],
    store: Annotated[Path, typer.Argument(help="A clip store.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Split whose windows are compared; repeatable. All by default.")
    ] = None,
    hop: Annotated[float, typer.Option(help="Seconds between the starts of two windows.")] = 1.0,
) -> None:
    """Compare the integer reference, LiteRT and ONNX Runtime."""
    paths = [path for pattern in PATTERNS for path in sorted(model_dir.glob(pattern))]
    if not paths:
        raise InputError(f"{model_dir} holds no {' or '.join(PATTERNS)}; export the run with --int8 --out {model_dir}")
    models = {path.name: open_model(path) for path in paths}
    graph = lower_run(load_run(run))
    source, output = graph.edges[graph.input], graph.edges[graph.output]
    manifest = next(iter(models.values())).manifest
    clips = ClipStore.open(store)
    chosen = clips.indices(split) if split else np.arange(len(clips.clips))
    match_labels(manifest, clips, chosen, str(model_dir))
    step = hop_samples(manifest, hop)
    starts = [window_starts(int(clips.lengths[index]), manifest.window, step) for index in chosen]
    waveforms = window_waveforms(clips, chosen, starts, manifest.window)
    steps: dict[str, list[np.ndarray]] = {name: [] for name in ["reference", *models]}
    began = time.monotonic()
    while batch := list(islice(waveforms, BATCH)):
        features = log_mel(manifest.frontend, np.stack(batch))  # (batch, mel, frame)
        steps["reference"].append(
            reference.run(graph, reference.quantize(features[:, None], source)).astype(np.int64) - output.zero_point
        )
        for name, model in models.items():
            steps[name].append(np.rint(model.logits(features) / output.scale).astype(np.int64))
    logits = {name: np.concatenate(parts) for name, parts in steps.items()}
    names = list(logits)
    pairs = {
        f"{left} - {right}": agreement(logits[left], logits[right])
        for i, left in enumerate(names)
        for right in names[i + 1 :]
    }
    print(f"{len(logits['reference'])} windows, {time.monotonic() - began:.1f} s")
    rows = [
        [name, f"{pair.max_steps:.0f}", f"{100 * pair.differing:.2f} %", f"{100 * pair.label_agreement:.2f} %"]
        for name, pair in pairs.items()
    ]
    print("\n".join(columns(["", "max steps", "differing", "same label"], rows)))
    print(msgspec.json.encode({"run": str(run), "windows": len(logits["reference"]), "pairs": pairs}).decode())


if __name__ == "__main__":
    run_tool(main)
