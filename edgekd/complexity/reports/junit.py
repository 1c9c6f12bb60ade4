"""The report for a CI's test view: a suite per model, a case per budget, rule and compared total."""

from collections.abc import Iterator, Sequence

from edgekd.complexity.baseline import percent
from edgekd.complexity.gate import explained, listed
from edgekd.complexity.reports.document import Checked
from edgekd.complexity.reports.names import plain

Case = tuple[str, str, str | None, str | None]
"""Name, what it says, why it fails, why it was skipped."""


def junit(checked: Sequence[Checked]) -> str:
    """XML as JUnit's Ant task writes it: `testsuites` of `testsuite`s of `testcase`s; whatever prints is valid in
    it."""
    from xml.etree import ElementTree as ET  # takes a while to import, and few want it

    suites = [(each, list(_cases(each))) for each in checked]
    cases = [case for _, found in suites for case in found]
    root = ET.Element("testsuites", name="edgekd check", tests=str(len(cases)), failures=str(_failures(cases)))
    for each, found in suites:
        name = plain(each.ledger.model)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(found)),
            failures=str(_failures(found)),
            errors="0",
            skipped=str(sum(case[3] is not None for case in found)),
        )
        for title, says, failure, skipped in found:
            case = ET.SubElement(suite, "testcase", classname=name, name=f"{plain(each.verdict.target)}: {title}")
            if failure is not None:
                ET.SubElement(case, "failure", message=plain(failure), type=title).text = plain(says)
            elif skipped is not None:
                ET.SubElement(case, "skipped", message=plain(skipped))
            else:
                ET.SubElement(case, "system-out").text = plain(says)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _cases(checked: Checked) -> Iterator[Case]:
    for budget in checked.verdict.budgets:
        says = explained(budget)
        skipped = budget.note or budget.status if budget.ok and budget.status == "not measured" else None
        yield budget.name, f"{says}; {budget.source or ''}", None if budget.ok else says, skipped
    for rule in checked.verdict.rules:
        yield rule.name, rule.allowed, None if rule.ok else f"{listed(rule.found)}: {rule.allowed}", None
    if checked.comparison:
        for change in checked.comparison.changes:
            says = f"{change.name} {change.before:,} -> {change.after:,} ({percent(change)})"
            tolerated = f"{100 * checked.comparison.tolerance:g} % tolerated"
            yield (
                f"growth of {change.name}",
                f"{says}, {tolerated}",
                None if change.ok else f"{says}, {tolerated}",
                None,
            )


def _failures(cases: Sequence[Case]) -> int:
    return sum(case[2] is not None for case in cases)
