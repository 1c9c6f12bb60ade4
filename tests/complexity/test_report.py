"""The reports: fields of the JSON document, and names from malicious files, which no format takes for markup."""

import json
from xml.etree import ElementTree as ET

import msgspec
import pytest
from complexity.toy_counts import COUNTS, FIRST_FIELDS, target

from edgekd.complexity import gate
from edgekd.complexity.baseline import StoredCounts, compare
from edgekd.complexity.counts import ModelCounts
from edgekd.complexity.reports.document import CheckResult
from edgekd.complexity.reports.formats import FORMATS
from edgekd.complexity.reports.markdown import code
from edgekd.complexity.target import Latency, Rules
from edgekd.text import printable

HOSTILE = "a|b\\|c`d``]]><script>&amp;\"'\x1b[31m\n::error::@someone ![x](y)\x00\ud800\u202e"


def checked(limit: int = 950, counts: ModelCounts = COUNTS, **changes) -> CheckResult:
    return CheckResult(counts, gate.check_counts(counts, msgspec.structs.replace(target(macs=limit), **changes)))


def hostile() -> ModelCounts:
    layer = msgspec.structs.replace(COUNTS.layers[0], name=HOSTILE, op=HOSTILE)
    return msgspec.structs.replace(
        COUNTS, model=f"{HOSTILE}.tflite", layers=(layer,), operators={HOSTILE: 1}, bytes_by_dtype={HOSTILE: 1}
    )


def test_the_json_document_has_the_agreed_fields():
    document = json.loads(FORMATS["json"]([checked()]))
    assert tuple(document)[: len(FIRST_FIELDS)] == FIRST_FIELDS
    assert document["ok"] is False
    assert document["conventions"]["nessi_tflite"] == {"macs": 1000, "params": 50, "param_bytes": 90}
    assert document["conventions"]["torchinfo"] is None
    assert document["budgets"] == [
        {
            "name": "macs",
            "value": 1000,
            "limit": 950,
            "ok": False,
            "convention": "nessi_tflite",
            "status": "over",
            "note": None,
            "source": "nowhere",
        }
    ]
    assert document["layers"][0]["output"] == [1, 8, 6, 4]
    assert document["nonzero_params"] == 49
    assert document["baseline"] is None
    assert document["format_version"] == 1


def test_several_models_are_a_list_in_json_and_one_stays_an_object():
    documents = json.loads(FORMATS["json"]([checked(), checked(1000)]))
    assert [document["ok"] for document in documents] == [False, True]


@pytest.mark.parametrize(("limit", "words"), [(1000, "toy: ok"), (999, "toy: over budget")])
def test_the_table_begins_with_the_verdict_and_ends_with_the_layers(limit, words):
    text = FORMATS["table"]([checked(limit)])
    assert text.splitlines()[0] == words
    assert text.splitlines()[-1].startswith("stem")
    assert "4x3x3x2" in text
    assert "unknown (the file has no manifest)" in text
    assert "about 867,048" in FORMATS["table"]([checked(counts=msgspec.structs.replace(COUNTS, frontend_macs=867_048))])


def test_the_table_of_several_models_begins_with_a_line_each():
    other = msgspec.structs.replace(COUNTS, model="n.tflite")
    assert FORMATS["table"]([checked(), checked(1000, other)]).splitlines()[:2] == ["FAIL  m.tflite", "ok    n.tflite"]


def test_junit_has_a_case_for_each_budget_rule_and_total():
    board = Latency(board="Raspberry Pi 4", engines=("litert",), threads=1, limit_ms=20)
    grown = msgspec.structs.replace(COUNTS, file_bytes=3000)
    result = checked(counts=grown, rules=Rules(operators=("ADD",)), latency=board)
    result = msgspec.structs.replace(
        result, comparison=compare(msgspec.convert(COUNTS, StoredCounts, from_attributes=True), grown, "old", 0.02)
    )
    root = ET.fromstring(FORMATS["junit"]([result, checked(1000)]))
    first, second = root
    assert (root.get("tests"), root.get("failures")) == ("9", "3")
    assert (first.get("tests"), first.get("failures"), first.get("skipped"), second.get("failures")) == (
        "8",
        "3",
        "1",
        "0",
    )
    failed = {
        case.get("name"): case.find("failure").get("message") for case in first if case.find("failure") is not None
    }
    assert failed == {
        "toy: macs": "macs 1,000 > 950",
        "toy: operators": "CONV_2D: not among the 1 operator of toy",
        "toy: growth of file_bytes": "file_bytes 2,000 -> 3,000 (+50.00 %), 2 % tolerated",
    }
    assert next(case for case in first if case.get("name") == "toy: latency_ms").find("skipped") is not None


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([checked(1000)], "toy: 80 B, 900 MAC"),
        ([checked(1)], "toy: over: 80 B, 900 MAC"),
        ([checked(1000), checked(1)], "toy: 1 of 2 fail"),
        ([checked(1000)] * 2, "toy: 2 models ok"),
    ],
)
def test_the_badge_has_the_verdict_and_the_costs(models, words):
    root = ET.fromstring(FORMATS["badge"](models))
    assert root.get("aria-label") == words
    texts = root.findall(".//{http://www.w3.org/2000/svg}text")
    assert ": ".join(text.text for text in texts) == words
    assert float(root.get("width")) >= sum(float(text.get("textLength")) for text in texts)


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_stay_names(name):
    result = checked(counts=hostile(), name=HOSTILE, rules=Rules(operators=("ADD",), dtypes=("int8",)))
    if name == "json":  # JSON escapes names itself. A lone surrogate can only come from the name of a file
        result = checked(counts=msgspec.structs.replace(COUNTS, model=HOSTILE))
        assert json.loads(FORMATS[name]([result]))["model"] == HOSTILE.replace("\ud800", "\\ud800")
        return
    text = FORMATS[name]([result, result])
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not any(line.startswith("::") for line in text.splitlines())
    text.encode()
    if name in {"junit", "badge"}:
        assert not [each.tag for each in ET.fromstring(text).iter() if each.tag.endswith("script")]


def test_code_spans_hold_any_text():
    assert code("a_b*c") == "`a_b*c`"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code("a|b") == "`a`&#124;`b`"
    assert code("a\\|b") == "`a\\`&#124;`b`"
    assert code("") == ""


def test_plain_text_is_one_printable_line():
    assert printable("naïve ✓ name") == "naïve ✓ name"
    assert printable("a\n\x1b\ud800\\") == "a\\n\\x1b\\ud800\\"
