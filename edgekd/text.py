"""Text for people: counts with their nouns, lists of names, text from elsewhere, aligned tables, Markdown tables, CSV,
JSON."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

LISTED = 5
"""How many names `listing` shows before it says how many more there are."""
MAX_SHOWN_CHARS = 120
"""Characters of text from elsewhere that a line shows."""

FORMULA = ("=", "+", "-", "@")
"""With these a spreadsheet's formula begins."""

DIGITS = re.compile(r"(\d+)")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Matches what can control a terminal, start a line, turn the direction of text, or end an XML document: control
characters, line and paragraph separators, changes of direction, lone surrogates, noncharacters."""
CUT_MARK = "..."
MAX_LABEL = 255
"""Most characters of a label: those of a folder's name."""
MAX_TEXT = 4096
"""Most characters of any other text in a model file: those of a path."""
QUOTED = 60
"""Most characters of an unfit text that an error quotes."""


def printable(text: str) -> str:
    """Text on one line for terminals, logs, XML and HTML. `UNPRINTABLE` characters are escaped as in Python."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode(), text)


def printable_json(document: str) -> str:
    """A JSON document whose strings hold no `UNPRINTABLE` character. JSON's own escapes replace them; line ends between
    the fields stay."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", document)


def unfit(text: str, most: int) -> str:
    """Why a text may not be stored, with the text: control characters, or more than `most` characters. "" if it may."""
    if len(text) > most:
        return f"'{cut(printable(text), QUOTED)}' has {len(text):,} characters, more than {most:,}"
    return f"'{cut(printable(text), QUOTED)}' has control characters" if UNPRINTABLE.search(text) else ""


def cut(text: str, most: int) -> str:
    """The start of a text of more than `most` characters, with a mark; a shorter text as it is."""
    return text if len(text) <= most else text[: most - len(CUT_MARK)] + CUT_MARK


def short_line(text: str) -> str:
    """Text from elsewhere on one line of at most `MAX_SHOWN_CHARS` characters, escaped by `printable`."""
    return cut(printable(" ".join(text.split())), MAX_SHOWN_CHARS)


def counted(number: float, one: str, many: str = "", *, form: str = ",") -> str:
    """A number and its noun: "1 clip", "2,000 clips".

    Args:
        number: the number.
        one: text after 1, with the verb if that differs: "clip is".
        many: text after any other number; "" for `one` with an s.
        form: format specification of the number.
    """
    shown = format(number, form)
    return f"{shown} {one if shown == '1' else many or one + 's'}"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, indent: str = "") -> list[str]:
    """Lines of an aligned table for a terminal.

    Args:
        header: titles of the columns; empty for no header line.
        rows: cells as text, the same number in each row; `printable` escapes them.
        left: number of columns, from the first, that are aligned to the left; the others are aligned to the right.
        indent: start of every line.
    """
    lines = [[printable(cell) for cell in line] for line in (*([header] if header else []), *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A Markdown table. left: as in `columns`."""
    rule = ["---" if index < left else "---:" for index in range(len(header))]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *rows)
    )


def json_bytes(document: object) -> bytes:
    """A JSON document in UTF-8, indented by two spaces, with a line end. Structs and dataclasses become objects."""
    import msgspec  # late: the capture process imports this module and stays small

    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]], *, errors: str = "strict") -> bytes:
    """A CSV table in UTF-8 with a header and lines that end in "\\n"; errors: as of `str.encode`. Cells are those of
    `plain_cells`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(plain_cells(header))
    writer.writerows(plain_cells(row) for row in rows)
    return text.getvalue().encode(errors=errors)


def plain_cells(row: Sequence[object]) -> list[object]:
    """Cells of a CSV table in which no spreadsheet finds a formula. Text that begins like one, and is no number, has an
    apostrophe in front. A carriage return, which would begin a row, is a space."""
    return [_plain_cell(cell) if isinstance(cell, str) else cell for cell in row]


def _plain_cell(text: str) -> str:
    line = text.replace("\r", " ")
    return f"'{line}" if line.lstrip().startswith(FORMULA) and not _is_number(line) else line


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def listing(names: Sequence[str]) -> str:
    """The first `LISTED` names, escaped by `printable`, and how many more there are: "a, b, c, d, e and 2 more"."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(printable, names[:LISTED])) + more


def natural_order(name: str) -> list[str | int]:
    """Sort key that orders runs of digits as numbers: fold2 before fold10."""
    return [int(part) if index % 2 else part for index, part in enumerate(DIGITS.split(name))]
