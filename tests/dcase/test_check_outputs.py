"""The check of a DCASE submission: each test spoils one thing of a good submission."""

import json

import numpy as np
import pytest
import yaml

from edgekd.dcase.check_meta import check_meta, read_meta, year_of
from edgekd.dcase.check_outputs import FindingList, check_names, check_output, find_submissions
from edgekd.dcase.forms import FORMS, RECORDERS, SCENES, empty_scores, module_name, output_table
from edgekd.errors import InputError

LABEL = "Last_Inst_task1_1"
NAMES = [f"{number}.wav" for number in range(8)]
SCORE = {"accuracy": 50.0, "logloss": 1.5}


@pytest.fixture
def output(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), len(NAMES))
    path = tmp_path / f"{LABEL}.output.csv"
    path.write_bytes(output_table(NAMES, probabilities, SCENES))
    return path


def of_output(path, expected=NAMES):
    findings = FindingList()
    check_output(path, expected, findings)
    return findings.lines()


def spoil(path, row, column, value):
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    lines[row][column] = value
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def test_a_good_output_passes(output):
    assert of_output(output) == []
    assert of_output(output, None) == []
    assert of_output(output, len(NAMES)) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (2, "1.5", "row 4, airport: is no probability (found 1.5); give a number from 0 to 1"),
        (3, "x", "row 4, bus: is no probability (found x)"),
        (3, "nan", "row 4, bus: is no probability (found nan)"),
        (4, "", "row 4, metro: is no probability (found nothing)"),
        (1, "Bus", "row 4: the scene_label is none of the ten (found Bus)"),
        (0, "0.wav", "row 4: the file is listed twice (found 0.wav)"),
        (0, "2.flac", "row 4: the file name does not end in .wav"),
        (0, "9.wav", "1 file is not in the evaluation set (found 9.wav)"),
    ],
)
def test_a_bad_field_is_a_finding_with_its_row(output, column, value, message):
    spoil(output, 3, column, value)
    lines = of_output(output)
    assert any(line.startswith(f"{output.name}: {message}") for line in lines), lines


def test_probabilities_that_are_logits_are_findings(output):
    lines = [line.split("\t") for line in output.read_text().splitlines()]
    for line in lines[1:]:
        line[2:] = ["0.3"] * 10
    output.write_text("".join("\t".join(line) + "\n" for line in lines))
    lines = of_output(output)
    assert lines[0].startswith(f"{output.name}: row 2: the probabilities do not add up to 1 (found 3); give softmax")
    assert lines[-1] == f"{output.name}: the probabilities do not add up to 1: {len(NAMES) - 5} more"


def test_a_label_that_is_not_the_most_probable_is_a_finding(output):
    row = output.read_text().splitlines()[2].split("\t")
    best = SCENES[int(np.argmax([float(value) for value in row[2:]]))]
    other = next(scene for scene in SCENES if scene != best)
    spoil(output, 2, 1, other)
    assert of_output(output) == [
        f"{output.name}: row 3: the scene_label is not the most probable scene (found {other}, where {best} is); "
        f"write {best}"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\t", ","), "row 1: columns are separated by commas"),
        (lambda text: text.replace("airport\tbus", "bus\tairport", 1), "row 1: columns are in another order"),
        (lambda text: text.partition("\n")[2], "row 1: the header is wrong"),
        (lambda _: "", "row 1: the header is wrong"),
        (lambda text: text + "\n", "row 10: has not 12 fields (found 0)"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "1 of 8 files of the evaluation set missing (found 7.wav)"),
    ],
)
def test_a_bad_table_is_a_finding(output, change, message):
    output.write_text(change(output.read_text()))
    lines = of_output(output)
    assert any(line.startswith(f"{output.name}: {message}") for line in lines), lines


def test_a_gap_in_the_numbers_is_found_without_the_evaluation_set(output):
    spoil(output, 3, 0, "77.wav")
    assert any("files of the evaluation set missing (found 2.wav)" in line for line in of_output(output, None))


def test_names_are_checked(tmp_path, output):
    output.rename(tmp_path / "Last_task1.output.csv")
    (entry,) = find_submissions(tmp_path)
    findings = FindingList()
    check_names(entry, FORMS[2023], findings)
    lines = findings.lines()
    assert any(
        "the label is not formed as asked (found Last_task1); name it LASTNAME_INSTITUTE_task1_N" in line
        for line in lines
    )
    assert any("Last_task1.meta.yaml: the file is missing" in line for line in lines)
    findings = FindingList()
    check_names(entry, FORMS[2024], findings)
    assert sum("output.split_" in line and "is missing" in line for line in findings.lines()) == 5
    assert any("is no file of the form of 2024" in line for line in findings.lines())


def test_a_folder_without_a_submission_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no submission"):
        find_submissions(tmp_path)


def good(year):
    """A document that passes."""
    form = FORMS[year]
    block = {
        "overall": SCORE,
        "class_wise": dict.fromkeys(SCENES, SCORE),
        "device_wise": dict.fromkeys(RECORDERS, SCORE),
    }
    development = {}
    for name in form.results:
        development |= {name: block} if name else block
    system = {
        "description": dict.fromkeys(form.description, "x"),
        "complexity": dict.fromkeys(form.complexity, 1000),
        "external_datasets": None,
        "source_code": None,
    }
    system |= (
        {"energy_consumption": {"training": 1.0, "inference": 0.1, "baseline_inference": None}} if form.energy else {}
    )
    system |= {"inference_code": "https://host.example/code"} if form.package else {}
    author = {
        "lastname": "L",
        "firstname": "F",
        "email": "l@inst.example",
        "corresponding": True,
        "affiliation": {"institute": "I"},
    }
    submission = {
        "label": LABEL,
        "name": "n",
        "abbreviation": "n",
        "authors": [author, author | {"corresponding": False}],
    }
    return json.loads(
        json.dumps({"submission": submission, "system": system, "results": {"development_dataset": development}})
    )


def of_meta(tmp_path, document, year):
    path = tmp_path / f"{LABEL}.meta.yaml"
    path.write_text(yaml.safe_dump(document))
    findings = FindingList()
    check_meta(path, read_meta(path, findings), FORMS[year], LABEL, findings)
    return findings.lines()


@pytest.mark.parametrize("year", FORMS)
def test_a_good_meta_file_passes_and_shows_its_year(tmp_path, year):
    assert of_meta(tmp_path, good(year), year) == []
    assert year_of(good(year)) == year


def test_empty_results_pass(tmp_path):
    document = good(2023)
    document["results"]["development_dataset"] = empty_scores()
    assert of_meta(tmp_path, document, 2023) == []


@pytest.mark.parametrize(
    ("year", "place", "value", "message"),
    [
        (
            2022,
            "submission.label",
            "Other_Inst_task1_1",
            "submission.label: is not the label of the file (found Other_Inst_task1_1)",
        ),
        (
            2022,
            "submission.abbreviation",
            "elevenchars",
            "submission.abbreviation: has not 1 to 10 characters (found elevenchars)",
        ),
        (
            2022,
            "submission.authors.1.corresponding",
            True,
            "submission.authors: wanted exactly one corresponding author (found 2)",
        ),
        (
            2022,
            "submission.authors.0.corresponding",
            False,
            "submission.authors: wanted exactly one corresponding author (found 0)",
        ),
        (2022, "submission.authors.0.email", "", "submission.authors, 1.: has no email"),
        (
            2022,
            "system.complexity.total_parameters",
            128001,
            "total_parameters: is over the budget of 2022, 128,000 (found 128,001)",
        ),
        (
            2023,
            "system.complexity.total_model_size",
            131120,
            "total_model_size: is over the budget of 2023, 128,000 (found 131,120)",
        ),
        (2024, "system.complexity.macs", 30000001, "macs: is over the budget of 2024, 30,000,000 (found 30,000,001)"),
        (2025, "system.complexity.macs", "29 M", "macs: is not an allowed number (found 29 M)"),
        (
            2023,
            "system.complexity.total_parameters_non_zero",
            1001,
            "total_parameters_non_zero: is more than all parameters",
        ),
        (2023, "system.complexity.total_parameters", 10.5, "total_parameters: is no whole number"),
        (2023, "system.energy_consumption.inference", -1, "inference: is not an allowed number"),
        (2025, "system.inference_code", None, "inference_code: is empty"),
        (2023, "system.external_datasets", [{"name": "PaSST"}], "external_datasets, 1.: has no url"),
        (
            2023,
            "results.development_dataset.overall.accuracy",
            60.0,
            "is not the mean of the class-wise accuracies, 50.00 (found 60.0)",
        ),
        (
            2023,
            "results.development_dataset.class_wise.bus.accuracy",
            101,
            "class_wise.bus.accuracy: is not an allowed number (found 101)",
        ),
        (
            2023,
            "results.development_dataset.device_wise.s6.logloss",
            -0.1,
            "device_wise.s6.logloss: is not an allowed number",
        ),
    ],
)
def test_a_bad_value_is_a_finding_with_its_key(tmp_path, year, place, value, message):
    document = good(year)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    block = document
    for part in path:
        block = block[part]
    block[last] = value
    lines = of_meta(tmp_path, document, year)
    assert any(message in line for line in lines), lines


def test_fractions_for_percent_are_a_finding(tmp_path):
    document = yaml.safe_load(yaml.safe_dump(good(2023)).replace("50.0", "0.5"))
    assert any(
        "accuracies look like fractions (found 0.5); give percent" in line for line in of_meta(tmp_path, document, 2023)
    )


@pytest.mark.parametrize(
    "missing",
    [
        "submission",
        "system",
        "results",
        "submission.authors",
        "system.complexity",
        "system.complexity.macs",
        "system.description.pipeline",
        "system.energy_consumption",
        "system.external_datasets",
        "results.development_dataset.class_wise.tram",
        "results.development_dataset.device_wise.s4.logloss",
        "results.development_dataset.overall",
    ],
)
def test_a_missing_key_is_a_finding(tmp_path, missing):
    document = good(2023)
    *path, last = missing.split(".")
    block = document
    for part in path:
        block = block[part]
    del block[last]
    assert any(f": {missing}: " in line and "is missing" in line for line in of_meta(tmp_path, document, 2023))


TENFOLD = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
BOMBS = {
    "lists": f"a0: &a0 x\n{TENFOLD}submission: *a29\n",
    "merges": f"a0: &a0 {{x: 1}}\n{TENFOLD.replace('[', '{<<: [').replace(']', ']}')}submission: *a29\n",
    "texts": f"a: &a {'x' * 10_000}\nsubmission: [{', '.join(['*a'] * 1000)}]\n",
    "itself": "submission: &a [*a]\n",
    "long": f"submission: {'x' * 2_000_000}\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_meta_file_with_endless_values_is_a_finding(edgekd, tmp_path, bomb):
    (tmp_path / f"{LABEL}.meta.yaml").write_text(BOMBS[bomb])
    status, out, _ = edgekd("submission", "--check", tmp_path, "--year", 2023)
    assert status == 1
    assert f"{LABEL}.meta.yaml: has " in out
    assert "1,000,000" in out


def test_a_package_that_is_nested_too_deeply_has_no_functions(edgekd, tmp_path):
    (tmp_path / f"{LABEL}.meta.yaml").write_text("submission: x\n")
    (tmp_path / f"{module_name(LABEL)}.py").write_text(f"{'-' * 100_000}1\n")
    status, out, _ = edgekd("submission", "--check", tmp_path, "--year", 2025)
    assert status == 1
    assert f"{module_name(LABEL)}.py: predict: the function is missing" in out


def test_aliases_of_a_meta_file_are_read(tmp_path):
    path = tmp_path / f"{LABEL}.meta.yaml"
    path.write_text("authors:\n- affiliation: &here {institute: I}\n- affiliation: *here\n")
    assert read_meta(path, FindingList())["authors"][1]["affiliation"] == {"institute": "I"}


def test_a_file_that_is_no_yaml_is_a_finding_with_its_row(tmp_path):
    path = tmp_path / f"{LABEL}.meta.yaml"
    path.write_text("submission:\n  label: 'x\n")
    findings = FindingList()
    assert read_meta(path, findings) == {}
    assert f"{path.name}: row 3: is no YAML" in findings.lines()[0]
