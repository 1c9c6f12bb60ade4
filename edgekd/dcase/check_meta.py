"""Checks the meta file of a DCASE task 1 submission: required keys, authors, budgets, impossible numbers."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.dcase.check_outputs import FindingList
from edgekd.dcase.forms import COMPLEXITY, ENERGY, MAX_ABBREVIATION, MAX_MACS, RECORDERS, SCENES, Form
from edgekd.errors import InputError
from edgekd.yaml_text import pyyaml

AUTHOR = ("lastname", "firstname", "email", "affiliation")
DATASET = ("name", "url", "total_audio_length")
SCORE = ("accuracy", "logloss")
MAX_LOG_LOSS = 30.0
"""Nats; the loss of a probability of 1e-13, which no mean over clips reaches."""
MEAN_TOLERANCE = 0.5
"""Percentage points between the overall accuracy and the mean of the class-wise ones, which may be rounded."""
REWRITE = "write it anew with 'edgekd submission'"


def read_meta(path: Path, findings: FindingList) -> dict[str, Any]:
    """The document of a meta file; empty, with a finding, where it is no YAML document with keys.

    Raises:
        InputError: the file cannot be read.
        MissingExtraError: see `pyyaml`.
    """
    yaml = pyyaml()
    try:
        document = yaml.safe_load(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        findings.add(path.name, f"row {mark.line + 1}" if mark else "", "is no YAML", problem, "correct the line")
        return {}
    if not isinstance(document, dict):
        findings.add(path.name, "", "holds no keys", type(document).__name__, REWRITE)
        return {}
    return document


def year_of(document: Mapping[str, Any]) -> int:
    """The year whose form a meta file has, by the blocks that only one year's form has."""
    system, results = _table(document, "system"), _table(_table(document, "results"), "development_dataset")
    if "inference_code" in system or "device_specific" in results:
        return 2025
    if any(str(key).startswith("split_") for key in results):
        return 2024
    return 2023 if "energy_consumption" in system else 2022


def check_meta(path: Path, document: Mapping[str, Any], form: Form, label: str, findings: FindingList) -> None:
    """Check that a meta file holds what its year asks for.

    Args:
        path: of the file.
        document: its contents, from `read_meta`.
        form: of the year.
        label: in the file's name.
        findings: extended.
    """
    checker = _MetaChecker(path.name, findings)
    submission = checker.block(document, "", "submission", ("label", "name", "abbreviation", "authors"))
    _submission(checker, submission, label)
    wanted = [
        "description",
        "complexity",
        "external_datasets",
        "source_code",
        *(["energy_consumption"] if form.energy else []),
        *(["inference_code"] if form.package else []),
    ]
    system = checker.block(document, "", "system", wanted)
    checker.block(system, "system", "description", form.description)
    _complexity(checker, checker.block(system, "system", "complexity", form.complexity), form)
    if form.energy:
        energy = checker.block(system, "system", "energy_consumption", ENERGY)
        for key in ENERGY:
            checker.number(energy, "system.energy_consumption", key, 0.0, math.inf, "give kWh, or null", empty=True)
    if form.package and "inference_code" in system and not system["inference_code"]:
        checker.add("system.inference_code", "is empty", "", "give the address of the inference package")
    _datasets(checker, system.get("external_datasets"))
    results = checker.block(document, "", "results", ("development_dataset",))
    development = checker.block(results, "results", "development_dataset", [name for name in form.results if name])
    for name in form.results:
        where = "results.development_dataset"
        _results(checker, _table(development, name) if name else development, f"{where}.{name}" if name else where)


class _MetaChecker:
    """Adds findings on one file."""

    def __init__(self, file: str, findings: FindingList) -> None:
        self.file, self.findings = file, findings

    def add(self, where: str, what: str, value: object, action: str) -> None:
        self.findings.add(self.file, where, what, value, action)

    def block(self, parent: Mapping[str, Any], above: str, name: str, keys: Iterable[str]) -> Mapping[str, Any]:
        """A block, checked for the keys that it must have; empty where it is missing or no block."""
        where = f"{above}.{name}" if above else name
        if name not in parent:
            if parent or not above:
                self.add(where, "the block is missing", "", REWRITE)
            return {}
        block = parent[name]
        if not isinstance(block, Mapping):
            self.add(where, "is not a block of keys", block, REWRITE)
            return {}
        for key in keys:
            if key not in block:
                self.add(f"{where}.{key}", "the key is missing", "", "add it, with null where it does not apply")
        return block

    def number(
        self,
        block: Mapping[str, Any],
        above: str,
        key: str,
        least: float,
        most: float,
        action: str,
        *,
        empty: bool = False,
    ) -> float | None:
        """A number within bounds, or None with a finding. empty: null is allowed."""
        if key not in block:
            return None
        value = block[key]
        if value is None and empty:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.add(f"{above}.{key}", "is not an allowed number", value if value is not None else "null", action)
            return None
        return float(value)


def _submission(checker: _MetaChecker, submission: Mapping[str, Any], label: str) -> None:
    if "label" in submission and submission["label"] != label:
        checker.add(
            "submission.label",
            "is not the label of the file",
            submission["label"],
            f"write {label}, or rename the files",
        )
    short = submission.get("abbreviation", "")
    if "abbreviation" in submission and (not isinstance(short, str) or not 1 <= len(short) <= MAX_ABBREVIATION):
        checker.add("submission.abbreviation", f"has not 1 to {MAX_ABBREVIATION} characters", short, "shorten it")
    if "authors" not in submission:
        return
    authors = submission["authors"]
    if not isinstance(authors, list) or not authors or not all(isinstance(author, Mapping) for author in authors):
        checker.add(
            "submission.authors",
            "is not a list of authors",
            authors,
            "give lastname, firstname, email and affiliation of each",
        )
        return
    for number, author in enumerate(authors, start=1):
        for key in AUTHOR:
            if not author.get(key):
                checker.add(f"submission.authors, {number}.", f"has no {key}", "", "add it")
    corresponding = sum(bool(author.get("corresponding")) for author in authors)
    if corresponding != 1:
        checker.add(
            "submission.authors",
            "wanted exactly one corresponding author",
            corresponding,
            "mark one with corresponding: true",
        )


def _complexity(checker: _MetaChecker, block: Mapping[str, Any], form: Form) -> None:
    above = "system.complexity"
    values = {
        key: checker.number(block, above, key, 0 if key.endswith(("zero", "use")) else 1, 2**53, "give a whole number")
        for key in COMPLEXITY
        if key in form.complexity
    }
    for key, limit in (form.limit, ("macs", MAX_MACS)):
        value = values.get(key)
        if value is not None and value > limit:
            checker.add(
                f"{above}.{key}",
                f"is over the budget of {form.year}, {limit:,}",
                f"{value:,.0f}",
                "submit a smaller model",
            )
    for key, value in values.items():
        if value is not None and value != int(value):
            checker.add(f"{above}.{key}", "is no whole number", value, "give a whole number")
    total, nonzero = values.get("total_parameters"), values.get("total_parameters_non_zero")
    if total is not None and nonzero is not None and nonzero > total:
        checker.add(
            f"{above}.total_parameters_non_zero",
            "is more than all parameters",
            f"{nonzero:,.0f} of {total:,.0f}",
            "correct it",
        )


def _datasets(checker: _MetaChecker, datasets: Any) -> None:
    for number, each in enumerate(
        datasets if isinstance(datasets, list) else [datasets] if isinstance(datasets, Mapping) else [], start=1
    ):
        for key in DATASET:
            if not isinstance(each, Mapping) or key not in each:
                checker.add(
                    f"system.external_datasets, {number}.",
                    f"has no {key}",
                    "",
                    "add it, with null where it does not apply",
                )


def _results(checker: _MetaChecker, block: Mapping[str, Any], above: str) -> None:
    overall = _score(checker, checker.block(block, above, "overall", SCORE), f"{above}.overall")
    means = {}
    for name, members in (("class_wise", SCENES), ("device_wise", RECORDERS)):
        group = checker.block(block, above, name, members)
        means[name] = [
            _score(checker, checker.block(group, f"{above}.{name}", member, SCORE), f"{above}.{name}.{member}")
            for member in members
            if member in group
        ]
    classes = [value for value in means["class_wise"] if value is not None]
    if overall is None or len(classes) < len(SCENES):
        return
    mean = sum(classes) / len(classes)
    if abs(mean - overall) > MEAN_TOLERANCE:
        checker.add(
            f"{above}.overall.accuracy",
            f"is not the mean of the class-wise accuracies, {mean:.2f}",
            overall,
            "write their mean",
        )
    if 0.0 < max(classes) <= 1.0:
        checker.add(f"{above}.class_wise", "accuracies look like fractions", max(classes), "give percent, 0 to 100")


def _score(checker: _MetaChecker, block: Mapping[str, Any], where: str) -> float | None:
    checker.number(block, where, "logloss", 0.0, MAX_LOG_LOSS, "give nats, or null", empty=True)
    return checker.number(block, where, "accuracy", 0.0, 100.0, "give percent from 0 to 100, or null", empty=True)


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}
