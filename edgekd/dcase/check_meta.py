"""Judges the meta file of a DCASE task 1 submission: keys that must be there, authors, budgets, numbers that cannot
be."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.dcase.check_outputs import Findings
from edgekd.dcase.forms import COMPLEXITY, ENERGY, MAX_ABBREVIATION, MAX_MACS, RECORDERS, SCENES, Form
from edgekd.errors import InputError, MissingExtraError

AUTHOR = ("lastname", "firstname", "email", "affiliation")
DATASET = ("name", "url", "total_audio_length")
SCORE = ("accuracy", "logloss")
MAX_LOG_LOSS = 30.0
"""Nats: what a probability of 1e-13 costs, more than any clip does."""
MEAN_TOLERANCE = 0.5
"""Points between the overall accuracy and the mean of the class-wise ones: people round."""
KEEP = "write it anew with 'edgekd submission'"


def yaml_reader() -> Any:
    """The module that reads YAML.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "train") from None
    return yaml


def read_meta(path: Path, findings: Findings) -> dict[str, Any]:
    """The document of a meta file, empty where it is none.

    Raises:
        InputError: unreadable. MissingExtraError: see `yaml_reader`.
    """
    yaml = yaml_reader()
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
        findings.add(path.name, "", "holds no keys", type(document).__name__, KEEP)
        return {}
    return document


def year_of(document: Mapping[str, Any]) -> int:
    """The year whose form a meta file has, by the blocks that only one has."""
    system, results = _table(document, "system"), _table(_table(document, "results"), "development_dataset")
    if "inference_code" in system or "device_specific" in results:
        return 2025
    if any(str(key).startswith("split_") for key in results):
        return 2024
    return 2023 if "energy_consumption" in system else 2022


def check_meta(path: Path, document: Mapping[str, Any], form: Form, label: str, findings: Findings) -> None:
    """Whether a meta file holds what its year asks for.

    Args:
        path: of the file. document: what `read_meta` found in it.
        form: of the year. label: that the file is named by.
        findings: is added to.
    """
    judge = _Judge(path.name, findings)
    submission = judge.block(document, "", "submission", ("label", "name", "abbreviation", "authors"))
    _submission(judge, submission, label)
    wanted = [
        "description",
        "complexity",
        "external_datasets",
        "source_code",
        *(["energy_consumption"] if form.energy else []),
        *(["inference_code"] if form.package else []),
    ]
    system = judge.block(document, "", "system", wanted)
    judge.block(system, "system", "description", form.description)
    _complexity(judge, judge.block(system, "system", "complexity", form.complexity), form)
    if form.energy:
        energy = judge.block(system, "system", "energy_consumption", ENERGY)
        for key in ENERGY:
            judge.number(energy, "system.energy_consumption", key, 0.0, math.inf, "give kWh, or null", empty=True)
    if form.package and "inference_code" in system and not system["inference_code"]:
        judge.add("system.inference_code", "is empty", "", "give the address of the inference package")
    _datasets(judge, system.get("external_datasets"))
    results = judge.block(document, "", "results", ("development_dataset",))
    development = judge.block(results, "results", "development_dataset", [name for name in form.results if name])
    for name in form.results:
        where = "results.development_dataset"
        _results(judge, _table(development, name) if name else development, f"{where}.{name}" if name else where)


class _Judge:
    """Adds findings on one file."""

    def __init__(self, file: str, findings: Findings) -> None:
        self.file, self.findings = file, findings

    def add(self, where: str, what: str, value: object, do: str) -> None:
        self.findings.add(self.file, where, what, value, do)

    def block(self, parent: Mapping[str, Any], above: str, name: str, keys: Any) -> Mapping[str, Any]:
        """A block with keys that it must have; empty where it is none."""
        where = f"{above}.{name}" if above else name
        if name not in parent:
            if parent or not above:
                self.add(where, "the block is missing", "", KEEP)
            return {}
        block = parent[name]
        if not isinstance(block, Mapping):
            self.add(where, "is no block of keys", block, KEEP)
            return {}
        for key in keys:
            if key not in block:
                self.add(f"{where}.{key}", "the key is missing", "", "add it, with null where it does not apply")
        return block

    def number(
        self, block: Mapping[str, Any], above: str, key: str, least: float, most: float, do: str, *, empty: bool = False
    ) -> float | None:
        """A number within bounds, or None. empty: null is allowed."""
        if key not in block:
            return None
        value = block[key]
        if value is None and empty:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.add(f"{above}.{key}", "is no such number", value if value is not None else "null", do)
            return None
        return float(value)


def _submission(judge: _Judge, submission: Mapping[str, Any], label: str) -> None:
    if "label" in submission and submission["label"] != label:
        judge.add(
            "submission.label",
            "is not the label of the file",
            submission["label"],
            f"write {label}, or rename the files",
        )
    short = submission.get("abbreviation", "")
    if "abbreviation" in submission and (not isinstance(short, str) or not 1 <= len(short) <= MAX_ABBREVIATION):
        judge.add("submission.abbreviation", f"has not 1 to {MAX_ABBREVIATION} characters", short, "shorten it")
    if "authors" not in submission:
        return
    authors = submission["authors"]
    if not isinstance(authors, list) or not authors or not all(isinstance(author, Mapping) for author in authors):
        judge.add(
            "submission.authors",
            "is no list of authors",
            authors,
            "give lastname, firstname, email and affiliation of each",
        )
        return
    for number, author in enumerate(authors, start=1):
        for key in AUTHOR:
            if not author.get(key):
                judge.add(f"submission.authors, {number}.", f"has no {key}", "", "add it")
    corresponding = sum(bool(author.get("corresponding")) for author in authors)
    if corresponding != 1:
        judge.add(
            "submission.authors",
            "wanted exactly one corresponding author",
            corresponding,
            "mark one with corresponding: true",
        )


def _complexity(judge: _Judge, block: Mapping[str, Any], form: Form) -> None:
    above = "system.complexity"
    values = {
        key: judge.number(block, above, key, 0 if key.endswith(("zero", "use")) else 1, 2**53, "give a whole number")
        for key in COMPLEXITY
        if key in form.complexity
    }
    for key, limit in (form.limit, ("macs", MAX_MACS)):
        value = values.get(key)
        if value is not None and value > limit:
            judge.add(
                f"{above}.{key}",
                f"is over the budget of {form.year}, {limit:,}",
                f"{value:,.0f}",
                "submit a smaller model",
            )
    for key, value in values.items():
        if value is not None and value != int(value):
            judge.add(f"{above}.{key}", "is no whole number", value, "give a whole number")
    total, nonzero = values.get("total_parameters"), values.get("total_parameters_non_zero")
    if total is not None and nonzero is not None and nonzero > total:
        judge.add(
            f"{above}.total_parameters_non_zero",
            "is more than all parameters",
            f"{nonzero:,.0f} of {total:,.0f}",
            "correct it",
        )


def _datasets(judge: _Judge, datasets: Any) -> None:
    for number, each in enumerate(
        datasets if isinstance(datasets, list) else [datasets] if isinstance(datasets, Mapping) else [], start=1
    ):
        for key in DATASET:
            if not isinstance(each, Mapping) or key not in each:
                judge.add(
                    f"system.external_datasets, {number}.",
                    f"has no {key}",
                    "",
                    "add it, with null where it does not apply",
                )


def _results(judge: _Judge, block: Mapping[str, Any], above: str) -> None:
    overall = _score(judge, judge.block(block, above, "overall", SCORE), f"{above}.overall")
    means = {}
    for name, members in (("class_wise", SCENES), ("device_wise", RECORDERS)):
        group = judge.block(block, above, name, members)
        means[name] = [
            _score(judge, judge.block(group, f"{above}.{name}", member, SCORE), f"{above}.{name}.{member}")
            for member in members
            if member in group
        ]
    classes = [value for value in means["class_wise"] if value is not None]
    if overall is None or len(classes) < len(SCENES):
        return
    mean = sum(classes) / len(classes)
    if abs(mean - overall) > MEAN_TOLERANCE:
        judge.add(
            f"{above}.overall.accuracy",
            f"is not the mean of the class-wise accuracies, {mean:.2f}",
            overall,
            "write their mean",
        )
    if 0.0 < max(classes) <= 1.0:
        judge.add(f"{above}.class_wise", "accuracies look like fractions", max(classes), "give percent, 0 to 100")


def _score(judge: _Judge, block: Mapping[str, Any], where: str) -> float | None:
    judge.number(block, where, "logloss", 0.0, MAX_LOG_LOSS, "give nats, or null", empty=True)
    return judge.number(block, where, "accuracy", 0.0, 100.0, "give percent from 0 to 100, or null", empty=True)


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}
