"""The listener: takes samples and yields one decision per hop. Needs numpy and one engine, nothing else."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError, MissingExtraError
from edgekd.modelfile.engine import open_model
from edgekd.modelfile.equaliser import with_equaliser
from edgekd.runtime.control import IDLE_S, Configuration, Control, Reload, WindowClassifier
from edgekd.runtime.decision import PLAIN, Decider, Decision, DecisionSettings
from edgekd.runtime.outputs.base import Observation
from edgekd.runtime.shell_command import shown_command
from edgekd.runtime.source.capture import Capture, CaptureCounts, require_valid_request
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.files import read_file, read_raw
from edgekd.runtime.source.health import WENT_BACK, Gap, State, StateChange, StatusLine, Watch
from edgekd.runtime.stream import WindowStream

STANDARD_INPUT = "-"

Array = NDArray[np.float32]
Observer = Callable[[Decision | StatusLine, Observation | None], None]
"""Receives each line before it is yielded, with the observation behind a decision. Must return at once."""
StatusSource = Callable[[float, State], Iterable[StatusLine]]
"""Returns further lines for a time in seconds and a state of the source. Called after each chunk, also when no samples
arrive."""


class CurrentCapture:
    """The capture that is running now, if any, and what it is told. lacking_s: seconds of samples that the next window
    lacks."""

    capture: Capture | None = None
    lacking_s: float = 0.0

    @property
    def counts(self) -> CaptureCounts | None:
        """Counts of the live source since its start; None without one."""
        return None if self.capture is None else self.capture.counts

    @property
    def silent_s(self) -> float:
        """Seconds since the newest sample of the live source; 0 without one."""
        return 0.0 if self.capture is None else self.capture.silent_s


class _Tick(NamedTuple):
    """A chunk has been processed. t: seconds since the start. state: of the source."""

    t: float
    state: State


def listen(
    source: str | None,
    model: Path,
    *,
    engine: str | None = None,
    threads: int = 1,
    hop_s: float = 0.5,
    top: int = 3,
    live: SourceRequest | None = None,
    settings: DecisionSettings = PLAIN,
    control: Control | None = None,
    observe: Observer | None = None,
    watch: Watch | None = None,
    status: StatusSource | None = None,
    equaliser: str | Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Decision | StatusLine]:
    """Classify a source window by window.

    Args:
        source: path of an audio file, or `-` for raw signed 16-bit little-endian mono at the model's rate on standard
            input; None for a microphone or a command, without end.
        model: an exported .tflite or .onnx file.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.
        threads: of the engine.
        hop_s: seconds from decision to decision, 0.25 to the model's window.
        top: labels in `Decision.top`, at most as many as the model knows.
        live: the live source where `source` is None; by default the default microphone. A command's rate is the model's
            unless given.
        settings: smoothing, margin and thresholds of decisions.
        control: checked between chunks for a request to end or to reload.
        observe: receives every line with its observation.
        watch: limits for a live source.
        status: further lines; the first line is always about the source.
        equaliser: a file of `edgekd equalise` for the microphone.
        warn: takes a line for people where samples of a file are scaled down.

    Yields:
        A decision at the end of each window; each change of state of a live source; a line on the result of each
            reload; the lines of `status`.

    Raises:
        InputError: a source, model or setting that cannot be used; audio shorter than one window.
        MissingExtraError: an engine, or a package for the file's format or rate, is not installed.
        StoppedError: `control` asks for the end.
    """
    if source is not None and live is not None and live != SourceRequest():
        raise InputError(
            f"source '{source}' does not take the options of microphones and commands; leave them or the source out"
        )
    if source == STANDARD_INPUT and sys.stdin is None:
        raise InputError("standard input is closed; pipe raw samples into it or give an audio file")
    configuration = Configuration(
        source,
        live or SourceRequest(),
        with_equaliser(open_model(model, engine, threads), equaliser),
        hop_s,
        top,
        settings,
        watch or Watch(),
    )
    control, current = control or Control(), CurrentCapture()
    if source is None:
        require_valid_request(configuration.request)
        chunks = live_chunks(configuration, control, current)
        command = configuration.request.command
        source_name = "the microphone" if command is None else shown_command(command)
    elif source == STANDARD_INPUT:
        raw = read_raw(_unbuffered(sys.stdin.buffer), configuration.sample_rate, IDLE_S, lambda: current.lacking_s)
        chunks, source_name = _file_chunks(raw, configuration, control), "standard input"
    else:
        audio = read_file(Path(source), configuration.sample_rate, warn)
        chunks, source_name = _file_chunks(audio, configuration, control), source
    yield from decisions(configuration.classifier, chunks, source_name, hop_s, top, settings, observe, current, status)


def decisions(
    classifier: WindowClassifier,
    chunks: Iterable[Array | Gap | StateChange | Reload],
    source_name: str,
    hop_s: float,
    top: int,
    settings: DecisionSettings = PLAIN,
    observe: Observer | None = None,
    current: CurrentCapture | None = None,
    status: StatusSource | None = None,
) -> Iterator[Decision | StatusLine]:
    """Decisions over chunks of samples, float32 (time,) at the model's rate. `source_name` is for errors.

    A window never spans a `Gap`: the next one starts behind it, while the time goes on. A `StateChange` is yielded as a
    line with its time. After a `Reload` another model or other settings decide; waiting samples are kept if the windows
    stay the same.
    """
    started = False  # the state of a live source is unknown before its first line
    current = current or CurrentCapture()
    for event, observation in _events(classifier, chunks, source_name, hop_s, top, settings, current):
        if isinstance(event, _Tick):
            lines: Iterable[Decision | StatusLine] = status(*event) if started and status is not None else ()
        else:
            lines, started = (event,), True
        for line in lines:
            if observe is not None:
                observe(line, observation)
            yield line


def _events(
    classifier: WindowClassifier,
    chunks: Iterable[Array | Gap | StateChange | Reload],
    source_name: str,
    hop_s: float,
    top: int,
    settings: DecisionSettings,
    current: CurrentCapture,
) -> Iterator[tuple[Decision | StatusLine | _Tick, Observation | None]]:
    """As `decisions`, each with its observation, and a tick after each chunk."""
    manifest = classifier.manifest
    rate = manifest.frontend.sample_rate
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
    decider = Decider(manifest.labels, manifest.temperature, top, settings)
    state: State = "HEALTHY"
    start_s, drops, longest, breaks = 0.0, 0, 0, 0
    for chunk in chunks:
        if isinstance(chunk, StateChange):
            state = chunk.state
            yield StatusLine(round(start_s + stream.received / rate + chunk.silent_s, 3), state, chunk.reason), None
        elif isinstance(chunk, Gap):
            longest = max(longest, stream.received)
            start_s += (stream.received + chunk.dropped) / rate + chunk.away_s
            drops, breaks = drops + chunk.dropped, breaks + 1
            stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
        elif isinstance(chunk, Reload):
            yield StatusLine(round(start_s + stream.received / rate, 3), state, chunk.reason), None
            if chunk.configuration is not None:
                before = manifest.frontend, manifest.window, hop_s, settings.gate_rms
                new = chunk.configuration
                classifier, hop_s, settings = new.classifier, new.hop_s, new.settings
                manifest = classifier.manifest
                if (manifest.frontend, manifest.window, hop_s, settings.gate_rms) != before:
                    start_s += stream.received / rate
                    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
                # a source that ends before the new model has a whole window is no error
                rate, longest = manifest.frontend.sample_rate, manifest.window
                decider = Decider(manifest.labels, manifest.temperature, new.top, settings)
        else:
            began = time.perf_counter()
            for window in stream.push(chunk):
                t, ready, inference_s = start_s + window.end / rate, time.perf_counter(), 0.0
                if window.features is None:
                    start = start_s + window.start / rate
                    decision = decider.skip(start=start, t=t, rms=window.rms, drops=drops, state=state)
                else:
                    logits = classifier.logits(window.features[None])[0]  # (labels,)
                    inference_s = time.perf_counter() - ready
                    decision = decider.decide(logits, t=t, rms=window.rms, drops=drops, state=state)
                yield (
                    decision,
                    Observation(
                        manifest, window.waveform, window.features, ready - began, inference_s, current.counts, breaks
                    ),
                )
                began = time.perf_counter()
        current.lacking_s = stream.lacking / rate
        yield _Tick(round(start_s + stream.received / rate + current.silent_s, 3), state), None
    longest = max(longest, stream.received)
    if longest < manifest.window:
        raise InputError(
            f"{source_name}: {longest / rate:.2f} s of audio is shorter than the model's window of "
            f"{manifest.window / rate:g} s; give more audio"
        )


def _file_chunks(chunks: Iterable[Array], configuration: Configuration, control: Control) -> Iterator[Array | Reload]:
    """Chunks of a file or of standard input, and the reloads that are requested meanwhile."""
    for chunk in chunks:
        yield chunk
        reload = control.poll(configuration)
        if reload is not None:
            yield reload
            configuration = reload.configuration or configuration


def _unbuffered(stream: Any) -> BinaryIO:
    """Standard input without its buffer, so that `select` sees all bytes that have arrived."""
    raw: BinaryIO = stream.raw
    return raw


def live_chunks(
    configuration: Configuration, control: Control, current: CurrentCapture
) -> Iterator[Array | Gap | StateChange | Reload]:
    """Chunks of a microphone or a command, and the reloads that are requested meanwhile. Another source or rate means
    another capture.

    If the new source cannot be opened at all, the old configuration comes back.
    """
    before: Configuration | None = None  # until the new capture has delivered samples
    ended_s = 0.0  # clock at the end of the capture before
    while True:
        arguments = _capture_arguments(configuration)
        try:
            with Capture(*arguments, idle_s=IDLE_S, lacking_s=lambda: current.lacking_s) as capture:
                current.capture = capture
                for chunk in capture:
                    if before is not None and isinstance(chunk, np.ndarray) and len(chunk):
                        yield Gap(0, max(0.0, time.monotonic() - ended_s - len(chunk) / configuration.sample_rate))
                        before = None
                    yield chunk
                    reload = control.poll(configuration)
                    if reload is None:
                        continue
                    yield reload
                    old, configuration = configuration, reload.configuration or configuration
                    if _capture_arguments(configuration) != arguments:
                        before = before or old
                        break
        except (InputError, MissingExtraError) as error:
            if before is None or before is configuration:  # the old source fails too
                raise
            yield Reload(before, f"{WENT_BACK}: {error}")
            configuration = before
        else:
            ended_s = time.monotonic()


def _capture_arguments(configuration: Configuration) -> tuple[SourceRequest, int, Watch]:
    """Request, wanted rate in Hz, and limits. A command's own rate is the model's unless given."""
    request = configuration.request
    return (
        request if request.command is None else request._replace(rate=request.rate or configuration.sample_rate),
        configuration.sample_rate,
        configuration.watch,
    )
