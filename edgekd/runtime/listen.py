"""The listener: samples in, one decision per hop out. Needs numpy and one engine, nothing else."""

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
from edgekd.runtime.control import IDLE_S, Classifier, Control, Setup, Swap
from edgekd.runtime.decision import PLAIN, Decider, Decision, DecisionSettings
from edgekd.runtime.outputs.base import Moment
from edgekd.runtime.source.capture import Capture, Counts, require_sense
from edgekd.runtime.source.child import Request
from edgekd.runtime.source.files import read_file, read_raw
from edgekd.runtime.source.health import WENT_BACK, Change, Gap, State, Turn, Watch
from edgekd.runtime.stream import WindowStream

STANDARD_INPUT = "-"

Array = NDArray[np.float32]
Observe = Callable[[Decision | Change, Moment | None], None]
"""Is told of each line before it is given on, and of what a decision was made of; must return at once."""
News = Callable[[float, State], Iterable[Change]]
"""Gives what else there is to say at so many seconds, in a state of the source; asked after each chunk, also where no
sound comes."""


class Hearing:
    """The capture that is heard now, if any."""

    capture: Capture | None = None

    @property
    def counts(self) -> Counts | None:
        """Of the live source, since its start."""
        return None if self.capture is None else self.capture.counts

    @property
    def silent_s(self) -> float:
        """Since the newest sample of the live source, seconds; 0 where there is none."""
        return 0.0 if self.capture is None else self.capture.silent_s


class _Beat(NamedTuple):
    """A chunk is worked off. t: seconds since the start. state: of the source."""

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
    live: Request | None = None,
    settings: DecisionSettings = PLAIN,
    control: Control | None = None,
    observe: Observe | None = None,
    watch: Watch | None = None,
    news: News | None = None,
    equaliser: str | Path | None = None,
) -> Iterator[Decision | Change]:
    """Classify a source window by window.

    Args:
        source: path of an audio file, or `-` for raw signed 16-bit little-endian mono at the model's rate on standard
            input; None hears a microphone or a command, for ever.
        model: an exported .tflite or .onnx file.
        engine: "litert" or "onnxruntime"; None takes the one that opens the file.
        threads: of the engine.
        hop_s: seconds from decision to decision, 0.25 to the model's window.
        top: labels in `Decision.top`, at most as many as the model knows.
        live: what to hear where there is no source; by default the default microphone. A command's rate is the model's
            unless it says so.
        settings: how steady decisions are.
        control: asked between chunks whether to end or to reload.
        observe: is told of everything.
        watch: limits by which a live source is watched.
        news: what else there is to say; the first line is always of the source.
        equaliser: a file of `edgekd equalise` for the microphone.

    Yields:
        a decision at the end of each window; of a live source also each change of its state; after a reload a line on
        what came of it; what `news` gives.

    Raises:
        InputError: a source, model or setting that cannot be used; audio shorter than one window.
        MissingExtraError: an engine, or what the file's format or rate needs, is not installed.
        StoppedError: `control` asks for the end.
    """
    if source is not None and live is not None and live != Request():
        raise InputError(
            f"{source} is a source of its own; leave out the options of microphones and commands, or the source"
        )
    if source == STANDARD_INPUT and sys.stdin is None:
        raise InputError("standard input is closed; pipe raw samples into it or give an audio file")
    setup = Setup(
        source,
        live or Request(),
        with_equaliser(open_model(model, engine, threads), equaliser),
        hop_s,
        top,
        settings,
        watch or Watch(),
    )
    control, hearing = control or Control(), Hearing()
    if source is None:
        require_sense(setup.request)
        chunks, where = _live(setup, control, hearing), setup.request.command or "the microphone"
    elif source == STANDARD_INPUT:
        chunks, where = (
            _given(read_raw(_unbuffered(sys.stdin.buffer), setup.sample_rate, IDLE_S), setup, control),
            "standard input",
        )
    else:
        chunks, where = _given(read_file(Path(source), setup.sample_rate), setup, control), source
    yield from decisions(setup.classifier, chunks, where, hop_s, top, settings, observe, hearing, news)


def decisions(
    classifier: Classifier,
    chunks: Iterable[Array | Gap | Turn | Swap],
    where: str,
    hop_s: float,
    top: int,
    settings: DecisionSettings = PLAIN,
    observe: Observe | None = None,
    hearing: Hearing | None = None,
    news: News | None = None,
) -> Iterator[Decision | Change]:
    """Decisions over chunks of samples, float32 (time,) at the model's rate; `where` names the source in errors.

    A window never reaches over a `Gap`: the next one starts behind it, while the time goes on. A `Turn` is given on
    with its time. After a `Swap` another model or other settings decide; samples that are waiting are kept where the
    windows stay the same.
    """
    begun = False  # before its first line nothing is known of a live source's state
    for event, moment in _judged(classifier, chunks, where, hop_s, top, settings, hearing or Hearing()):
        if isinstance(event, _Beat):
            lines: Iterable[Decision | Change] = news(*event) if begun and news is not None else ()
        else:
            lines, begun = (event,), True
        for line in lines:
            if observe is not None:
                observe(line, moment)
            yield line


def _judged(
    classifier: Classifier,
    chunks: Iterable[Array | Gap | Turn | Swap],
    where: str,
    hop_s: float,
    top: int,
    settings: DecisionSettings,
    hearing: Hearing,
) -> Iterator[tuple[Decision | Change | _Beat, Moment | None]]:
    """As `decisions`, each with what it was made of, and a beat after each chunk."""
    manifest = classifier.manifest
    rate = manifest.frontend.sample_rate
    if top < 1:
        raise InputError(f"top is {top}; it must be at least 1")
    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
    decider = Decider(manifest.labels, manifest.temperature, top, settings)
    state: State = "HEALTHY"
    start_s, drops, longest, breaks = 0.0, 0, 0, 0
    for chunk in chunks:
        if isinstance(chunk, Turn):
            state = chunk.state
            yield Change(round(start_s + stream.received / rate + chunk.silent_s, 3), state, chunk.reason), None
        elif isinstance(chunk, Gap):
            longest = max(longest, stream.received)
            start_s += (stream.received + chunk.dropped) / rate + chunk.away_s
            drops, breaks = drops + chunk.dropped, breaks + 1
            stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
        elif isinstance(chunk, Swap):
            yield Change(round(start_s + stream.received / rate, 3), state, chunk.reason), None
            if chunk.setup is not None:
                before = manifest.frontend, manifest.window, hop_s, settings.gate_rms
                classifier, hop_s, settings = chunk.setup.classifier, chunk.setup.hop_s, chunk.setup.settings
                manifest = classifier.manifest
                if (manifest.frontend, manifest.window, hop_s, settings.gate_rms) != before:
                    start_s += stream.received / rate
                    stream = WindowStream(manifest.frontend, manifest.window, hop_s, settings.gate_rms)
                # too little sound for the new one is no error
                rate, longest = manifest.frontend.sample_rate, manifest.window
                decider = Decider(manifest.labels, manifest.temperature, chunk.setup.top, settings)
        else:
            began = time.perf_counter()
            for window in stream.push(chunk):
                t, heard = start_s + window.end / rate, time.perf_counter()
                moment = Moment(manifest, window.waveform, window.features, heard - began, 0.0, hearing.counts, breaks)
                if window.features is None:
                    yield decider.skip(t=t, rms=window.rms, drops=drops, state=state), moment
                else:
                    logits = classifier.logits(window.features[None])[0]  # (labels,)
                    moment = moment._replace(inference_s=time.perf_counter() - heard)
                    yield decider.judge(logits, t=t, rms=window.rms, drops=drops, state=state), moment
                began = time.perf_counter()
        yield _Beat(round(start_s + stream.received / rate + hearing.silent_s, 3), state), None
    longest = max(longest, stream.received)
    if longest < manifest.window:
        raise InputError(
            f"{where}: {longest / rate:.2f} s of audio is shorter than the model's window of "
            f"{manifest.window / rate:g} s; give more audio"
        )


def _given(chunks: Iterable[Array], setup: Setup, control: Control) -> Iterator[Array | Swap]:
    """What a file or standard input gives, and what is asked meanwhile."""
    for chunk in chunks:
        yield chunk
        swap = control.asked(setup)
        if swap is not None:
            yield swap
            setup = swap.setup or setup


def _unbuffered(stream: Any) -> BinaryIO:
    """Standard input without its buffer, so that waiting for it sees all that is there."""
    raw: BinaryIO = stream.raw
    return raw


def _live(setup: Setup, control: Control, heard_now: Hearing) -> Iterator[Array | Gap | Turn | Swap]:
    """What a microphone or a command gives, and what is asked meanwhile; another source or rate is another capture.

    Where the new one cannot be heard at all, the old setup comes back.
    """
    before: Setup | None = None  # until the new capture has given sound
    ended_s = 0.0  # clock at the end of the one before
    while True:
        hearing = _wanted(setup)
        try:
            with Capture(*hearing, idle_s=IDLE_S) as capture:
                heard_now.capture = capture
                for chunk in capture:
                    if before is not None and isinstance(chunk, np.ndarray) and len(chunk):
                        yield Gap(0, max(0.0, time.monotonic() - ended_s - len(chunk) / setup.sample_rate))
                        before = None
                    yield chunk
                    swap = control.asked(setup)
                    if swap is None:
                        continue
                    yield swap
                    old, setup = setup, swap.setup or setup
                    if _wanted(setup) != hearing:
                        before = before or old
                        break
        except (InputError, MissingExtraError) as error:
            if before is None or before is setup:  # the old one fails too
                raise
            yield Swap(before, f"{WENT_BACK}: {error}")
            setup = before
        else:
            ended_s = time.monotonic()


def _wanted(setup: Setup) -> tuple[Request, int, Watch]:
    """What to hear, the rate at which it is wanted, Hz, and the limits; a command's own rate is the model's unless it
    says so."""
    request = setup.request
    return (
        request if request.command is None else request._replace(rate=request.rate or setup.sample_rate),
        setup.sample_rate,
        setup.watch,
    )
