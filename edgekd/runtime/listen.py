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
from edgekd.runtime.capture import Capture
from edgekd.runtime.capture_child import Request
from edgekd.runtime.decision import PLAIN, Decider, Decision, DecisionSettings
from edgekd.runtime.health import Change, Gap, State, Turn
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
           top: int = 3, live: Request | None = None, settings: DecisionSettings = PLAIN) -> Iterator[Decision | Change]:
    """Classify a source window by window.

    Args:
        source: path of an audio file, or `-` for raw signed 16-bit little-endian mono at the model's rate on standard input; None hears a
            microphone or a command, for ever.
        model: an exported .tflite or .onnx file.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.
        threads: of the engine.
        hop_s: seconds from decision to decision, 0.25 to the model's window.
        top: labels in `Decision.top`, at most as many as the model knows.
        live: what to hear where there is no source; by default the default microphone. A command's rate is the model's unless it says so.
        settings: how steady decisions are.

    Yields:
        a decision at the end of each window; of a live source also each change of its state.

    Raises:
        InputError: a source, model or setting that cannot be used; audio shorter than one window.
        MissingExtraError: an engine, or what the file's format or rate needs, is not installed.
    """
    if source is not None and live is not None and live != Request():
        raise InputError(f"{source} is a source of its own; leave out the options of microphones and commands, or the source")
    if source == STANDARD_INPUT and sys.stdin is None:
        raise InputError("standard input is closed; pipe raw samples into it or give an audio file")
    classifier = open_model(model, engine, threads)
    sample_rate = classifier.manifest.frontend.sample_rate
    if source is None:
        yield from _live(classifier, live or Request(), hop_s, top, settings)
        return
    chunks = read_raw(sys.stdin.buffer, sample_rate) if source == STANDARD_INPUT else read_file(Path(source), sample_rate)
    yield from decisions(classifier, chunks, "standard input" if source == STANDARD_INPUT else source, hop_s, top, settings)


def decisions(classifier: Classifier, chunks: Iterable[Array | Gap | Turn], where: str, hop_s: float, top: int,
              settings: DecisionSettings = PLAIN) -> Iterator[Decision | Change]:
    """Decisions over chunks of samples, float32 (time,) at the model's rate; `where` names the source in errors.

    A window never reaches over a `Gap`: the next one starts behind it, while the time goes on. A `Turn` is given on with its time.
    """
    manifest = classifier.manifest
    rate = manifest.frontend.sample_rate
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
    decider = Decider(manifest.labels, manifest.temperature, top, settings)
    state: State = "HEALTHY"
    start_s, drops, longest = 0.0, 0, 0
    for chunk in chunks:
        if isinstance(chunk, Turn):
            state = chunk.state
            yield Change(round(start_s + stream.received / rate + chunk.silent_s, 3), state, chunk.reason)
        elif isinstance(chunk, Gap):
            longest = max(longest, stream.received)
            start_s += (stream.received + chunk.dropped) / rate + chunk.away_s
            drops += chunk.dropped
            stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
        else:
            for window in stream.push(chunk):
                t = start_s + window.end / rate
                if window.features is None:
                    yield decider.skip(t=t, rms=window.rms, drops=drops, state=state)
                else:
                    logits = classifier.logits(window.features[None])[0]  # (labels,)
                    yield decider.judge(logits, t=t, rms=window.rms, drops=drops, state=state)
    longest = max(longest, stream.received)
    if longest < manifest.window:
        raise InputError(f"{where}: {longest / rate:.2f} s of audio is shorter than the model's window of "
                         f"{manifest.window / rate:g} s; give more audio")


def _live(classifier: Classifier, request: Request, hop_s: float, top: int,
          settings: DecisionSettings) -> Iterator[Decision | Change]:
    """Decisions over what a microphone or a command gives."""
    sample_rate = classifier.manifest.frontend.sample_rate
    if request.command is not None and request.rate is None:
        request = request._replace(rate=sample_rate)
    with Capture(request, sample_rate) as capture:
        yield from decisions(classifier, capture, request.command or "the microphone", hop_s, top, settings)
