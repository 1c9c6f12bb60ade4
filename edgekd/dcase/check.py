"""`edgekd submission --check`: checks the files of DCASE task 1 submissions, written by edgekd or by others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.dcase.check_meta import check_meta, read_meta, year_of
from edgekd.dcase.check_outputs import (
    FindingList,
    SubmissionFiles,
    check_names,
    check_output,
    find_submissions,
    year_by_names,
)
from edgekd.dcase.forms import FORMS, MAX_BYTES, MAX_MACS, Form, form_of, module_name
from edgekd.dcase.outputs import open_evaluation
from edgekd.errors import GateError
from edgekd.text import counted, printable


@dataclass(frozen=True)
class SubmissionReport:
    """Submissions that were written or checked.

    Attributes:
        folder: of the submissions.
        files: that were written; empty for a check.
        notes: what the submitter should know.
        findings: what the organisers would refuse, one line each.
    """

    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...]

    def to_text(self) -> str:
        """Lines for a terminal."""
        lines = [str(path) for path in self.files]
        lines += [f"note: {note}" for note in self.notes]
        lines += self.findings or [f"{self.folder}: nothing to correct"]
        return "\n".join(map(printable, lines))  # findings quote the files

    def require(self) -> None:
        """Raise where there are findings.

        Raises:
            GateError: there are findings.
        """
        if self.findings:
            raise GateError(f"{self.folder}: {counted(len(self.findings), 'finding')}; correct them before you submit")


def check_submissions(folder: Path, year: int | None = None, evaluation: Path | None = None) -> SubmissionReport:
    """Check the files of submissions.

    Args:
        folder: holds them at any depth.
        year: of the form; None finds it out by the files.
        evaluation: folder or store of the evaluation set; without it the output's files are checked by their numbers.

    Raises:
        InputError: no submission in the folder, or an unknown year.
    """
    if year is not None:
        form_of(year)
    submissions = find_submissions(folder)
    expected = None if evaluation is None else open_evaluation(evaluation).names
    findings, notes = FindingList(), []
    for files in submissions:
        document = read_meta(files.meta, FindingList()) if files.meta else {}
        form = FORMS[year or year_by_names(files) or year_of(document)]
        notes.append(f"{files.label}: checked by the form of {form.year}")
        check_submission(files, form, expected, findings)
        if form.package:
            check_package(folder, files.label, findings)
    return SubmissionReport(folder, (), tuple(notes), tuple(findings.lines()))


def check_submission(files: SubmissionFiles, form: Form, expected: Sequence[str] | None, findings: FindingList) -> None:
    """Check names, outputs and meta file of one submission.

    Args:
        files: of the submission.
        form: of its year.
        expected: names of the files of the evaluation set; None where only their numbers are known.
        findings: extended.
    """
    check_names(files, form, findings)
    wanted = set(form.output_names(files.label).values())
    for path in files.outputs:
        if path.name in wanted:
            check_output(path, form.clips if expected is None else expected, findings)
    if files.meta is not None:
        document = read_meta(files.meta, findings)
        if document:
            check_meta(files.meta, document, form, files.label, findings)


def check_package(folder: Path, label: str, findings: FindingList) -> None:
    """Check that the inference package in a submission's folder has its four functions, and that its models are within
    their budgets. Without a package there is nothing to check."""
    from edgekd.dcase import package as packaging
    from edgekd.dcase.inference_module import CKPTS, INDEX

    modules = sorted(folder.rglob(f"{module_name(label)}.py"))
    if not modules:
        return
    module = modules[0]
    for name in packaging.missing_functions(module):
        findings.add(
            module.name, name, "the function is missing", "", "write it, as the organisers' inference package has it"
        )
    index = module.parent / CKPTS / module.stem / INDEX
    for key, each in packaging.complexity(index).items() if index.is_file() else ():
        for what, limit in (("MACs", MAX_MACS), ("Params", MAX_BYTES)):
            if each[what] > limit:
                over = f"{what} of the model are over the budget of {limit:,}"
                findings.add(module.name, key, over, f"{each[what]:,}", "use a smaller model")
