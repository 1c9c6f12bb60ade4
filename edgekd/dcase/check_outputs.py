"""Checks names and outputs of a DCASE task 1 submission, as the organisers will; `check_meta` checks its meta file.

All requirements of the organisers' validator of 2024 are checked, and rules that it leaves out: values that are
probabilities, the label of the greatest one, the order of columns, budgets, plausible numbers.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgekd.dcase.forms import LABEL, LABEL_FORM, META_SUFFIX, SCENES, Form
from edgekd.errors import InputError
from edgekd.text import counted, listing

COLUMNS = ["filename", "scene_label", *SCENES]
AUDIO_SUFFIX = ".wav"
SUM_TOLERANCE = 1e-3
"""How far the sum of a row of probabilities may be from 1; many submissions give three digits."""
SHOWN = 5
"""Findings of one kind in a file that are listed one by one."""
SHOWN_CHARACTERS = 80
"""Of a value in a finding."""
OUTPUT_MARK = ".output"
REPORTS = (".pdf",)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong in a file. where: row, key or "". value: as found. action: how to correct it."""

    file: str
    where: str
    what: str
    value: str
    action: str

    def text(self) -> str:
        """One line."""
        where = ": ".join(part for part in (self.file, self.where) if part)
        return f"{where}: {self.what}{f' (found {self.value})' if self.value else ''}; {self.action}"


@dataclass
class FindingList:
    """Findings in the order they are made: of each kind in a file the first few, and the number of the others."""

    found: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, file: str, where: str, what: str, value: object, action: str) -> None:
        """Add a finding. value: shown shortened; "" where there is none to show."""
        self.counts[file, what] += 1
        if self.counts[file, what] <= SHOWN:
            shown = " ".join(str(value).split())
            self.found.append(
                Finding(
                    file,
                    where,
                    what,
                    shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}...",
                    action,
                )
            )

    def lines(self) -> list[str]:
        """One line each."""
        more = [f"{file}: {what}: {count - SHOWN} more" for (file, what), count in self.counts.items() if count > SHOWN]
        return [*(each.text() for each in self.found), *more]


@dataclass(frozen=True)
class SubmissionFiles:
    """The files of one submission. outputs: all whose names begin with its label. others: files with the label in their
    names that are neither outputs nor the meta file."""

    label: str
    meta: Path | None
    outputs: tuple[Path, ...]
    others: tuple[Path, ...]


def find_submissions(folder: Path) -> list[SubmissionFiles]:
    """The submissions below a folder, in the order of their labels.

    Raises:
        InputError: no submission is there.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    metas = {path.name.removesuffix(META_SUFFIX): path for path in files if path.name.endswith(META_SUFFIX)}
    outputs = [path for path in files if OUTPUT_MARK in path.name and path.suffix == ".csv"]
    labels = sorted({*metas, *(path.name.partition(OUTPUT_MARK)[0] for path in outputs)})
    if not labels:
        raise InputError(
            f"{folder} holds no submission (LABEL{META_SUFFIX}, LABEL.output.csv); give the --out of 'edgekd"
            " submission'"
        )
    folders = {path.parent for path in (*metas.values(), *outputs)}
    named = {*metas.values(), *outputs}
    others = [path for path in files if path.parent in folders and path not in named and path.suffix not in REPORTS]
    return [
        SubmissionFiles(
            label,
            metas.get(label),
            tuple(path for path in outputs if path.name.partition(OUTPUT_MARK)[0] == label),
            tuple(path for path in others if label in path.name),
        )
        for label in labels
    ]


def year_by_names(files: SubmissionFiles) -> int | None:
    """The year, where only one year has output files of these names; else None."""
    return 2024 if any(f"{OUTPUT_MARK}.split_" in path.name for path in files.outputs) else None


def check_names(files: SubmissionFiles, form: Form, findings: FindingList) -> None:
    """Check that the label has the required form, and that the files are those of the year's form."""
    if not LABEL.fullmatch(files.label):
        findings.add(files.label, "", "the label is not formed as asked", files.label, f"name it {LABEL_FORM}")
    if files.meta is None:
        findings.add(f"{files.label}{META_SUFFIX}", "", "the file is missing", "", "write it with 'edgekd submission'")
    wanted = set(form.output_names(files.label).values())
    existing = {path.name for path in files.outputs}
    for name in sorted(wanted - existing):
        findings.add(name, "", "the file is missing", "", "write it with 'edgekd submission --evaluation'")
    for path in [*(path for path in files.outputs if path.name not in wanted), *files.others]:
        findings.add(
            path.name,
            "",
            f"is no file of the form of {form.year}",
            "",
            f"remove it, or name it {listing(sorted(wanted))}",
        )
    for path in [*files.outputs, *([files.meta] if files.meta else [])]:
        if path.parent.name.count("_task1_") and path.parent.name != files.label:
            findings.add(
                path.name,
                "",
                "lies in the folder of another submission",
                path.parent.name,
                f"move it to {files.label}/",
            )


def check_output(path: Path, expected: Sequence[str] | int | None, findings: FindingList) -> None:
    """Check that an output has its columns, every file of the evaluation set once, and probabilities that add up to 1.

    Args:
        path: the output.
        expected: names of the files of the evaluation set, without folders; or how many there are, numbered from 0.wav;
            None asks that they are numbered without gaps.
        findings: extended.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    header = rows[0] if rows else []
    if header != COLUMNS:
        what, action = "the header is wrong", f"write, separated by tabs, {' '.join(COLUMNS)}"
        if len(header) == 1 and "," in header[0]:
            what = "columns are separated by commas"
        elif sorted(header) == sorted(COLUMNS):
            what = "columns are in another order"
        findings.add(path.name, "row 1", what, " ".join(header), action)
        return
    names: Counter[str] = Counter()
    for number, row in enumerate(rows[1:], start=2):
        where = f"row {number}"
        if len(row) != len(COLUMNS):
            findings.add(
                path.name,
                where,
                f"has not {len(COLUMNS)} fields",
                len(row),
                "separate them by single tabs; leave no line empty",
            )
            continue
        name = PurePosixPath(row[0]).name
        names[name] += 1
        if names[name] > 1:
            findings.add(path.name, where, "the file is listed twice", row[0], "keep one row of each file")
        if not name.endswith(AUDIO_SUFFIX):
            findings.add(
                path.name,
                where,
                f"the file name does not end in {AUDIO_SUFFIX}",
                row[0],
                "name it as the evaluation set does",
            )
        _check_row(path.name, where, row, findings)
    _check_complete(path.name, names, expected, findings)


def _check_row(file: str, where: str, row: Sequence[str], findings: FindingList) -> None:
    values = []
    for scene, text in zip(SCENES, row[2:], strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0.0 <= value <= 1.0:
            findings.add(file, f"{where}, {scene}", "is no probability", text or "nothing", "give a number from 0 to 1")
        values.append(value)
    if row[1] not in SCENES:
        findings.add(
            file, where, "the scene_label is none of the ten", row[1] or "nothing", f"give one of {', '.join(SCENES)}"
        )
    if not all(0.0 <= value <= 1.0 for value in values):
        return
    if abs(sum(values) - 1.0) > SUM_TOLERANCE:
        findings.add(
            file,
            where,
            "the probabilities do not add up to 1",
            f"{sum(values):.6g}",
            "give softmax probabilities, not logits",
        )
    if row[1] in SCENES and values[SCENES.index(row[1])] < max(values):
        best = SCENES[values.index(max(values))]
        findings.add(
            file, where, "the scene_label is not the most probable scene", f"{row[1]}, where {best} is", f"write {best}"
        )


def _check_complete(
    file: str, names: Counter[str], expected: Sequence[str] | int | None, findings: FindingList
) -> None:
    if expected is None or isinstance(expected, int):
        wanted = {f"{index}{AUDIO_SUFFIX}" for index in range(len(names) if expected is None else expected)}
    else:
        wanted = set(expected)
    missing, strange = sorted(wanted - set(names), key=_order), sorted(set(names) - wanted, key=_order)
    if missing:
        what = f"{len(missing):,} of {counted(len(wanted), 'file')} of the evaluation set missing"
        findings.add(file, "", what, listing(missing), "add their rows")
    if strange:
        what = f"{counted(len(strange), 'file is', 'files are')} not in the evaluation set"
        findings.add(file, "", what, listing(strange), "remove their rows")


def _order(name: str) -> tuple[int, str]:
    """Sort key: numbered files by their number, others after them."""
    stem = name.removesuffix(AUDIO_SUFFIX)
    return (int(stem) if stem.isascii() and stem.isdigit() else 2**62, name)
