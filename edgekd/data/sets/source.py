"""What a data set's adapter hands over before anything is decoded, and how adapters read tables."""

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.data.store.store import Clip
from edgekd.errors import InputError
from edgekd.text import counted

DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True)
class Source:
    """One clip to come: its audio file and its row (whose `seconds` is not known yet).

    Attributes:
        cut: (start, length) in seconds of the part of the file that is the clip; None is the whole file.
    """

    file: Path
    clip: Clip
    cut: tuple[float, float] | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set as its adapter found it.

    Attributes:
        name, licence, official_folds: as in the store.
        sources: one per clip, in order.
        notes: facts that the user should read, one line each.
    """

    name: str
    licence: str
    sources: list[Source]
    official_folds: bool = False
    notes: list[str] = field(default_factory=list)


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table whose first line names its columns; comma, tab or semicolon is told from that line.

    Returns:
        column names and rows; row k stands in line k + 2 of a file without line breaks inside fields. Fields are
        stripped.

    Raises:
        InputError: unreadable, not UTF-8, without rows, two columns of one name, or a row with more fields than
            columns.
    """
    columns, *lines = read_lines(path)
    if not lines:
        raise InputError(f"{path} holds no rows below its header")
    repeated = [name for name, count in Counter(columns).items() if name and count > 1]
    if repeated:
        raise InputError(f"{path} has column '{repeated[0]}' more than once; remove or rename one")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) > len(columns):
            raise InputError(
                f"{path}, row {number}: {counted(len(line), 'field')} for {counted(len(columns), 'column')}; "
                "quote a field that holds a delimiter"
            )
        rows.append(dict(zip(columns, line + [""] * (len(columns) - len(line)), strict=True)))
    return columns, rows


def read_lines(path: Path) -> list[list[str]]:
    """Read the lines of a table that may have no header: stripped fields of each line that is not blank; one line or
    more.

    Raises:
        InputError: unreadable, not UTF-8, or blank.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    try:
        lines = [
            [cell.strip() for cell in line] for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        ]
    except csv.Error as error:
        raise InputError(f"{path} is not a table: {error}") from None
    lines = [line for line in lines if any(line)]
    if not lines:
        raise InputError(f"{path} holds no rows")
    return lines
