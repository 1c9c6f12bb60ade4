"""Model cards; the YAML at their head is read back by a YAML reader."""

import pytest
import yaml

from edgekd.frontend import FrontEnd
from edgekd.modelfile.manifest import Calibration, GraphCounts, Manifest, Provenance, TensorQuant
from edgekd.report.model_card import card, code, hub_licence, metadata

NASTY = 'quote " colon: dash - # {brace} [x]\n---\n \\ tab\t \x85 \u2028 é 🎧 yes'


def manifest(**source):
    provenance = {
        "recipe": "toy",
        "recipe_hash": "1",
        "data": "esc50",
        "data_hash": "2",
        "data_licence": "CC BY-NC 3.0",
        "synthetic": False,
        "edgekd_version": "0",
        "created": "2025-01-01T00:00:00+00:00",
        "teachers": ("big",),
        "scores": {"clip_accuracy": 0.875},
    }
    quant = TensorQuant("int8", 0.1, 0)
    return Manifest(
        name="toy",
        student="cp_mobile",
        precision="int8",
        labels=("bus", "street_traffic"),
        frontend=FrontEnd(),
        window=16000,
        input=quant,
        output=quant,
        counts=GraphCounts(0, 0, 0),
        provenance=Provenance(**provenance | source),
        temperature=1.25,
        calibration=Calibration("esc50", "2", ("fold5",), 400, 0.1, 0.02, 1.5, 1.2),
    )


def written(source):
    files, budgets = ["toy.int8.tflite", "toy.int8.onnx"], [("macs", "1,000", "30,000,000", "ok")]
    return card(source, files, [("exact", 1000, 50, 80)], budgets, "dcase2023")


def head(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC BY-NC 3.0", {"license": "cc-by-nc-3.0"}),
        ("CC0", {"license": "cc0-1.0"}),
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("unknown", {"license": "unknown"}),
        ("", {"license": "other", "license_name": "unknown"}),
        (
            "free for academic use, no commercial use (Tampere University)",
            {"license": "other", "license_name": "free-for-academic-use-no-commercial-use-tampere-university"},
        ),
    ],
)
def test_licences_are_those_of_the_hub(licence, expected):
    assert hub_licence(licence) == expected


def test_a_card_has_the_metadata_of_the_hub_and_lists_what_the_file_holds():
    front, body = head(written(manifest()))
    assert (front["license"], front["library_name"], front["datasets"]) == ("cc-by-nc-3.0", "edgekd", ["esc50"])
    assert {"int8", "tflite", "onnx", "knowledge-distillation"} <= set(front["tags"])
    (result,) = front["model-index"][0]["results"]
    assert result["task"]["type"] == "audio-classification"
    assert result["metrics"] == [{"type": "accuracy", "name": "clip_accuracy", "value": 0.875}]
    for expected in (
        "edgekd verify toy.int8.tflite",
        "CC BY-NC 3.0",
        "big",
        "0.8750",
        "expected calibration error 0.1000",
        "| exact | 1,000 | 50 | 80 |",
        "| macs | 1,000 | 30,000,000 | ok |",
        "`street_traffic`",
        "dcase2023",
    ):
        assert expected in body, expected


def test_a_card_claims_no_accuracy_of_another_network_on_the_hub():
    scores = {"teachers_test_clip_accuracy": 0.9, "float_clip_accuracy": 0.8, "qat_clip_accuracy": 0.7}
    front, body = head(written(manifest(scores=scores)))
    assert [each["name"] for each in front["model-index"][0]["results"][0]["metrics"]] == ["qat_clip_accuracy"]
    assert "0.9000" in body


def test_a_card_without_scores_claims_none():
    front, body = head(written(manifest(scores={}, teachers=(), synthetic=True)))
    assert "model-index" not in front
    assert "metrics" not in front
    assert "The file carries none" in body
    assert "made by a program" in body


def test_texts_of_users_break_neither_yaml_nor_tables():
    front, body = head(written(manifest(data=NASTY, data_licence="a | b\n---\nlicense: mit", recipe="<script>|`")))
    assert front["datasets"] == [NASTY]
    assert front["license"] == "other"
    row = next(line for line in body.splitlines() if line.startswith("| licence of the data"))
    assert row == "| licence of the data | a \\| b --- license: mit |"
    assert "<script>" not in body


def test_code_spans_hold_backticks():
    assert code("a`b") == "`` a`b ``"


def test_metadata_names_no_score_that_is_no_accuracy():
    assert metadata(manifest(scores={"loss": 0.5}), ["onnx"]).get("metrics") is None
