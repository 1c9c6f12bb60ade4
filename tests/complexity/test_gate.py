"""The gate's judgement and the two reports."""

import json

import msgspec
import pytest

from edgekd.complexity import gate, report
from edgekd.complexity.ledger import Count, Layer, Ledger, frontend_macs
from edgekd.frontend import FrontEnd, filterbank
from edgekd.target import Budgets, Target

LEDGER = Ledger(
    model="m.tflite",
    conventions={"exact": Count(900, 50, 80), "nessi_tflite": Count(1000, 50, 90), "torchinfo": None, "ptflops": None},
    frontend_macs=None, peak_activation_bytes=300, file_bytes=2000,
    layers=(Layer("stem", "CONV_2D", (1, 8, 6, 2), (1, 8, 6, 4), (4, 3, 3, 2), 900, 50, 80),),
)


def target(**budgets: int) -> Target:
    return Target("toy", "a toy", "nowhere", Budgets(**budgets))


def test_a_value_at_its_limit_passes_and_one_above_fails():
    assert gate.judge(LEDGER, target(macs=1000, param_bytes=90, peak_activation_bytes=300, file_bytes=2000)).ok
    for budget in ({"macs": 999}, {"param_bytes": 89}, {"peak_activation_bytes": 299}, {"file_bytes": 1999}):
        verdict = gate.judge(LEDGER, target(**budget))
        assert not verdict.ok
        assert [judged.name for judged in verdict.budgets] == list(budget)


def test_the_strictest_convention_judges_and_is_named():
    verdict = gate.judge(LEDGER, target(macs=950))
    assert verdict.budgets == (gate.Budget("macs", 1000, 950, False, "nessi_tflite"),)


def test_budgets_that_the_target_does_not_set_are_not_judged():
    assert gate.judge(LEDGER, target()).budgets == ()


def test_the_json_document_has_the_agreed_fields():
    document = json.loads(report.json(LEDGER, gate.judge(LEDGER, target(macs=950))))
    assert list(document) == [
        "model", "target", "ok", "conventions", "frontend_macs", "peak_activation_bytes", "file_bytes", "budgets", "layers"]
    assert document["ok"] is False
    assert document["conventions"]["nessi_tflite"] == {"macs": 1000, "params": 50, "param_bytes": 90}
    assert document["conventions"]["torchinfo"] is None
    assert document["budgets"] == [{"name": "macs", "value": 1000, "limit": 950, "ok": False, "convention": "nessi_tflite"}]
    assert document["layers"][0]["output"] == [1, 8, 6, 4]


@pytest.mark.parametrize(("limit", "words"), [(1000, "toy: ok"), (999, "toy: over budget")])
def test_the_table_ends_with_the_verdict(limit, words):
    text = report.table(LEDGER, gate.judge(LEDGER, target(macs=limit)))
    assert text.splitlines()[-1] == words
    assert "4x3x3x2" in text
    assert "unknown (the file has no manifest)" in text
    shown = report.table(msgspec.structs.replace(LEDGER, frontend_macs=867_048), gate.judge(LEDGER, target(macs=limit)))
    assert "about 867,048" in shown


def test_the_front_end_estimate_counts_a_sparse_mel_product():
    fe = FrontEnd()
    mel = int((filterbank(fe) != 0).sum())
    assert mel < 4 * fe.n_fft  # triangles overlap twice: far from the dense 256 x 1025
    fft = 2048 * 10 + 2 * 2048  # radix 2 on 1,024 complex values, then the split
    assert frontend_macs(fe, 16_000) == 28 * (2048 + fft + 2 * 1025 + mel + 256)
    assert frontend_macs(msgspec.structs.replace(fe, pre_emphasis=0.97), 16_000) == frontend_macs(fe, 16_000) + 16_000
