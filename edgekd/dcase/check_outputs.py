"""Judges the files of a DCASE task 1 submission before the organisers do: names and outputs. The meta file is
`dcase_check_meta`'s.

It asks for what their validator of 2024 asks for, and besides for what the rules say and that validator does not look
at: probabilities that are some, the label of the greatest, the order of columns, budgets, plausible numbers.
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
"""How far a row of probabilities may be from 1: files with three digits are usual."""
SHOWN = 5
"""Findings of one kind that are told row by row."""
SHOWN_VALUE = 80
OUTPUT_MARK = ".output"
REPORTS = (".pdf",)


@dataclass(frozen=True)
class Finding:
    """What is wrong. where: row, key or "". value: as found. do: what to do about it."""

    file: str
    where: str
    what: str
    value: str
    do: str

    def text(self) -> str:
        """One line."""
        place = ": ".join(part for part in (self.file, self.where) if part)
        return f"{place}: {self.what}{f' (found {self.value})' if self.value else ''}; {self.do}"


@dataclass
class Findings:
    """Findings as they are made, of each kind in a file the first few and how many more there are."""

    found: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, file: str, where: str, what: str, value: object, do: str) -> None:
        """Note one finding; value: shown shortened, "" where there is none to show."""
        self.counts[file, what] += 1
        if self.counts[file, what] <= SHOWN:
            shown = " ".join(str(value).split())
            self.found.append(
                Finding(file, where, what, shown if len(shown) <= SHOWN_VALUE else f"{shown[:SHOWN_VALUE]}...", do)
            )

    def lines(self) -> list[str]:
        """One line each."""
        more = [f"{file}: {what}: {count - SHOWN} more" for (file, what), count in self.counts.items() if count > SHOWN]
        return [*(each.text() for each in self.found), *more]


@dataclass(frozen=True)
class Entry:
    """The files of one submission. outputs: all that begin with its label. others: those whose names say nothing."""

    label: str
    meta: Path | None
    outputs: tuple[Path, ...]
    others: tuple[Path, ...]


def entries(folder: Path) -> list[Entry]:
    """The submissions below a folder, by label.

    Raises:
        InputError: there is none.
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
    homes = {path.parent for path in (*metas.values(), *outputs)}
    named = {*metas.values(), *outputs}
    strays = [path for path in files if path.parent in homes and path not in named and path.suffix not in REPORTS]
    return [
        Entry(
            label,
            metas.get(label),
            tuple(path for path in outputs if path.name.partition(OUTPUT_MARK)[0] == label),
            tuple(path for path in strays if label in path.name),
        )
        for label in labels
    ]


def looks_like(entry: Entry) -> int | None:
    """The year that the names of a submission's files tell, None where several ask for such."""
    return 2024 if any(f"{OUTPUT_MARK}.split_" in path.name for path in entry.outputs) else None


def check_names(entry: Entry, form: Form, findings: Findings) -> None:
    """Whether the label is formed as asked, and the files are those of the form."""
    if not LABEL.fullmatch(entry.label):
        findings.add(entry.label, "", "the label is not formed as asked", entry.label, f"name it {LABEL_FORM}")
    if entry.meta is None:
        findings.add(f"{entry.label}{META_SUFFIX}", "", "the file is missing", "", "write it with 'edgekd submission'")
    wanted = set(form.output_names(entry.label).values())
    there = {path.name for path in entry.outputs}
    for name in sorted(wanted - there):
        findings.add(name, "", "the file is missing", "", "write it with 'edgekd submission --evaluation'")
    for path in [*(path for path in entry.outputs if path.name not in wanted), *entry.others]:
        findings.add(
            path.name,
            "",
            f"is no file of the form of {form.year}",
            "",
            f"remove it, or name it {listing(sorted(wanted))}",
        )
    for path in [*entry.outputs, *([entry.meta] if entry.meta else [])]:
        if path.parent.name.count("_task1_") and path.parent.name != entry.label:
            findings.add(
                path.name,
                "",
                "lies in the folder of another submission",
                path.parent.name,
                f"move it to {entry.label}/",
            )


def check_output(path: Path, expected: Sequence[str] | int | None, findings: Findings) -> None:
    """Whether an output has its columns, every file of the evaluation set once, and proper probabilities.

    Args:
        path: the output.
        expected: names of the files of the evaluation set, without folders; or how many there are, 0.wav on; None asks
            that they be numbered without gaps.
        findings: is added to.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    header = rows[0] if rows else []
    if header != COLUMNS:
        what, do = "the header is wrong", f"write, separated by tabs, {' '.join(COLUMNS)}"
        if len(header) == 1 and "," in header[0]:
            what = "columns are separated by commas"
        elif sorted(header) == sorted(COLUMNS):
            what = "columns are in another order"
        findings.add(path.name, "row 1", what, " ".join(header), do)
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
            findings.add(path.name, where, "the file is there twice", row[0], "keep one row of each file")
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


def _check_row(file: str, where: str, row: Sequence[str], findings: Findings) -> None:
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


def _check_complete(file: str, names: Counter[str], expected: Sequence[str] | int | None, findings: Findings) -> None:
    if expected is None or isinstance(expected, int):
        wanted = {f"{index}{AUDIO_SUFFIX}" for index in range(len(names) if expected is None else expected)}
    else:
        wanted = set(expected)
    missing, strange = sorted(wanted - set(names), key=_order), sorted(set(names) - wanted, key=_order)
    if missing:
        what = f"{len(missing):,} of {counted(len(wanted), 'file')} of the evaluation set missing"
        findings.add(file, "", what, listing(missing), "judge all of them")
    if strange:
        what = f"{counted(len(strange), 'file is', 'files are')} not in the evaluation set"
        findings.add(file, "", what, listing(strange), "remove their rows")


def _order(name: str) -> tuple[int, str]:
    """Numbers by their value."""
    stem = name.removesuffix(AUDIO_SUFFIX)
    return (int(stem) if stem.isascii() and stem.isdigit() else 2**62, name)
