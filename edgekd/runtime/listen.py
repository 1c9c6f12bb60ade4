"""The listener: samples in, one decision per hop out. Needs numpy and one engine, nothing else."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.engine import open_model
from edgekd.errors import InputError
from edgekd.manifest import Manifest
from edgekd.runtime.decision import PLAIN, Decider, Decision, DecisionSettings
from edgekd.runtime.source import read_file, read_raw
from edgekd.runtime.stream import WindowStream

STANDARD_INPUT = "-"

Array = NDArray[np.float32]


class Classifier(Protocol):
    """What the listener needs of a model; `edgekd.engine.open_model` gives one."""

    @property
    def manifest(self) -> Manifest:
        """What travels in the file."""
        ...

    def logits(self, features: Array) -> Array:
        """float32 (batch, mel, frame) -> float32 (batch, labels)."""
        ...


def listen(source: str | None, model: Path, *, engine: str | None = None, threads: int = 1, hop_s: float = 0.5,
           top: int = 3, settings: DecisionSettings = PLAIN) -> Iterator[Decision]:
    """Classify a source window by window.

    Args:
        source: path of an audio file, or `-` for raw signed 16-bit little-endian mono at the model's rate on standard input.
        model: an exported .tflite or .onnx file.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.
        threads: of the engine.
        hop_s: seconds from decision to decision, 0.25 to the model's window.
        top: labels in `Decision.top`, at most as many as the model knows.
        settings: how steady decisions are.

    Yields:
        a decision at the end of each window.

    Raises:
        InputError: a source, model or setting that cannot be used; audio shorter than one window.
        MissingExtraError: an engine, or what the file's format or rate needs, is not installed.
    """
    if source is None:
        raise InputError("a microphone cannot be opened in this version; give an audio file, or pipe one: "
                         "arecord -f S16_LE -c 1 -r 16000 -t raw | edgekd listen - --model MODEL")
    if source == STANDARD_INPUT and sys.stdin is None:
        raise InputError("standard input is closed; pipe raw samples into it or give an audio file")
    classifier = open_model(model, engine, threads)
    sample_rate = classifier.manifest.frontend.sample_rate
    chunks = read_raw(sys.stdin.buffer, sample_rate) if source == STANDARD_INPUT else read_file(Path(source), sample_rate)
    yield from decisions(classifier, chunks, "standard input" if source == STANDARD_INPUT else source, hop_s, top,
                         settings)


def decisions(classifier: Classifier, chunks: Iterable[Array], where: str, hop_s: float, top: int,
              settings: DecisionSettings = PLAIN) -> Iterator[Decision]:
    """Decisions over chunks of samples, float32 (time,) at the model's rate; `where` names the source in errors."""
    manifest = classifier.manifest
    rate = manifest.frontend.sample_rate
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
    decider = Decider(manifest.labels, manifest.temperature, top, settings)
    for chunk in chunks:
        for window in stream.push(chunk):
            t = window.end / rate
            if window.features is None:
                yield decider.skip(t=t, rms=window.rms)
            else:
                yield decider.judge(classifier.logits(window.features[None])[0], t=t, rms=window.rms)  # logits: (labels,)
    if stream.received < manifest.window:
        raise InputError(f"{where}: {stream.received / rate:.2f} s of audio is shorter than the model's window of "
                         f"{manifest.window / rate:g} s; give more audio")
