"""Counts checked against a target: budgets by convention, rules by name, measured latencies."""

import msgspec
import pytest
from complexity.toy_counts import COUNTS, target

from edgekd.complexity import gate, latency
from edgekd.complexity.counts import Totals, UnknownOp, frontend_macs
from edgekd.complexity.latency import MeasuredLatency, StoredBench, StoredTimes
from edgekd.complexity.target import CONVENTIONS, Latency, Rules, Target
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, filterbank

BOARD = Latency(board="Raspberry Pi 4", engines=("litert",), threads=1, limit_ms=20)


def ruled(**rules: tuple[str, ...]) -> Target:
    return Target("toy", "a toy", "nowhere", rules=Rules(**rules))


def test_a_value_at_its_limit_passes_and_one_above_fails():
    assert gate.check_counts(
        COUNTS, target(macs=1000, param_bytes=90, params=50, peak_activation_bytes=300, file_bytes=2000)
    ).ok
    for budget in (
        {"macs": 999},
        {"param_bytes": 89},
        {"params": 49},
        {"peak_activation_bytes": 299},
        {"file_bytes": 1999},
    ):
        verdict = gate.check_counts(COUNTS, target(**budget))
        assert not verdict.ok
        assert [(each.name, each.status) for each in verdict.budgets] == [(next(iter(budget)), "over")]


def test_the_strictest_convention_decides_and_is_named():
    verdict = gate.check_counts(COUNTS, target(macs=950))
    assert verdict.budgets == (gate.BudgetResult("macs", 1000, 950, False, "nessi_tflite", "over", None, "nowhere"),)


def test_only_the_convention_that_the_target_names_decides():
    named = msgspec.structs.replace(target(macs=950, param_bytes=85), convention="exact")
    verdict = gate.check_counts(COUNTS, named)
    assert verdict.ok
    assert [(budget.value, budget.convention) for budget in verdict.budgets] == [(80, "exact"), (900, "exact")]


def test_a_convention_that_does_not_apply_to_the_file_fails():
    verdict = gate.check_counts(COUNTS, msgspec.structs.replace(target(macs=10**9), convention="torchinfo"))
    assert not verdict.ok
    assert verdict.failures() == ["macs: this file has no count by torchinfo, which toy judges by"]


def test_counts_of_the_float_network_do_not_apply_to_bytes():
    counted = msgspec.structs.replace(COUNTS, conventions={**COUNTS.conventions, "torchinfo": Totals(1100, 60, 240)})
    verdict = gate.check_counts(counted, target(macs=2000, params=2000, param_bytes=2000))
    assert {budget.name: (budget.value, budget.convention) for budget in verdict.budgets} == {
        "macs": (1100, "torchinfo"),
        "params": (60, "torchinfo"),
        "param_bytes": (90, "nessi_tflite"),
    }


def test_a_target_can_name_every_convention():
    assert set(CONVENTIONS) == set(COUNTS.conventions)


def test_budgets_that_the_target_does_not_set_are_not_checked():
    assert gate.check_counts(COUNTS, target()).budgets == ()


def test_an_unknown_op_with_weights_cannot_pass_a_mac_budget():
    unknown = msgspec.structs.replace(COUNTS, unknown=(UnknownOp("LSTM", 2, 1234, 1234, "its recurrence"),))
    verdict = gate.check_counts(unknown, target(macs=10**9, param_bytes=10**9))
    assert [(budget.name, budget.status) for budget in verdict.budgets] == [("param_bytes", "ok"), ("macs", "unknown")]
    assert not verdict.ok
    assert verdict.failures() == [
        "macs: no rule counts the MACs of LSTM (1,234 parameters), so the count is only a lower bound"
    ]
    assert gate.check_counts(unknown, target(macs=999)).budgets[0].status == "over"
    assert gate.check_counts(unknown, target(param_bytes=90)).ok


def test_an_unknown_op_without_weights_is_noted():
    verdict = gate.check_counts(
        msgspec.structs.replace(COUNTS, unknown=(UnknownOp("CUSTOM", 1, 0, 0, "nothing"),)), target(macs=1000)
    )
    assert verdict.ok
    assert "CUSTOM" in (verdict.budgets[0].note or "")


def test_activations_of_unknown_size_cannot_pass_their_budget():
    verdict = gate.check_counts(msgspec.structs.replace(COUNTS, unsized=("LSTM",)), target(peak_activation_bytes=10**9))
    assert verdict.failures() == [
        "peak_activation_bytes: the sizes of what LSTM writes are unknown, so the count is only a lower bound"
    ]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ({"formats": ("onnx",)}, ("tflite",)),
        ({"engines": ("onnxruntime",)}, ("tflite",)),
        ({"dtypes": ("int8",)}, ("int32",)),
        ({"operators": ("ADD", "MUL")}, ("CONV_2D",)),
        ({"forbidden_operators": ("CONV_2D", "LSTM")}, ("CONV_2D",)),
    ],
)
def test_a_broken_rule_fails_by_name(rules, found):
    verdict = gate.check_counts(COUNTS, ruled(**rules))
    assert not verdict.ok
    assert [(rule.name, rule.found) for rule in verdict.rules] == [(next(iter(rules)), found)]
    assert found[0] in verdict.failures()[0]


def test_operators_may_be_patterns():
    custom = msgspec.structs.replace(COUNTS, operators={"CONV_2D": 1, "CUSTOM:FlexErf": 1})
    assert gate.check_counts(custom, ruled(forbidden_operators=("CUSTOM:*",))).rules[0].found == ("CUSTOM:FlexErf",)
    assert gate.check_counts(custom, ruled(operators=("CONV*",))).rules[0].found == ("CUSTOM:FlexErf",)
    assert gate.check_counts(custom, ruled(operators=("CONV*", "CUSTOM:*"), forbidden_operators=("CUSTOM:Other",))).ok


def test_rules_that_are_kept_pass():
    verdict = gate.check_counts(
        COUNTS,
        ruled(
            formats=("tflite",),
            engines=("onnxruntime", "tflite_micro"),
            dtypes=("int8", "int32", "int64"),
            operators=("CONV_2D", "ADD"),
            forbidden_operators=("LSTM",),
        ),
    )
    assert verdict.ok
    assert [rule.ok for rule in verdict.rules] == [True] * 5


def test_a_latency_that_was_not_measured_fails_only_on_request():
    board = Target("pi-4", "a board", "nowhere", latency=BOARD)
    verdict = gate.check_counts(COUNTS, board)
    assert verdict.ok
    assert (verdict.budgets[0].value, verdict.budgets[0].status) == (None, "not measured")
    assert "pipeline p95, litert, 1 thread, Raspberry Pi 4" in verdict.budgets[0].note
    required = gate.check_counts(COUNTS, board, require_latency=True)
    assert not required.ok
    assert required.failures()[0].startswith("latency_ms: not measured")
    assert gate.check_counts(COUNTS, board, MeasuredLatency(20.0), require_latency=True).ok
    assert gate.check_counts(COUNTS, board, MeasuredLatency(20.1)).failures() == ["latency_ms 20.1 > 20"]


def bench(**changes) -> StoredBench:
    times = StoredTimes(10, 15)
    fields = {
        "model": "/elsewhere/m.tflite",
        "engine": "litert",
        "threads": 1,
        "machine": "Raspberry Pi 4 Model B Rev 1.4 (asimd)",
        "network_ms": StoredTimes(1, 2),
        "frontend_ms": StoredTimes(3, 4),
        "pipeline_ms": times,
    }
    return StoredBench(**{**fields, **changes})


def test_a_bench_document_counts_if_it_meets_the_conditions_of_the_budget():
    board = Target("pi-4", "a board", "nowhere", latency=BOARD)
    assert latency.from_bench((bench(model="other.tflite"), bench()), "here/m.tflite", board).ms == 15
    network = msgspec.structs.replace(board, latency=msgspec.structs.replace(BOARD, stage="network", percentile="p50"))
    assert latency.from_bench((bench(),), "m.tflite", network).ms == 1
    for change, word in (
        ({"machine": "AMD EPYC (avx2)"}, "AMD EPYC"),
        ({"threads": 4}, "4 thread"),
        ({"engine": "onnxruntime"}, "onnxruntime"),
        ({"machine": "Raspberry Pi 400 Rev 1.0"}, "Pi 400"),
        ({"model": "n.tflite"}, "has no m.tflite"),
    ):
        measured = latency.from_bench((bench(**change),), "m.tflite", board)
        assert measured.ms is None
        assert word in measured.why


@pytest.mark.parametrize("board", ["Raspberry Pi 4", "raspberry pi 4 model b", "pi-4", "PI4", "rpi 4"])
def test_the_board_of_a_latency_may_be_named_in_several_ways(board):
    pi = Target("pi-4", "a board", "nowhere", latency=BOARD, aliases=("rpi-4",))
    assert latency.given(3.5, board, pi).ms == 3.5


@pytest.mark.parametrize(
    ("ms", "board", "message"),
    [
        (0.0, "pi-4", "must be positive"),
        (float("nan"), "pi-4", "must be positive"),
        (float("inf"), "pi-4", "must be positive"),
        (3.0, None, "needs --board NAME"),
        (3.0, "pi-5", "for Raspberry Pi 4"),
        (3.0, "Raspberry Pi 400", "for Raspberry Pi 4"),
    ],
)
def test_an_impossible_latency_or_another_board_is_refused(ms, board, message):
    with pytest.raises(InputError, match=message):
        latency.given(ms, board, Target("pi-4", "a board", "nowhere", latency=BOARD))


def test_a_latency_for_a_target_without_a_latency_budget_is_refused():
    with pytest.raises(InputError, match="target toy sets no latency budget"):
        latency.given(3.0, "pi-4", target(macs=1))


def test_the_front_end_estimate_counts_a_sparse_mel_product():
    fe = FrontEnd()
    mel = int((filterbank(fe) != 0).sum())
    assert mel < 4 * fe.n_fft  # triangles overlap twice: far from the dense 256 x 1025
    fft = 2048 * 10 + 2 * 2048  # radix 2 on 1,024 complex values, then the split
    assert frontend_macs(fe, 16_000) == 28 * (2048 + fft + 2 * 1025 + mel + 256)
    assert frontend_macs(msgspec.structs.replace(fe, pre_emphasis=0.97), 16_000) == frontend_macs(fe, 16_000) + 16_000
