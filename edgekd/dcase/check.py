"""`edgekd submission --check`: judges the files of DCASE task 1 submissions, edgekd's or anybody's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.dcase.check_meta import check_meta, read_meta, year_of
from edgekd.dcase.check_outputs import Entry, Findings, check_names, check_output, entries, looks_like
from edgekd.dcase.forms import FORMS, MAX_BYTES, MAX_MACS, Form, form_of
from edgekd.dcase.outputs import open_evaluation
from edgekd.errors import GateError
from edgekd.text import counted


@dataclass(frozen=True)
class SubmissionReport:
    """What was written or judged. notes: what must be known. findings: what the organisers would refuse, one line
    each."""

    place: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...]

    def to_text(self) -> str:
        """For people."""
        lines = [str(path) for path in self.files]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *self.findings, *([] if self.findings else [f"{self.place}: nothing to correct"])])

    def require(self) -> None:
        """Judge.

        Raises:
            GateError: there are findings.
        """
        if self.findings:
            raise GateError(
                f"{self.place}: {counted(len(self.findings), 'finding')}; correct what they say before you submit"
            )


def check(folder: Path, year: int | None = None, evaluation: Path | None = None) -> SubmissionReport:
    """Judge the files of submissions, edgekd's or anybody's.

    Args:
        folder: that holds them at any depth.
        year: of the form; None tells it from the files.
        evaluation: folder or store of the evaluation set; without it files are asked for by their numbers.

    Raises:
        InputError: no submission there, or an unknown year.
    """
    if year is not None:
        form_of(year)
    found = entries(folder)
    expected = None if evaluation is None else open_evaluation(evaluation).names
    findings, notes = Findings(), []
    for entry in found:
        document = read_meta(entry.meta, Findings()) if entry.meta else {}
        form = FORMS[year or looks_like(entry) or year_of(document)]
        notes.append(f"{entry.label}: judged by the form of {form.year}")
        check_entry(entry, form, expected, findings)
        if form.package:
            check_package(folder, entry.label, findings)
    return SubmissionReport(folder, (), tuple(notes), tuple(findings.lines()))


def check_entry(entry: Entry, form: Form, expected: Sequence[str] | None, findings: Findings) -> None:
    """Judge one submission; expected: names of the files of the evaluation set, None where only their numbers are
    known."""
    check_names(entry, form, findings)
    wanted = set(form.output_names(entry.label).values())
    for path in entry.outputs:
        if path.name in wanted:
            check_output(path, form.clips if expected is None else expected, findings)
    if entry.meta is not None:
        document = read_meta(entry.meta, findings)
        if document:
            check_meta(entry.meta, document, form, entry.label, findings)


def check_package(folder: Path, label: str, findings: Findings) -> None:
    """Whether the inference package, where it lies beside the files, has its four functions and models within their
    budgets."""
    from edgekd.dcase import package as packaging

    modules = sorted(folder.rglob(f"{packaging.module_name(label)}.py"))
    if not modules:
        return
    for name in packaging.missing_functions(modules[0]):
        findings.add(
            modules[0].name,
            name,
            "the function is missing",
            "",
            "write it, as the organisers' inference package has it",
        )
    index = modules[0].parent / packaging.CKPTS / modules[0].stem / packaging.INDEX
    for key, each in packaging.complexity(index).items() if index.is_file() else ():
        for what, limit in (("MACs", MAX_MACS), ("Params", MAX_BYTES)):
            if each[what] > limit:
                over = f"{what} of the model are over the budget of {limit:,}"
                findings.add(modules[0].name, key, over, f"{each[what]:,}", "use a smaller model")
