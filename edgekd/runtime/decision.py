"""What the listener says about a window: from logits to a label, its probability and the runners-up, steadied over
time.

Probabilities are smoothed with one time constant, whatever the hop: a window's share falls by the factor e in each
`smooth_s` seconds. What is shown changes only when another label leads by a margin and the last change is a while ago;
below a threshold nothing is claimed. In `DecisionSettings()` all of this is off, and each window speaks for itself.
"""

import math

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.metrics.scores import softmax
from edgekd.runtime.config_tables import MAX_SECONDS
from edgekd.runtime.source.health import Change, State

UNKNOWN = "unknown"
"""The label of a decision that claims nothing."""
UNKNOWN_BAND = 0.1
"""Share of the way from the threshold to 1 that the best label must climb above it before something is claimed
again."""
MIN_GATE_DBFS = -150.0
"""Below the level of one sample of one int16 step in ten seconds: only digital silence is quieter."""

Array64 = NDArray[np.float64]


class DecisionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How steady decisions are; by default each is that of its window alone.

    smooth_s: time constant of the exponential smoothing of probabilities, seconds of audio, 0 to `MAX_SECONDS`; 0 is
    off. margin: by how much another label's smoothed probability must exceed that of the label shown to replace it, 0
    to below 1. dwell_s: least seconds that a label, or "unknown", is shown, 0 to `MAX_SECONDS`. unknown: smoothed
    probability of the label shown below which "unknown" is said, until a label exceeds the threshold by `UNKNOWN_BAND`
    of the way to 1; 0 to below 1, 0 is off. gate_dbfs: windows of a lower level are not judged, dB relative to an rms
    of 1 (a full-scale sine has -3), `MIN_GATE_DBFS` to below 0; None is off.
    """

    smooth_s: float = 0.0
    margin: float = 0.0
    dwell_s: float = 0.0
    unknown: float = 0.0
    gate_dbfs: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("smooth", self.smooth_s), ("dwell", self.dwell_s)):
            if not 0.0 <= value <= MAX_SECONDS:
                raise InputError(f"{name} is {value:g} s; it must be 0 to {MAX_SECONDS:g} seconds")
        for name, value in (("margin", self.margin), ("unknown", self.unknown)):
            if not 0.0 <= value < 1.0:
                raise InputError(f"{name} is {value:g}; it is a probability, at least 0 and below 1, for instance 0.4")
        if self.gate_dbfs is not None and not MIN_GATE_DBFS <= self.gate_dbfs < 0.0:
            raise InputError(
                f"gate is {self.gate_dbfs:g} dBFS; full scale is 0 and less is negative: give {MIN_GATE_DBFS:g} to"
                " below 0, for instance -60"
            )

    @property
    def gate_rms(self) -> float:
        """The gate as an rms, 0..1; 0 where there is none."""
        return 0.0 if self.gate_dbfs is None else float(10.0 ** (self.gate_dbfs / 20.0))


PLAIN = DecisionSettings()
"""Each window speaks for itself."""


class Decision(msgspec.Struct, frozen=True):
    """One decision; its JSON is one line of `listen --json`.

    t: seconds of audio since the start, at the window's end. label: what is shown; with plain settings the most
    probable label.
    probability: of the label, smoothed; of "unknown" that of the most probable label. top: the first k labels with
    their probabilities, smoothed and falling; the label shown need not be the first. state: of the source, HEALTHY for
    files and pipes. rms: of the window's waveform, 0..1; 0 is digital silence. drops: samples, at the model's rate,
    that were lost since the start because decisions were late.

    Only with settings that are not plain: raw: what this window alone gives for the label shown (for "unknown": for the
    first of `top`), None where it was not judged. gated: the window was below the gate and not judged; label,
    probability and top are those of the last that was, or "unknown", 0 and none.
    """

    t: float
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    state: State
    rms: float
    drops: int
    raw: float | UnsetType | None = UNSET
    gated: bool | UnsetType = UNSET


class Decider:
    """Turns the logits of windows in their order into decisions; equal probabilities keep the order of the labels."""

    def __init__(
        self, labels: tuple[str, ...], temperature: float, top: int, settings: DecisionSettings = PLAIN
    ) -> None:
        """labels: in the order of the logits. temperature: divides the logits. top: labels in `Decision.top`."""
        self._labels, self._temperature, self._top, self._settings = labels, temperature, top, settings
        self._plain = settings == PLAIN
        self._known_again = settings.unknown + UNKNOWN_BAND * (1.0 - settings.unknown)
        self._smoothed: Array64 | None = None
        # seconds: the last window that was judged, the last change of what is shown
        self._judged = self._changed = -math.inf
        self._shown: int | None = None  # index of the label; None is unknown
        self._said: tuple[str, float, tuple[tuple[str, float], ...]] = (UNKNOWN, 0.0, ())

    def judge(
        self, logits: NDArray[np.float32], *, t: float, rms: float, drops: int = 0, state: State = "HEALTHY"
    ) -> Decision:
        """The decision on a window that ends at `t` seconds, later than any before; logits: float32 (labels,)."""
        own = softmax(logits, self._temperature)
        smoothed = self._smooth(own, t)
        order = (-smoothed).argsort(kind="stable")[: self._top].tolist()
        best = order[0]
        wanted = self._wanted(smoothed, best)
        if wanted != self._shown and t - self._changed >= self._settings.dwell_s:
            self._shown, self._changed = wanted, t
        elif self._changed == -math.inf:  # unknown from the start: that too is shown for a while
            self._changed = t
        winner = best if self._shown is None else self._shown
        label = UNKNOWN if self._shown is None else self._labels[winner]
        self._said = label, _rounded(smoothed[winner]), tuple((self._labels[i], _rounded(smoothed[i])) for i in order)
        return self._decision(t, rms, drops, state, _rounded(own[winner]))

    def skip(self, *, t: float, rms: float, drops: int = 0, state: State = "HEALTHY") -> Decision:
        """The decision on a window below the gate, which is not judged: what was last said."""
        return self._decision(t, rms, drops, state, None)

    def _smooth(self, own: Array64, t: float) -> Array64:
        if self._smoothed is None or not self._settings.smooth_s:
            self._smoothed = own
        else:  # also over windows that were not judged: old news fades while it is quiet
            self._smoothed = own + math.exp((self._judged - t) / self._settings.smooth_s) * (self._smoothed - own)
        self._judged = t
        return self._smoothed

    def _wanted(self, smoothed: Array64, best: int) -> int | None:
        """What would be shown if the last change were long ago: the index of a label, None for unknown."""
        settings = self._settings
        if self._shown is None:
            threshold = settings.unknown if self._changed == -math.inf else self._known_again
            return best if smoothed[best] >= threshold else None
        overtaken = not settings.margin or smoothed[best] > smoothed[self._shown] + settings.margin
        held = best if overtaken else self._shown
        return held if smoothed[held] >= settings.unknown else None

    def _decision(self, t: float, rms: float, drops: int, state: State, raw: float | None) -> Decision:
        label, probability, top = self._said
        return Decision(
            t=round(t, 3),
            label=label,
            probability=probability,
            top=top,
            state=state,
            rms=round(rms, 6),
            drops=drops,
            raw=UNSET if self._plain else raw,
            gated=UNSET if self._plain else raw is None,
        )


class ChangesOnly:
    """Tells the lines that say something new from those that only go on."""

    def __init__(self) -> None:
        self._label: str | None = None

    def is_new(self, line: Decision | Change) -> bool:
        """Whether it has another label than the decision before, or is a change of state."""
        if isinstance(line, Change):
            return True
        before, self._label = self._label, line.label
        return line.label != before


def decide(
    logits: NDArray[np.float32],
    labels: tuple[str, ...],
    temperature: float,
    top: int,
    *,
    t: float,
    rms: float,
    drops: int = 0,
    state: State = "HEALTHY",
) -> Decision:
    """The plain decision on one window alone; logits: float32 (labels,)."""
    return Decider(labels, temperature, top).judge(logits, t=t, rms=rms, drops=drops, state=state)


def to_json(decision: Decision | Change) -> str:
    """The decision, or the change of state, as one line of JSON."""
    return msgspec.json.encode(decision).decode()


def to_text(decision: Decision | Change) -> str:
    """A line for people: time, label, probability, level, whether it was gated, runners-up; or time, state, reason."""
    if isinstance(decision, Change):
        return f"{decision.t:9.2f} s  {decision.state}: {decision.reason}"
    level = f"{20.0 * np.log10(decision.rms):6.1f} dBFS" if decision.rms > 0.0 else "silence    "
    gated = "gated  " if decision.gated is True else ""
    others = "  ".join(f"{label} {probability:.2f}" for label, probability in decision.top if label != decision.label)
    return f"{decision.t:9.2f} s  {decision.label:<24} {decision.probability:.2f}  {level}  {gated}{others}".rstrip()


def _rounded(probability: np.float64) -> float:
    return round(float(probability), 4)
