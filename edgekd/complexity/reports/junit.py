"""The JUnit report, which CI servers show as tests: a suite per model, a case per budget, rule and compared total."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgekd.complexity.baseline import percent
from edgekd.complexity.gate import explained, listed
from edgekd.complexity.reports.document import CheckResult
from edgekd.text import printable


class Case(NamedTuple):
    """A test case. text: its output. failure, skipped: why it fails or was skipped; None where it did not."""

    name: str
    text: str
    failure: str | None
    skipped: str | None


def junit(checked: Sequence[CheckResult]) -> str:
    """XML in the form of JUnit's Ant task: `testsuites` with `testsuite`s with `testcase`s. `printable` makes any text
    valid in it."""
    from xml.etree import ElementTree as ET  # slow to import, and rarely needed

    suites = [(each, list(_cases(each))) for each in checked]
    every = [case for _, cases in suites for case in cases]
    root = ET.Element("testsuites", name="edgekd check", tests=str(len(every)), failures=str(_failures(every)))
    for each, cases in suites:
        name = printable(each.counts.model)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(cases)),
            failures=str(_failures(cases)),
            errors="0",
            skipped=str(sum(case.skipped is not None for case in cases)),
        )
        for case in cases:
            title = f"{printable(each.verdict.target)}: {case.name}"
            element = ET.SubElement(suite, "testcase", classname=name, name=title)
            if case.failure is not None:
                ET.SubElement(element, "failure", message=printable(case.failure), type=case.name).text = printable(
                    case.text
                )
            elif case.skipped is not None:
                ET.SubElement(element, "skipped", message=printable(case.skipped))
            else:
                ET.SubElement(element, "system-out").text = printable(case.text)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _cases(checked: CheckResult) -> Iterator[Case]:
    for budget in checked.verdict.budgets:
        text = explained(budget)
        skipped = budget.note or budget.status if budget.ok and budget.status == "not measured" else None
        yield Case(budget.name, f"{text}; {budget.source or ''}", None if budget.ok else text, skipped)
    for rule in checked.verdict.rules:
        yield Case(rule.name, rule.allowed, None if rule.ok else f"{listed(rule.found)}: {rule.allowed}", None)
    if checked.comparison:
        for change in checked.comparison.changes:
            text = (
                f"{change.name} {change.before:,} -> {change.after:,} ({percent(change)}),"
                f" {100 * checked.comparison.tolerance:g} % tolerated"
            )
            yield Case(f"growth of {change.name}", text, None if change.ok else text, None)


def _failures(cases: Sequence[Case]) -> int:
    return sum(case.failure is not None for case in cases)
