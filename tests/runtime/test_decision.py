"""Decisions over time: what smoothing, margin, dwell, threshold and gate each do, on made-up probabilities."""

import json

import numpy as np
import pytest
from msgspec import UNSET

from edgekd.errors import InputError
from edgekd.runtime.decision import (
    QUIET,
    UNKNOWN,
    UNKNOWN_BAND,
    ChangesOnly,
    Decider,
    DecisionSettings,
    decide,
    to_json,
    to_text,
)
from edgekd.runtime.source.health import StatusLine

LABELS = ("a", "b", "c")


def logits(*shares: float) -> np.ndarray:
    """Logits whose softmax gives these probabilities."""
    return np.log(np.array(shares, np.float64)).astype(np.float32)


def shown(settings: DecisionSettings, sequence: list[tuple[float, ...]], hop_s: float = 1.0) -> list[str]:
    decider = Decider(LABELS, 1.0, 3, settings)
    return [decider.decide(logits(*shares), t=1.0 + i * hop_s, rms=0.1).label for i, shares in enumerate(sequence)]


A, B = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)


def test_plain_settings_give_what_each_window_alone_gives():
    rng = np.random.default_rng(0)
    decider = Decider(LABELS, 2.0, 2)
    for t in range(1, 200):
        values = rng.integers(-3, 4, 3).astype(np.float32)  # whole numbers: ties happen
        decision = decider.decide(values, t=float(t), rms=0.1)
        assert decision == decide(values, LABELS, 2.0, 2, t=float(t), rms=0.1)
        assert decision.label == decision.top[0][0] == LABELS[values.argmax()]
        assert (decision.raw, decision.gated) == (UNSET, UNSET)


@pytest.mark.parametrize("hop", [0.25, 0.5, 1.0])
def test_smoothing_answers_a_change_with_its_time_constant_whatever_the_hop(hop):
    decider = Decider(LABELS, 1.0, 3, DecisionSettings(smooth_s=2.0))
    decider.decide(logits(*A), t=1.0, rms=0.1)
    for i in range(1, round(2.0 / hop) + 1):
        decision = decider.decide(logits(*B), t=1.0 + i * hop, rms=0.1)
    assert dict(decision.top)["a"] == pytest.approx(0.1 + 0.7 * np.exp(-1.0), abs=1e-4)
    assert sum(share for _, share in decision.top) == pytest.approx(1.0, abs=2e-4)


def test_smoothing_hides_one_odd_window_but_gives_its_own_probability():
    decider = Decider(LABELS, 1.0, 3, DecisionSettings(smooth_s=3.0))
    found = [decider.decide(logits(*shares), t=float(t), rms=0.1) for t, shares in enumerate((A, B, A))]
    assert [decision.label for decision in found] == ["a", "a", "a"]
    assert [decision.raw for decision in found] == [0.8, 0.1, 0.8]
    assert found[1].probability == pytest.approx(0.1 + 0.7 * np.exp(-1 / 3), abs=1e-4)


def test_a_label_replaces_another_only_beyond_the_margin():
    settings = DecisionSettings(margin=0.2)
    assert shown(settings, [(0.5, 0.3, 0.2), (0.4, 0.55, 0.05), (0.3, 0.55, 0.15), (0.45, 0.4, 0.15)]) == [
        "a",
        "a",
        "b",
        "b",
    ]


def test_the_label_shown_need_not_lead_and_the_leader_is_seen():
    decider = Decider(LABELS, 1.0, 2, DecisionSettings(margin=0.2))
    decider.decide(logits(*A), t=1.0, rms=0.1)
    decision = decider.decide(logits(0.4, 0.5, 0.1), t=2.0, rms=0.1)
    assert (decision.label, decision.probability, decision.top) == ("a", 0.4, (("b", 0.5), ("a", 0.4)))
    assert to_text(decision).split()[2:] == ["a", "0.40", "-20.0", "dBFS", "b", "0.50"]


def test_what_is_shown_stays_for_the_dwell():
    assert shown(DecisionSettings(dwell_s=3.0), [A, B, B, B, A, A, A, B]) == ["a", "a", "a", "b", "b", "b", "a", "a"]


def test_the_dwell_is_in_seconds_not_decisions():
    assert shown(DecisionSettings(dwell_s=2.0), [A, B, B, B, B, B], hop_s=0.5) == ["a", "a", "a", "a", "b", "b"]


def test_unknown_too_is_shown_for_the_dwell():
    low = (0.4, 0.3, 0.3)
    assert shown(DecisionSettings(dwell_s=3.0, unknown=0.5), [low, A, A, A, low, low, low]) == [UNKNOWN] * 3 + [
        "a"
    ] * 3 + [UNKNOWN]


def test_unknown_is_shown_below_the_threshold_and_replaced_above_a_higher_one():
    again = 0.5 + UNKNOWN_BAND * 0.5
    between, above, below = (again - 0.02, 0.3, 0.18 - 0.01), (again + 0.01, 0.3, 0.14), (0.48, 0.3, 0.22)
    found = shown(DecisionSettings(unknown=0.5), [between, below, between, above, between, below])
    assert found == ["a", UNKNOWN, UNKNOWN, "a", "a", UNKNOWN]


def test_unknown_comes_with_the_best_guess_and_its_probability():
    decision = Decider(LABELS, 1.0, 2, DecisionSettings(unknown=0.9)).decide(logits(0.2, 0.7, 0.1), t=1.0, rms=0.1)
    assert (decision.label, decision.probability, decision.raw) == (UNKNOWN, 0.7, 0.7)
    assert decision.top == (("b", 0.7), ("a", 0.2))


def test_a_label_led_by_less_than_the_margin_is_still_unknown_below_the_threshold():
    assert shown(DecisionSettings(margin=0.2, unknown=0.45), [A, (0.44, 0.46, 0.1)]) == ["a", UNKNOWN]


def test_a_gated_window_repeats_the_last_label_and_old_probabilities_fade():
    settings = DecisionSettings(smooth_s=2.0, gate_dbfs=-60.0)
    decider = Decider(LABELS, 1.0, 3, settings)
    assert (settings.gate_rms, DecisionSettings().gate_rms) == (pytest.approx(1e-3), 0.0)
    first = decider.skip(start=-1.5, t=0.5, rms=0.0)
    assert (first.label, first.probability, first.top, first.raw, first.gated) == (QUIET, 0.0, (), None, True)
    said = decider.decide(logits(*A), t=1.0, rms=0.1)
    assert (said.gated, said.raw) == (False, 0.8)
    held = decider.skip(start=1.0, t=2.0, rms=1e-4)
    assert (held.t, held.label, held.probability, held.top, held.raw, held.gated) == (
        2.0,
        "a",
        said.probability,
        said.top,
        None,
        True,
    )
    assert json.loads(to_json(held))["raw"] is None
    assert "gated" in to_text(held)
    after = decider.decide(logits(*B), t=3.0, rms=0.1)
    assert dict(after.top)["a"] == pytest.approx(0.1 + 0.7 * np.exp(-1.0), abs=1e-4)


def test_all_rules_together_never_change_faster_than_the_dwell_and_repeat_to_the_bit():
    settings = DecisionSettings(smooth_s=0.5, margin=0.05, dwell_s=2.0, unknown=0.45)
    sequence = [tuple(share) for share in np.random.default_rng(1).dirichlet((1, 1, 1), 2000)]
    found = shown(settings, sequence, 0.5)
    changes = [i for i in range(1, len(found)) if found[i] != found[i - 1]]
    assert len(changes) > 50
    assert {*LABELS, UNKNOWN} == set(found)
    assert min(np.diff(changes)) == 4
    assert found == shown(settings, sequence, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smooth_s": -1.0}, "smooth is -1 s; it must be 0 to 3600"),
        ({"smooth_s": float("nan")}, "smooth is nan"),
        ({"dwell_s": float("inf")}, "dwell is inf"),
        ({"margin": 1.0}, "margin is 1; it is a probability"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"unknown": 40.0}, "unknown is 40; it is a probability"),
        ({"gate_dbfs": 40.0}, "gate is 40 dBFS; full scale is 0"),
        ({"gate_dbfs": float("nan")}, "gate is nan"),
        ({"gate_dbfs": float("-inf")}, "gate is -inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DecisionSettings(**settings)


def test_another_label_and_a_change_of_state_are_news():
    status, decider = ChangesOnly(), Decider(LABELS, 1.0, 3)
    lines = [decider.decide(logits(*shares), t=float(t), rms=0.1) for t, shares in enumerate((A, A, B, B))]
    lines.insert(2, StatusLine(1.5, "RECOVERING", "no microphone"))
    assert [status.is_new(line) for line in lines] == [True, False, True, True, False]
