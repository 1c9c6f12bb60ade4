"""Comparison with earlier counts: stored documents, tolerances, and layers that were added, removed or changed."""

import json

import msgspec
import pytest
from complexity.toy_counts import COUNTS, FIRST_FIELDS, target

from edgekd.complexity import gate
from edgekd.complexity.baseline import TOLERANCE, Baseline, StoredCounts, compare, parse_tolerance
from edgekd.complexity.counts import Layer, ModelCounts, Totals
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formats import FORMATS
from edgekd.errors import InputError


def stored(counts: ModelCounts) -> StoredCounts:
    return msgspec.convert(counts, StoredCounts, from_attributes=True)


def with_layers(*layers: tuple[str, str, int]) -> ModelCounts:
    rows = tuple(Layer(name, op, None, (1,), None, macs, 1, 1) for name, op, macs in layers)
    return msgspec.structs.replace(COUNTS, layers=rows)


def document(path, *models: ModelCounts):
    path.write_text(
        FORMATS["json"]([CheckResult(counts, gate.check_counts(counts, target(macs=1000))) for counts in models])
    )
    return path


def test_the_same_file_has_not_grown():
    same = compare(stored(COUNTS), COUNTS, "old", 0.0)
    assert same.ok
    assert same.layers == ()
    assert {change.growth for change in same.changes} == {0.0}


@pytest.mark.parametrize(("after", "ok"), [(2040, True), (2041, False), (1000, True)])
def test_growth_beyond_the_tolerance_fails(after, ok):
    now = compare(stored(COUNTS), msgspec.structs.replace(COUNTS, file_bytes=after), "old", 0.02)
    assert now.ok is ok
    assert [change.name for change in now.changes if change.before != change.after] == ["file_bytes"]
    assert now.failures() == ([] if ok else ["file_bytes 2,000 -> 2,041 (+2.05 %; 2 % tolerated)"])


def test_growth_from_zero_is_beyond_any_tolerance():
    nothing = msgspec.structs.replace(COUNTS, conventions={"exact": Totals(0, 50, 80)})
    macs = compare(stored(nothing), COUNTS, "old", 1.0).changes[0]
    assert (macs.name, macs.growth, macs.ok) == ("macs", None, False)
    assert compare(stored(nothing), nothing, "old", 0.0).ok


def test_layers_are_matched_by_name_and_then_by_order():
    before = with_layers(
        ("a", "CONV", 1), ("b", "CONV", 2), ("c", "ADD", 3), ("old1", "MUL", 4), ("old2", "MUL", 5), ("gone", "PAD", 6)
    )
    after = with_layers(
        ("a", "CONV", 1),
        ("b", "CONV", 20),
        ("c", "ADD", 3),
        ("new1", "MUL", 4),
        ("new2", "MUL", 50),
        ("new", "MEAN", 7),
    )
    changes = compare(stored(before), after, "old", 0.0).layers
    assert [(each.name, each.change, each.macs_before, each.macs) for each in changes] == [
        ("b", "changed", 2, 20),
        ("new2", "changed", 5, 50),
        ("new", "added", 0, 7),
        ("gone", "removed", 6, 0),
    ]


def test_layers_of_one_name_are_paired_in_order():
    before = with_layers(("x", "ADD", 1), ("x", "ADD", 2))
    assert (
        compare(stored(before), with_layers(("x", "ADD", 1), ("x", "ADD", 2), ("x", "ADD", 3)), "old", 0.0)
        .layers[0]
        .macs
        == 3
    )


def test_a_stored_report_is_a_baseline(tmp_path):
    path = document(tmp_path / "old.json", COUNTS)
    renamed = msgspec.structs.replace(COUNTS, model="elsewhere/new.tflite")
    assert Baseline(path, [renamed.model]).compare(renamed, 0.0).ok  # the only model on both sides


def test_each_model_is_compared_with_its_own_in_a_stored_report_of_several(tmp_path):
    other = msgspec.structs.replace(COUNTS, model="n.tflite", file_bytes=1)
    path = document(tmp_path / "old.json", COUNTS, other)
    baseline = Baseline(path, ["x/m.tflite", "n.tflite", "new.tflite"])
    assert baseline.compare(msgspec.structs.replace(COUNTS, model="x/m.tflite"), 0.0).ok
    assert baseline.compare(other, 0.0).ok
    assert baseline.compare(msgspec.structs.replace(COUNTS, model="new.tflite"), 0.0) is None


def test_reports_of_older_versions_are_read(tmp_path):
    old = json.loads(document(tmp_path / "new.json", COUNTS).read_text())
    path = tmp_path / "old.json"
    path.write_text(json.dumps({field: old[field] for field in FIRST_FIELDS}))
    assert Baseline(path, ["m.tflite"]).compare(COUNTS, 0.0).ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "version 2 of the document"),
        ({"conventions": {"exact": None}}, "holds no count by 'exact'"),
        ({"file_bytes": -1}, "another document"),
        ({"file_bytes": 10**30}, "another document"),
        ({"layers": 3}, "another document"),
        ({"model": None}, "another document"),
        ({"conventions": {"exact": {"macs": 1.5, "params": 1, "param_bytes": 1}}}, "another document"),
    ],
)
def test_an_impossible_report_is_refused(tmp_path, change, message):
    path = document(tmp_path / "old.json", COUNTS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        Baseline(path, ["m.tflite"])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "damaged, or no JSON"),
        (b'{"model": "m.tfl', "damaged, or no JSON"),
        (b"\xff\xfe", "damaged, or no JSON"),
        (b"[]", "an empty list"),
        (b"{}", "another document .*`model`"),
        (b"3", "another document"),
        (b"[[]]", "another document"),
        (b"[" * 100_000, "another document"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused(tmp_path, raw, message):
    path = tmp_path / "old.json"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"--baseline .*{message}"):
        Baseline(path, ["m.tflite"])


def test_other_files_are_refused_as_a_baseline(tmp_path):
    with pytest.raises(InputError, match="stored report"):
        Baseline(tmp_path / "weights.pt", ["m.tflite"])
    with pytest.raises(InputError, match="one model file for 2 models"):
        Baseline(tmp_path / "old.tflite", ["m.tflite", "n.tflite"])
    with pytest.raises(InputError, match="cannot be read"):
        Baseline(tmp_path / "no.json", ["m.tflite"])
    path = document(tmp_path / "old.json", msgspec.structs.replace(COUNTS, model="m.onnx"))
    with pytest.raises(InputError, match=r"a \.onnx model, but m\.tflite is not"):
        Baseline(path, ["m.tflite"]).compare(COUNTS, 0.0)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0.0), ("0.02", 0.02), ("2%", 0.02), (" 2 % ", 0.02), ("100%", 1.0), (None, TOLERANCE)]
)
def test_tolerances_are_fractions_or_percentages(tmp_path, text, value):
    assert parse_tolerance(text, tmp_path) == pytest.approx(value)


@pytest.mark.parametrize("text", ["2", "-0.1", "101%", "nan", "inf", "-1%", "two", "", "%"])
def test_tolerances_out_of_range_are_refused(tmp_path, text):
    with pytest.raises(InputError, match="--tolerance is"):
        parse_tolerance(text, tmp_path)


def test_a_tolerance_without_a_baseline_is_refused():
    with pytest.raises(InputError, match="without --baseline"):
        parse_tolerance("2%", None)
