"""The labels of the last hours in bounded memory: for each time slot the label that was shown most."""

from collections import Counter, deque
from typing import Any

LEAST_SLOT_S = 10.0
MAX_SLOTS = 8640
"""A day of the shortest slots."""


class Timeline:
    """Slots of a clock, stored as runs of the same label. A slot without decisions is in no run."""

    def __init__(self, hours: float) -> None:
        """hours: how long a slot is kept."""
        self.slot_s = max(LEAST_SLOT_S, 3600.0 * hours / MAX_SLOTS)
        self._slots = round(3600.0 * hours / self.slot_s)
        self._open: int | None = None
        self._shown: Counter[str] = Counter()  # in the open slot
        self._runs: deque[tuple[int, int, str]] = deque()  # first slot, number of slots, label
        # the document for the open slot and its label: labels, runs
        self._cached: tuple[Any, list[str], list[tuple[int, int, int]]] = (None, [], [])

    def add(self, label: str, now: float) -> None:
        """Count a decision at `now`, seconds of a clock that does not jump."""
        slot = int(now // self.slot_s)
        if self._open is not None and slot != self._open:
            self._close_slot(self._open, slot)
        self._open = slot
        self._shown[label] += 1

    def _close_slot(self, ended: int, now: int) -> None:
        label = self._shown.most_common(1)[0][0]
        self._shown.clear()
        first, count, before = self._runs[-1] if self._runs else (0, 0, "")
        if before == label and first + count == ended:
            self._runs[-1] = first, count + 1, label
        else:
            self._runs.append((ended, 1, label))
        oldest = now - self._slots
        while self._runs and self._runs[0][0] + self._runs[0][1] <= oldest:
            self._runs.popleft()
        if self._runs and self._runs[0][0] < oldest:
            first, count, label = self._runs[0]
            self._runs[0] = oldest, first + count - oldest, label

    def document(self, now: float) -> dict[str, Any]:
        """slot_s: seconds. hours. now: in slots. labels: names. runs: first slot, number of slots, index into `labels`;
        the open slot is a run of its own."""
        state = None if self._open is None else (self._open, self._shown.most_common(1)[0][0])
        # cached, because there may be thousands of runs and a client may ask often
        if state is not None and state != self._cached[0]:
            runs = [*self._runs, (state[0], 1, state[1])]
            index = {label: number for number, label in enumerate(dict.fromkeys(label for _, _, label in runs))}
            self._cached = state, list(index), [(first, count, index[label]) for first, count, label in runs]
        _, labels, numbered = self._cached
        return {
            "slot_s": self.slot_s,
            "hours": self._slots * self.slot_s / 3600.0,
            "now": now / self.slot_s,
            "labels": labels,
            "runs": numbered,
        }
