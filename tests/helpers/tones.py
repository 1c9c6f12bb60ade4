"""A store of tones and a hand-made integer model that classifies them as low or high, so that every prediction is known
beforehand."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgekd import cli
from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.experiments.jobs import JobResult, next_command
from edgekd.frontend import FrontEnd
from edgekd.modelfile import container
from edgekd.modelfile.manifest import GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.qgraph import onnx, tflite
from edgekd.qgraph.graph import ConvOp, Edge, QGraph

RATE = 8000
WINDOW = 8000
FRONTEND = FrontEnd(sample_rate=RATE, n_fft=256, win_length=256, hop_length=128, n_mels=8, mean=-3.0, std=4.0)
LABELS = ("high", "low")
TONES = {"high": 3000.0, "low": 300.0}


def tone(label, seconds, seed=0, rate=RATE):
    """(time,) int16: a tone in a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 30, len(time))
    return (8000 * np.sin(2 * np.pi * TONES[label] * time) + noise).astype(np.int16)


def low_or_high_graph():
    """A graph of one convolution over the whole map: "high" sums the upper mels and subtracts the lower ones, "low" the
    reverse."""
    frames = FRONTEND.frames(WINDOW)
    sign = np.where(np.arange(8) < 4, -1, 1).astype(np.int8)
    # (2, 1, 8, frames)
    weight = np.stack([np.broadcast_to(each[:, None], (8, frames)) for each in (sign, -sign)])[:, None]
    edges = {"log_mel": Edge("log_mel", (1, 8, frames), 0.03, 0), "sum": Edge("sum", (2, 1, 1), 0.1, 0)}
    scale = np.full(2, 1 / (4 * frames), np.float32)
    op = ConvOp("sum", "log_mel", "sum", np.ascontiguousarray(weight), scale, np.zeros(2, np.int32))
    graph = QGraph(edges, (op,), "log_mel", "sum")
    graph.validate()
    return graph


def manifest_for(labels=LABELS, frontend=FRONTEND, shift=0, dtype="int8", **changes):
    provenance = Provenance(
        recipe="tones",
        recipe_hash="0",
        data="tones",
        data_hash="0",
        data_licence="CC0",
        synthetic=True,
        edgekd_version="0",
        created="2024-01-01T00:00:00+00:00",
    )
    return Manifest(
        name="tones",
        student="hand_made",
        precision="int8",
        labels=labels,
        frontend=frontend,
        window=WINDOW,
        input=TensorQuant(dtype, 0.03, shift),
        output=TensorQuant(dtype, 0.1, shift),
        counts=GraphCounts(0, 0, 0),
        provenance=provenance,
        **changes,
    )


@pytest.fixture(scope="session")
def tone_models(tmp_path_factory):
    """{"litert": .tflite, "onnxruntime": .onnx} of the same graph."""
    folder = tmp_path_factory.mktemp("models")
    paths = {"litert": folder / "tones.int8.tflite", "onnxruntime": folder / "tones.int8.onnx"}
    container.write(paths["litert"], tflite.emit(low_or_high_graph()), manifest_for())
    container.write(paths["onnxruntime"], onnx.emit(low_or_high_graph()), manifest_for(shift=128, dtype="uint8"))
    return paths


@pytest.fixture
def tone_model(tone_models):
    return tone_models["litert"]


def write_store(path: Path, items, rate=RATE):
    """items: (Clip, (time,) int16)."""
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=rate, channels=1, synthetic=True) as writer:
        for clip, pcm in items:
            writer.add(clip, pcm[:, None])
        return writer.finish()


@pytest.fixture
def tone_store(tmp_path):
    """Path of a store. Split a: two clips of each label and a silent one. Split b: a clip with the right label and one
    with the wrong label."""
    items = [
        (Clip(f"{label}{i}.wav", label, "a", recorder=f"r{i}"), tone(label, 2.5, i)) for label in LABELS for i in (0, 1)
    ]
    items.append((Clip("silent.wav", "low", "a"), np.zeros(2 * RATE, np.int16)))
    items.append((Clip("half.wav", "low", "b"), np.concatenate([tone("low", 1.0), np.zeros(RATE, np.int16)])))
    items.append((Clip("wrong.wav", "low", "b", recorder="r0"), tone("high", 0.5)))
    return write_store(tmp_path / "store", items).path


@pytest.fixture(scope="session")
def tone_fixtures() -> ModuleType:
    """This module: helpers for tests that make stores and models of their own."""
    return sys.modules[__name__]


@pytest.fixture
def jobs_here():
    """A replacement of `run_jobs` that runs the jobs in this process, which saves the seconds of starting others. Its
    `ran` lists their names."""

    def run_jobs(jobs, folder, *_):
        folder.mkdir(exist_ok=True)
        results = {}
        for job in jobs:
            results[job.name] = JobResult("done", "", folder / f"{job.name}.log")
            if not (folder / f"{job.name}.done").exists():
                run_jobs.ran.append(job.name)
                try:
                    cli.run(list(next_command(job)[4:]))
                    (folder / f"{job.name}.done").touch()
                except InputError as error:
                    results[job.name] = JobResult("failed", str(error), folder / f"{job.name}.log")
        return results

    run_jobs.ran = []
    return run_jobs
