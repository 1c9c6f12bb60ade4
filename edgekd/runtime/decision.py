"""What the listener says about a window: from logits to a label, its probability and the runners-up."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.runtime.health import Change, State


class Decision(msgspec.Struct, frozen=True):
    """One decision; its JSON is one line of `listen --json`.

    t: seconds of audio since the start, at the window's end. label, probability: the most probable label. top: the first k
    labels with their probabilities, falling. state: of the source, HEALTHY for files and pipes.
    rms: of the window's waveform, 0..1; 0 is digital silence. drops: samples, at the model's rate, that were lost since the start because
    decisions were late.
    """

    t: float
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    state: State
    rms: float
    drops: int


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature along the last axis; float32 (..., labels) -> float64, the same shape."""
    scaled = logits.astype(np.float64) / temperature
    exponential = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = exponential / exponential.sum(axis=-1, keepdims=True)
    return result


def decide(logits: NDArray[np.float32], labels: tuple[str, ...], temperature: float, top: int, *, t: float, rms: float,
           drops: int = 0, state: State = "HEALTHY") -> Decision:
    """Turn the logits of one window, float32 (labels,), into a decision; equal probabilities keep the order of `labels`."""
    values = probabilities(logits, temperature)
    order = np.argsort(-values, kind="stable")[:top]
    ranked = tuple((labels[i], round(float(values[i]), 4)) for i in order)
    return Decision(t=round(t, 3), label=ranked[0][0], probability=ranked[0][1], top=ranked, state=state, rms=round(rms, 6), drops=drops)


def to_json(decision: Decision | Change) -> str:
    """The decision, or the change of state, as one line of JSON."""
    return msgspec.json.encode(decision).decode()


def to_text(decision: Decision | Change) -> str:
    """A line for people: time, label, probability, level, runners-up; or time, state, reason."""
    if isinstance(decision, Change):
        return f"{decision.t:9.2f} s  {decision.state}: {decision.reason}"
    level = f"{20.0 * np.log10(decision.rms):6.1f} dBFS" if decision.rms > 0.0 else "silence    "
    others = "  ".join(f"{label} {probability:.2f}" for label, probability in decision.top[1:])
    return f"{decision.t:9.2f} s  {decision.label:<24} {decision.probability:.2f}  {level}  {others}".rstrip()
