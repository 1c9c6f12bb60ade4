"""Turns logits into decisions: a label, its probability and the runners-up, made steady over time.

Probabilities are smoothed with one time constant, whatever the hop: a window's weight falls by the factor e in each
`smooth_s` seconds. The label shown changes only when another one leads by a margin and the last change is long enough
ago. Below a threshold the label is "unknown". When the level stays below the gate, the label is "quiet". In
`DecisionSettings()` all of this is off, and each window is decided alone.
"""

import math

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.metrics.scores import softmax
from edgekd.runtime.config_tables import MAX_SECONDS
from edgekd.runtime.level import to_dbfs
from edgekd.runtime.source.health import State, StatusLine

UNKNOWN = "unknown"
"""The label shown when no label is probable enough."""
QUIET = "quiet"
"""The label shown when the level stays below the gate."""
NO_LABELS = (UNKNOWN, QUIET)
"""What is shown where no label of the model is."""
UNKNOWN_BAND = 0.1
"""To replace "unknown", a label's probability must exceed the threshold by this share of the way from it to 1."""
MIN_GATE_DBFS = -150.0
"""Below the level of one int16 step in ten seconds: only digital silence is lower."""

Array64 = NDArray[np.float64]


class DecisionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How steady decisions are. By default each window is decided alone.

    smooth_s: time constant of the exponential smoothing of probabilities, seconds of audio, 0 to `MAX_SECONDS`; 0 is
    off. margin: by how much another label's smoothed probability must exceed that of the label shown to replace it, 0
    to below 1. dwell_s: least time for which a label, or "unknown", is shown, seconds, 0 to `MAX_SECONDS`. unknown:
    threshold of the smoothed probability of the label shown, below which "unknown" is shown until a label exceeds the
    threshold by `UNKNOWN_BAND` of the way to 1; 0 to below 1, 0 is off. gate_dbfs: windows of a lower level are not
    scored, dB relative to an rms of 1 (a full-scale sine has -3), `MIN_GATE_DBFS` to below 0; None is off. "quiet" is
    shown once the level was below the gate for `smooth_s` and for a whole window; the dwell holds nothing against it.
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
        """The gate as an rms, 0..1; 0 for no gate."""
        return 0.0 if self.gate_dbfs is None else float(10.0 ** (self.gate_dbfs / 20.0))


PLAIN = DecisionSettings()
"""Each window is decided alone."""


class Decision(msgspec.Struct, frozen=True):
    """A decision. Its JSON is one line of `listen --json`.

    t: seconds of audio since the start, at the window's end. label: the label shown; with plain settings the most
    probable one. probability: of the label, smoothed; for "unknown" that of the most probable label. top: the first k
    labels with their smoothed probabilities, falling; the label shown need not be the first. state: of the source,
    HEALTHY for files and pipes. rms: of the window's waveform, 0..1; 0 is digital silence. drops: samples, at the
    model's rate, that were lost since the start because decisions were late.

    Only where the settings are not plain: raw: this window's own probability of the label shown (for "unknown": of the
    first of `top`), None where the window was not scored. gated: the window was below the gate and was not scored;
    label, probability and top are those of the last scored window, or "quiet", 0 and none.
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

    @property
    def is_quiet(self) -> bool:
        """Whether `QUIET` is shown because of the gate; a model may have a label of that name too."""
        return self.gated is True and self.label == QUIET and not self.top


class Decider:
    """Turns the logits of successive windows into decisions. Labels of equal probability keep their order."""

    def __init__(
        self, labels: tuple[str, ...], temperature: float, top: int, settings: DecisionSettings = PLAIN
    ) -> None:
        """labels: in the order of the logits. temperature: divides the logits. top: labels in `Decision.top`."""
        self._labels, self._temperature, self._top, self._settings = labels, temperature, top, settings
        self._plain = settings == PLAIN
        self._known_again = settings.unknown + UNKNOWN_BAND * (1.0 - settings.unknown)
        self._smoothed: Array64 | None = None
        # seconds: the last scored window, the last change of the label shown
        self._scored_at = self._changed = -math.inf
        self._shown: int | None = None  # index of the label shown; None for unknown
        self._quiet_since: float | None = None  # seconds; None where the last window was scored
        self._last: tuple[str, float, tuple[tuple[str, float], ...]] = (QUIET, 0.0, ())

    def decide(
        self, logits: NDArray[np.float32], *, t: float, rms: float, drops: int = 0, state: State = "HEALTHY"
    ) -> Decision:
        """The decision on a window that ends at `t` seconds, later than any before. logits: float32 (labels,)."""
        self._quiet_since = None
        own = softmax(logits, self._temperature)
        smoothed = self._smooth(own, t)
        order = (-smoothed).argsort(kind="stable")[: self._top].tolist()
        best = order[0]
        wanted = self._wanted(smoothed, best)
        if wanted != self._shown and t - self._changed >= self._settings.dwell_s:
            self._shown, self._changed = wanted, t
        elif self._changed == -math.inf:  # unknown from the start: the dwell holds for it too
            self._changed = t
        winner = best if self._shown is None else self._shown
        labels, probabilities = self._labels, smoothed.tolist()
        self._last = (
            UNKNOWN if self._shown is None else labels[winner],
            round(probabilities[winner], 4),
            tuple([(labels[i], round(probabilities[i], 4)) for i in order]),
        )
        return self._decision(t, rms, drops, state, round(float(own[winner]), 4))

    def skip(self, *, start: float, t: float, rms: float, drops: int = 0, state: State = "HEALTHY") -> Decision:
        """The decision on a window from `start` to `t` seconds that is below the gate and not scored: label and
        probabilities of the last scored one, then `QUIET`."""
        if self._quiet_since is None:
            self._quiet_since = start
        if round(t - self._quiet_since, 6) >= self._settings.smooth_s:
            # the next sound is decided as the first one, but old probabilities still fade
            self._last, self._shown, self._changed = (QUIET, 0.0, ()), None, -math.inf
        return self._decision(t, rms, drops, state, None)

    def _smooth(self, own: Array64, t: float) -> Array64:
        if self._smoothed is None or not self._settings.smooth_s:
            self._smoothed = own
        else:  # the time includes gated windows, so that old probabilities fade during silence
            self._smoothed = own + math.exp((self._scored_at - t) / self._settings.smooth_s) * (self._smoothed - own)
        self._scored_at = t
        return self._smoothed

    def _wanted(self, smoothed: Array64, best: int) -> int | None:
        """Index of the label to show if the dwell allows a change; None for unknown."""
        settings = self._settings
        if self._shown is None:
            threshold = settings.unknown if self._changed == -math.inf else self._known_again
            return best if smoothed[best] >= threshold else None
        overtaken = not settings.margin or smoothed[best] > smoothed[self._shown] + settings.margin
        held = best if overtaken else self._shown
        return held if smoothed[held] >= settings.unknown else None

    def _decision(self, t: float, rms: float, drops: int, state: State, raw: float | None) -> Decision:
        label, probability, top = self._last
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
    """Picks the lines that bring a change."""

    def __init__(self) -> None:
        self._label: str | None = None

    def is_new(self, line: Decision | StatusLine) -> bool:
        """Whether a line has another label than the decision before it, or is not a decision."""
        if isinstance(line, StatusLine):
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
    """The plain decision on one window alone. logits: float32 (labels,)."""
    return Decider(labels, temperature, top).decide(logits, t=t, rms=rms, drops=drops, state=state)


def to_json(decision: Decision | StatusLine) -> str:
    """A line of JSON."""
    return msgspec.json.encode(decision).decode()


def to_text(decision: Decision | StatusLine) -> str:
    """A line for people: time, label, probability, level, whether it was gated, runners-up; or time, state, reason."""
    if isinstance(decision, StatusLine):
        return f"{decision.t:9.2f} s  {decision.state}: {decision.reason}"
    level = f"{to_dbfs(decision.rms):6.1f} dBFS" if decision.rms > 0.0 else "silence    "
    gated = "gated  " if decision.gated is True else ""
    others = "  ".join(f"{label} {probability:.2f}" for label, probability in decision.top if label != decision.label)
    return f"{decision.t:9.2f} s  {decision.label:<24} {decision.probability:.2f}  {level}  {gated}{others}".rstrip()
