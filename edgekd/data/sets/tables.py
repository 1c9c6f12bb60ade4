"""Reads CSV tables whose delimiter is a comma, a tab or a semicolon."""

import csv
import io
from collections import Counter
from pathlib import Path

from edgekd.errors import InputError
from edgekd.text import counted

DELIMITERS = (",", "\t", ";")


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The column names and rows of a table whose first line names its columns. The delimiter is the one most frequent
    in that line. Fields are stripped.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or has no rows, two columns have one name, or a row has more
            fields than columns.
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
    """The stripped fields of each line that is not blank, the header included if there is one; at least one line.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is blank.
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
